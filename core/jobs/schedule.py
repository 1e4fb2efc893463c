"""Estimate when queued runs start and end, submit runs to workers, and wait for a free slot."""

import contextlib
import heapq
import math
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from core import log
from core.environment import MOST_SLOTS, environment
from core.errors import StudioError
from core.jobs import eta, execution, queue, slots, workers
from core.machine.processes import ProcessId
from core.runs.run import Run


@dataclass(frozen=True)
class QueuePosition:
    """A run's position in the queue."""

    place: int  # 1 is the next
    seconds: float | None  # until the run should start; `None` if unknown


def queue_positions() -> list[tuple[Run, QueuePosition]]:
    """Return the queued runs with their positions, and when each should start in the first free slot."""
    return [
        (run, QueuePosition(place, begins if begins < math.inf else None))
        for place, (run, begins, _) in enumerate(_expected_times(), 1)
    ]


def seconds_until_over(wanted: Collection[Run]) -> float | None:
    """Return the seconds until all of these runs should be over; `None` if unknown."""
    ends = max((ends for run, _, ends in _expected_times(with_painting=True) if run in wanted), default=0.0)
    return ends if ends < math.inf else None


def _expected_times(with_painting: bool = False) -> list[tuple[Run, float, float]]:
    """Return each queued run with the seconds until it should start and end; infinite if unknown, as on a cluster.

    `with_painting` adds the running runs in front.
    """
    measurements = eta.Measurements()

    def left(run: Run) -> float:
        seconds = eta.seconds_left(run, measurements)
        return math.inf if seconds is None else seconds

    under_way = [(run, 0.0, left(run)) for run in running()]
    there = running_in(slots.cluster_slots())
    here = [ends for run, _, ends in under_way if run not in there]
    free = [*here, *[0.0] * (len(slots.local_slots()) - len(here))]  # of each slot
    if environment().ray_address:
        free = [math.inf]
    heapq.heapify(free)
    found = under_way if with_painting else []
    for run in queue.queued_runs():
        begins = free[0]
        found.append((run, begins, begins + left(run)))
        heapq.heapreplace(free, found[-1][2])
    return found


def running() -> list[Run]:
    """Return the runs that occupy a slot, on this machine or on a cluster."""
    return [*running_in(map(slots.Slot, range(MOST_SLOTS))), *running_in(slots.cluster_slots())]


def running_in(places: Iterable[slots.Slot]) -> list[Run]:
    """Return the runs that occupy one of these slots."""
    return [run for slot in places if (run := slot.run())]


def submit(*submitted: Run) -> None:
    """Put runs at the end of the queue, in this order, and start workers for them."""
    queue.enqueue(submitted, None)
    for run in submitted:
        log.event("run queued", run=run.id)
    for _ in range(min(len(submitted), len(slots.local_slots()))):
        workers.start_worker()


@contextlib.contextmanager
def acquire_slot(run: Run, report: execution.Report) -> Iterator[None]:
    """Wait in the queue for a slot, report the wait, and hold the slot in the context.

    Raises:
        StudioError: If someone takes the run out of the queue.
    """
    queue.enqueue([run], ProcessId.this_process())
    try:
        told, places = 0, slots.local_slots()[::-1]  # workers take the first slots
        while not (queue.first_in_queue() == (run, True) and (found := slots.first_free(places, slots.Slot.turn_lock))):
            ahead = queue.queued_runs()
            if run not in ahead:
                raise StudioError(f"The run {run.id} was taken out of the queue.")
            if (place := ahead.index(run) + 1) != told:
                told = place
                if now := dict(queue_positions()).get(run):  # the run may just have been taken out
                    report(_describe_position(now))
                workers.ensure_workers()  # for the runs ahead in the queue
            time.sleep(0.2)
        slot, lock = found
        with lock:
            if not queue.dequeue(run):
                raise StudioError(f"The run {run.id} was taken out of the queue.")
            slot.choose_card()
            with slot.occupied_by(run):
                yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts more
            if queue.dequeue(run):  # the run was cancelled while it waited
                run.change(status="stopped")
        raise


def _describe_position(now: QueuePosition) -> str:
    before = f"{now.place - 1} ahead of it in the queue" if now.place > 1 else "another run is in progress"
    expected = f", about {max(1, round(now.seconds / 60))} min" if now.seconds is not None else ""
    return f"Waiting for a free slot: {before}{expected} (--now starts at once) …"
