# setup       make .venv (PYTHON=, TORCH= and PIP_FIND_LINKS= are read; see tools/setup_env.sh)
# quickstart  make data, train teacher, student and distilled student, print a table (ARGS=--help)
# test        all tests but those of mim (ARGS="-k name")
# unit        the tests that are not slow: the run for each change
# format      let ruff rewrite what it can
# lint types  ruff, and two checks of .github; mypy
# docs        the documentation site, in site/
# results     write the tables and figures of measured results into READMEs and docs
# versions    a clone under another Python, PyTorch or stack (see tools/other_versions.sh)
.PHONY: setup quickstart test unit format lint types docs results versions

BIN := .venv/bin
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema

setup:
	@tools/setup_env.sh

quickstart: setup
	$(BIN)/python tools/quickstart.py $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

unit: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not sweep" $(ARGS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(SCHEMA) vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline .github

types: setup
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

results:
	$(BIN)/python benchmarks/readme_tables.py
	$(BIN)/python benchmarks/study_results.py

versions:
	@tools/other_versions.sh
