"""The queue of runs: a file for each run that waits, by the name of the run."""

from collections.abc import Sequence

from filelock import FileLock

from core import paths
from core.errors import InputError
from core.machine.processes import ProcessId
from core.runs.record import QueueEntry
from core.runs.run import Run, writing


def queued_runs() -> list[Run]:
    """The runs that wait, the next one first."""
    return [run for run, _ in _entries()]


def move(run: Run, to_front: bool = False) -> None:
    """Have a waiting run come before the one that is before it, or first. Raises `InputError` when it does not wait."""
    with _queue_lock():
        entries = _entries()
        found = {each.id: number for number, (each, _) in enumerate(entries)}
        if run.id not in found:
            raise InputError(f"The run {run.id} does not wait in the queue.")
        moved = entries.pop(found[run.id])
        entries.insert(0 if to_front else max(found[run.id] - 1, 0), moved)
        for order, (each, entry) in enumerate(entries, 1):
            if entry.order != order:
                _write_entry(each, entry.model_copy(update={"order": float(order)}))


def enqueue(entering: Sequence[Run], waiter: ProcessId | None) -> None:
    paths.queue().mkdir(parents=True, exist_ok=True)
    with _queue_lock():
        for file in paths.queue().iterdir():
            if not (file.name.startswith(".") or QueueEntry.of(file.name)):  # of one whose process is gone
                file.unlink(missing_ok=True)
        last = max((entry.order for _, entry in _entries()), default=0.0)
        for number, run in enumerate(entering, 1):
            _write_entry(run, QueueEntry(order=last + number, waiter=waiter))


def _entries() -> list[tuple[Run, QueueEntry]]:
    """The queue; a run whose own process is gone waits no longer."""
    files = paths.queue().iterdir() if paths.queue().is_dir() else ()
    entries = ((file.name, QueueEntry.of(file.name)) for file in files if not file.name.startswith("."))
    found = [(Run(paths.runs() / name), entry) for name, entry in entries if entry]
    return sorted(found, key=lambda each: (each[1].order, each[0].id))


def _write_entry(run: Run, entry: QueueEntry) -> None:
    paths.write(paths.queue() / run.id, entry.model_dump_json().encode())


def _queue_lock() -> FileLock:
    """Held by who changes the queue, so that no run is in it again that was just taken."""
    return FileLock(paths.home() / "queue.lock")


def next_queued() -> Run | None:
    """The run that a worker is to perform next; `None` also when it is the turn of one that performs itself."""
    first = first_in_queue()
    return first[0] if first and not first[1] else None


def first_in_queue() -> tuple[Run, bool] | None:
    """Return the next run whose process is not suspended, and whether its own process performs it."""
    for run, entry in _entries():
        if not (entry.waiter and entry.waiter.is_suspended()):
            return run, entry.waiter is not None
    return None


def count_for_workers() -> int:
    """How many runs wait for a worker."""
    return sum(not entry.waiter for _, entry in _entries())


def dequeue(run: Run, writer: ProcessId | None = None) -> bool:
    """Take a run out of the queue, for that process where one is given; only one can."""
    if not paths.queue().is_dir():
        return False
    with _queue_lock():
        entry = paths.queue() / run.id
        if not entry.exists():
            return False
        if writer:  # before it leaves the queue, so that it always belongs to someone
            with writing(run):
                run.change(writer=writer)
        entry.unlink()
    return True
