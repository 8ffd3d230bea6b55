# Everything below makes its own virtual environment first; only Python >= 3.11 is assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow bench lint types check clean

demo: $(STAMP)  ## two teachers and their students on real digits: a table and demo/report.html
	$(BIN)/distill demo --out demo --overwrite

test: $(STAMP)  ## the fast tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

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

check: lint types test

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'distill needs Python 3.11 or newer; say which with make PYTHON=python3.12 …'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
