# Everything a contributor runs. Only python3 (3.11 or newer) and make have to be there: the first command builds .venv.
#
#   make test PYTEST_ARGS="tests/core -x"      a part of the suite
#   make test PYTHON=python3.13                another interpreter (run `make clean` first)

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
HOST ?= 127.0.0.1
PORT ?= 8000
PYTEST_ARGS ?=
MATRIX_ARGS ?=
WHEEL_ARGS ?=

# The first of these that runs and is new enough; a version manager's stand-in that cannot start does not count.
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(ENOUGH)' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help
help: ## what can be run
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(ENOUGH)'; then \
		echo "sessionlocal needs Python 3.11 or newer, found: $$($(or $(PYTHON),python3) --version 2>&1). Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

.PHONY: test
test: $(STAMP) ## the whole suite, on every database that is reachable; says what was skipped and why
	$(if $(strip $(PYTEST_ARGS)),,SESSIONLOCAL_WHOLE_SUITE=1) $(BIN)/python -m pytest -rs \
		$(if $(strip $(PYTEST_ARGS)),$(PYTEST_ARGS),-q --numprocesses auto --dist worksteal)

.PHONY: demo
demo: $(STAMP) ## serve the items API on http://127.0.0.1:8000/docs (HOST=, PORT=, DATABASE_URL=)
	$(BIN)/python -m uvicorn --app-dir examples/items main:app --host $(HOST) --port $(PORT)

TYPED := src $(wildcard tests/typing)

.PHONY: check
check: $(STAMP) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(TYPED)
	$(BIN)/pyright --pythonpath $(BIN)/python $(TYPED)
	$(BIN)/lint-imports

.PHONY: docs
docs: $(STAMP) ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: wheel
wheel: $(STAMP) ## build the wheel, install it with each extra into an empty environment, serve the README's example
	$(BIN)/python scripts/check_wheel.py $(WHEEL_ARGS)

.PHONY: matrix
matrix: $(STAMP) ## the suite on the oldest and newest FastAPI, SQLAlchemy and Python (MATRIX_ARGS=--reduced)
	$(BIN)/python scripts/matrix.py $(MATRIX_ARGS)

.PHONY: clean
clean: ## remove what these commands made
	rm -rf $(VENV) .matrix build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
