# Every target installs what it needs into .venv first. `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PYTEST := $(BIN)/pytest

.PHONY: help
help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

.venv/ready: requirements.lock
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer on PATH" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot create environments: apt-get install python3-venv" >&2; exit 2; }
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@echo "installing into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: .venv/ready ## create .venv from the hash-locked requirements

.PHONY: demo
demo: setup ## six agents behind real Envoys, a table of calls; stays until Ctrl-C (ONCE=1 exits)
	@exec $(BIN)/ext-authz demo $(if $(ONCE),--once)

.PHONY: test
test: setup ## lint, types, all tests but the long ones, coverage floor (at most 10 minutes)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(PYTEST) -m "not long" -n auto --maxprocesses 8 --dist loadfile --cov --cov-report=term:skip-covered

.PHONY: test-all
test-all: setup ## the long suites too (at most 60 minutes)
	@FUZZ_INPUTS=$${FUZZ_INPUTS:-100000} $(PYTEST) -m long

.PHONY: test-vectors
test-vectors: setup ## the wire vectors; TEST_VECTORS=DIR runs those in DIR as well
	@$(PYTEST) tests/vectors -q -rf

.PHONY: test-policies
test-policies: setup ## the tests of policies/*, with coverage; TEST_POLICIES=DIR runs those of DIR instead
	@$(BIN)/ext-authz policy test --coverage $(if $(TEST_POLICIES),"$(TEST_POLICIES)",$(wildcard policies/*))

.PHONY: fuzz
fuzz: setup ## a million damaged delegation chains, and Rego against the engine; FUZZ_INPUTS and FUZZ_SEED change a run
	@$(PYTEST) tests/fuzz tests/properties -m long

.PHONY: bench
bench: setup ## cost of a decision, of large policies, and throughput of the server, as a table and JSON
	@$(BIN)/python -m bench

.PHONY: proto
proto: setup ## compile proto/ into ext_authz/pb/
	@$(BIN)/python proto/compile.py .

.PHONY: envoy
envoy: setup ## render the committed examples in envoy/ anew
	@$(BIN)/python envoy/render_examples.py

.PHONY: schema
schema: setup ## write the JSON Schemas of policy documents anew
	@$(BIN)/python docs/render_schemas.py

.PHONY: lock
lock: ## compile requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--all-extras --group dev --custom-compile-command "make lock" pyproject.toml -o requirements.lock

.PHONY: format
format: setup ## format and fix what ruff can fix
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

.PHONY: clean
clean: ## remove .venv and caches
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist
