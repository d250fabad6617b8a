# Roundtable. Needs GNU make 3.81 or later and a Python from 3.10 to 3.13 with venv; `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# uv: the one on PATH, or one of our own in .uv/ (made by the rule below with whichever Python is there).
UV_VERSION := 0.13.8
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
UV_NEEDED := $(if $(filter .uv/bin/uv,$(UV)),.uv/bin/uv,)
export UV_PYTHON_DOWNLOADS := never

# Prints the first Python that will do; with an argument that says otherwise, e.g. `make setup PYTHON=python3.12`, that one.
PYTHON :=
FIND_PYTHON = for python in $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python); do \
	  $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
	    && $$python -c 'import sys; print(sys.executable)' && exit 0; \
	done; \
	echo "make: no Python from 3.10 to 3.13 with venv was found$(if $(PYTHON), ($(PYTHON) is not one),):" \
	  "install one (on Debian and Ubuntu: apt install python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
	exit 1

BIN := .venv/bin
SETUP := .venv/.installed
WORKERS ?= 5

.PHONY: help
help: ## What can be made, one line each
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(SETUP) ## Install what the lock file names into .venv/ (done by every target that needs it)
	@echo "make: .venv/ is as the lock file says"

.PHONY: demo
demo: $(SETUP) ## Train on real MNIST: one aggregator and 5 workers on this machine, live in the terminal
	@$(BIN)/lab run experiments/demo.toml --workers $(WORKERS) --again

.PHONY: test
test: $(SETUP) ## Every test but the long ones
	$(BIN)/python -m pytest -m "not slow and not stack" -n 2 --dist loadfile

.PHONY: test-slow
test-slow: $(SETUP) ## Kills and long runs (minutes)
	$(BIN)/python -m pytest -m slow

.PHONY: test-stack
test-stack: ## The compose stack (not there yet)
	@echo "make: there is no compose stack yet, so nothing to test with a Docker engine; make test covers what there is"

.PHONY: check
check: lint types imports ## Lint, format, types and import contracts

.PHONY: lint
lint: $(SETUP) ## ruff: rules and format, nothing changed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(SETUP) ## mypy, strict
	$(BIN)/mypy

.PHONY: imports
imports: $(SETUP) ## import-linter: who may import whom
	$(BIN)/lint-imports

.PHONY: format
format: $(SETUP) ## Let ruff put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench-core
bench-core: $(SETUP) ## Our coordination, rounds and memory against their references (minutes) → bench-core.json
	$(BIN)/python -m tests.benchmarks

.PHONY: clean
clean: ## Remove what was installed and cached here; runs/ stays
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis bench-core.json
	find packages services tests -type d -name __pycache__ -prune -exec rm -rf {} +

# --- how things get installed ------------------------------------------------------------------------------------

$(SETUP): uv.lock pyproject.toml $(wildcard packages/*/pyproject.toml services/*/pyproject.toml) $(UV_NEEDED)
	@if [ -x $(BIN)/python ] && [ -z "$(PYTHON)" ]; then python=$(BIN)/python; else python=$$($(FIND_PYTHON)) || exit 1; fi; \
	$(UV) sync --frozen --compile-bytecode --python "$$python"
	@touch $@

.uv/bin/uv:
	@python=$$($(FIND_PYTHON)) || exit 1; \
	echo "make: uv is not here: putting uv $(UV_VERSION) into .uv/"; \
	rm -rf .uv && "$$python" -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
