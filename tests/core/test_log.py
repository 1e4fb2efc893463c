"""The log: a line per event with the run's name, in files of limited size."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from core import log, paths
from core.errors import InputError, StudioError
from core.runs import archive, library, store
from core.runs.recorder import Recorder
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

HOSTILE = 'a\nb \x1b[2J \x9b31m "c" é'


@pytest.fixture
def as_json(monkeypatch):
    monkeypatch.setenv("NST_LOG", "json")


@pytest.fixture
def new_run(own_home):
    def make():
        photo, style = (Image.new("RGB", (80, 64), colour) for colour in ("red", "blue"))
        spec = RunSpec([Style("painting", style)], TransferSettings(size=64), "draft")
        return store.create(spec, photo, "photo")

    return make


def test_nothing_is_logged_before_begin(monkeypatch, capfd):
    monkeypatch.setattr(log._log, "handlers", [logging.NullHandler()])
    log.event("run started", run="r")
    log.failed("run failed", ValueError("x"))
    assert capfd.readouterr() == ("", "")


def test_after_two_calls_of_begin_each_event_is_logged_once(told):
    log.begin()
    log.event("worker started")
    assert len(told.lines()) == 1


def test_an_event_is_a_line_with_time_and_facts(told):
    log.event("run ended", run="20260101-000000-x", status="done", seconds=1.5, message="")
    (line,) = told.lines()
    time, rest = line.split(" ", 1)
    assert time.endswith("+00:00")
    assert rest == 'info run ended run=20260101-000000-x status=done seconds=1.5 message=""'


@pytest.mark.parametrize("form", ["", "json"])
def test_names_from_outside_break_no_line_and_control_no_terminal(told, monkeypatch, form):
    monkeypatch.setenv("NST_LOG", form)
    log.refused("picture refused", HOSTILE, run=HOSTILE)
    log.failed("page failed", ValueError(HOSTILE))
    lines = told.lines()
    assert len(lines) == 2
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_an_unexpected_failure_is_logged_with_its_traceback(told, as_json):
    try:
        raise ZeroDivisionError("no paint")
    except ZeroDivisionError as error:
        log.failed("run failed", error, run="r")
    log.failed("run failed", StudioError("The paint ran out."), run="r")
    unforeseen, foreseen = told.facts()
    assert (unforeseen["level"], unforeseen["run"], unforeseen["reason"]) == (
        "error", "r", "ZeroDivisionError: no paint",
    )  # fmt: skip
    assert "test_log.py" in unforeseen["traceback"]
    assert foreseen["reason"] == "The paint ran out." and "traceback" not in foreseen


def test_a_line_that_cannot_be_written_is_ignored(told, monkeypatch, tmp_path):
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    log.event("run started", run="r")
    full = os.open("/dev/full", os.O_WRONLY)  # like a full disk
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.FileIO(full, "w"), write_through=True))
    log.event("run ended", run="r")
    with pytest.raises(OSError):
        sys.stderr.write("x")


def test_the_events_of_a_run_are_logged_with_its_name(told, as_json, new_run):
    run = new_run()
    with pytest.raises(StudioError), Recorder(run):
        raise StudioError("The paint ran out.")
    started, ended = told.facts()
    assert (started["event"], started["run"]) == ("run started", run.id)
    assert (ended["event"], ended["run"], ended["status"]) == ("run ended", run.id, "failed")
    assert ended["message"] == "The paint ran out." and ended["seconds"] >= 0


def test_actions_on_runs_are_logged(told, as_json, new_run, tmp_path):
    run = new_run()
    run.change(status="stopped", writer=None)
    with (tmp_path / "run.zip").open("wb") as file:
        archive.export_run(run, file)
    library.delete(run)
    library.restore(run)
    library.delete(run)
    library.empty_trash(older_than=-1)
    archive.import_run(tmp_path / "run.zip")
    with pytest.raises(InputError):
        archive.import_run(b"private contents", "mine.zip")
    events = told.facts()
    assert [event["event"] for event in events] == [
        "run exported",
        "run deleted",
        "run restored",
        "run deleted",
        "run removed for good",
        "run imported",
        "import refused",
    ]
    assert {event["run"] for event in events[:-1]} == {run.id}
    assert events[-1]["reason"] == "mine.zip is not a ZIP file, or is damaged."
    assert "private contents" not in json.dumps(events)


# The log file of a worker


def test_a_long_log_is_renamed(tmp_path):
    path = tmp_path / "worker.log"
    for part in (b"first", b"second", b"third"):
        with log.open_bounded(path) as file:
            file.write(part)
            file.truncate(log.LIMIT + 1)
    assert path.read_bytes().startswith(b"third")
    assert path.with_name("worker.log.1").read_bytes().startswith(b"second")
    assert len(list(tmp_path.iterdir())) == 2


WRITE = """
import os, sys
from pathlib import Path
from core import log
log.begin()
for number in range(4000):
    os.write(2, b"what a library says by itself " * 40 + b"\\n")
    log.event("run ended", run=number)
    log.keep_bounded(Path(sys.argv[1]))
"""


def test_a_long_running_worker_continues_in_a_new_file(tmp_path):
    path = tmp_path / "worker.log"
    with log.open_bounded(path) as file:
        subprocess.run([sys.executable, "-c", WRITE, path], cwd=paths.CHECKOUT, stdout=file, stderr=file, check=True)
    kept = [each.stat().st_size for each in tmp_path.iterdir()]
    assert len(kept) == 2 and max(kept) < log.LIMIT + 10_000
    assert path.read_text().splitlines()[-1].endswith("info run ended run=3999")


WRITE_ALSO = """
import sys
from pathlib import Path
from core import log
log.begin()
log.event("one")
Path(sys.argv[1]).replace(sys.argv[1] + ".1")  # like another worker
log.event("two")
log.keep_bounded(Path(sys.argv[1]))
log.event("three")
"""


def test_a_worker_continues_in_the_new_file_after_another_renamed_the_log(tmp_path):
    path = tmp_path / "worker.log"
    with log.open_bounded(path) as file:
        command = [sys.executable, "-c", WRITE_ALSO, path]
        subprocess.run(command, cwd=paths.CHECKOUT, stdout=file, stderr=file, check=True)
    said = [[line.split()[-1] for line in each.read_text().splitlines()] for each in (tmp_path / "worker.log.1", path)]
    assert said == [["one", "two"], ["three"]]


def test_the_command_line_does_not_log_by_default(own_home, tmp_path):
    def stylize(**environment):
        return subprocess.run(
            [sys.executable, "-m", "nst", "stylize", tmp_path / "none.jpg", "waves", "-o", tmp_path / "o.png"],
            cwd=paths.CHECKOUT, env=os.environ | environment, capture_output=True, text=True,
        )  # fmt: skip

    silent, asked = stylize(), stylize(NST_LOG="json")
    assert silent.returncode == asked.returncode == 2
    assert silent.stdout == asked.stdout == ""
    (line,) = silent.stderr.splitlines()
    event, same = asked.stderr.splitlines()
    assert same == line and json.loads(event)["event"] == "input refused"
    assert json.loads(event)["reason"] in line


def test_a_log_that_another_process_has_just_renamed_is_started_again(tmp_path, monkeypatch):
    path = tmp_path / "worker.log"
    path.write_bytes(bytes(log.LIMIT + 1))
    replace = Path.replace

    def both(self, target):
        replace(self, target)
        return replace(self, target)  # the second rename finds no file

    monkeypatch.setattr(Path, "replace", both)
    with log.open_bounded(path) as file:
        file.write(b"line")
    assert path.read_bytes() == b"line" and path.with_name("worker.log.1").stat().st_size > log.LIMIT
