# Every target sets up .venv first. Nothing but make and Python 3.11 or newer must be there.

# The first of these that will do makes the environment; name another with `make PYTHON=/path/to/python`.
PYTHON = python3 python3.14 python3.13 python3.12 python3.11 python
# Test processes. More than cores, since most tests wait for something.
TESTS = 4
# More for pytest, such as ARGS='-k recovery -x'.
ARGS =

# Where it is set, each of the hundreds of processes of the tests compiles all that it imports.
export PYTHONDONTWRITEBYTECODE =

RUN = .venv/bin/python
READY = .venv/ready

.PHONY: help
help:
	@echo 'make demo      process orders, kill a worker in the middle, watch nothing get lost'
	@echo 'make test      run all tests (TESTS=4 processes, ARGS for pytest)'
	@echo 'make faults    run all tests that break things, also the long ones'
	@echo 'make soak      all kinds of faults under load for MINUTES=10, from one seed'
	@echo 'make lint      ruff: rules and format'
	@echo 'make format    let ruff put the format right'
	@echo 'make types     mypy and pyright, both strict'
	@echo 'make coverage  run all tests and show the branches they miss'
	@echo 'make bench     run the benchmark'
	@echo 'make bench-peers   the same work beside DBOS, Restate, Celery and others'
	@echo 'make bench-growth  what a run costs as things grow'
	@echo 'make build     build wheel and sdist into dist/, and try the wheel elsewhere'
	@echo 'make ci        all that the continuous integration does'
	@echo 'make clean     remove .venv, builds and caches'

.PHONY: demo
demo: $(READY)
	$(RUN) -m examples.demo

.PHONY: test
test: $(READY)
	$(RUN) -m pytest -n $(TESTS) $(ARGS)

# Some of them take minutes, and `make test` leaves those out. Random numbers differ each time.
.PHONY: faults
faults: export AIKI_TEST_SEED ?= any
faults: $(READY)
	$(RUN) -m pytest -n $(TESTS) -m 'slow or not slow' tests/faults $(ARGS)

# All kinds of faults under load, from one seed, which is printed: AIKI_TEST_SEED=… for the same again.
MINUTES = 10
.PHONY: soak
soak: export AIKI_TEST_SEED ?= any
soak: $(READY)
	AIKI_SOAK_MINUTES=$(MINUTES) $(RUN) -m pytest -s -m slow tests/faults/test_storm.py -k 'storm and 0' $(ARGS)

.PHONY: lint
lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

.PHONY: format
format: $(READY)
	$(RUN) -m ruff check --select I --fix .
	$(RUN) -m ruff format .

# pyright runs on node. Where there is none, the one on PyPI will do.
.PHONY: types
types: $(READY)
	$(RUN) -m mypy
	@command -v node >/dev/null || $(RUN) -m pip install --quiet 'pyright[nodejs]'
	$(RUN) -m pyright

.PHONY: coverage
coverage: $(READY)
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -n $(TESTS) $(ARGS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

.PHONY: bench
bench: $(READY)
	$(RUN) -m tests.benchmarks

# Each peer in an environment of its own under .peers/, made the first time. About 12 minutes.
.PHONY: bench-peers
bench-peers: $(READY)
	$(RUN) -m tests.benchmarks.peers $(ARGS)

# About 8 minutes.
.PHONY: bench-growth
bench-growth: $(READY)
	$(RUN) -m tests.benchmarks.curves $(ARGS)

.PHONY: build
build: $(READY)
	rm -rf build dist
	$(RUN) -m build --outdir dist .
	$(RUN) tests/smoke_wheel.py dist/*.whl

.PHONY: ci
ci:
	.ci/run

.PHONY: clean
clean:
	rm -rf .venv .peers build dist aiki.egg-info htmlcov .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew when pyproject.toml changes, and when it stands in another place
# than it was made for: a copied one would run the code of the checkout that it was copied from.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

$(READY): pyproject.toml
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then bare=$$python; continue; fi; \
	    echo "Setting up .venv with $$("$$python" -V) ..."; \
	    "$$python" -m venv --clear .venv && \
	    $(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]' && \
	    pwd -P > $(READY); \
	    exit; \
	done; \
	if [ -n "$$bare" ]; then \
	    echo "$$bare cannot make virtual environments: it comes without ensurepip." >&2; \
	    echo 'On Debian and Ubuntu: apt-get install python3-venv' >&2; \
	else \
	    echo 'aiki needs Python 3.11 or newer; tried: $(PYTHON)' >&2; \
	    echo 'Install one, or say where it is: make PYTHON=/path/to/python' >&2; \
	fi; \
	exit 1
