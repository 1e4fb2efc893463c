# `make dashboard` and `make test` do everything from a bare python3 on: virtual environment, locked install, the job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: dashboard test published check lint lock lock-check gpu clean

dashboard: $(VENV)/installed
	$(BIN)/nst dashboard

# Two at a time, a file each: who waits for a browser leaves the processor to the other.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not published" --numprocesses 2 --dist loadfile

# The published run's first rows at full size: minutes of the same step, so not among the tests that one runs often.
published: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m published

# What CI runs beside the tests.
check: lint lock-check

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# On a host with an NVIDIA card: CUDA 12 libraries for TensorFlow and ONNX Runtime.
gpu: $(VENV)/installed-gpu

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
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
