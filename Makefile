.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
PORT ?= 8000

help:  ## what can be done
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

setup: .venv/.installed  ## make .venv and install everything

.venv/.installed: pyproject.toml constraints.txt scripts/setup
	./scripts/setup
	@touch $@

demo: setup  ## start a stack, take three spectra, print a report, stop
	$(BIN)/spectrum-server demo

serve: setup  ## run everything on this machine until Ctrl-C
	$(BIN)/spectrum-server up --port $(PORT)

test: setup  ## the whole test suite
	$(BIN)/python -m pytest

check: lint types contracts test  ## lint, types, import contracts, tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

bench: setup  ## measure the closed forms over HTTP, beside what they are compared with
	$(BIN)/python -m benchmarks.closed_form

test-faults: setup  ## kill everything at every moment, as often as it takes
	$(BIN)/python -m pytest -m slow tests

test-compose: setup  ## bring docker-compose.yml up on the engine of DOCKER_HOST and use it
	$(BIN)/python -m pytest -m compose tests/compose

.PHONY: help setup demo serve test check lint types contracts bench test-faults test-compose
