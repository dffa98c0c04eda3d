# Every target installs what it needs into .venv, once; a change of pyproject.toml installs again.

PYTHON ?= python3
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup studies extinction test test-core check clean
.DELETE_ON_ERROR:

help:
	@echo "make extinction   simulate extinction under growing heterogeneity; table and figure"
	@echo "make studies      all studies and their figures"
	@echo "make test         all tests (installs torch: about 5.4 GB)"
	@echo "make test-core    the tests that need no torch"
	@echo "make check        formatting, lint, types and import rules (installs torch)"
	@echo "make setup        only make .venv, with evodyn and what the studies need"
	@echo "make clean        remove .venv and caches, but no results"

setup: $(VENV)/.core

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "evodyn needs Python 3.11 or later; name one with: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.created pyproject.toml
	@echo "Installing evodyn and what its studies need (about 0.5 GB, half a minute)."
	$(PIP) --editable '.[studies]'
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Installing the test and lint tools (about 0.2 GB)."
	$(PIP) --editable '.[studies,symbolic,dev]'
	@touch $@

$(VENV)/.nn: $(VENV)/.dev
	@echo "Installing torch: about 5.4 GB with its CUDA libraries, a minute or more. (make test-core needs none of it.)"
	$(PIP) --editable '.[studies,symbolic,dev,nn,onnx]'
	@touch $@

studies: extinction

extinction: $(VENV)/.core
	$(RUN) studies/extinction.py --workers $(WORKERS)
	$(RUN) paper_figures/extinction.py

test: $(VENV)/.nn
	$(RUN) -m pytest

test-core: $(VENV)/.dev
	$(RUN) -m pytest -m "not nn" --ignore=tests/nn

check: $(VENV)/.nn
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m mypy studies
	$(RUN) -m mypy paper_figures
	$(RUN) -m mypy tests
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
