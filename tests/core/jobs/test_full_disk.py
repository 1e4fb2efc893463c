"""A disk that becomes full, or a run's folder that is deleted or made read-only, during a run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from soak.kills import check_readable

from core import paths
from core.errors import StudioError
from core.jobs import execution, queue, schedule, worker, workers
from core.jobs.slots import Slot
from core.machine import processes
from core.runs import recovery, store
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings
from core.transfer.checkpoint import Checkpoint

ROOT = Path(__file__).parents[3]


@pytest.fixture
def disk(own_home):
    """Mount a disk of 4 MB as the folder of the runs."""
    yield from _small_disk(paths.runs())


@pytest.fixture
def home_disk(own_home):
    """Mount a disk of 4 MB as the home folder."""
    yield from _small_disk(own_home)


def _small_disk(folder):
    if not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount")):
        pytest.skip("only root can mount a small disk, on Linux")
    folder.mkdir(parents=True)
    mounted = _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", folder=folder)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    # This process keeps a file in its home open until it ends.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*how, folder=None):
    return subprocess.run(["mount", *how, str(folder or paths.runs())], capture_output=True)


def new_run():
    random = np.random.default_rng(3)
    photo, style = (Image.fromarray(random.integers(0, 256, (64, 80, 3)).astype(np.uint8)) for _ in range(2))
    settings = TransferSettings(size=64, iterations=12, frame_every=2)
    return store.create(RunSpec([Style("painting", style)], settings, "reference"), photo, "photo")


def fill(folder):
    with (folder / "ballast").open("wb") as ballast:
        try:
            for size in (2**16, 1):  # until the last byte is used
                while ballast.write(bytes(size)) and not ballast.flush():
                    pass
        except OSError:
            pass
    with pytest.raises(OSError, match="No space"):
        (folder / "one more").write_bytes(b"1")
    (folder / "one more").unlink(missing_ok=True)


def paint(run, engine, at=None, happens=None):
    """Compute a run with a checkpoint at each step; call `happens` at the iteration `at`."""
    for step in execution.perform(run, lambda *_: engine):
        if step.iteration == at:
            happens()


@pytest.fixture(autouse=True)
def _checkpoints(monkeypatch):
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "0")


def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_space(disk, engine):
    run, whole = new_run(), new_run()
    with pytest.raises(
        StudioError, match=rf"^The disk of .*runs is full: free some space, then resume the run {run.id}\."
    ):
        paint(run, engine, 5, lambda: fill(disk))
    record = run.record()
    assert record.status == "failed" and "is full" in record.message and record.writer is None
    assert not list(run.path.rglob(f"{paths.DRAFT}*"))
    check_readable(run)
    assert Checkpoint.load(run.checkpoint).iteration == 5
    (disk / "ballast").unlink()
    recovery.resume(run)
    paint(run, engine)
    paint(whole, engine)
    assert (run.record().status, run.record().iteration) == ("done", 12)
    assert run.record().best_total == pytest.approx(whole.record().best_total, rel=1e-3)


def test_a_full_disk_is_reported_before_the_run_starts(disk, engine):
    run = new_run()
    fill(disk)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(StudioError, match=r"disk|is full"):
        paint(run, engine)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
    with pytest.raises(StudioError, match="cannot be written"):
        new_run()
    assert store.all_runs() == [run]


def test_a_disk_that_becomes_read_only_is_reported_and_damages_nothing(disk, engine, capsys):
    run = new_run()

    def close():
        assert _mount("-o", "remount,ro").returncode == 0

    with pytest.raises(StudioError, match=r"can no longer be written in .*: Read-only file system\."):
        paint(run, engine, 5, close)
    check_readable(run)
    assert Checkpoint.load(run.checkpoint).iteration == 5


def test_a_worker_that_cannot_write_the_end_of_a_run_exits(disk, engine, monkeypatch):
    """Otherwise the run's status would be "running" until the worker ends."""
    run = new_run()
    monkeypatch.setattr(workers, "start_worker", lambda: None)
    schedule.submit(run)
    perform = execution.perform

    def close_midway(run, make_engine):
        for step in perform(run, make_engine):
            if step.iteration == 3:
                assert _mount("-o", "remount,ro").returncode == 0
            yield step

    monkeypatch.setattr(execution, "perform", close_midway)
    with pytest.raises(StudioError, match="Read-only file system"):
        worker._perform(run, lambda *_: engine, Slot(0))


@pytest.mark.parametrize("full", ["home_disk", "disk"])
def test_a_run_that_cannot_start_on_a_full_disk_fails_with_a_message(full, request, engine, monkeypatch):
    disk = request.getfixturevalue(full)
    monkeypatch.setattr(workers, "start_worker", lambda: None)
    run = new_run()
    schedule.submit(run)
    fill(disk)
    worker.work(lambda *_: engine)
    assert queue.queued_runs() == []
    record = run.record()
    assert record.status == "failed" and record.writer is None
    assert re.match(rf"The disk of {disk} is full: free some space, then resume the run {run.id}\.$", record.message)
    (disk / "ballast").unlink()
    recovery.resume(run)
    paint(run, engine)
    assert run.record().status == "done"


def nst(*arguments):
    return subprocess.run([sys.executable, "-m", "nst", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def test_a_read_only_home_is_reported_in_one_line(home_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "start_worker", lambda: None)
    waits, ended = new_run(), new_run()
    schedule.submit(waits)
    ended.change(status="stopped")
    processes._held.clear()  # the disk cannot be made read-only while a lock is open on it
    assert _mount("-o", "remount,ro", folder=home_disk).returncode == 0
    for arguments in (
        ("queue", "--cancel", waits.id),
        ("queue", "--front", waits.id),
        ("resume", ended.id, "-o", tmp_path / "out.png"),
        ("stylize", "chelsea", "waves", "-o", tmp_path / "out.png"),
    ):
        done = nst(*arguments)
        assert done.returncode == 1, arguments
        assert re.fullmatch(rf"nst: .*{home_disk}.*: Read-only file system\.\n", done.stderr), done.stderr


def test_a_full_home_is_reported_in_one_line(home_disk, tmp_path):
    fill(home_disk)
    done = nst("stylize", "chelsea", "waves", "-o", tmp_path / "out.png")
    assert done.returncode == 1
    assert done.stderr == f"nst: The disk of {home_disk} is full: free some space and try again.\n"


@pytest.mark.parametrize("at", [0, 5])
def test_a_deleted_run_is_not_recreated(own_home, engine, at):
    run = new_run()
    with pytest.raises(StudioError, match=rf"^The folder of the run {run.id} is gone: "):
        paint(run, engine, at, lambda: shutil.rmtree(run.path))
    assert not run.path.exists() and store.all_runs() == []
