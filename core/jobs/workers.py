"""The worker processes: start them, find those that are alive, and read what they report."""

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
    """What a worker says of the preparation that the first run needs: weights, exported model, pace."""

    message: str
    ready: bool = False
    failed: bool = False
    without_preview: str = ""  # why there is no instant preview
    writer: ProcessId


def readiness() -> Readiness | None:
    """What a worker last said; `None` when none ever spoke, or when it died over the preparation."""
    said = _latest_readiness()
    return said if said and (said.ready or said.failed or said.writer.is_alive()) else None


def _latest_readiness() -> Readiness | None:
    """Of the workers that are alive, what the one said that is furthest; where none is, the last word of any."""
    said = list(readiness_by_slot().values())
    if alive := [each for each in said if each.writer.is_alive()]:
        return max(alive, key=lambda each: (each.ready, not each.failed))
    return said[-1] if said else None


def readiness_by_slot() -> dict[slots.Slot, Readiness]:
    """What the worker of each slot last said, the last word of all at the end."""
    found = []
    for slot in slots.local_slots():
        try:
            said = Readiness.model_validate_json(slot.readiness_file.read_bytes())
            found.append((slot.readiness_file.stat().st_mtime_ns, slot, said))
        except (OSError, ValidationError):
            continue
    return {slot: said for _, slot, said in sorted(found, key=lambda each: each[0])}


def workers() -> list[ProcessId]:
    """The worker processes that are alive."""
    return [said.writer for said in readiness_by_slot().values() if said.writer.is_alive()]


def ensure_workers() -> None:
    """Start a worker for each run that waits, as far as slots have none that is alive, as after a reboot."""
    without = len(slots.local_slots()) - len(workers())
    for _ in range(min(queue.count_for_workers(), without)):
        start_worker()


def ensure_warm_worker() -> None:
    """Start a worker if none is alive, so that the next run begins at once; after one that failed, none."""
    said = _latest_readiness()
    if not (said and (said.failed or said.writer.is_alive())):
        start_worker()


def start_worker() -> None:
    """Start a worker; one that finds another at every slot waits its turn, and leaves when nothing is left to do."""
    _ = environment().worker_idle  # raises InputError here, where it is seen
    paths.home().mkdir(parents=True, exist_ok=True)
    with log.open_bounded(worker_log()) as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "nst", "worker"],
            cwd=paths.CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # a page's server that is stopped does not take the run with it
        )
    for earlier in started_workers.values():
        earlier.poll()  # one that has ended leaves the process table, its exit status stays here
    started_workers[started.pid] = started


started_workers: dict[int, subprocess.Popen[bytes]] = {}  # the workers that this process started, by their number


def has_prepared() -> bool:
    """Whether a worker got ready here once: then all is fetched and exported, and only has to be loaded."""
    said = readiness()
    return said is not None and said.ready


def announce(slot: slots.Slot, message: str, ready: bool, failed: bool = False, without_preview: str = "") -> None:
    """Say how far this process, as the worker of that slot, is with the preparation."""
    said = Readiness(
        message=message, ready=ready, failed=failed, without_preview=without_preview, writer=ProcessId.this_process()
    )
    with contextlib.suppress(OSError):  # a run need not fail for it
        paths.write(slot.readiness_file, said.model_dump_json().encode())


def worker_log() -> Path:
    return paths.home() / "worker.log"
