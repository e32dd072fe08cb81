# setup · demo · test · lint · bench · up — each does all its own set-up and uses the network only when something is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# A fabric is many processes, and each would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(firstword $(shell for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name"; done))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := schemas policies activities workflows workers cli

.PHONY: setup demo test lint bench up lock catalogue

setup: $(STAMP)
	@$(BIN)/python -m workers.setup

demo: setup
	@$(BIN)/python -m cli.demo

test: $(STAMP)
	@$(BIN)/python -m workers.setup --for-tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports

bench: setup
	@$(BIN)/python -m bench

up: setup
	@$(BIN)/gen4 up

catalogue: $(STAMP)
	@$(BIN)/python -m workers.catalogue

$(STAMP): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is not on PATH: apt-get install python3 python3-venv" >&2; exit 3; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		{ apt-get install -qq --yes python3-venv >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qq --yes python3-venv >/dev/null; }; }; } || \
		{ echo "Python has no venv: sudo apt-get install python3-venv" >&2; exit 3; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "setup: Python packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

# Where packages come from (index, find-links) is the operator's pip configuration; it never enters the lock files.
# Locked with Debian 12's own Python, the oldest that is supported: newer ones accept packages that it refuses.
LOCK_PYTHON ?= /usr/bin/python3
LOCK := build/lock
COMPILE := $(LOCK)/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	--no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

lock:
	@test -x $(LOCK)/bin/pip-compile || { "$(LOCK_PYTHON)" -m venv $(LOCK) && $(LOCK)/bin/python -m pip install --quiet pip-tools; }
	$(COMPILE) --output-file requirements/runtime.txt requirements/runtime.in
	$(COMPILE) --output-file requirements/dev.txt requirements/dev.in
