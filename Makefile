# Every target does its own set-up and needs Python 3.11 or 3.12, bash and make, nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
BENCHMARKS := render factorised editing_step backends pipeline train_data train_workers
BENCHMARKS_GPU := factorised editing_step backends pipeline
export PYTHON

.PHONY: help setup demo test test-long check bench bench-quick bench-gpu train-smoke pack lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv with the pinned packages; does nothing when it is up to date
	@.ci/setup

demo: setup ## edit 320 portraits through a local Ray and say where the report is
	@$(PY) jobs/demo.py $(DEMO)

test: setup check ## run the checks, then every test that needs no GPU
	@$(PY) -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(TESTS)

test-long: setup ## run the tests that take minutes each
	@$(PY) -m pytest -m long $(TESTS)

check: setup ## ruff, mypy and the length of the files
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m pytest --quiet --no-header tests/house/test_tree.py -k length

bench: setup ## measure speeds against the floors in benchmarks/floors.yaml
	@missed=0; for name in $(BENCHMARKS); do $(PY) -m benchmarks.$$name || missed=1; done; exit $$missed

bench-quick: setup ## check in three minutes the floors that a change of an edit can miss; what misses one is measured once more
	@for quick in "factorised --layers [8] --batches [4] --whole false" "editing_step --sizes [256] --batches [8] --rounds 3" "backends --rounds 5" \
	  "pipeline --count 80 --rounds 1 --memory []"; do $(PY) -m benchmarks.$$quick || $(PY) -m benchmarks.$$quick; done

bench-gpu: setup ## measure the same on a CUDA device, inversion and edit at 1024 pixels against the released form and the roofline
	@missed=0; $(PY) -m benchmarks.gpu $(GPU) || missed=$$?; [ $$missed -ne 2 ] || exit 2; \
	  for name in $(BENCHMARKS_GPU); do $(PY) -m benchmarks.$$name --device cuda || missed=1; done; exit $$missed

train-smoke: setup ## train HyperEditor on one attribute with two workers and check how well and how fast
	@rm -rf out/smoke
	@$(PY) -m benchmarks.train_smoke $(TRAIN)

pack: setup ## retrain every network of packs/portraits64 from nothing (hours on a CPU)
	@$(PY) jobs/train_pack.py $(PACK)

lock: setup ## write constraints.txt anew from what pyproject.toml asks for and .venv holds
	@$(PY) -m uv pip freeze --exclude-editable --python $(PY) > .venv/frozen.txt
	@$(PY) -m uv pip compile pyproject.toml --quiet --extra test --extra s3 --extra aws --extra faces --constraint .venv/frozen.txt --no-annotate --no-header --output-file .venv/constraints.txt
	@{ head -n 1 constraints.txt; cat .venv/constraints.txt; } > .venv/new.txt && cp .venv/new.txt constraints.txt

clean: ## remove what the demo and the tools left behind; keeps .venv
	@rm -rf out build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
