# The same few commands for everybody and for CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARALLEL := -n 2 --dist loadfile
NATIVE := CMakeLists.txt $(wildcard src/burnish/kernels/cpu/*.cpp src/burnish/kernels/cpu/*.h)

.PHONY: run test test-all check format bench docs clean

run: $(READY)
	$(BIN)/burnish up

test: check
	$(BIN)/python -m pytest $(PARALLEL)

test-all: check
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[models]'
	$(BIN)/python -m pytest $(PARALLEL) -m ""

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m benchmarks.run

docs: $(READY)
	$(BIN)/python scripts/write_docs.py

$(READY): pyproject.toml constraints.txt $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build
