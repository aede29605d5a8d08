# Plain words for what a contributor does. `make PYTHON=python3.12 setup` picks another Python.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup check test docs bench demo clean

setup: $(BIN)/sppnet ## make a virtual environment with everything in it

$(BIN)/sppnet: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]'

check: setup ## format, lint, types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

test: setup ## all tests, doctests too
	$(BIN)/pytest -n 2 --dist loadfile

docs: setup ## build the site of the documentation into site/, warnings as errors
	$(BIN)/mkdocs build --strict

bench: setup ## measure on real photos in SPPNET_DATA; writes JSON and tables to runs/
	$(BIN)/python benchmarks/plain_trunk.py --data $(SPPNET_DATA)/photos
	$(BIN)/python benchmarks/caltech.py --data $(SPPNET_DATA)/caltech101-20
	$(BIN)/python benchmarks/installation.py
	$(BIN)/sppnet benchmark pooling

demo: setup ## draw scenes, train on them, show the report
	$(BIN)/sppnet demo --out demo

clean: ## remove what the others made
	rm -rf .venv demo site .pytest_cache .mypy_cache .ruff_cache
