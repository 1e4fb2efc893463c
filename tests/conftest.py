"""Shared fixtures: a temporary home, the real weights, the engine, and small pictures."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core import log
from core.images import codec, preprocessing
from core.machine import hardware
from core.machine.processes import ProcessId
from core.samples.gallery import PHOTOS, STYLES

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference"


def pytest_collection_modifyitems(items):
    """Mark the tests that need TensorFlow, which `make test-fast` leaves out."""
    for item in items:
        if {"weights", "model", "engine"} & set(item.fixturenames) or hasattr(item.module, "tf"):
            item.add_marker("tensorflow")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Keep the tests away from the user's runs and caches; the models in the checkout are shared."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_HOME", str(folder))
        patch.setenv("NST_WORKER_IDLE", "0.5")
        patch.setenv("NST_WORKERS", "1")  # even with several GPUs
        patch.delenv("NST_WEIGHTS", raising=False)
        yield folder


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """Return the empty home of a single test."""
    monkeypatch.setenv("NST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def other_process(own_home):
    """Return another process that lives until it is killed; `id` is its identity."""
    code = "from core.machine.processes import ProcessId; print(ProcessId.this_process().model_dump_json(), flush=True)"
    command = [sys.executable, "-c", f"{code}; input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        process.id = ProcessId.model_validate_json(process.stdout.readline())
        yield process
        process.kill()


@pytest.fixture
def told(monkeypatch, capsys):
    """Turn logging on; `lines()` returns the lines since the last call, `facts()` the JSON events among them."""
    monkeypatch.setattr(log._log, "handlers", [logging.NullHandler()])
    capsys.readouterr()

    def lines():
        return capsys.readouterr().err.splitlines()

    log.begin()
    return SimpleNamespace(lines=lines, facts=lambda: [json.loads(line) for line in lines() if line.startswith("{")])


@pytest.fixture(scope="session")
def weights(home):
    """Return the real VGG19 weights, downloaded at the first run of the tests."""
    hardware.import_tensorflow()
    from core.vgg.weights import obtain

    return obtain()


@pytest.fixture(scope="session")
def model(weights):
    """Return the exported model of the weights, made at the first run of the tests."""
    from export.onnx_model import ensure_model

    return ensure_model(weights)


@pytest.fixture(scope="session")
def engine(weights, model):
    from core.transfer.engine import Engine

    return Engine(weights, model, hardware.survey())


@pytest.fixture(scope="session")
def photo(home):
    """Return a small preprocessed sample photo, `(1, 32, 48, 3)`."""
    return preprocessing.to_network(_cut(PHOTOS[1]))


@pytest.fixture(scope="session")
def painting(home):
    """Return a small preprocessed sample style, `(1, 32, 48, 3)`."""
    return preprocessing.to_network(_cut(STYLES[1]))


def _cut(sample) -> np.ndarray:
    return np.asarray(codec.read_image(sample.path()).resize((48, 32)))


@pytest.fixture(scope="session")
def reference_pair():
    """Return the files of the published content and style image, or skip the test without them."""
    pair = REFERENCE / "content.jpg", REFERENCE / "style.jpg"
    if not all(path.is_file() for path in pair):
        pytest.skip(f"the published pair is missing: put content.jpg and style.jpg into {REFERENCE}")
    return pair
