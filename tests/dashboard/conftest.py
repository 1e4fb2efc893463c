"""Fixtures for the pages: a prepared home, runs of the real engine, and opened pages."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.components.v2 import manifest_scanner
from streamlit.components.v2.manifest_scanner import scan_component_manifests
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from core import paths
from core.errors import StudioError
from core.jobs import execution, workers
from core.machine.processes import ProcessId
from core.presets import choose
from core.runs import store
from core.runs.record import Steering
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.transfer import preview
from dashboard import background_jobs

CHECKOUT = Path(__file__).resolve().parent.parent.parent
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="session")
def network(home):
    """Return the preview's network; the first test run downloads it."""
    try:
        return preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def quick_scripts():
    """Leave out two slow steps around each script run in the test process.

    Streamlit clears Keras, which only the tests load here, and searches all installed packages for components.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script_runner, "_clean_problem_modules", lambda: None)
        patch.setattr(manifest_scanner, "scan_component_manifests", functools.cache(scan_component_manifests))
        yield


@pytest.fixture
def set_command(monkeypatch):
    """Return a function that writes the state and the log of the last background command of a name."""

    def write(name, arguments, *said, running):
        monkeypatch.setattr(background_jobs.Command, "is_running", lambda command: running)
        background_jobs.folder().mkdir(parents=True, exist_ok=True)
        known = background_jobs.Command(name=name, arguments=list(arguments), process=ProcessId(pid=2**22 + 1))
        (background_jobs.folder() / f"{name}.json").write_text(known.model_dump_json())
        (background_jobs.folder() / f"{name}.log").write_text("\n".join(said))

    return write


@pytest.fixture
def commands(monkeypatch, set_command):
    """Record background commands instead of starting them, because they load TensorFlow; they count as running."""
    calls = []

    def start(name, *arguments):
        calls.append((name, *arguments))
        set_command(name, arguments, running=True)

    monkeypatch.setattr(background_jobs, "start", start)
    return calls


@pytest.fixture
def started(monkeypatch):
    """Count the workers instead of starting them: a real one would load TensorFlow."""
    calls = []
    monkeypatch.setattr(workers, "start_worker", lambda: calls.append("worker"))
    return calls


@pytest.fixture
def ready(own_home, home, started, commands):
    """Make a home with a finished preparation and the sample styles."""
    (own_home / "cache").mkdir(parents=True)
    (home / "cache" / "samples").mkdir(parents=True, exist_ok=True)
    (own_home / "cache" / "samples").symlink_to(home / "cache" / "samples")
    said = workers.Readiness(writer=ProcessId.this_process(), message="Ready.", ready=True)
    with paths.replacing(own_home / "worker.json") as file:
        file.write(said.model_dump_json().encode())
    st.cache_data.clear()  # it may hold another test's home


@pytest.fixture
def visit(ready):
    """Return a function that opens a page with a query, as a given user."""

    def open_view(name, user=None, **query):
        st.cache_resource.clear()  # it may hold another page's data
        page = AppTest.from_file(str(CHECKOUT / "dashboard" / "app.py"), default_timeout=60)
        for key, value in query.items():
            page.query_params[key] = value
        page.user = user or {}
        page._page_hash = calc_hash(
            "" if name == "stylize" else name
        )  # like switch_page, but without opening the first page
        page.run()
        assert page.title, "no such page"
        assert not page.exception
        return page

    return open_view


@pytest.fixture(scope="session")
def pictures():
    random = np.random.default_rng(5)
    small = (Image.fromarray(random.integers(0, 256, (6, 8, 3)).astype(np.uint8)) for _ in range(2))
    return [picture.resize((96, 72), Image.Resampling.BICUBIC) for picture in small]


@pytest.fixture(scope="session")
def new_run(pictures):
    """Return a function that makes a queued run at 64 px."""

    def make(name="photo", style="painting", preset="draft", steering=(), **changes):
        settings = choose(preset, **{"size": 64, "iterations": 6, "frame_every": 2, **changes})
        changed = [Steering.parse(text, settings) for text in steering]
        return store.create(RunSpec([Style(style, pictures[1])], settings, preset, steering=changed), pictures[0], name)

    return make


@pytest.fixture(scope="session")
def painted(engine, new_run, tmp_path_factory):
    """Return runs of the real engine in their own folder: two that are done, and one that was stopped."""
    folder = tmp_path_factory.mktemp("painted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_HOME", str(folder))

        def perform(run, until=None):
            for step in execution.perform(run, lambda *_: engine):
                if step.iteration == until:
                    run.ask(stop=True)
            return run

        return SimpleNamespace(
            done=perform(new_run("coffee", "glass")),
            steered=perform(new_run(HOSTILE, "waves", "reference", ["2:style_weight=0.1"], optimizer="adam")),
            stopped=perform(new_run("cat", "waves", iterations=400), until=3),
        )


@pytest.fixture
def kept(ready, painted):
    """Copy the painted runs into the test's home."""

    def copied(run):
        shutil.copytree(run.path, paths.runs() / run.id)
        return Run(paths.runs() / run.id)

    return SimpleNamespace(**{name: copied(run) for name, run in vars(painted).items()})


@pytest.fixture(scope="session")
def free_port():
    """Return a function that finds a free port."""

    def find():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            return free.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def serve():
    """Return a context manager that serves the page with `nst dashboard`."""
    return _serving


@contextmanager
def _serving(home, port, **environment):
    """Yield the port and process of a served page, which writes to page.log.

    Its worker has failed, so that no worker starts before a run.
    """
    home.mkdir(exist_ok=True)
    said = {"message": "No weights.", "ready": False, "failed": True, "writer": {"pid": 1, "started": 0.0}}
    (home / "worker.json").write_text(json.dumps(said))
    command = [sys.executable, "-m", "nst", "dashboard", "--server.port", str(port), "--server.headless", "true"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    with (home / "page.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env={**inherited, "NST_HOME": str(home), **environment}, stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError((home / "page.log").read_text())
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=20)
