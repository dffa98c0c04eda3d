# Every target installs what it needs into .venv, once; a change of pyproject.toml installs again.

PYTHON ?= python3
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')

VENV := .venv
RUN := $(VENV)/bin/python
# Without byte-compiling everything: most of what is installed is never imported.
PIP := $(RUN) -m pip install --quiet --no-compile --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup studies extinction mnist readings test test-core check bench clean
.DELETE_ON_ERROR:

help:
	@echo "make extinction   simulate extinction under growing heterogeneity; table and figure"
	@echo "make mnist        the paper's experiment on MNIST, its tables beside ours (installs torch)"
	@echo "make readings     what the paper leaves open: up to 200 runs, hours without a GPU"
	@echo "make studies      the studies of the dynamics and their figures (no torch)"
	@echo "make test         all tests (installs torch: about 5.4 GB)"
	@echo "make test-core    the tests that need no torch"
	@echo "make check        formatting, lint, types and import rules (installs torch)"
	@echo "make bench        paired timings; for a machine that does nothing else"
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

mnist: $(VENV)/.nn
	$(RUN) studies/mnist_bridge.py --workers $(WORKERS)

readings: $(VENV)/.nn
	$(RUN) studies/paper_readings.py --workers $(WORKERS)

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
	$(RUN) -m mypy benchmarks
	$(VENV)/bin/lint-imports

bench: $(VENV)/.core
	OMP_NUM_THREADS=1 $(RUN) benchmarks/flows.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
