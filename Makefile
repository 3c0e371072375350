# setup       make .venv (PYTHON=, TORCH= and PIP_FIND_LINKS= are read; see tools/setup_env.sh)
# quickstart  make data, train teacher, student and distilled student, print a table (ARGS=--help)
# test        all tests (ARGS="-k name"), without those that need minutes each
# lint types  ruff; mypy
# docs        the documentation site, in site/
# versions    a clone under another Python, PyTorch or stack (see tools/other_versions.sh)
.PHONY: setup quickstart test lint types docs versions

BIN := .venv/bin

setup:
	@tools/setup_env.sh

quickstart: setup
	$(BIN)/python tools/quickstart.py $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

versions:
	@tools/other_versions.sh
