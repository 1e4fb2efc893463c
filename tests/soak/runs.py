"""Perform two hundred short runs in a single warm worker, and check that it leaks no memory or files.

    python tests/soak/runs.py [--number N]

The optimizers, photos and styles take turns. Prints the worker's memory and open files now and then. Exits with 1 if
the memory grows by more than 100 MB (measured: 45 and 56), if the number of open files grows, or if a run fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core.images import codec
from core.jobs import control, schedule, workers
from core.machine import hardware
from core.runs import store
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings

OPTIMIZERS = ("adam", "l-bfgs")
PRINTED = (20, 50, 100, 200)
WARM = 20  # runs until each shape of a photo has met each optimizer, so that all caches are filled
WAIT = 300  # seconds for a run; the first loads TensorFlow


@dataclass
class Held:
    """The memory and open files of a process."""

    memory: float  # resident, in MB
    files: int  # open files, including sockets and pipes

    @classmethod
    def by(cls, process: psutil.Process) -> Held:
        files = process.num_fds() if psutil.POSIX else process.num_handles()
        return cls(process.memory_info().rss / 1e6, files)

    def has_outgrown(self, before: Held) -> bool:
        """Return whether the memory has grown by more than an allocator may keep."""
        return self.memory > before.memory + 100


def new_run(number: int, size: int, iterations: int, frame_every: int) -> Run:
    """Submit a run; its optimizer and pictures depend on `number`."""
    photo, style = (group[number // 2 % len(group)] for group in (PHOTOS, STYLES))
    settings = TransferSettings(
        optimizer=OPTIMIZERS[number % 2], iterations=iterations, size=size, frame_every=frame_every
    )
    content, painting = (codec.read_image(sample.path()) for sample in (photo, style))
    run = store.create(RunSpec([Style(style.name, painting)], settings, "reference"), content, photo.name)
    schedule.submit(run)
    return run


def worker() -> psutil.Process | None:
    """Return the last worker that reported, if it is alive."""
    said = workers.readiness()
    return psutil.Process(said.writer.pid) if said and said.writer.is_alive() else None


@contextmanager
def home() -> Iterator[None]:
    """Use a temporary home, and kill all child processes at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ |= {"NST_HOME": folder, "NST_WORKER_IDLE": "600"}
        try:
            yield
        finally:
            started = psutil.Process().children(recursive=True)
            for process in started:
                process.kill()
            psutil.wait_procs(started, timeout=20)


def perform(number: int) -> tuple[list[Held], list[str]]:
    """Perform the runs; return what the worker held after each run, and the failures."""
    held: list[Held] = []
    failures: list[str] = []
    pids: set[int] = set()
    for count in range(1, number + 1):
        run = new_run(count - 1, size=64, iterations=5, frame_every=2)
        deadline = time.monotonic() + WAIT
        while run.record().unfinished or schedule.running():
            if time.monotonic() > deadline:
                return held, [*failures, f"run {count} was {run.record().status} after {WAIT} s"]
            time.sleep(0.05)
        record, process = control.record_ending(run), worker()
        if record.status != "done":
            failures.append(f"run {count} was {record.status}: {record.message}")
        if not process:
            said = workers.worker_log().read_text(errors="replace")[-4000:]
            return held, [*failures, f"the worker had ended after run {count}; its log ends with\n{said}"]
        pids.add(process.pid)
        held.append(Held.by(process))
        if count in {*PRINTED, number}:
            print(f"{count:>6}{held[-1].memory:>12.0f}{held[-1].files:>8}", flush=True)
    if len(pids) > 1:
        failures.append(f"there were {len(pids)} workers instead of 1")
    return held, failures


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--number", type=int, default=200, help="of runs")
    number = options.parse_args().number
    print(f"{date.today()}, {hardware.processor()}, {os.cpu_count()} cores")
    print(f"{'runs':>6}{'memory, MB':>12}{'files':>8}")
    began = time.monotonic()
    with home():
        held, failures = perform(number)
    most = max((each.memory for each in held), default=0)
    print(f"{len(held)} runs in {time.monotonic() - began:.0f} s; memory at most {most:.0f} MB")
    if len(held) > WARM:
        warm, last = held[WARM - 1], held[-1]
        if last.has_outgrown(warm):
            failures.append(f"memory grew from {warm.memory:.0f} to {last.memory:.0f} MB")
        if last.files > warm.files:
            failures.append(f"open files grew from {warm.files} to {last.files}")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
