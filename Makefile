# Holdfast. The two commands are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= $(shell for each in python3.11 python3 python3.12 python3.13; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$each; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo demo-docker test check bench simulate image lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/runtime ## a fleet on this machine, held, broken and healed before your eyes (no root, no Docker)
	@$(BIN)/python -m examples.demo

demo-docker: $(VENV)/runtime ## the same on a Docker engine (DOCKER_HOST, or the local one)
	@$(BIN)/python -m examples.demo --docker

test: $(VENV)/dev ## everything: style, types, contracts, tests against real engines
	@$(BIN)/python -m tests.harness

check: $(VENV)/dev ## only style, types and import contracts
	@$(BIN)/python -m tests.harness --check

bench: $(VENV)/dev ## benchmarks beside their peers
	@$(BIN)/python -m tests.benchmarks

simulate: $(VENV)/dev ## more seeds of the simulation: make simulate SEEDS=0:5000
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),0:2000)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Holdfast needs Python 3.11 or newer; set PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/runtime

image: $(VENV)/runtime ## the container image: make image BASE=python:3.11-slim TAG=holdfast
	@test -n "$(BASE)" || { echo "BASE=IMAGE: something with Python 3.11 or newer" >&2; exit 2; }
	@$(BIN)/python -m pip download -q --require-hashes --only-binary=:all: --dest dist/wheels --requirement requirements.lock
	@$(BIN)/python -m pip download -q --only-binary=:all: --dest dist/wheels pip
	@docker build --network=none --build-arg BASE=$(BASE) --tag $(or $(TAG),holdfast) .

lock: ## renew the lock files (needs uv)
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --group build pyproject.toml -o requirements.lock
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --group build --group dev pyproject.toml -o requirements-dev.lock

clean: ## remove the environment and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
