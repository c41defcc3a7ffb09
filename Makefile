# Everything runs in .venv, made from pyproject.toml and constraints.txt by whichever target comes first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo run test test-nightly test-cluster check bench bench-gpu canary clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Stemify needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes, most of it PyTorch."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/python -m engine demo

run: setup
	$(BIN)/python -m bot

# Three processes for two cores, because the tests wait as much as they compute; a file stays in one.
# The long acceptance tests come first, the short unit tests last, so that all processes end together.
test: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# The long forms: 100 kills, 20,000 damaged files, 300 jobs, every kind of native code. An hour and more.
test-nightly: setup
	$(BIN)/python -m pytest -m nightly -s

# Everything that can die in a cluster of three machines, on loopback: ten minutes and more, 4 GB of memory.
test-cluster: setup
	$(BIN)/python -m pytest -m cluster -s tests/cluster

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m bench

bench-gpu: setup
	$(BIN)/python -m bench.gpu

# One real video from the real YouTube: needs a network, is no part of the tests. LINK=https://… for another one.
canary: setup
	$(BIN)/python -m tests.canary '$(LINK)'

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build *.egg-info
