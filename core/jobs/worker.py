"""The worker process: it computes queued runs one after another, and outlives the page that started it."""

from __future__ import annotations

import faulthandler
import functools
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filelock import FileLock

from core import log, paths, presets
from core.environment import environment
from core.errors import StudioError
from core.jobs import eta, execution, queue, slots, workers
from core.machine import hardware
from core.machine.processes import ProcessId
from core.runs import recovery
from core.runs.run import Run
from core.timings import Timings
from core.transfer import preview

if TYPE_CHECKING:
    from core.transfer.engine import Engine


def work(make_engine: execution.EngineMaker) -> None:
    """Claim a slot, prepare, and compute queued runs until none has come for a while.

    Raises:
        InputError: If an environment variable has an invalid value.
    """
    _ = environment().worker_idle  # raises InputError early
    if not (found := _claim_slot()):
        return
    slot, lock = found
    with lock:
        try:
            if address := environment().ray_address:
                _work_on_cluster(address, slot, make_engine)
            else:
                _work_here(slot, _LazyEngine(make_engine))
        finally:
            log.event("worker left", pid=os.getpid())


class _LazyEngine:
    """Create the engine when it is first needed, and keep it."""

    def __init__(self, make: execution.EngineMaker) -> None:
        self._make = make
        self.made: Engine | None = None

    def __call__(self, report: execution.Report, timings: Timings) -> Engine:
        self.made = self.made or self._make(report, timings)
        return self.made


def _work_here(slot: slots.Slot, engine: _LazyEngine) -> None:
    slot.choose_card()
    faulthandler.enable()  # if the engine crashes, a traceback goes to the worker's log
    log.event("worker started", pid=os.getpid())
    was_ready, tried = workers.has_prepared(), False
    workers.announce(slot, "Ready." if was_ready else "Starting …", ready=was_ready)
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < environment().worker_idle:
        if not engine.made and not (was_ready and queue.next_queued()):
            if not tried:  # later each run creates the engine itself
                tried = True
                _prepare(slot, engine)
            if not engine.made and not queue.next_queued():
                return  # the preparation failed; the next worker tries again
        if queue.next_queued() and (turn := slots.try_acquire(slot.turn_lock())):
            with turn:
                if run := queue.next_queued():  # another process may just have taken the last run
                    _perform(run, engine, slot)
                    log.keep_bounded(workers.worker_log())
                if engine.made:  # even if the preparation failed
                    workers.announce(slot, "Ready.", ready=True)
            idle_since = time.monotonic()
        else:
            if queue.queued_runs():
                idle_since = time.monotonic()
            time.sleep(0.1)


def _work_on_cluster(address: str, slot: slots.Slot, make_engine: execution.EngineMaker) -> None:
    """Compute queued runs on the cluster, as many at once as it can hold, until none has come for a while."""
    from core.jobs import ray_head

    def tell(message: str) -> None:
        workers.announce(slot, message, ready=workers.has_prepared())

    def take_next() -> Run | None:
        if not (run := queue.next_queued()):
            return None
        try:
            return run if queue.dequeue(run, ProcessId.this_process()) else None
        except StudioError as error:  # the run is damaged; continue with the others
            log.failed("run failed", error, run=run.id)
            queue.dequeue(run)
            return None

    log.event("worker started", pid=os.getpid(), cluster=address)
    try:
        tell(f"Joining the cluster at {address} …")
        with ray_head.RayScheduler(address, tell, make_engine) as scheduler:
            workers.announce(slot, "Ready.", ready=True)
            idle_since = time.monotonic()
            while time.monotonic() - idle_since < environment().worker_idle:
                if scheduler.schedule_once(queue.count_for_workers(), take_next):
                    idle_since = time.monotonic()
                log.keep_bounded(workers.worker_log())
    except Exception as error:  # announced, so that the page does not wait forever
        log.failed("worker not ready", error, pid=os.getpid())
        said = str(error) if isinstance(error, StudioError) else f"The work on the cluster failed: {error!r}"
        workers.announce(slot, said, ready=False, failed=True)  # the runs stay queued for the next worker


def _claim_slot() -> tuple[slots.Slot, slots.AcquiredLock] | None:
    """Return a slot without a worker, and its lock; `None` if no further worker is needed."""
    places = slots.local_slots()
    found = slots.first_free(places, slots.Slot.work_lock) or _wait_for_slot(places)
    if not found or queue.count_for_workers():
        return found
    slot, held = found
    if any(said.writer.is_alive() for other, said in workers.readiness_by_slot().items() if other != slot):
        held.lock.release()  # one idle worker is enough
        return None
    return found


def _wait_for_slot(places: Sequence[slots.Slot]) -> tuple[slots.Slot, slots.AcquiredLock] | None:
    """Wait until a worker leaves its slot, as long as runs are queued."""
    if not (queueing := slots.try_acquire(FileLock(paths.home() / "worker-next.lock"))):  # one waiting worker is enough
        return None
    with queueing:
        while True:
            for _ in range(10):
                if found := slots.first_free(places, slots.Slot.work_lock):
                    return found
                time.sleep(0.1)
            if not queue.count_for_workers():
                return None


def _prepare(slot: slots.Slot, make_engine: execution.EngineMaker) -> None:
    """Load what runs need, and announce the progress."""
    tell = functools.partial(workers.announce, slot, ready=workers.has_prepared())
    try:
        tell("Loading TensorFlow …")
        hardware.import_tensorflow()
        engine = make_engine(tell, Timings())
        if not queue.next_queued():  # a queued run should not wait for this
            tell("Compiling the losses …")
            engine.warm_up(presets.PRESETS[presets.DEFAULT_PRESET].settings())
            tell("Measuring this machine's speed …")
            eta.measure_pace(engine)
        workers.announce(slot, "Ready.", ready=True, without_preview=_without_preview(tell))
        log.event("worker ready", pid=os.getpid())
    except Exception as error:  # announced, so that the page does not wait forever
        log.failed("worker not ready", error, pid=os.getpid())
        known = isinstance(error, StudioError)
        workers.announce(slot, str(error) if known else f"The preparation failed: {error!r}", ready=False, failed=True)


def _without_preview(tell: execution.Report) -> str:
    """Fetch the preview network unless a run is queued; return why there is no preview, or an empty text."""
    if not queue.next_queued():
        try:
            preview.obtain(tell)
        except StudioError as error:
            return str(error)
    return ""


def _perform(run: Run, make_engine: execution.EngineMaker, slot: slots.Slot) -> None:
    taken = False
    try:
        with slot.occupied_by(run):
            if taken := queue.dequeue(run, ProcessId.this_process()):
                for _ in execution.perform(run, make_engine):
                    pass
    except Exception as error:  # recorded if possible; the worker continues with the next run
        log.failed("run failed", error, run=run.id)
        if (taken or queue.next_queued() == run) and _status(run) == "queued":  # the recorder has not recorded it
            recovery.fail(run, str(error) if isinstance(error, StudioError) else f"The run could not start: {error}")
        queue.dequeue(run)
        if _status(run) in ("preparing", "running"):  # its end is not recorded: end the process too
            raise


def _status(run: Run) -> str:
    try:
        return run.record().status
    except StudioError:  # the run's record cannot be read
        return ""
