# Every target sets up what it needs: a virtual environment with the tested versions of constraints.txt.
VENV ?= .venv
PYTHON ?= python3
# The torch to install, if not the machine's default build of it.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests side by side, each file in one process; the longest files first (tests/conftest.py). What is compiled
# is kept, whatever the environment says: every process would compile the tests and the package again.
# Many tests wait, for disks, clusters and servers: two cores have room for three files at a time. Four take
# longer: each process imports all, and waits for the others.
WORKERS ?= 3
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast check docs bench mutants clean

demo: $(READY)
	$(BIN)/blemish demo

test: $(READY)
	$(PYTEST)

# Without clusters, browsers, servers, trainings in several processes and what takes half a second or more.
test-fast: $(READY)
	$(PYTEST) -m "not (ray or browser or database or torchrun or server or slow or heavy)"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/memory.py

mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build demo runs .pytest_cache .ruff_cache
