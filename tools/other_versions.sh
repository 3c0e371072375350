#!/usr/bin/env bash
# Sets a clone up for another Python and PyTorch and runs what should hold there; `make versions`.
#
#   PYTHON=python3.12  TORCH="torch==2.11.0"  DIR=FOLDER (default: a new one; the clone stays there)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${DIR:-$(mktemp -d)}
git clone --quiet . "$folder/clone"
cd "$folder/clone"
make setup
.venv/bin/python -c 'import sys, torch, mmcv; print("Python", sys.version.split()[0], "torch", torch.__version__, "mmcv", mmcv.__version__)'
export OMP_NUM_THREADS=1
.venv/bin/python -m pytest -q tests/functional tests/adapters tests/compat tests/test_algorithm.py \
    tests/test_distiller.py tests/test_export.py
.venv/bin/python tools/quickstart.py --fast
echo "done in $folder"
