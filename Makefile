# Two commands on a fresh machine: make demo, make test. The first of them sets up .venv, once.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DIST ?= dist
ENVIRONMENT := $(DIST)/environment
DEPENDENCIES ?=
export PYTHONUTF8 := 1

.PHONY: help setup java demo test tests fast unit lint types wheel environment clean

help:
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: java $(READY) ## install everything into .venv

$(READY): pyproject.toml conf/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install -y python3.11 python3.11-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3.11-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "Python's venv module is missing: apt-get install -y python3.11-venv"; exit 1; fi; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c conf/constraints.txt -e '.[spark,dev]'
	@touch $@

java:
	@version=$$($${JAVA_HOME:+$$JAVA_HOME/bin/}java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1); \
	if [ "$${version:-0}" -lt 17 ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq openjdk-17-jre-headless; \
	  else echo "Java 17 is needed: sudo apt-get install -y openjdk-17-jre-headless"; exit 1; fi; fi

demo: setup ## the whole path on a simulated clickstream; ends with a table and the path of a report
	$(BIN)/sie demo --root runs/demo

test: setup lint ## every test, lint and types
	$(MAKE) --no-print-directory -j 2 types tests

# two processes, each with one Spark session; torch in them keeps to one core, or it waits more than it computes
tests: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fast: setup ## the everyday tests: no slow tier
	$(BIN)/python -m pytest -m 'not slow'

unit: setup ## the tests that need no Spark
	$(BIN)/python -m pytest -m 'not slow and not spark'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy sie_spark

wheel: setup ## build dist/*.whl
	rm -rf build $(DIST)/*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir $(DIST)

# The package and what it needs, or, where the workers have a folder with all else, the package and a line that says
# where: make environment DEPENDENCIES=/opt/python/site-packages. The same Python as here must be on the workers.
environment: wheel ## a Python for the workers of a cluster: dist/environment.tar.gz
	rm -rf $(ENVIRONMENT)
	$(PYTHON) -m venv --without-pip $(ENVIRONMENT)
	$(if $(DEPENDENCIES),echo "$(DEPENDENCIES)" > $$(echo $(ENVIRONMENT)/lib/python3*/site-packages)/dependencies.pth)
	$(BIN)/python -m pip --python $(ENVIRONMENT)/bin/python install -q --disable-pip-version-check \
	  $(if $(DEPENDENCIES),--no-deps,-c conf/constraints.txt) $(DIST)/*.whl
	tar -C $(ENVIRONMENT) -czf $(ENVIRONMENT).tar.gz .

clean: ## remove what runs made
	rm -rf runs dist build .pytest_cache .mypy_cache .ruff_cache
