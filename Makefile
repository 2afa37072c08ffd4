# make demo   a network that grows, on this machine, from blueprints to audit
# make test   the suite, three files at a time; each process starts its own Kafka and Redis
# make heavy  the tests that `make test` leaves out: long runs, repeated kills, every benchmark
# make chaos  half an hour of random faults at every process of a local stack; `chaos-quick`: 3 minutes
# make check  style, types, import contracts, vocabulary
# make docs   render the generated parts of the documents; `make transcript` runs the demo for the README
# make clean  remove everything that make created

PYTHON ?= python3
BIN := .venv/bin
# Bytecode is written once, here: without it each process of a read-only or PYTHONDONTWRITEBYTECODE
# environment would compile torch for itself, three seconds at a time.
UV := VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --constraint constraints.txt

.PHONY: demo test heavy chaos chaos-quick check contracts docs transcript clean

demo: .venv/.local
	$(BIN)/esper demo

# Whole files are spread over processes in the order that tests/conftest.py gives, the longest first.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

test: .venv/.dev
	$(PYTEST) -m "not heavy"

heavy: .venv/.dev
	$(PYTEST) -m heavy

chaos: .venv/.dev
	$(BIN)/python -m benchmarks chaos

chaos-quick: .venv/.dev
	$(BIN)/python -m benchmarks chaos --quick

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell --config .vocabulary/codespell.cfg

docs: .venv/.dev
	$(BIN)/python -m tests.docs.render

transcript: .venv/.dev
	$(BIN)/python -m tests.docs.render --transcript

contracts: .venv/.dev
	$(BIN)/python -m esper.topics.asyncapi docs/contracts
	$(BIN)/esper blueprint schema > docs/contracts/schemas/AuthoredBlueprint.json
	$(BIN)/esper blueprint ops --markdown > docs/ops.md

clean:
	rm -rf .venv .esper build *.egg-info

.venv/bin/uv: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt uv
	@touch $@

.venv/.local: pyproject.toml constraints.txt .venv/bin/uv
	@echo "installing Esper and what it runs on (torch is large; the first time takes a while)"
	$(UV) --editable '.[local]'
	$(BIN)/python -m esper.workers.local.kafka_jars
	@touch $@

.venv/.dev: .venv/.local
	$(UV) --editable '.[dev]'
	@touch $@
