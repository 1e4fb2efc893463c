"""The queue of runs: a folder with a file for each queued run, named after the run."""

from collections.abc import Sequence

from filelock import FileLock

from core import paths
from core.errors import InputError
from core.machine.processes import ProcessId
from core.runs.record import QueueEntry
from core.runs.run import Run, writing


def queued_runs() -> list[Run]:
    """Return the queued runs, the next one first."""
    return [run for run, _ in _entries()]


def move(run: Run, to_front: bool = False) -> None:
    """Move a queued run one place forward, or to the front.

    Raises:
        InputError: If the run is not in the queue.
    """
    with _queue_lock():
        entries = _entries()
        found = {each.id: number for number, (each, _) in enumerate(entries)}
        if run.id not in found:
            raise InputError(f"The run {run.id} is not in the queue.")
        moved = entries.pop(found[run.id])
        entries.insert(0 if to_front else max(found[run.id] - 1, 0), moved)
        for order, (each, entry) in enumerate(entries, 1):
            if entry.order != order:
                _write_entry(each, entry.model_copy(update={"order": float(order)}))


def enqueue(entering: Sequence[Run], waiter: ProcessId | None) -> None:
    """Put runs at the end of the queue, for the process `waiter` or, if it is `None`, for a worker."""
    paths.queue().mkdir(parents=True, exist_ok=True)
    with _queue_lock():
        for file in paths.queue().iterdir():
            if not (file.name.startswith(".") or QueueEntry.of(file.name)):  # the process of that run is gone
                file.unlink(missing_ok=True)
        last = max((entry.order for _, entry in _entries()), default=0.0)
        for number, run in enumerate(entering, 1):
            _write_entry(run, QueueEntry(order=last + number, waiter=waiter))


def _entries() -> list[tuple[Run, QueueEntry]]:
    """Return the queue's runs and entries in order, without runs whose own process is gone."""
    files = paths.queue().iterdir() if paths.queue().is_dir() else ()
    entries = ((file.name, QueueEntry.of(file.name)) for file in files if not file.name.startswith("."))
    found = [(Run(paths.runs() / name), entry) for name, entry in entries if entry]
    return sorted(found, key=lambda each: (each[1].order, each[0].id))


def _write_entry(run: Run, entry: QueueEntry) -> None:
    paths.write(paths.queue() / run.id, entry.model_dump_json().encode())


def _queue_lock() -> FileLock:
    """Return the lock for changes of the queue; without it, a run that was just taken could reappear."""
    return FileLock(paths.home() / "queue.lock")


def next_queued() -> Run | None:
    """Return the run that a worker should compute next; `None` if a run with its own process is first."""
    first = first_in_queue()
    return first[0] if first and not first[1] else None


def first_in_queue() -> tuple[Run, bool] | None:
    """Return the next run whose process is not suspended, and whether its own process computes it."""
    for run, entry in _entries():
        if not (entry.waiter and entry.waiter.is_suspended()):
            return run, entry.waiter is not None
    return None


def count_for_workers() -> int:
    """Return how many runs wait for a worker."""
    return sum(not entry.waiter for _, entry in _entries())


def dequeue(run: Run, writer: ProcessId | None = None) -> bool:
    """Take a run out of the queue, and give it to the process `writer` if there is one.

    Returns:
        Whether the run was in the queue. If several processes try, only one succeeds.
    """
    if not paths.queue().is_dir():
        return False
    with _queue_lock():
        entry = paths.queue() / run.id
        if not entry.exists():
            return False
        if writer:  # set before the run leaves the queue, so that the run always has an owner
            with writing(run):
                run.change(writer=writer)
        entry.unlink()
    return True
