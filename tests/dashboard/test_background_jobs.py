"""Background commands: started once, watched by their last line, stopped with their children."""

import time

import psutil
import pytest

from core.errors import StudioError
from dashboard import background_jobs


@pytest.fixture(autouse=True)
def home_of_its_own(own_home):
    yield
    if command := background_jobs.status("test"):
        command.stop()


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command_ends_with_its_last_line():
    assert background_jobs.status("test") is None
    command = background_jobs.start("test", "bench", "nonsense")
    assert background_jobs.status("test") == command and command.arguments == ["bench", "nonsense"]
    wait_until(lambda: not command.is_running())
    assert command.last_line().startswith("nst: There is no part 'nonsense'")


def test_only_one_command_of_a_name_runs_and_stops_with_its_children(monkeypatch, tmp_path):
    """Use a stand-in for `nst` that has a child and does not end by itself."""
    program = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    program += "print('working', file=sys.stderr, flush=True); time.sleep(600)"
    (tmp_path / "nst.py").write_text(program)
    monkeypatch.setattr(background_jobs.paths, "CHECKOUT", tmp_path)
    command = background_jobs.start("test")
    wait_until(lambda: command.last_line() == "working")
    with pytest.raises(StudioError, match="already running"):
        background_jobs.start("test")
    processes = [psutil.Process(command.process.pid), *psutil.Process(command.process.pid).children()]
    assert len(processes) == 2
    command.stop()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == [] and not command.is_running()


def test_a_damaged_file_is_no_command():
    background_jobs.folder().mkdir(parents=True)
    (background_jobs.folder() / "test.json").write_text("{")
    assert background_jobs.status("test") is None
