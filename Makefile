# alumnus: every target sets up what it needs on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format docs bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY)  ## distil three teachers into one small ViT, evaluate, draw (minutes)
	$(BIN)/alumnus demo

# a process for each core; a file's tests stay together, as do the fixtures that they share
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 8 --dist loadfile

test: $(READY)  ## the fast tests (under five minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(SIDE_BY_SIDE)

test-all: $(READY)  ## all tests, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m ''

lint: $(READY)  ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## write the tables of docs/configuration.md and docs/finetune.md anew
	$(BIN)/python -m alumnus.settings docs/configuration.md docs/finetune.md

# The other scripts are experiments of docs/results: they need packs, and minutes to hours.
BENCHMARKS := augmentation augmentation_table file_list logistic miniworld_render precision

bench: $(READY)  ## speed and memory, one script after the other (minutes)
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:  ## remove the environment and caches of tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
