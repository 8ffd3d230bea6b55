# Everything below makes its own virtual environment first; only Python >= 3.11 is assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Empty for the newest versions that pyproject.toml allows; then name a VENV of its own too.
CONSTRAINTS ?= -c constraints.txt
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# Kernels that round otherwise than this processor's own.
OTHER_CPU := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2

.PHONY: demo test rounding slow bench lint types check clean

demo: $(STAMP)  ## two teachers and their students on real digits: a table and demo/report.html
	$(BIN)/distill demo --out demo --overwrite

test: $(STAMP)  ## the fast tests
	$(PYTEST)

rounding: $(STAMP)  ## the tests whose figures rounding moves, as on another processor
	$(OTHER_CPU) $(PYTEST) -m 'rounding and not slow and not gpu'

slow: $(STAMP)  ## the tests that take longer, or need the data in DISTILL_DATA
	$(BIN)/python -m pytest -m slow

bench: $(STAMP)  ## ratios of speed and memory, to benchmarks/results/; on an otherwise idle machine
	$(BIN)/python -m benchmarks.labels
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types rounding test

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'distill needs Python 3.11 or newer; say which with make PYTHON=python3.12 …'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[test]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
