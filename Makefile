# `make demo` shows the pipeline, `make test` proves it. Both need Python 3.11 or newer and make, nothing else.
SHELL := /bin/sh
ROOT := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
VENV := $(abspath $(or $(VACE_BATCH_VENV),$(ROOT)/.venv))
BIN := $(VENV)/bin
OUT ?= demo-out
TESTS ?= tests
WORKERS ?= 2

# This checkout comes first even where several share one environment.
export PYTHONPATH := $(ROOT)
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help env demo tasks test test-all check fmt chaos audit bench docs docs-manifest flow clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

env: ## create the environment in .venv (or VACE_BATCH_VENV), or bring it up to date
	@sh $(ROOT)/.ci/with-python $(ROOT)/.ci/env.py "$(VENV)"

demo: env ## run the whole pipeline on six generated clips, into OUT (demo-out)
	@$(BIN)/vace-batch demo -o "$(OUT)"

tasks: env ## run one row per task and draw sheets of the model's input and output, into OUT
	@$(BIN)/python benchmarks/task_pictures.py "$(OUT)" --run

test: env ## run every test that this machine can run, in 2 WORKERS; TESTS=tests/video/test_probe.py runs some
	@$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu and not browser and not slow" $(TESTS)

test-all: env ## also run the slow, GPU and browser tests
	@$(BIN)/python -m pytest $(TESTS)

check: env ## check the code: ruff, format, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fmt: env ## format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

browser: env ## test the report's page and the docs in a headless Chromium, which is installed if possible
	@sh $(ROOT)/.ci/chromium $(BIN)
	@$(BIN)/python -m pytest -m browser $(ROOT)/tests/report $(ROOT)/tests/docs

chaos: env ## inject every fault into runs on a real Ray, then 20 runs with random kills; about 40 min
	@$(BIN)/python -m tests.chaos.campaign $(CHAOS)

audit: env ## list known vulnerabilities of the pinned packages with pip-audit; needs the network
	@test -x $(VENV)-audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install -q pip-audit; }
	@$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

bench: env ## run every benchmark in benchmarks/
	@for file in benchmarks/[a-z]*.py; do test -e "$$file" || continue; echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: env ## build the documentation site into site/; needs no network
	@$(BIN)/python .ci/docs.py site

docs-manifest: env ## write manifests/README.md and the example manifests from the schema
	@$(BIN)/python -m vace_batch.manifest.docs

flow: env ## run the demo's manifest as a Prefect flow on the embedded server
	@$(BIN)/python -m vace_batch.demo.clips "$(OUT)/media"
	@$(BIN)/python -m flows.batch "$(OUT)/media/manifest.parquet" -o "$(OUT)"

clean: ## remove caches, the site and the demo's output; the environment stays
	rm -rf demo-out site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
