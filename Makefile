# `make demo` and `make test` set up what they need and run. Both work from a bare clone with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test images containers check sim documents docs bench clean help

help:            ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.demo  ## watch a fleet learn, in under a minute
	@$(BIN)/headwater demo $(ARGS)

# Twice the cores of a small machine: tests of services wait as long as they compute.
WORKERS ?= 4
test: $(VENV)/.test  ## run all tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

images:          ## build the images of docker-compose.yml
	@docker compose version >/dev/null 2>&1 && compose="docker compose" || compose=docker-compose; \
	  $$compose --profile chaos build --quiet

containers: $(VENV)/.test  ## build the images, bring the fleet of docker-compose.yml up, and try it
	$(BIN)/pytest -m compose tests/compose $(ARGS)

check: $(VENV)/.test  ## lint, types, import rules, fresh documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for room in schemas trust core transport node device gateway cloud dashboard bridges models testbed cli; do \
	  $(BIN)/mypy -p headwater.$$room || exit 1; done
	$(BIN)/lint-imports
	$(BIN)/python -m headwater.schemas.document docs/contract --check
	$(BIN)/python -m headwater.node.metric_names docs/operate --check
	$(BIN)/python tests/core/oracle/document.py --check

SEEDS ?= 0:2000
sim: $(VENV)/.test  ## simulate fleets with faults: SEEDS=0:2000
	$(BIN)/python tests/sim/run.py --seeds $(SEEDS) $(ARGS)

documents: $(VENV)/.test  ## write the generated documents anew
	$(BIN)/python -m headwater.schemas.document docs/contract
	$(BIN)/python -m headwater.node.metric_names docs/operate
	$(BIN)/python tests/core/oracle/document.py

bench: $(VENV)/.test  ## measure a round, beside a bare MQTT loop
	$(BIN)/python benchmarks/round_trip.py

docs: $(VENV)/.test  ## build the site of the documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html"

clean:           ## forget the virtual environment and the runs
	rm -rf $(VENV) build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headwater needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[testbed]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "Installing what the tests need …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
