# Everything a newcomer types. On a machine with Python 3.11, pip and make, each target prepares what it needs: the
# environment .venv, made once, from hashed requirements. `make demo` installs the run-time requirements only.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PROTOS := $(wildcard proto/fedveil/v1/*.proto)
GENERATED := build/generated
PYTEST_ARGS ?=
STORIES ?= 1000

.PHONY: help demo test check stories sweep torch-check flower-check generate errors lock wheel image-check clean

help:
	@echo "make demo    five hospitals train one model on this machine, nobody shows an update"
	@echo "make test    the tests"
	@echo "make check   format, lint, types, import rule, generated code unchanged"
	@echo "make stories random rounds with every fault and lie, STORIES=1000 of them"
	@echo "make sweep   a kill at every write of a whole run and of a storage order, cohorts of 64 and 256: minutes"
	@echo "make flower-check a client written for Flower, with the real flwr in an environment of its own"
	@echo "make torch-check  the examples in PyTorch, where /usr/bin/python3 has torch"
	@echo "make generate | errors | lock | wheel | image-check | clean: see CONTRIBUTING.md"

demo: $(VENV)/.run
	$(BIN)/fedveil demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

stories: $(VENV)/.dev
	FEDVEIL_STORIES=$(STORIES) $(BIN)/python -m pytest tests/test_round_stories.py::test_stories $(PYTEST_ARGS)

sweep: $(VENV)/.dev
	FEDVEIL_SWEEP=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/test_kill_records.py \
		tests/test_lengths_and_cohorts.py tests/test_storage_orders.py $(PYTEST_ARGS)

# Not part of CI: torch is no dependency. Where it is missing, this says so.
torch-check: $(VENV)/.run
	$(BIN)/python examples/torch_trainer/check.py
	$(BIN)/python examples/torch_model/check.py

# Part of CI. flwr cannot share our environment: it pins other versions of what both use.
FLOWER := build/flower
flower-check: $(VENV)/.run
	$(BIN)/python -m venv --without-pip $(FLOWER)
	$(PIP) --python $(FLOWER)/bin/python install -r examples/flower_trainer/requirements.txt
	$(BIN)/python examples/flower_trainer/check.py "$(CURDIR)/$(FLOWER)/bin/python"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	rm -rf $(GENERATED)
	mkdir -p $(GENERATED)
	$(call protoc,$(GENERATED))
	for made in $$(cd $(GENERATED) && find . -type f); do cmp "$(GENERATED)/$$made" "proto/$$made" || exit 1; done

generate: $(VENV)/.dev
	$(call protoc,proto)

# The generated code lies beside the .proto files, so that `from fedveil.v1 import ...` holds as it comes.
define protoc
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto \
		--python_out=$(1) --grpc_python_out=$(1) --mypy_out=$(1) --mypy_grpc_out=$(1) $(PROTOS)
endef

# The table of error codes is read from the source; a test compares it.
errors:
	$(PYTHON) docs/errors/table.py

# Pins and hashes, without the name of any index: whoever installs uses the index that is configured there.
LOCK := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

lock: $(VENV)/.dev
	$(LOCK) -o requirements/bootstrap.txt requirements/bootstrap.in
	$(LOCK) -o requirements/run.txt pyproject.toml requirements/build.in
	$(LOCK) -o requirements/dev.txt pyproject.toml requirements/build.in requirements/dev.in

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

image-check: wheel
	deploy/image-check

clean:
	rm -rf $(VENV) .bootstrap build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Where ensurepip is missing (Debian without python3-venv) virtualenv makes the environment.
$(VENV)/.made:
	if $(PYTHON) -c "import ensurepip" 2>/dev/null; then \
		$(PYTHON) -m venv $(VENV); \
	else \
		$(PYTHON) -m pip install --quiet --require-hashes --target .bootstrap -r requirements/bootstrap.txt && \
		PYTHONPATH=.bootstrap $(PYTHON) -m virtualenv --quiet --no-periodic-update $(VENV); \
	fi
	touch $@

$(VENV)/.run: $(VENV)/.made requirements/run.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	touch $@
