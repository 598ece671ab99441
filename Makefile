.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test test-slow lint format docs lock benchmark results clean

# Interpreters to try, in order, when .venv has to be made. The lock files are made with 3.11.
PYTHON ?= python3.11 python3
# Test processes side by side, each computing with one thread.
WORKERS ?= 2
# What `make test` and `make test-slow` hand to pytest on top, e.g. PYTEST_ARGS="-k samplers".
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two stamps, one on top of the other: what the product needs, then what its developers need.
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed

help: ## Explain every target (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(DEV) ## Make .venv with the locked packages, the tools and this project (editable)

quickstart: $(RUNTIME) ## Install what running needs, then run the small example from end to end
	$(BIN)/python scripts/quickstart.py

test: lint ## Run the linters, then every test that is not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-slow: $(DEV) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(DEV) ## Check style, formatting, types and the layers of the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## Sort imports, apply the safe fixes and format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(DEV) ## Build the documentation as a site, in site/ (warnings are errors)
	$(BIN)/zensical build --strict --clean

# pip-compile keeps the pins that still fit; `make lock UPGRADE=1` looks for newer versions.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m piptools compile --quiet \
	--allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	--no-emit-find-links $(if $(UPGRADE),--upgrade)
# The wheel of torch that pip finds may carry a local version such as 2.13.0+cpu. Only an index
# that offers the very same build could satisfy that pin, while 2.13.0 fits every build of the
# release: so the suffix is taken off.
STRIP_LOCAL = sed 's/^\(torch==[^+ ]*\)+[a-z0-9.]*/\1/'
# The development extras alone, without what requirements.txt already holds.
DEV_EXTRAS = import tomllib; \
	extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*(line for name in ("test", "lint", "docs", "plots", "wandb", "lock") for line in extras[name]), sep="\n")

lock: $(VENV)/pyvenv.cfg ## Pin every package again (UPGRADE=1: to the newest versions that fit)
	@$(BIN)/python -c 'import piptools' 2>/dev/null || $(PIP) install pip-tools
	$(COMPILE) --extra hf --output-file requirements.txt pyproject.toml
	@$(STRIP_LOCAL) requirements.txt > requirements.txt.new && mv requirements.txt.new requirements.txt
	@! grep -E '^(nvidia|cuda|triton)' requirements.txt || { \
	echo "make lock: the CPU build of torch is needed: a GPU build brings its own companions, which fit Linux only" >&2; exit 1; }
	@echo "requirements-dev.txt: the extras test, lint, docs, plots, wandb and lock on top of requirements.txt"
	@$(BIN)/python -c '$(DEV_EXTRAS)' | $(COMPILE) -c requirements.txt --output-file requirements-dev.txt -
	@sed 's/via -r -$$/via bayesgen (pyproject.toml)/; s/#   -r -$$/#   bayesgen (pyproject.toml)/' \
	requirements-dev.txt > requirements-dev.txt.new && mv requirements-dev.txt.new requirements-dev.txt

benchmark: $(RUNTIME) ## Time the samplers' steps and generation, and measure the memory of a run
	$(BIN)/python benchmarks/sampler_step.py
	$(BIN)/python benchmarks/sampler_step.py --size 10.65M --rounds 10 --steps 1 --samplers sgld sghmc baoa
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/generation.py

results: ## Say which command makes each table under results/ again
	@for script in results/*.py; do \
	if ! grep -qs "^def main" "$$script"; then continue; fi; \
	printf '%s\n    %s\n' "$(BIN)/python $$script" "$$(sed -n '1s/^"""//; 1s/"""$$//; 1p' "$$script")"; \
	done

clean: ## Delete caches (never checkpoints, results or .venv)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache site
	find . \( -path ./.venv -o -path ./.git -o -path ./checkpoints \) -prune -o \
	-type d -name __pycache__ -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@for python in $(PYTHON); do \
	if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo "$$python -m venv $(VENV)"; exec "$$python" -m venv $(VENV); fi; done; \
	echo "make: no Python 3.11 or newer among: $(PYTHON) (name one with PYTHON=/path/to/python)" >&2; exit 1

# setuptools, which builds the project, is pinned in requirements.txt (torch needs it): without
# build isolation nothing is fetched for the build, and it is the same build everywhere.
$(RUNTIME): $(VENV)/pyvenv.cfg requirements.txt pyproject.toml
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.txt
	$(PIP) install -r requirements.txt -r requirements-dev.txt
	@touch $@
