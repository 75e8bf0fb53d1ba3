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

figures-quick: setup  ## the sources' figures at small sizes, with verdicts, as a gallery in figures-output
	$(BIN)/spectrum-server figures --scale quick

serve: setup  ## run everything on this machine until Ctrl-C
	$(BIN)/spectrum-server up --port $(PORT)

test: setup  ## the whole test suite
	$(BIN)/python -m pytest

REDIS_SERVER ?= $(shell command -v redis-server)

test-redis: setup  ## the tests of Redis with the redis-server of this machine, or REDIS_SERVER=PATH
	@if [ -z "$(REDIS_SERVER)" ]; then echo "test-redis: skipped, as no redis-server is on the PATH"; else \
		"$(REDIS_SERVER)" --version && $(BIN)/python -m pytest -m "redis and not long" --redis-server="$(REDIS_SERVER)" tests; fi

check: lint types contracts test  ## lint, types, import contracts, tests

coverage: setup  ## which lines of theory, curvature and jobs the tests run within their own process
	$(BIN)/coverage run -m pytest -n 0 tests/theory tests/curvature tests/jobs tests/api_schemas tests/worker \
		tests/service/maintenance tests/service/routes tests/service/telemetry tests/service/test_doctor.py tests/launcher/test_redis_access.py
	$(BIN)/coverage report --skip-covered

docs: export NO_MKDOCS_2_WARNING := 1
docs: docs-setup  ## the documentation as a site in build/site
	$(BIN)/python -m mkdocs build --strict --quiet

docs-setup: setup
	$(BIN)/uv pip install -q --system-certs -p $(BIN)/python -c constraints.txt --group docs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

bench: bench-closed-form bench-exact bench-density bench-peers bench-products bench-exported bench-ensembles bench-cost bench-gpt2  ## measure everything, keep it in benchmarks/results

bench-setup: setup  ## install what the benchmarks compare with
	$(BIN)/uv pip install -q --system-certs -p $(BIN)/python -c constraints.txt --group benchmarks

# As in a worker: threads that spin for long while they wait disturb what else runs on the machine.
bench bench-%: export OMP_WAIT_POLICY := PASSIVE
bench bench-%: export GOMP_SPINCOUNT := 2000
# Further options, as in: make bench-products BENCH="--device cuda", or on a busy machine BENCH="--threads 1 --clock cpu"
BENCH ?=
# As in: make bench-gpt2 BENCH_GPT2="--only products memory --memory-budget 24GiB"
BENCH_GPT2 ?=

bench-closed-form: setup
	$(BIN)/python -m benchmarks.closed_form --save

bench-exact: bench-setup
	$(BIN)/python -m benchmarks.exact --save $(BENCH)

bench-ensembles: setup
	$(BIN)/python -m benchmarks.ensembles --save $(BENCH)

bench-cost: bench-setup
	$(BIN)/python -m benchmarks.cost --save

bench-density: bench-setup
	set -e; for problem in digits mlp gpt-small; do \
		$(BIN)/python -m benchmarks.density --save --problem $$problem $(BENCH); done

bench-peers: bench-setup  ## the same matrices by other libraries, with the error of each
	$(BIN)/python -m benchmarks.peers --save

bench-products: bench-setup
	set -e; for problem in mlp gpt-small gpt2 resnet18 vit; do \
		$(BIN)/python -m benchmarks.products --save --problem $$problem $(BENCH); done

bench-exported: bench-setup  ## built-in networks beside the same as programs of one's own
	set -e; for problem in mlp conv gpt-small; do \
		$(BIN)/python -m benchmarks.exported --save --problem $$problem $(BENCH); done

bench-gpt2: bench-setup  ## 124 million parameters on whatever device there is, each number beside its target
	$(BIN)/python -m benchmarks.gpt2 --save $(BENCH_GPT2)

# A part of the rows, as in: make bench-ahead OLD=../before AHEAD="--only exact density --rounds 1"
bench-ahead: setup  ## this build beside an earlier one, as in: make bench-ahead OLD=../before, where make setup was run
	$(BIN)/python -m benchmarks.ahead $(OLD) --save $(AHEAD)

bench-scale: setup  ## the queue with 1,000 workers and up to 100,000 jobs, beside an earlier build in OLD
	$(BIN)/python -m benchmarks.scale $(OLD) --save

bench-efficiency: setup  ## one job in shards and 200 small ones on eight simulated workers of one core each
	$(BIN)/python -m benchmarks.efficiency --save

pins: setup  ## write requirements/ anew, from pyproject.toml and constraints.txt
	./scripts/pins

test-faults: setup  ## kill everything once, and what else takes a quarter of a minute
	$(BIN)/python -m pytest -n 2 -m slow tests

soak: soak-kills soak-redis soak-faults soak-intervals soak-properties fuzz soak-load  ## every long campaign, one after the other; two hours and more

soak-faults: setup  ## kill everything in further ways, as often as it takes
	$(BIN)/python -m pytest -n 0 -m long --ignore=tests/curvature tests

soak-intervals: setup  ## how often intervals and bounds hold, over hundreds of seeds of every spectrum and method; every network
	$(BIN)/python -m pytest -m long tests/curvature

soak-properties: export EXAMPLES := all
soak-properties: setup  ## three times as many examples of every property that takes random ones
	$(BIN)/python -m pytest tests/service tests/storage tests/theory

# Further options, as in: make soak-kills SOAK="--cycles 20 --seed 7"; the seed decides faults, moments and jobs.
SOAK ?=

soak-kills: setup  ## disturb a busy server 200 times in thirteen ways, then count what is lost, wrong or double
	$(BIN)/python -m tests.chaos.campaign --cycles 200 --min-jobs 300 $(SOAK)

soak-redis: setup  ## kill -9 Redis 50 times under a busy server
	$(BIN)/python -m tests.chaos.campaign --faults redis --cycles 50 $(SOAK)

CASES ?= 20000

fuzz: setup  ## schemathesis over the whole OpenAPI document, as in: make fuzz CASES=2000
	$(BIN)/python -m tests.chaos.fuzz --cases $(CASES) $(SOAK)

MINUTES ?= 30

soak-load: setup  ## closed forms at 80 % of capacity while jobs run, as in: make soak-load MINUTES=5
	$(BIN)/python -m benchmarks.mixed_load --save --minutes $(MINUTES) $(SOAK)

bench-shards: setup  ## one long job on one worker and on two; on a quiet machine
	$(BIN)/python -m benchmarks.shards --save

bench-sweeps: setup  ## many tiny spectra as one sweep and as single jobs, and a sweep on two workers
	$(BIN)/python -m benchmarks.sweeps --save

bench-fairness: setup  ## what others wait for while one key asks for the most expensive requests there are
	$(BIN)/python -m benchmarks.fairness --save

bench-job-overhead: setup  ## what a job costs beside its computation
	$(BIN)/python -m benchmarks.job_overhead --save

bench-tracking: setup  ## what a training loop pays for being tracked; on a quiet machine
	$(BIN)/python -m benchmarks.tracking --save

bench-page: setup  ## how fast the page is in Chromium; on a quiet machine
	$(BIN)/python -m benchmarks.page --save

bench-hostile-files: setup  ## how soon each hostile file of the tests is refused
	$(BIN)/python -m benchmarks.hostile_files --save

test-browser: setup  ## use the page in Chromium; the browser of the machine, or that of `playwright install chromium`
	$(BIN)/python -m pytest -n 2 -m browser tests/browser

test-clients: build/clients/bin/python  ## clients of the OpenAPI document by four generators, against a real server
	$(BIN)/python -m pytest -n 0 -m clients tests/clients

build/clients/bin/python: pyproject.toml | setup
	$(BIN)/uv venv -q --clear -p $(BIN)/python build/clients
	$(BIN)/uv pip install -q --system-certs -p build/clients --group clients
	@touch $@

test-compose: setup  ## bring docker-compose.yml up on the engine of DOCKER_HOST and use it
	$(BIN)/python -m pytest -n 0 -m compose tests/compose

.PHONY: help setup demo docs docs-setup figures-quick serve test check coverage lint types contracts bench bench-setup bench-closed-form bench-cost bench-ensembles bench-exact \
	bench-density bench-products bench-exported bench-gpt2 bench-fairness bench-hostile-files bench-job-overhead bench-shards bench-sweeps bench-page bench-tracking fuzz pins soak soak-faults soak-intervals soak-kills soak-load soak-properties soak-redis test-browser test-clients test-faults test-compose test-redis
