# Everything runs in .venv; nothing outside the checkout is changed. `make setup` runs once per pyproject.toml.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
# The first Python of at least 3.11 that can make a virtual environment.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
# Without a GPU the tests are pinned to one torch; with one, the newest build brings its own CUDA libraries.
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo torch || echo torch==2.13.0)
WORKERS ?= 2

.PHONY: setup demo test lint format bench clean

setup: $(READY)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python of at least 3.11 with the venv module found; set PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet -e '.[dev,bench]'
	touch $@

demo: setup
	$(BIN)/manyview synth examples/data/demo --method dimvis --out demo --force

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread a worker: the tests are many small tensors, and the workers already use the cores.
test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

bench: setup
	@set -e; for script in benchmarks/*.py; do test -e "$$script" || continue; echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	rm -rf .pytest_cache .ruff_cache build dist demo
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
