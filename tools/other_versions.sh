#!/usr/bin/env bash
# Sets a clone up for another Python, PyTorch or stack and runs what should hold there; `make versions`.
#
#   PYTHON=python3.12  TORCH="torch==2.11.0"  STACK=onedl   see tools/setup_env.sh
#   DIR=FOLDER         default: a new one; the clone stays there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${DIR:-$(mktemp -d)}
git clone --quiet . "$folder/clone"
cd "$folder/clone"
make setup
.venv/bin/python --version
.venv/bin/pip freeze | grep -iE '^(torch|numpy|mmrazor|(onedl-)?mm(engine|cv|det(ection)?))=='
export OMP_NUM_THREADS=1
make unit
.venv/bin/python -m pytest -q tests/compat tests/distillation/test_algorithm.py
.venv/bin/python tools/quickstart.py --fast
echo "done in $folder"
