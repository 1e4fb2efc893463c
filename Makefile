# `make dashboard` and `make test` do everything from a bare python3 on: virtual environment, locked install, the job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: dashboard test gallery published soak soak-cluster soak-fuzz soak-kills soak-runs soak-tiles soak-sessions check lint audit lock lock-check gpu gpu-libraries gpu-check image-check clean

dashboard: $(VENV)/installed
	$(BIN)/nst dashboard

# Two at a time, a file each: who waits for a browser leaves the processor to the other.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not published" --numprocesses 2 --dist loadfile

# The contact sheets of docs/: every control, and `fine` beside `reference`. Tens of minutes.
gallery: $(VENV)/installed
	$(BIN)/nst gallery docs

# The published run's first rows at full size: minutes of the same step, so not among the tests that one runs often.
published: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m published

# The long forms of the tests of docs/reliability.md: about an hour.
soak: soak-cluster soak-fuzz soak-kills soak-runs soak-tiles soak-sessions

# Twelve runs on two nodes of a Ray cluster, one of which is killed: some minutes.
soak-cluster: $(VENV)/installed-dev
	$(BIN)/python tests/soak/cluster.py

# Many thousand damaged files into every way in: some minutes.
soak-fuzz: $(VENV)/installed-dev
	$(BIN)/python tests/soak/fuzz.py

# Fifty kills at random moments, and whether the runs end as if nothing had happened: about ten minutes.
soak-kills: $(VENV)/installed-dev
	$(BIN)/python tests/soak/kills.py

# Two hundred short runs through one worker, and whether it keeps anything of them: some minutes.
soak-runs: $(VENV)/installed-dev
	$(BIN)/python tests/soak/runs.py

# A picture of 4096 × 3072 px under 4 GiB, and what tiles cost: about a quarter of an hour.
soak-tiles: $(VENV)/installed-dev
	$(BIN)/python tests/soak/tiles.py

# Twenty sessions that watch one run, two of them in Chromium: half an hour.
soak-sessions: $(VENV)/installed-dev
	$(BIN)/python tests/soak/sessions.py

# What CI runs beside the tests.
check: lint lock-check audit

# Sort imports, repair what ruff can repair safely, and format.
.PHONY: format
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

# Whether a locked package has a known vulnerability that a later version mends; says where it could not ask.
audit: $(VENV)/installed-dev
	@$(BIN)/python .ci/audit.py requirements.lock

# On a host with an NVIDIA card: CUDA 12 libraries for TensorFlow and ONNX Runtime.
gpu: $(VENV)/installed-gpu

# Needs no card: whether what `make gpu` installs brings every library that a GPU needs, but for the driver. Several GB.
gpu-libraries: $(VENV)/installed-dev
	@test -x $(VENV)-gpu/bin/python || $(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-gpu.lock
	$(BIN)/python tests/container/cuda_libraries.py $$($(VENV)-gpu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# On a host with an NVIDIA card: parity, the published rows, and how long everything takes there.
gpu-check: gpu
	$(BIN)/python -c 'import sys, tensorflow as tf; sys.exit(not tf.config.list_physical_devices("GPU"))' || \
	  { $(BIN)/nst doctor; echo "TensorFlow sees no GPU here: see the line GPU above" >&2; exit 1; }
	$(BIN)/nst doctor
	$(BIN)/nst export
	$(BIN)/nst reference --rows 0,100
	$(BIN)/nst bench

# Builds the container for the processor and looks at what runs in it. As root, on Debian: installs buildah.
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

# A stamp a lock file: a changed lock installs again, an unchanged one does not.
define install
	@$(PIP) install --quiet --require-hashes -r $<
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
endef

$(VENV)/installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages (TensorFlow among them; some minutes the first time) …"
	$(install)

$(VENV)/installed-dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages and the test tools (some minutes the first time) …"
	$(install)

$(VENV)/installed-gpu: requirements-gpu.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked packages and NVIDIA's CUDA 12 libraries (several GB the first time) …"
	$(install)

# The locks are resolved for every Python and platform at once (markers), with hashes and without an index address.
# Already locked versions stay unless pyproject.toml no longer admits them; `make lock UPGRADE=--upgrade` renews them.
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
	    echo "$$lock is not in step with pyproject.toml: run make lock" >&2; exit 1; }; done
	@touch $(VENV)/installed*

clean:
	rm -rf $(VENV) $(VENV)-gpu .pytest_cache .mypy_cache .ruff_cache *.egg-info
