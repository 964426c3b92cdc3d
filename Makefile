# `make` lists the targets. Everything runs in .venv, which the first target that needs it creates.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# On PyPI the default torch for Linux is the CUDA build, 2 GB with its libraries; for the CPU build say
#   make setup TORCH_INSTALL="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH_INSTALL ?= torch==2.13.0
PYTEST_ARGS ?= -n 2 --dist loadfile
DATASET ?= criteo
DATA ?=
BENCH_ARGS ?= --seeds 3
# a Python that has FuxiCTR, for the lines of the speed table that need it
FUXICTR_PYTHON ?=
SPEED_ARGS ?= --turns 3

STAMP := $(VENV)/.genrec-setup
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint format types bench docs docs-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with all that is needed, from the pinned lists

$(STAMP): requirements/cpu.txt requirements/extras.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d found, 3.11 or newer needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH_INSTALL)
	$(PIP) install --quiet --no-deps -r requirements/cpu.txt -r requirements/extras.txt -r requirements/dev.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## generate rows, train models that differ in their interaction, and compare them
	$(BIN)/genrec demo

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-long: $(STAMP) ## run the long forms: faults many times over, more fuzzing, soak (well over an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(PYTEST_ARGS)

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## mend what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## check types
	$(BIN)/mypy registry/genrec_registry adapters/genrec_adapters genrec_plugins

bench: $(STAMP) ## race each part against its rivals; with DATA=train.txt.gz [DATASET=avazu], compare interactions on that file
ifeq ($(DATA),)
	$(BIN)/python -m genrec_plugins.benchmarks.speed $(if $(FUXICTR_PYTHON),--fuxictr-python $(FUXICTR_PYTHON)) $(SPEED_ARGS)
else
	$(BIN)/genrec bench $(DATASET) --data $(DATA) $(BENCH_ARGS)
endif

docs: $(STAMP) ## build the documentation's site into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

docs-check: $(STAMP) ## run the code blocks of README and docs, and the docstrings' examples
	$(BIN)/python -m pytest tests/test_docs.py tests/test_docstrings.py

clean: ## remove caches and build outputs; keeps .venv, runs and data
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
