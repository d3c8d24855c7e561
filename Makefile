# make train   trains on the MNIST that travels with the package, and saves the run
# make test    every test, the linters, the types and the doctests
# make docs    the documentation, as pages in site/; a broken link is an error
#
# All make .venv first. PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TESTED := .venv/.installed-for-tests
DOCUMENTED := .venv/.installed-for-docs
COMPARED := .venv/.installed-for-benchmarks
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# With one thread, matrix products of this size are as fast, and steady beside other work.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: install train test oracle docs format benchmarks clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "thriftgrad needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) --editable '.[all]'
	@touch $@

$(TESTED): $(INSTALLED)
	$(PIP) --group dev --group oracle
	@touch $@

train: $(INSTALLED)
	$(BIN)/thriftgrad train

test: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# Random programs: 5,000 against JAX, up to an hour, and 2,000 compiled; `make test` runs a share.
oracle: $(TESTED)
	ORACLE_PROGRAMS=5000 $(BIN)/pytest tests/oracle
	ORACLE_PROGRAMS=2000 $(BIN)/pytest tests/compile -k random_programs

# Lesson 7 is run with JAX, which the tests bring.
$(DOCUMENTED): $(TESTED)
	$(PIP) --group docs
	@touch $@

docs: $(DOCUMENTED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(TESTED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The libraries that thriftgrad is compared with; the processor's build of PyTorch will do.
$(COMPARED): $(TESTED)
	$(PIP) --group peers
	@touch $@

benchmarks: $(COMPARED)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/experiments.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/estimators.py
	$(BIN)/python benchmarks/live.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis site build
