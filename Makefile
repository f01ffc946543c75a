# `make demo` and `make test` need no other set-up: each makes .venv first.
#
#   env          the environment alone, in .venv; EXTRA=gpu
#   demo         the whole pipeline on this machine; ARGS="--count 100", EXTRA=gpu MODEL=name
#   test         checks, unit tests, the bus on Kafka, and one run of the whole pipeline: about 10 minutes
#   test-all     every check and test but those of test-faults and test-secure
#   test-faults  the long fault suites: kills, stops, lost brokers and poison records on Kafka; ARGS="--seed 1"
#   test-secure  the suites that use Kafka, on one with SASL_SSL and access lists
#   unit         the tests that need neither broker nor model
#   lint         linters, types, import layers, policies and the documentation's links
#   docs         the documentation as a site, in site/
#   audit        known vulnerabilities of the pinned libraries
#   requirements renew the pins in infra/requirements
#   encoder      build the encoder's graph again, from the published weights
#   clean        remove the environment and caches
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin
PINS := infra/requirements
SOURCES := $(shell find streams workers policies infra -type f -not -name '*.pyc') pyproject.toml
UV := $(BIN)/uv --quiet
PARALLEL := -n 2 --dist loadfile
export NO_MKDOCS_2_WARNING := 1

.PHONY: audit clean demo docs encoder env lint requirements test test-all test-faults test-rest test-secure unit

env: $(VENV)/package-$(EXTRA)

demo: $(VENV)/package-$(EXTRA)
	$(BIN)/safeguard demo $(if $(MODEL),--model $(MODEL)) $(ARGS)

test: lint
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-all: test test-rest

test-rest: $(VENV)/package-$(EXTRA) # what `make test` leaves out
	$(BIN)/pytest $(PARALLEL) -m slow $(ARGS)

test-faults: $(VENV)/package-$(EXTRA)
	$(BIN)/python tests/faults/run.py $(ARGS)
	$(BIN)/python tests/faults/replay.py
	$(BIN)/python tests/faults/enforcement.py

test-secure: $(VENV)/package-$(EXTRA) # without the demos that start a broker of their own
	SAFEGUARD_TEST_SECURE=1 $(BIN)/pytest -m "slow or not slow" tests/contract \
	  $(addprefix tests/integration/test_,commands.py dead_letters.py enforcement.py pipeline.py releases.py replay.py telemetry.py verdicts.py) \
	  -k "not interrupt and not demo_that_cannot_run" $(ARGS)

unit: $(VENV)/package-$(EXTRA)
	$(BIN)/pytest $(PARALLEL) tests/unit $(ARGS)

docs: $(VENV)/package-$(EXTRA)
	$(BIN)/mkdocs build --quiet

lint: $(VENV)/package-$(EXTRA)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/safeguard policy check --library policies/library --strict
	$(BIN)/mkdocs build --quiet

$(VENV)/bin/uv: $(PINS)/uv.txt
	@echo "== making $(VENV) with $(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(PINS)/uv.txt
	@touch $@

$(VENV)/pins-$(EXTRA): $(VENV)/bin/uv $(PINS)/all-$(EXTRA).txt
	@echo "== installing the pinned libraries (vLLM and PyTorch among them: several GB, once)"
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes $(PINS)/all-$(EXTRA).txt
	@rm -f $(VENV)/pins-* $(VENV)/package-*; touch $@

$(VENV)/package-$(EXTRA): $(VENV)/pins-$(EXTRA) $(SOURCES)
	@echo "== installing safeguard-streams"
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --reinstall-package safeguard-streams .
	@touch $@

requirements: $(VENV)/bin/uv
	for part in prefilter:prefilter encoder:encoder enforcement:enforcement console:console export:export reasoner-cpu:cpu reasoner-gpu:gpu reasoner-remote:remote all-cpu:encoder,quality,enforcement,console,export,cpu,demo all-gpu:encoder,quality,enforcement,console,export,gpu,demo uv: build:; do \
	  name=$${part%%:*}; extras=$${part#*:}; options="--override $(PINS)/overrides.txt"; input=pyproject.toml; \
	  case $$name in *cpu) options="$$options --override $(PINS)/overrides-cpu.txt";; uv|build) input=$(PINS)/$$name.in;; esac; \
	  case $$name in all-*) options="$$options --group dev";; esac; \
	  for extra in $$(echo $$extras | tr , ' '); do options="$$options --extra $$extra"; done; \
	  $(UV) pip compile $$input $$options --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make requirements" --output-file $(PINS)/$$name.txt || exit 1; \
	done

encoder: $(VENV)/package-$(EXTRA)
	$(BIN)/python -m safeguard_streams.prefilter.encoder.graph streams/prefilter/encoder/encoder.onnx

audit: $(VENV)/bin/uv
	for part in prefilter encoder enforcement console export reasoner-remote reasoner-cpu reasoner-gpu; do \
	  $(BIN)/uv tool run pip-audit --require-hashes --disable-pip -r $(PINS)/$$part.txt || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist site
