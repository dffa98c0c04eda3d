# Every target installs what it needs into .venv, once; a change of pyproject.toml installs again.

PYTHON ?= python3
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')

VENV := .venv
RUN := $(VENV)/bin/python
# Editable installs say each time that the mode which pyproject.toml chooses, for a reason given there, may go one day.
QUIET := PYTHONWARNINGS=ignore:::setuptools.config.pyprojecttoml,ignore:::setuptools.command.editable_wheel
# Without byte-compiling everything: most of what is installed is never imported.
INSTALL := -m pip install --quiet --no-compile --disable-pip-version-check
PIP := $(QUIET) $(RUN) $(INSTALL)

# Libraries are compiled once, also where (as in many containers) bytecode is not to be kept.
unexport PYTHONDONTWRITEBYTECODE

# make figures QUICK=1 has its own studies (--smoke), results/quick and figures/quick.
RESULTS := results$(if $(QUICK),/quick)
FIGURES := figures$(if $(QUICK),/quick)

# What each study takes on two cores, for people to decide by: in full, and quick.
TAKES_ablations := $(if $(QUICK),15 seconds,20 minutes)
TAKES_architectures := $(if $(QUICK),30 seconds,13 minutes)
TAKES_balance := $(if $(QUICK),10 seconds,3 minutes)
TAKES_branches := $(if $(QUICK),10 seconds,2 minutes)
TAKES_discrete_vs_continuous := $(if $(QUICK),15 seconds,2 minutes)
TAKES_extensions := $(if $(QUICK),10 seconds,1 minute)
TAKES_extinction := $(if $(QUICK),15 seconds,1 minute)
TAKES_extinction_rates := $(if $(QUICK),20 seconds,3 minutes)
TAKES_fixed_points := $(if $(QUICK),20 seconds,2 minutes)
TAKES_heuristics := $(if $(QUICK),10 seconds,1 minute)
TAKES_inference := $(if $(QUICK),10 seconds,1 minute)
TAKES_lossless := $(if $(QUICK),30 seconds,2 to 4 hours)
TAKES_mnist_bridge := $(if $(QUICK),30 seconds,6 minutes)
TAKES_noise := $(if $(QUICK),20 seconds,2 minutes)
TAKES_paper_readings := $(if $(QUICK),1 minute,2 to 3 hours)
TAKES_replay := $(if $(QUICK),30 seconds,4 minutes)
TAKES_signed_selection := $(if $(QUICK),15 seconds,1 minute)
TAKES_trajectories := 10 seconds

.DEFAULT_GOAL := help
.PHONY: help setup studies figures mnist readings test test-core test-brief test-oldest check check-core docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make extinction   simulate extinction under growing heterogeneity; table and figure"
	@echo "make figures      every figure and table, after the studies that are missing (installs torch);"
	@echo "                  QUICK=1 does all of it at reduced sizes, into figures/quick, in minutes"
	@echo "make studies      the studies of the dynamics and their figures (no torch)"
	@echo "make STUDY        one study of studies/ again, and its figures; what is finished is reused"
	@echo "make mnist        the paper's experiment on MNIST, its tables beside ours (installs torch)"
	@echo "make architectures  LeNet-5, a ResNet and a transformer made smaller: accuracy and cost (installs torch)"
	@echo "make readings     what the paper leaves open: up to 200 runs, 2 to 3 hours on two cores"
	@echo "make lossless     accuracy against neurons removed: selection, baselines, control; 2 to 4 hours on two cores"
	@echo "make docs         the documentation as HTML, in docs/_build"
	@echo "make test         all tests (installs torch: about 5.4 GB)"
	@echo "make test-core    the tests that need no torch"
	@echo "make test-brief   the core's own tests in short, with their coverage: what a newer Python has to pass"
	@echo "make test-oldest  the same with the oldest releases of all libraries that pyproject.toml admits"
	@echo "make check        formatting, lint, types and import rules (installs torch)"
	@echo "make check-core   the same without torch: the types of the core and of the figures only"
	@echo "make bench        evodyn beside its peers, with every target's verdict, on a machine that does nothing else:"
	@echo "                  an hour or two; QUICK=1 takes ten minutes; WORKS='maps equilibria' does some (installs 6 GB)"
	@echo "make setup        only make .venv, with evodyn and what the studies need"
	@echo "make clean        remove environments and caches, but no results"

setup: $(VENV)/.core

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "evodyn needs Python 3.11 or later; name one with: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25.1' # which knows dependency groups; a Python of before 2025 brings an older one
	@touch $@

$(VENV)/.core: $(VENV)/.created pyproject.toml
	@echo "Installing evodyn and what its studies need (about 0.7 GB, a minute)."
	$(PIP) --editable '.[studies,fast]'
	$(RUN) -m evodyn.compile
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "Installing the test and lint tools (about 0.2 GB)."
	$(PIP) --editable '.[studies,fast,symbolic]' --group dev
	@touch $@

$(VENV)/.nn: $(VENV)/.dev
	@echo "Installing torch: about 5.4 GB with its CUDA libraries, a minute or more. (make test-core needs none of it.)"
	$(PIP) --editable '.[studies,fast,symbolic,nn,onnx]' --group dev
	@touch $@

# uv finds the oldest releases that the requirements admit; what those require themselves is new.
OLDEST := .venv-oldest
$(OLDEST)/.done: pyproject.toml
	@echo "Installing the oldest releases of all libraries that are admitted (about 0.7 GB)."
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(INSTALL) uv
	VIRTUAL_ENV=$(OLDEST) $(OLDEST)/bin/uv pip install --quiet --resolution lowest-direct --only-binary egttools \
	  --editable '.[studies,fast,symbolic]' --group test
	$(OLDEST)/bin/python -m evodyn.compile
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	@echo "Installing Sphinx (about 0.1 GB)."
	$(PIP) --editable '.[studies,fast,symbolic]' --group docs
	@touch $@

# --- Studies, what they save, and what is drawn from it -------------------------------------------------
#
# A figure is a script in paper_figures/; it depends on what it reads, by style.read("STUDY", "FILE").
# A table is an entry "STUDY/FILE" in paper_figures/tables.py. paper_figures/_index.py tells what they read, and
# which studies need torch. So a new script is a new figure, and nothing is listed here.

INDEX := $(shell $(PYTHON) paper_figures/_index.py)
$(foreach line,$(INDEX),$(eval READS_$(firstword $(subst :, ,$(line))) += $(lastword $(subst :, ,$(line)))))
SCRIPTS := $(filter-out _% style tables,$(basename $(notdir $(wildcard paper_figures/*.py))))
TABLES := $(READS_tables)
NEEDED := $(sort $(foreach script,$(SCRIPTS),$(READS_$(script))) $(TABLES:=.csv))

STUDIES := $(filter-out _%,$(basename $(notdir $(wildcard studies/*.py))))
WITH_TORCH := $(READS_torch)

environment = $(VENV)/$(if $(filter $(1),$(WITH_TORCH)),.nn,.core)
takes = $(or $(TAKES_$(1)),as long as it takes (nobody has measured it))
study = $(RUN) studies/$(1).py$(if $(QUICK), --smoke) --workers $$(WORKERS)
files = $(filter $(1)/%,$(NEEDED))
read_by = $(sort $(foreach file,$(READS_$(1)),$(call files,$(firstword $(subst /, ,$(file))))))
drawn = $(addprefix $(FIGURES)/$(1).,pdf png txt)
own_figures = $(foreach s,$(SCRIPTS),$(if $(filter-out $(1)/%,$(READS_$(s))),,$(FIGURES)/$(s).pdf))

figures: $(SCRIPTS:%=$(FIGURES)/%.pdf) $(TABLES:%=$(FIGURES)/tables/%.tex)

# The main job by its name; like that of every study, its recipe is made by rules_of_study below.
extinction: | $(VENV)/.core
studies: $(filter-out $(WITH_TORCH),$(STUDIES))
mnist: mnist_bridge
readings: paper_readings

# The files of one study come from one run (so they are targets of one pattern rule, where % is the results
# folder), and what is drawn from one of them is drawn again when any of them is made again.
# A study runs when something is missing, never because its code is newer (that may take hours): for that
# there is make STUDY.
define rules_of_study
$(if $(files),$(addprefix %/,$(files)): | studies/$(1).py $(environment)
	@echo "Running studies/$(1).py: about $(takes) on two cores."
	$(study))

.PHONY: $(1)
$(1): | $(environment)
	@echo "Running studies/$(1).py: about $(takes) on two cores."
	$(study)
	$(if $(own_figures),@$$(MAKE) --no-print-directory $(own_figures))
endef

define rules_of_figure
$(if $(READS_$(1)),,$(error paper_figures/$(1).py reads no study: expected style.read("STUDY", "FILE") in it))
$(drawn): $(addprefix $(RESULTS)/,$(read_by))
endef

$(foreach name,$(STUDIES),$(eval $(call rules_of_study,$(name))))
$(foreach name,$(SCRIPTS),$(eval $(call rules_of_figure,$(name))))
$(foreach name,$(TABLES),$(eval $(FIGURES)/tables/$(name).tex $(FIGURES)/tables/$(name).md: \
  $(addprefix $(RESULTS)/,$(call files,$(firstword $(subst /, ,$(name)))))))

$(FIGURES)/%.pdf $(FIGURES)/%.png $(FIGURES)/%.txt: paper_figures/%.py paper_figures/style.py | $(VENV)/.core
	$(RUN) paper_figures/$*.py$(if $(QUICK), --quick)

$(FIGURES)/tables/%.tex $(FIGURES)/tables/%.md: paper_figures/tables.py paper_figures/style.py | $(VENV)/.core
	$(RUN) paper_figures/tables.py $*$(if $(QUICK), --quick)

MISSING := $(sort $(foreach file,$(filter-out $(wildcard $(NEEDED:%=$(RESULTS)/%)),$(NEEDED:%=$(RESULTS)/%)),\
  $(firstword $(subst /, ,$(file:$(RESULTS)/%=%)))))
ifneq ($(and $(filter figures,$(MAKECMDGOALS)),$(MISSING)),)
$(info Studies to run first, with what they take on two cores:)
$(foreach name,$(MISSING),$(info - $(name): about $(call takes,$(name))))
endif

# Files are shared out whole: within one, tests share what a study computed once.
PARALLEL := -n $(WORKERS) --dist loadfile --durations 20

CORE := -m "not nn" --ignore=tests/nn --ignore=docs/network.md \
  --ignore=docs/learn/prune_your_network.md
# Another Python or other releases can break what the core calls, not what it computes: there, its own tests run
# with a fifth of their cases and examples and without what is slow (tests/conftest.py), in two minutes.
BRIEF := $(CORE) --brief --ignore-glob='tests/test_stud*' --ignore=tests/test_figures.py --ignore=tests/test_make.py \
  --ignore=tests/test_documentation.py
# Old releases meet new companions, and may say that something is deprecated.
OLD_NEWS := $(foreach kind,Deprecation PendingDeprecation Future,-W ignore::$(kind)Warning)

test: $(VENV)/.nn
	$(RUN) -m pytest $(PARALLEL)

test-core: $(VENV)/.dev
	$(RUN) -m pytest $(PARALLEL) $(CORE)

test-brief: $(VENV)/.dev
	$(RUN) -m pytest $(PARALLEL) $(BRIEF) --cov=evodyn --cov-report=term

test-oldest: $(OLDEST)/.done
	$(OLDEST)/bin/python -W error $(OLD_NEWS) -m pytest $(PARALLEL) $(BRIEF) $(OLD_NEWS)

# Types: all that pyproject.toml lists, or the packages that are named here.
define check_all
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy $(1)
	$(VENV)/bin/lint-imports
endef

check: $(VENV)/.nn
	$(call check_all)

check-core: $(VENV)/.dev
	$(call check_all,-p evodyn -p paper_figures -m style)

docs: $(VENV)/.docs
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

# Peers have an environment of their own, so that they decide nothing about the libraries of all other targets.
BENCH := .venv-bench
$(BENCH)/.done: pyproject.toml
	@echo "Installing the libraries that are compared, with torch: about 6 GB."
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(INSTALL) 'pip>=25.1'
	$(QUIET) $(BENCH)/bin/python $(INSTALL) --editable '.[studies,fast,nn]' --group bench
	$(BENCH)/bin/python -m evodyn.compile
	@touch $@

# All of them get one thread for each call, but for ensembles, of which two are measured.
bench: $(BENCH)/.done
	OMP_NUM_THREADS=1 $(BENCH)/bin/python -m benchmarks$(if $(QUICK), --quick) $(WORKS)

clean:
	rm -rf .venv .venv-* docs/_build .*_cache .hypothesis .coverage build dist *.egg-info
