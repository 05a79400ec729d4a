# Every target makes what it needs, from nothing but python3 >= 3.11: `make help` lists them.
# Another interpreter: make PYTHON=python3.12 demo. Other pip flags: make PIP_FLAGS=... demo.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS ?= -q --disable-pip-version-check
PIP = $(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt
DEMO := examples/llama3-405b-16k.yaml
DEMO_REPORT := out/llama3-405b-16k.html
# One test process per core; a file stays in one process, so that its kernels compile once.
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile

# The first interpreter that starts and is new enough.
FIND_PYTHON = for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; exit 0; fi; done

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then echo "euston needs Python 3.11 or newer; none of python3, python3.13, python3.12, python3.11 is (or say make PYTHON=/path/to/python ...)" >&2; exit 1; fi; \
	echo "Making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV) || { echo "could not make $(VENV): on Debian and Ubuntu, install the package python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing euston and its base dependencies into $(VENV) (the first time takes a minute)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the development tools into $(VENV)"
	@$(PIP) -e ".[dev]"
	@touch $(VENV)/.base $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing the documentation tools into $(VENV)"
	@$(PIP) -e ".[dev,docs]"
	@touch $(VENV)/.base $(VENV)/.dev $@

demo: $(VENV)/.base ## simulate Llama 3.1 405B on 16,384 H100 and write a report (base install only)
	@mkdir -p out
	$(BIN)/euston simulate $(DEMO) --report $(DEMO_REPORT)
	@echo "The report is at $(CURDIR)/$(DEMO_REPORT): open it in a browser, it needs no network."

test: $(VENV)/.dev ## the tests that need no browser and no long-running process
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## every test; the summary says why what is skipped was skipped
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.dev ## style, format, types and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev ## the benchmarks, one JSON line per case
	@set -e; for file in benchmarks/bench_*.py; do $(BIN)/python $$file $(BENCH_ARGS); done

docs: $(VENV)/.docs ## the documentation, into site/
	$(BIN)/python docs/gen_scenario.py docs/scenario.md
	$(BIN)/mkdocs build --strict

clean: ## what the targets made, .venv too
	rm -rf $(VENV) out site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
