#!/usr/bin/env bash
# Makes .venv: PyTorch, MMCV with its operators, MMEngine, MMDetection, MMRazor, this package
# (editable) and the development tools. Run by `make setup`; a complete environment is reused.
#
#   PYTHON=python3.11      interpreter to use (default python3)
#   TORCH="torch==2.4.1"   PyTorch to install (default torch==2.13.0); never replaced afterwards
#   STACK=onedl            the maintained forks in place of MMEngine, MMCV and MMDetection
#   PIP_FIND_LINKS=DIR     where pip also looks for wheels; an MMCV wheel there saves the build
#   MAX_JOBS=N             compiler processes for MMCV (default: all cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
torch=${TORCH:-torch==2.13.0}
stack=${STACK:-openmmlab}
venv=.venv
stamp=$venv/setup.stamp
constraints=$venv/constraints.txt

say() { printf '[setup %3dm%02ds] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }
fail() { say "$*" >&2; exit 1; }
in_venv() { "$venv/bin/python" "$@"; }
install() { in_venv -m pip install -qq --disable-pip-version-check "$@"; }
operators_work() { in_venv -W ignore -c 'import mmcv.ops' 2>/dev/null; }
# as pip knows it: torch.__version__ of the same file may end in +cu130, which no constraint would find
torch_version() { in_venv -c 'import torch; from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true; }

# Runs a command that is quiet for minutes: its output goes to a file, its progress to the screen.
with_heartbeat() {
    local log=$1 what=$2 job start=$SECONDS; shift 2
    set -m  # a process group of its own, so that an interrupt ends the compilers too
    "$@" >"$log" 2>&1 &
    job=$!
    set +m
    trap "kill -- -$job 2>/dev/null" EXIT
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        (( (SECONDS - start) % 30 )) || say "$what $(grep -oE '\[[0-9]+/[0-9]+\]' "$log" | tail -n 1)"
    done
    trap - EXIT
    wait "$job" || { tail -n 40 "$log" >&2; fail "$what failed; the whole output is in $log"; }
}

case $stack in
    openmmlab) mmcv=mmcv versions='mmcv==2.1.0 mmengine==0.10.7 mmdet==3.3.0' ;;
    onedl) mmcv=onedl-mmcv versions='onedl-mmcv==2.3.6 onedl-mmengine==0.10.12 onedl-mmdetection==3.5.1' ;;
    *) fail "STACK is openmmlab or onedl, got $stack" ;;
esac

wanted=$(cat setup.py tools/setup_env.sh <(echo "$torch $stack") | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "[setup] $venv is complete"
    exit 0
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' \
    || fail "$python is too old: Python 3.9 or later is needed, 3.10 or later for the default $torch"
[ -x "$venv/bin/python" ] || { say "making $venv with $("$python" --version)"; "$python" -m venv "$venv"; }
rm -f "$stamp"
install --upgrade pip

say "$torch"
before=$(torch_version)
install "$torch" 'setuptools>=77,<81' wheel ninja numpy
after=$(torch_version)
[ -n "$after" ] || fail "$torch was installed but does not import: $(in_venv -c 'import torch' 2>&1 | tail -n 1)"
numpy='numpy>=1'  # PyTorch before 2.3 was built for NumPy 1
in_venv -W ignore -c 'import torch; torch.zeros(1).numpy()' 2>/dev/null || { numpy='numpy<2'; install "$numpy"; }

# The versions that are tested together; nothing below may bring another PyTorch.
# shellcheck disable=SC2086  # one line each
printf '%s\n' "torch==$after" "$numpy" 'setuptools>=77,<81' $versions 'mmrazor==1.0.0' 'ruff<0.18' 'mypy<2.5' \
    'zizmor<1.33' 'check-jsonschema<0.40' >"$constraints"

[ -z "$before" ] || [ "$before" = "$after" ] || in_venv -m pip uninstall --quiet --yes "$mmcv"
if ! operators_work; then
    if install --constraint "$constraints" --only-binary "$mmcv" "$mmcv" 2>/dev/null && operators_work; then
        say "$mmcv from a wheel"
    else
        in_venv -c 'import sys, torch; from torch.utils.cpp_extension import CUDA_HOME; sys.exit(torch.cuda.is_available() and CUDA_HOME is None)' \
            || fail 'MMCV must be compiled and nvcc is missing: install the CUDA toolkit or set CUDA_HOME'
        command -v "${CXX:-c++}" >/dev/null || fail 'MMCV must be compiled and there is no C++ compiler'
        jobs=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}
        say "no wheel of $mmcv fits: compiling it with $jobs processes, 5 to 10 minutes on two cores"
        # without debug symbols and with light optimisation: a third of the time, and 2 MB, not 80
        flags="-g0 -O1 -DNDEBUG ${CFLAGS:-}"
        MMCV_WITH_OPS=1 MAX_JOBS=$jobs CFLAGS=$flags CXXFLAGS=$flags with_heartbeat "$venv/mmcv.log" "compiling $mmcv" \
            "$venv/bin/python" -m pip install --verbose --constraint "$constraints" --no-build-isolation \
            --no-cache-dir --no-binary "$mmcv" --force-reinstall --no-deps "$mmcv"
        install --constraint "$constraints" "$mmcv"
    fi
fi
operators_work || fail "mmcv's operators do not import: $(in_venv -c 'import mmcv.ops' 2>&1 | tail -n 1)"

say 'MMEngine, MMDetection, MMRazor, this package and the tools'
install --constraint "$constraints" --no-build-isolation --editable ".[$stack,dev,docs]"
if ! in_venv -c 'import cv2' 2>/dev/null; then
    say 'this system lacks libraries for windows (libGL): OpenCV without windows'
    in_venv -m pip uninstall --quiet --yes opencv-python
    install --force-reinstall --no-deps opencv-python-headless
fi
in_venv -W ignore -c 'import mmdet_detrdistill'
echo "$wanted" >"$stamp"
say "$venv is complete"
