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
	@bold= plain=; if [ -t 1 ] && [ "$$TERM" != dumb ]; then bold='\033[1m' plain='\033[0m'; fi; \
	awk -v bold="$$bold" -v plain="$$plain" 'BEGIN { FS = ":.*## " } \
	  /^[a-z0-9-]+:.*## / { printf "  %smake %-16s%s %s\n", bold, $$1, plain, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(SETUP) ## Install what the lock file names into .venv/ (done by every target that needs it)
	@echo "make: .venv/ is as the lock file says"

.PHONY: demo
demo: $(SETUP) ## Train on real MNIST: one aggregator and 5 workers on this machine, live in the terminal
	@unset LAB_URL; $(BIN)/lab run experiments/demo.toml --workers $(WORKERS) --again

.PHONY: test
test: $(SETUP) ## Every test but the long ones
	$(BIN)/python -m pytest -m "not slow and not stack" -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-slow
test-slow: $(SETUP) ## Kills and long runs (minutes)
	$(BIN)/python -m pytest -m slow

.PHONY: test-stack
test-stack: $(SETUP) docker ## The compose stack on a real Docker engine (minutes)
	$(BIN)/python -m pytest -m stack -s tests/stack

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

STUDY ?= quick
DATASETS ?= datasets
STUDY_RUN = $(BIN)/lab study run studies/$(STUDY).toml --datasets-dir $(DATASETS) $(STUDY_OPTIONS)

.PHONY: bench
bench: $(SETUP) ## The study: report in runs/studies/ (10 minutes); STUDY=full runs all, STUDY=nodes one
	@test -f studies/$(STUDY).toml || { echo "make: there is no studies/$(STUDY).toml; STUDY can be:" $$(cd studies && ls *.toml | sed 's/\.toml//') >&2; exit 1; }
	@unset LAB_URL; $(STUDY_RUN)

.PHONY: bench-core
bench-core: $(SETUP) ## Our coordination, rounds and memory against their references (minutes) → bench-core.json
	$(BIN)/python -m tests.benchmarks

.PHONY: bench-monitoring
bench-monitoring: $(SETUP) docker ## Rounds with and without monitoring, its CPU and memory (10 quiet minutes) → bench-monitoring.json
	$(BIN)/python -m tests.benchmarks.monitoring_effect

.PHONY: bench-images
bench-images: $(SETUP) docker ## How long both images take to build, from nothing and after a change of code
	$(BIN)/python -m tests.benchmarks.build_times

# --- the lab in containers ---------------------------------------------------------------------------------------

SLOW ?= 0
COMPOSE := docker compose --profile slow
SETTING = $(or $($(1)),$(shell sed -n 's/^$(1)=//p' .env 2>/dev/null | tail -n 1),$(2))
GRAFANA = http://$(subst 0.0.0.0,127.0.0.1,$(call SETTING,GRAFANA_BIND,127.0.0.1)):$(call SETTING,GRAFANA_PORT,3000)

.PHONY: up
up: ## The lab in containers: WORKERS=5 workers, SLOW=0 slow ones; again, it goes on where it was
	@sh scripts/preflight.sh up "$(WORKERS)" "$(SLOW)"
	@$(COMPOSE) up --detach --build --scale worker=$(WORKERS) --scale worker-slow=$(SLOW) || { \
	  echo "make: the lab did not come up. What its containers said last:" >&2; \
	  $(COMPOSE) logs --tail 1 aggregator influxdb >&2; exit 1; }
	@echo "make: the lab is up. Watch it at $(GRAFANA) (make open), or with make logs; make down stops it"

.PHONY: down
down: docker ## Stop the lab in containers; runs, points and tokens stay
	$(COMPOSE) down

.PHONY: rerun
rerun: docker ## Run the lab's experiment anew
	@$(COMPOSE) exec aggregator python -m aggregator rerun

.PHONY: logs
logs: docker ## What the aggregator and the workers say, as it comes (Ctrl-C ends it)
	@$(COMPOSE) logs --follow --tail 50 aggregator worker worker-slow

.PHONY: ps
ps: docker ## The lab's containers
	@$(COMPOSE) ps

.PHONY: open
open: ## Open Grafana in the browser
	@for opener in xdg-open open; do $$opener $(GRAFANA) >/dev/null 2>&1 && exit 0; done; \
	echo "make: no browser is known here: open $(GRAFANA)"

.PHONY: own
own: docker ## Give the lab's volumes back to it, where another user came to own them (a restored backup)
	@$(COMPOSE) run --rm --no-deps --user 0 --cap-add CHOWN --cap-add DAC_OVERRIDE --entrypoint chown aggregator \
	  -R lab:lab /state /tokens/join /tokens/admin

.PHONY: certs
certs: $(SETUP) ## TLS for the lab: its own certificate authority and certificate, in certs/ (docs/devices.md)
	@$(BIN)/lab certs $(NAMES)

TARGET ?= pi
.PHONY: image-arm64
image-arm64: docker ## A board's worker image, TARGET=pi, jetson-orin, jetson-xavier or jetson-nano → worker-arm64.tar (docs/devices.md)
	@case "$(TARGET)" in pi | jetson-orin | jetson-xavier | jetson-nano) ;; \
	  *) echo "make: TARGET=$(TARGET): is pi, jetson-orin, jetson-xavier or jetson-nano" >&2; exit 1 ;; esac
	docker buildx bake --file docker-bake.hcl --load $(TARGET)
	docker save --output worker-arm64.tar roundtable-worker:node
	@echo "make: on the board: docker load -i worker-arm64.tar"

.PHONY: test-floor
test-floor: $(SETUP) $(UV_NEEDED) ## The worker on the oldest TensorFlow it meets: 2.17, Keras 3.4, numpy 1.26 (Python 3.10 to 3.12)
	@python=; for found in python3.10 python3.11 python3.12 $(BIN)/python; do \
	  $$found -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 && python=$$found && break; done; \
	[ -n "$$python" ] || { echo "make: TensorFlow 2.17 wants a Python from 3.10 to 3.12, and there is none" >&2; exit 1; }; \
	$(UV) venv --quiet --allow-existing --python "$$python" .venv-floor && \
	$(UV) pip install --quiet --python .venv-floor/bin/python -r tests/floor/requirements.txt \
	  -e packages/roundtable -e packages/lab -e services/aggregator -e services/worker
	.venv-floor/bin/python -m pytest -m "not slow and not stack" tests/worker tests/roundtable

.PHONY: dashboards
dashboards: $(SETUP) ## Write Grafana's dashboards from monitoring/grafana/dashboards.py
	$(BIN)/python monitoring/grafana/dashboards.py

.PHONY: docker
docker:
	@sh scripts/preflight.sh engine

# --- clearing up -------------------------------------------------------------------------------------------------

.PHONY: clean
clean: ## Remove what was installed and cached here and, if you say so, the containers' volumes: asks first; runs/ stays
	@ask() { printf "make: remove %s? [y/N] " "$$1"; read -r answer || echo; case $$answer in [yY]*) ;; *) echo "make: kept"; return 1 ;; esac; }; \
	if ask "what was installed and cached here (.venv, .venv-floor, .uv, caches)"; then \
	  rm -rf .venv .venv-floor .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis; \
	  find packages services tests -type d -name __pycache__ -prune -exec rm -rf {} +; \
	fi; \
	if docker info >/dev/null 2>&1 && [ -n "$$($(COMPOSE) ps --all --quiet 2>/dev/null)$$(docker volume ls --quiet --filter label=com.docker.compose.project=roundtable)" ]; then \
	  ! ask "the lab's containers and volumes, with every run, point and token in them" || $(COMPOSE) down --volumes; \
	fi

# --- how things get installed ------------------------------------------------------------------------------------

$(SETUP): uv.lock pyproject.toml $(wildcard packages/*/pyproject.toml services/*/pyproject.toml) $(UV_NEEDED)
	@if [ -x $(BIN)/python ] && [ -z "$(PYTHON)" ]; then python=$(BIN)/python; else python=$$($(FIND_PYTHON)) || exit 1; fi; \
	$(UV) sync --frozen --compile-bytecode --python "$$python"
	@touch $@

.uv/bin/uv:
	@python=$$($(FIND_PYTHON)) || exit 1; \
	echo "make: uv is not here: putting uv $(UV_VERSION) into .uv/"; \
	rm -rf .uv && "$$python" -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
