"""Kill runs at random moments, resume them, and compare them with undisturbed runs.

`make soak-kills` kills fifty times, the tests twice. A process paints two runs in turns, one for each optimizer,
until SIGKILL ends it while it loads, paints or writes; then the next process continues.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core import paths
from core.images import codec
from core.jobs import execution, worker
from core.jobs.execution import EngineMaker
from core.machine import hardware
from core.runs import recovery, store
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.transfer.checkpoint import Checkpoint
from nst.engine import load_engine

OPTIMIZERS = ("adam", "l-bfgs")
WAIT = 240  # seconds for the first step, even on a slow and busy machine


@dataclass
class KillReport:
    """The kills of two runs, and how the runs compare with undisturbed runs."""

    kills: int
    before_painting: int = 0  # kills before the first step of a process
    amid_writing: int = 0  # kills that left a half-written file (a draft, which is never read)
    amid_checkpoint: int = 0  # of these: kills that left a half-written checkpoint
    lost: list[int] = field(default_factory=list)  # iterations to repeat, for each kill and run
    largest_deviation: dict[str, float] = field(default_factory=dict)  # of any total loss, relative
    final_deviation: dict[str, float] = field(default_factory=dict)  # of the best loss, relative


def kill_and_resume(
    make_engine: EngineMaker, iterations: int, kills: int, seed: int, also_while_it_loads: bool, size: int = 64
) -> KillReport:
    """Paint each run undisturbed in this process, and again with `kills` kills; the runs are in `NST_HOME`."""
    alone = [_new_run(optimizer, iterations, size) for optimizer in OPTIMIZERS]
    killed = [_new_run(optimizer, iterations, size) for optimizer in OPTIMIZERS]
    paint(alone, make_engine)
    chance, found = random.Random(seed), KillReport(kills)
    for number in range(kills):
        process = _start(killed)
        moment = time.monotonic() + chance.uniform(0, 8)
        if also_while_it_loads and chance.random() < 0.3:
            _wait(process, lambda moment=moment: time.monotonic() > moment)
        else:  # after a few steps; every later kill needs steps too
            done = _checkpointed(killed[-1])
            goal = done + chance.randint(2, max(2, (iterations - done) // (kills - number + 1)))
            _wait(process, lambda goal=goal: _painted(killed[-1]) >= goal)
            time.sleep(chance.uniform(0, 0.05))
            if number == 0:  # the first kill always hits a checkpoint
                _wait(process, lambda process=process: _halted_amid_checkpoint(process, killed))
        process.kill()
        process.communicate()
        found.before_painting += _status(killed[-1]) != "running"
        found.amid_writing += any(_drafts(killed))
        found.amid_checkpoint += any(_is_of_checkpoint(draft) for draft in _drafts(killed))
        for run in killed:
            assert run.record().status == "interrupted"
            check_readable(run)
            found.lost.append(_painted(run) - _checkpointed(run))
    process = _start(killed)
    _, said = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said.decode()
    for optimizer, one, other in zip(OPTIMIZERS, alone, killed, strict=True):
        check_readable(other)
        expected, metrics = one.metrics(), other.metrics()
        for column in ("iteration", "evaluations"):
            assert list(metrics[column]) == list(expected[column]), column
        found.largest_deviation[optimizer] = float((abs(metrics["total"] / expected["total"] - 1)).max())
        totals = [run.record().best_total for run in (one, other)]
        found.final_deviation[optimizer] = abs(totals[1] / totals[0] - 1)
        assert [run.record().status for run in (one, other)] == ["done", "done"]
    return found


def paint(painted: list[Run], make_engine: EngineMaker) -> None:
    """Resume the runs and paint them to their ends, in turns."""
    for run in painted:
        recovery.resume(run)
    for _ in itertools.zip_longest(*(execution.perform(run, make_engine) for run in painted)):
        pass


def check_readable(run: Run) -> None:
    """Open every file of a run except drafts, which may be half written."""
    run.record(), run.metrics()
    for path in run.path.rglob("*"):
        if path.name.startswith(paths.DRAFT) or path.is_dir():
            continue
        match path.suffix:
            case ".json":
                json.loads(path.read_bytes())
            case ".npz":
                Checkpoint.load(path)
            case ".npy":
                assert np.isfinite(np.load(path)).all()
            case ".png" | ".jpg":
                with Image.open(path) as picture:
                    picture.load()
            case ".csv":
                pd.read_csv(path)
            case other:
                raise AssertionError(f"{path.name} has the unknown suffix {other}")


def _new_run(optimizer: str, iterations: int, size: int) -> Run:
    photo, style = (codec.read_image(group[1].path()) for group in (PHOTOS, STYLES))
    settings = TransferSettings(optimizer=optimizer, iterations=iterations, size=size, frame_every=5)
    run = store.create(RunSpec([Style("painting", style)], settings, "reference"), photo, "photo")
    run.change(writer=None)  # as if its process had been killed
    return run


def _start(painted: list[Run]) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, *(run.id for run in painted)]
    environment = {**os.environ, "NST_CHECKPOINT_SECONDS": "0.1"}  # often, so that some kills hit a checkpoint
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _drafts(painted: list[Run]) -> list[Path]:
    """Return the half-written files, without the reserve for a full disk."""
    found = [path for run in painted for path in run.path.rglob(f"{paths.DRAFT}*")]
    return [path for path in found if path.name != f"{paths.DRAFT}reserve"]


def _is_of_checkpoint(draft: Path) -> bool:
    """Return whether a draft is a checkpoint, the only archive among a run's files."""
    try:
        with draft.open("rb") as file:
            return file.read(2) == b"PK"
    except FileNotFoundError:  # already complete
        return False


def _halted_amid_checkpoint(process: subprocess.Popen[bytes], painted: list[Run]) -> bool:
    """Halt the process; return whether it is writing a checkpoint, and otherwise let it continue."""
    if not any(_is_of_checkpoint(draft) for draft in _drafts(painted)):
        return False
    process.send_signal(signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)
    if any(_is_of_checkpoint(draft) for draft in _drafts(painted)):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def _painted(run: Run) -> int:
    """Return the last iteration in the metrics, which begin with a heading and iteration 0."""
    path = run.path / "metrics.csv"
    return max(path.read_bytes().count(b"\n") - 2, 0) if path.exists() else 0


def _checkpointed(run: Run) -> int:
    return Checkpoint.load(run.checkpoint).iteration if run.checkpoint.exists() else 0


def _status(run: Run) -> str:
    """Return the status in the record, even if its process is gone."""
    return str(json.loads((run.path / "run.json").read_bytes())["status"])


def _make_engine(report: execution.Report, timings: worker.Timings) -> worker.Engine:
    return load_engine(None, report, timings)


def main() -> None:
    """Paint the runs given as arguments, or kill fifty times in a temporary home."""
    if sys.argv[1:]:
        paint([store.find(name) for name in sys.argv[1:]], _make_engine)
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["NST_HOME"] = home
        began = time.monotonic()
        found = kill_and_resume(_make_engine, iterations=300, kills=50, seed=1, also_while_it_loads=True, size=128)
        print(f"{hardware.processor()}, {time.monotonic() - began:.0f} s: {found}")
        assert max(found.final_deviation.values()) < 1e-3


if __name__ == "__main__":
    main()
