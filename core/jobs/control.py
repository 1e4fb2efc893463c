"""Control a run from another process: stop it, cancel it, kill its process, and find out why it ended."""

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

# A process that writes nothing for this many seconds may be stuck. Downloads and compilation take longer than a step.
PREPARING_SILENCE, PAINTING_SILENCE = 900.0, 180.0
SILENT_STEPS = 20  # a silence of this many steps, each as long as the longest recent step, is still normal
ENDING_SECONDS = 2.0  # how long to wait for the exit status of a process that has ended


def stop(run: Run) -> None:
    """Stop a run: at once if it is queued, after its current step if it is running."""
    if not _remove_from_queue(run):
        run.ask(stop=True)


def silent_for(run: Run, record: RunRecord) -> float | None:
    """Return for how many seconds a run's process has written nothing; `None` if that is normal."""
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
    """Kill the process that computes a run; its last checkpoint stays.

    Raises:
        InputError: If no process computes the run, or it is in another container.
    """
    record = run.record()
    writer = record.writer
    if record.status == "queued" or not (writer and writer.is_alive()):
        raise InputError(f"No process computes the run {run.id}.")
    if not writer.is_visible_here():
        raise InputError(f"The run {run.id} is computed in another container: end it there.")
    if run in schedule.running_in(slots.cluster_slots()):
        run.ask(stop=True, at_once=True)  # ends only its Ray worker, because the local process also records other runs
        return
    psutil.Process(writer.pid).kill()


def cancel(run: Run) -> None:
    """Take a run out of the queue.

    Raises:
        InputError: If the run is not in the queue.
    """
    if not _remove_from_queue(run):
        painted = run.record().status in ("preparing", "running")
        how = ": it is running. Stop it on its page, or press Ctrl-C in the terminal of nst" if painted else ""
        raise InputError(f"The run {run.id} is not in the queue{how}.")


def _remove_from_queue(run: Run) -> bool:
    """Take a run out of the queue and mark it as stopped; return whether it was in the queue."""
    if taken := queue.dequeue(run):
        run.change(status="stopped")
        log.event("run withdrawn", run=run.id)
    return taken


def record_ending(run: Run) -> RunRecord:
    """Return the run's record. If its process is gone, first record why, and save the best image so far."""
    return recovery.record_ending(run, _describe_exit)


def why_interrupted(record: RunRecord) -> str:
    """Return why an interrupted run ended: the recorded reason, or what is known in this process."""
    return _describe_exit(record.writer) if record.writer else record.message


def _describe_exit(writer: ProcessId) -> str:
    """Describe how a process ended. Only the process that started it can read its exit status."""
    if writer.is_of_an_earlier_boot():
        return "The machine was restarted during the run."
    try:
        # The exit status may arrive shortly after the lock was released.
        mine = writer.pid in workers.started_workers and writer.is_visible_here()
        code = workers.started_workers[writer.pid].wait(timeout=ENDING_SECONDS) if mine else None
    except subprocess.TimeoutExpired:
        code = None
    if code is None:
        return "The run's process is gone."
    if code >= 0:
        return f"The run's process ended with the exit status {code}; {workers.worker_log()} may say why."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL":
        return "The run's process was killed (SIGKILL). The system does this when memory runs out."
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return f"The run's process received the signal to end ({name})."
    return f"The run's process crashed ({name}); {workers.worker_log()} may say where."
