"""Worker processes: start them, find those that are alive, and read what they report."""

import contextlib
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ValidationError

from core import log, paths
from core.environment import environment
from core.jobs import queue, slots
from core.machine.processes import ProcessId


class Readiness(BaseModel):
    """A worker's report on its preparation: weights, exported model, measured speed."""

    message: str
    ready: bool = False
    failed: bool = False
    without_preview: str = ""  # why there is no instant preview
    writer: ProcessId


def readiness() -> Readiness | None:
    """Return the latest report; `None` if there is none, or if the worker died during the preparation."""
    said = _latest_readiness()
    return said if said and (said.ready or said.failed or said.writer.is_alive()) else None


def _latest_readiness() -> Readiness | None:
    """Return the report of the live worker that got furthest; without a live worker, the latest report of any."""
    said = list(readiness_by_slot().values())
    if alive := [each for each in said if each.writer.is_alive()]:
        return max(alive, key=lambda each: (each.ready, not each.failed))
    return said[-1] if said else None


def readiness_by_slot() -> dict[slots.Slot, Readiness]:
    """Return the latest report of each slot's worker, the newest last."""
    found = []
    for slot in slots.local_slots():
        try:
            said = Readiness.model_validate_json(slot.readiness_file.read_bytes())
            found.append((slot.readiness_file.stat().st_mtime_ns, slot, said))
        except (OSError, ValidationError):
            continue
    return {slot: said for _, slot, said in sorted(found, key=lambda each: each[0])}


def workers() -> list[ProcessId]:
    """Return the worker processes that are alive."""
    return [said.writer for said in readiness_by_slot().values() if said.writer.is_alive()]


def ensure_workers() -> None:
    """Start a worker for each waiting run, as far as there are slots without a live worker."""
    without = len(slots.local_slots()) - len(workers())
    for _ in range(min(queue.count_for_workers(), without)):
        start_worker()


def ensure_warm_worker() -> None:
    """Start a worker if none is alive, so that the next run starts at once.

    A failed worker is not replaced, so that its error message stays readable.
    """
    said = _latest_readiness()
    if not (said and (said.failed or said.writer.is_alive())):
        start_worker()


def start_worker() -> None:
    """Start a worker. If every slot has a worker, it waits for a slot, and ends when no run is queued.

    Raises:
        InputError: If NST_WORKER_IDLE has an invalid value.
    """
    _ = environment().worker_idle  # raises InputError here, where the user sees it
    paths.home().mkdir(parents=True, exist_ok=True)
    with log.open_bounded(worker_log()) as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "nst", "worker"],
            cwd=paths.CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # so that the worker outlives the dashboard's server
        )
    for earlier in started_workers.values():
        earlier.poll()  # removes an ended process from the process table and keeps its exit status
    started_workers[started.pid] = started


started_workers: dict[int, subprocess.Popen[bytes]] = {}  # the workers that this process started, by process id


def has_prepared() -> bool:
    """Tell whether a worker has been ready on this machine: then all files are fetched and only need loading."""
    said = readiness()
    return said is not None and said.ready


def announce(slot: slots.Slot, message: str, ready: bool, failed: bool = False, without_preview: str = "") -> None:
    """Report the progress of this process, the worker of that slot, with its preparation."""
    said = Readiness(
        message=message, ready=ready, failed=failed, without_preview=without_preview, writer=ProcessId.this_process()
    )
    with contextlib.suppress(OSError):  # no reason to let a run fail
        paths.write(slot.readiness_file, said.model_dump_json().encode())


def worker_log() -> Path:
    """Return the path of the file that receives the output of all workers."""
    return paths.home() / "worker.log"
