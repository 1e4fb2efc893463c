# `make dashboard` and `make test` need only python3. They create the virtual environment and install the packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: dashboard test test-fast gallery published soak soak-cluster soak-fuzz soak-kills soak-runs soak-tiles soak-sessions check format lint audit lock lock-check gpu gpu-libraries gpu-check image-check clean

dashboard: $(VENV)/installed
	$(BIN)/nst dashboard

# Two processes, each with one test file at a time: one computes while the other waits for a browser.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not published" --numprocesses 2 --dist loadfile

# For use while editing: the tests of core and export that need neither TensorFlow nor Ray. They take about a minute.
test-fast: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/core tests/export --ignore tests/core/transfer --ignore tests/core/jobs/test_ray_head.py \
	  -m "not published and not tensorflow" --numprocesses 2 --dist loadfile

# Paints the contact sheets of docs/: all controls, and `fine` beside `reference`. Takes tens of minutes.
gallery: $(VENV)/installed
	$(BIN)/nst gallery docs

# Tests the first rows of the published run at full size. Takes minutes, so `make test` leaves it out.
published: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m published

# All long tests; docs/ reports their results. They take about an hour.
soak: soak-cluster soak-fuzz soak-kills soak-runs soak-tiles soak-sessions

# Twelve runs on two nodes of a Ray cluster; kills one node. Takes some minutes.
soak-cluster: $(VENV)/installed-dev
	$(BIN)/python tests/soak/cluster.py

# Many thousand damaged inputs of every kind. Takes some minutes.
soak-fuzz: $(VENV)/installed-dev
	$(BIN)/python tests/soak/fuzz.py

# Fifty kills at random moments; checks that the runs end with the same losses. Takes about ten minutes.
soak-kills: $(VENV)/installed-dev
	$(BIN)/python tests/soak/kills.py

# Two hundred short runs in one worker; checks how much its memory grows. Takes some minutes.
soak-runs: $(VENV)/installed-dev
	$(BIN)/python tests/soak/runs.py

# A picture of 4096 × 3072 px in less than 4 GiB, and the cost of tiles. Takes about a quarter of an hour.
soak-tiles: $(VENV)/installed-dev
	$(BIN)/python tests/soak/tiles.py

# Twenty sessions watch one run, two of them in Chromium. Takes half an hour.
soak-sessions: $(VENV)/installed-dev
	$(BIN)/python tests/soak/sessions.py

# CI runs this before the tests.
check: lint lock-check audit

# Sort imports, repair what ruff can repair safely, and format.
format: $(VENV)/installed-dev
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/structure.py
	$(BIN)/python .ci/docs.py

# Fails if a locked package has a known vulnerability that a later version fixes. Names the packages it could not audit.
audit: $(VENV)/installed-dev
	@$(BIN)/python .ci/audit.py requirements.lock

# For a host with an NVIDIA GPU: installs the CUDA 12 libraries for TensorFlow and ONNX Runtime.
gpu: $(VENV)/installed-gpu

# Needs no GPU: checks that `make gpu` installs every library that a GPU needs, except the driver. Downloads several GB.
gpu-libraries: $(VENV)/installed-dev
	@test -x $(VENV)-gpu/bin/python || $(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-gpu.lock
	$(BIN)/python tests/container/cuda_libraries.py $$($(VENV)-gpu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# For a host with an NVIDIA GPU: compares ONNX Runtime with TensorFlow, repeats published rows, and measures.
gpu-check: gpu
	$(BIN)/python -c 'import sys, tensorflow as tf; sys.exit(not tf.config.list_physical_devices("GPU"))' || \
	  { $(BIN)/nst doctor; echo "TensorFlow sees no GPU here: see the line GPU above" >&2; exit 1; }
	$(BIN)/nst doctor
	$(BIN)/nst export
	$(BIN)/nst reference --rows 0,100
	$(BIN)/nst bench

# Builds the CPU container and tests it. As root on Debian, it first installs the missing tools, such as buildah.
image-check: $(VENV)/installed-dev
	@for tool in buildah debootstrap unshare ip chromium; do command -v $$tool >/dev/null || missing=1; done; \
	  [ -z "$$missing" ] || { apt-get update -qq && apt-get install --yes -qq --no-install-recommends \
	    buildah debootstrap util-linux iproute2 procps chromium >/dev/null; }
	$(BIN)/python tests/container/check_image.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13)' 2>/dev/null || \
	  { echo "Style Transfer Studio needs Python 3.11 to 3.13 ($(PYTHON) is $$($(PYTHON) --version 2>&1)); name one with make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "python3 cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }

# Each lock file has a stamp file, so that only a changed lock file is installed again.
define install
	@$(PIP) install --quiet --require-hashes -r $<
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
endef

$(VENV)/installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages, including TensorFlow (some minutes the first time) …"
	$(install)

$(VENV)/installed-dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages and the test tools (some minutes the first time) …"
	$(install)

$(VENV)/installed-gpu: requirements-gpu.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages and NVIDIA's CUDA 12 libraries (several GB the first time) …"
	$(install)

# Each lock file serves every Python and platform (by markers), with hashes and without the address of an index.
# Locked versions stay if pyproject.toml still allows them; `make lock UPGRADE=--upgrade` updates them.
COMPILE = $(BIN)/uv pip compile --quiet --system-certs --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(UPGRADE) pyproject.toml

lock: $(VENV)/installed-dev
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --extra gpu --constraint requirements.lock --output-file requirements-gpu.lock

lock-check: $(VENV)/installed-dev
	@mkdir -p $(VENV)/lock && cp requirements*.lock $(VENV)/lock
	@$(MAKE) --no-print-directory lock
	@for lock in requirements*.lock; do \
	  cmp $$lock $(VENV)/lock/$$lock || { cp $(VENV)/lock/*.lock .; touch $(VENV)/installed-dev; \
	    echo "$$lock does not match pyproject.toml: run make lock" >&2; exit 1; }; done
	@touch $(VENV)/installed*

clean:
	rm -rf $(VENV) $(VENV)-gpu .pytest_cache .mypy_cache .ruff_cache *.egg-info
