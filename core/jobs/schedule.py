"""When queued runs should start and end, and how a process waits until it is the turn of its run."""

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
    """Where a run stands in the queue."""

    place: int  # 1 is the next
    seconds: float | None  # until it should begin; `None` where that cannot be told


def queue_positions() -> list[tuple[Run, QueuePosition]]:
    """The queue, and when each run of it should begin: at the slot that is free first."""
    return [
        (run, QueuePosition(place, begins if begins < math.inf else None))
        for place, (run, begins, _) in enumerate(_expected_times(), 1)
    ]


def seconds_until_over(wanted: Collection[Run]) -> float | None:
    """Return the seconds until the last of these runs should be over; `None` if that cannot be told."""
    ends = max((ends for run, _, ends in _expected_times(with_painting=True) if run in wanted), default=0.0)
    return ends if ends < math.inf else None


def _expected_times(with_painting: bool = False) -> list[tuple[Run, float, float]]:
    """Return each queued run with the seconds until it should begin and until it should be over, infinite if unknown,
    as on a cluster; before the queue, if asked for, the runs that are being painted."""
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
    """The runs that are being painted by who holds a turn, here or on a cluster."""
    return [*running_in(map(slots.Slot, range(MOST_SLOTS))), *running_in(slots.cluster_slots())]


def running_in(places: Iterable[slots.Slot]) -> list[Run]:
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
    """Wait in the queue until it is this run's turn at one of the slots, report the wait, and hold the slot. Raises
    `StudioError` if someone takes the run out of the queue."""
    queue.enqueue([run], ProcessId.this_process())
    try:
        told, places = 0, slots.local_slots()[::-1]  # workers take the first ones
        while not (queue.first_in_queue() == (run, True) and (found := slots.first_free(places, slots.Slot.turn_lock))):
            ahead = queue.queued_runs()
            if run not in ahead:
                raise StudioError(f"The run {run.id} was taken out of the queue.")
            if (place := ahead.index(run) + 1) != told:
                told = place
                if now := dict(queue_positions()).get(run):  # it may have been taken out just then
                    report(_describe_position(now))
                workers.ensure_workers()  # those before it need someone to paint them
            time.sleep(0.2)
        slot, lock = found
        with lock:
            if not queue.dequeue(run):
                raise StudioError(f"The run {run.id} was taken out of the queue.")
            slot.choose_card()
            with slot.occupied_by(run):
                yield
    except BaseException:
        with contextlib.suppress(OSError):  # what ended the block counts more
            if queue.dequeue(run):  # given up while it waited
                run.change(status="stopped")
        raise


def _describe_position(now: QueuePosition) -> str:
    before = f"{now.place - 1} in the queue before it" if now.place > 1 else "another run is being painted"
    expected = f", about {max(1, round(now.seconds / 60))} min" if now.seconds is not None else ""
    return f"Waiting for its turn: {before}{expected} (--now paints at once) …"
