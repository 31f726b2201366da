# Every target sets up what it needs: `make demo` and `make test` work in a clean clone on a machine with Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Where this is set, every process compiles torch and transformers anew: 13 seconds, before each command and in each test.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo3d test test-all check lint types setup bench clean

setup: $(READY)

$(READY): pyproject.toml setup.cfg constraints.txt
	@command -v uv >/dev/null || $(PYTHON) -m pip install --quiet --user uv || $(PYTHON) -m pip install --quiet uv
	@test -x $(BIN)/python || PATH="$$PATH:$$HOME/.local/bin" uv venv --quiet --python $(PYTHON) $(VENV)
	PATH="$$PATH:$$HOME/.local/bin" uv pip install --quiet --python $(BIN)/python --constraint constraints.txt -e '.[cpu,dev]'
	@$(BIN)/python -c 'import vlp.train.trainer, vlp_eval.runner, transformers.models.bert.modeling_bert'  # compiled once, here
	@touch $@

demo: $(READY)  ## data, training, zero-shot scores, export and one report.html, with the built-in synthetic radiographs
	$(BIN)/python -m vlp_recipes.demo --out runs/demo

demo3d: $(READY)  ## the same on synthetic chest CTs, from raw NIfTI files and DICOM series
	$(BIN)/python -m vlp_recipes.demo3d --out runs/demo3d

# A process of tests for each processor, each with one thread: sums are the same everywhere, and no test waits for another.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 8 --durations 10

test-all: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs build .mypy_cache .ruff_cache .pytest_cache *.egg-info
