"""Control a job from outside: stop it, cancel it, kill its process, and find out why it ended."""

import signal
import subprocess
import time

import psutil

from core import log
from core.errors import InputError, StudioError
from core.jobs import eta, queue, schedule, slots, workers
from core.machine.processes import ProcessId
from core.runs import recovery
from core.runs.record import RunRecord
from core.runs.run import Run

# Nothing heard for so many seconds, a process may be stuck; fetching and compiling take longer than any step should.
PREPARING_SILENCE, PAINTING_SILENCE = 900.0, 180.0
SILENT_STEPS = 20  # of the longest of the last ones
ENDING_SECONDS = 2.0  # how long a process that is gone may take until the system says how it ended


def stop(run: Run) -> None:
    """Stop a run: at once when it still waits, after its current step when it is being performed."""
    if not _remove_from_queue(run):
        run.ask(stop=True)


def silent_for(run: Run, record: RunRecord) -> float | None:
    """Return for how many seconds the process of a run has written nothing, if that is longer than it should be."""
    if record.status not in ("preparing", "running"):
        return None
    written = [run.path / "run.json", run.path / "metrics.csv"]
    silent = time.time() - max((file.stat().st_mtime for file in written if file.exists()), default=0.0)
    if record.status == "preparing":
        return silent if silent > PREPARING_SILENCE else None
    try:
        step = run.metrics(last=eta.RECENT_STEPS + 1)["seconds"].diff().max()
    except StudioError:
        step = 0.0
    return silent if silent > max(PAINTING_SILENCE, SILENT_STEPS * (step if step > 0 else 0.0)) else None


def kill(run: Run) -> None:
    """Kill the process that computes a run; its last checkpoint stays. Raises `InputError` if there is none."""
    record = run.record()
    writer = record.writer
    if record.status == "queued" or not (writer and writer.is_alive()):
        raise InputError(f"Nobody paints the run {run.id}.")
    if not writer.is_visible_here():
        raise InputError(f"The run {run.id} is painted in another container: end it there.")
    if run in schedule.running_in(slots.cluster_slots()):
        run.ask(stop=True, at_once=True)  # ends its Ray worker alone: the process here also records other runs
        return
    psutil.Process(writer.pid).kill()


def cancel(run: Run) -> None:
    """Take a waiting run out of the queue. Raises `InputError` when it does not wait."""
    if not _remove_from_queue(run):
        painted = run.record().status in ("preparing", "running")
        how = ": it is being painted. Stop it on its page, or with Ctrl-C where nst paints it" if painted else ""
        raise InputError(f"The run {run.id} does not wait in the queue{how}.")


def _remove_from_queue(run: Run) -> bool:
    """Take it out of the queue, for good; whether it was there."""
    if taken := queue.dequeue(run):
        run.change(status="stopped")
        log.event("run withdrawn", run=run.id)
    return taken


def record_ending(run: Run) -> RunRecord:
    """Return the run's record; if its process is gone, note first how that ended, and keep the best image so far."""
    return recovery.record_ending(run, _describe_exit)


def why_interrupted(record: RunRecord) -> str:
    """How the process of a run that is interrupted ended: as it was noted, otherwise as far as it is known here."""
    return _describe_exit(record.writer) if record.writer else record.message


def _describe_exit(writer: ProcessId) -> str:
    """Say how a process ended, as far as it is known: only the process that started it learns its exit status."""
    if writer.is_of_an_earlier_boot():
        return "The machine was restarted while it was being painted."
    try:
        # The system may tell a moment after the lock was released.
        mine = writer.pid in workers.started_workers and writer.is_visible_here()
        code = workers.started_workers[writer.pid].wait(timeout=ENDING_SECONDS) if mine else None
    except subprocess.TimeoutExpired:
        code = None
    if code is None:
        return "The process that painted it is gone."
    if code >= 0:
        return f"The process that painted it ended with the exit status {code}; {workers.worker_log()} may say why."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL":
        return "The process that painted it was killed (SIGKILL), as the system does when memory runs out."
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return f"The process that painted it was told to end ({name})."
    return f"The process that painted it crashed ({name}); {workers.worker_log()} may say where."
