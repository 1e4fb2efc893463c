"""The progress of a batch: start its runs, watch them, and stop them."""

import contextlib
import functools
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.batches.plan import Job, Report
from core.errors import InputError, StudioError
from core.jobs import control, queue, schedule, workers
from core.runs import recovery, store
from core.runs.record import RunRecord
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PictureSource
from core.settings import SETTINGS, TransferSettings
from core.timings import duration

REPORT_EVERY = 20  # runs prepared between two reports
LOOK_SECONDS = 0.3
WORKER_SECONDS = 10.0  # the interval between checks that workers run; a new worker is not visible at once
ESTIMATE_SECONDS = 2.0  # the shortest interval between estimates, each of which reads the record of every queued run
ESTIMATE_SHARE = 0.05  # the largest share of the time that estimates may take
State = Literal["painted", "under way", "interrupted", "new"]
_RANKS: tuple[State, ...] = ("painted", "under way", "interrupted")


@dataclass
class BatchItem:
    """A job of a batch, its run, and the run's state when the batch was read."""

    job: Job
    run: Run | None = None
    state: State = "new"
    varied: Sequence[str] = ()  # the settings that differ from other jobs with the same pictures and preset

    @property
    def title(self) -> str:
        """Return the job's title with its preset and its `varied` settings."""
        values = (f"{name}={_plainly(getattr(self.job.settings, name))}" for name in self.varied)
        return f"{self.job.title} ({', '.join([self.job.preset, *values])})"


def _plainly(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_plainly, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def batch_items(wanted: Sequence[Job], again: bool = False) -> list[BatchItem]:
    """Return an item for each job, with the earlier run that matches it and got furthest, unless `again` is set.

    Runs of users who logged in are always ignored.
    """
    asked = {job.digest: job for job in wanted}
    found: dict[str, BatchItem] = {}
    for run, record in store.readable_runs(owner="") if not again else ():
        if (job := asked.get(record.job)) and job.is_what(record):
            painted: State = "painted" if record.status == "done" and run.result.is_file() else "interrupted"
            item = BatchItem(job, run, "under way" if record.unfinished else painted)
            if job.digest not in found or _RANKS.index(item.state) < _RANKS.index(found[job.digest].state):
                found[job.digest] = item
    made = [found.get(job.digest) or BatchItem(job) for job in wanted]
    alike: dict[str, list[BatchItem]] = {}
    for item in made:
        alike.setdefault(item.title, []).append(item)
    for group in alike.values():
        varied = [name for name in SETTINGS if len({getattr(item.job.settings, name) for item in group}) > 1]
        for item in group:
            item.varied = varied
    return made


def begin(due: Sequence[BatchItem], batch: str, report: Report = lambda line: None) -> list[Run]:
    """Queue a run for each item: resume its interrupted run if possible, otherwise create one.

    Raises:
        StudioError: If a run cannot be written, or a picture cannot be read.
    """
    read = functools.lru_cache(maxsize=4)(PictureSource.read)  # successive jobs share pictures
    begun = []
    for number, item in enumerate(due, 1):
        job = item.job
        if number % REPORT_EVERY == 1:
            report(f"Preparing the runs: {number} of {len(due)} …")
        if not (item.run and _resume(item.run, job.settings)):
            styles = [Style(style.name, read(style)) for style in job.styles]
            spec = RunSpec(styles, job.settings, job.preset)
            item.run = store.create(spec, read(job.content), job.content.name, batch=batch, job=job.digest)
        begun.append(item.run)
    return begun


def _resume(run: Run, wanted: TransferSettings) -> bool:
    """Resume a run with the job's settings, which may allow more memory; return whether this was possible."""
    try:
        recovery.resume(run)
        run.change(settings=wanted)
        return True
    except StudioError:  # such as a damaged checkpoint
        return False


@dataclass(frozen=True)
class Snapshot:
    """The progress of a batch at one moment."""

    over: int  # the number of runs that have ended
    runs: int
    iterations: int  # the sum over all runs
    under_way: str  # a text about the runs that are running or in preparation
    seconds_left: float | None

    @property
    def words(self) -> str:
        """Return the progress as text, such as "3 of 8 over"."""
        return f"{self.over} of {self.runs} over{f', {self.under_way}' if self.under_way else ''}"

    @property
    def left(self) -> str:
        """Return the estimated time left as text; empty without an estimate."""
        return "" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"


@dataclass
class BatchProgress:
    """The progress of a batch's runs until all have ended."""

    items: Sequence[BatchItem]
    # The runs that have ended, in this order, with their record or the reason why it cannot be read.
    over: dict[Run, RunRecord | str] = field(default_factory=dict)
    _seconds_left: float | None = None  # the latest estimate
    _estimated_again: float = -math.inf  # when the next estimate is due; `time.monotonic()`

    def snapshot(self) -> Snapshot:
        """Read the state of every run that has not ended, and return the progress."""
        waiting, iterations, under_way = set(queue.queued_runs()), 0, []
        for item in self.items:
            run = item.run
            if not run or run in self.over or run in waiting:
                continue
            try:
                if self.is_over(run):
                    continue
                record, steps = run.record(), run.metrics(last=1)
            except StudioError as error:
                self.over[run] = str(error)
                continue
            done = 0 if steps.empty else int(steps["iteration"].iloc[-1])
            iterations += done
            how = record.message if steps.empty else f"{done}/{record.settings.iterations}"
            under_way.append(f"{item.title}: {how}")
        if not under_way and not waiting.isdisjoint(self.unfinished()):
            under_way.append(_why_nothing_is_painted())
        iterations += sum(item.job.settings.iterations for item in self.items if item.run in self.over)
        return Snapshot(len(self.over), len(self.items), iterations, "; ".join(under_way), self._estimate())

    def is_over(self, run: Run) -> bool:
        """Tell whether a run has ended; if so, add it to `over`.

        Raises:
            StudioError: If the run's record cannot be read.
        """
        if run not in self.over and not run.record().unfinished:
            self.over[run] = control.record_ending(run)
        return run in self.over

    def until_over(self) -> Iterator[Snapshot]:
        """Yield snapshots until all runs have ended; restart workers if necessary."""
        looked = time.monotonic()
        while True:
            yield self.snapshot()
            if len(self.over) == len(self.items):
                return
            if time.monotonic() - looked > WORKER_SECONDS:
                looked = time.monotonic()
                workers.ensure_workers()
            time.sleep(LOOK_SECONDS)

    def unfinished_of_ours(self) -> list[Run]:
        """Return the unfinished runs that no other command has started."""
        return [item.run for item in self.items if item.run in self.unfinished() and item.state != "under way"]

    def unfinished(self) -> list[Run]:
        """Return the runs that are not in `over`, in the order of the items."""
        return [item.run for item in self.items if item.run and item.run not in self.over]

    def painted(self) -> list[BatchItem]:
        """Return the items whose run is done."""
        return [item for item in self.items if item.run and _ended_well(self.over.get(item.run))]

    def endings(self) -> list[str]:
        """Return a line about each run that ended, in the order of their endings."""
        titles = self.titles()
        return [
            f"{number} of {len(self.items)}, {titles[run]}: {_ending(record)}"
            for number, (run, record) in enumerate(self.over.items(), 1)
        ]

    def titles(self) -> dict[Run, str]:
        """Return the title of each item that has a run."""
        return {item.run: item.title for item in self.items if item.run}

    def failed(self) -> dict[str, list[str]]:
        """Return the messages of failed or stopped runs, each with the titles of its runs."""
        found: dict[str, list[str]] = {}
        for item in self.items:
            if item.run in self.over and not _ended_well(self.over[item.run]):
                found.setdefault(_ending(self.over[item.run]), []).append(item.title)
        return found

    def _estimate(self) -> float | None:
        began = time.monotonic()
        if began >= self._estimated_again:
            self._seconds_left = schedule.seconds_until_over(self.unfinished())
            ended = time.monotonic()
            self._estimated_again = ended + max(ESTIMATE_SECONDS, (ended - began) / ESTIMATE_SHARE)
        return self._seconds_left


def _why_nothing_is_painted() -> str:
    said = workers.readiness()
    if said and not said.ready:
        return said.message
    return "another run is in progress" if schedule.running() else "waiting for a worker"


def _ended_well(record: RunRecord | str | None) -> bool:
    return isinstance(record, RunRecord) and record.status == "done"


def _ending(record: RunRecord | str) -> str:
    if isinstance(record, str):
        return record
    if record.status == "done":
        return f"loss {record.best_total:.4g}, {record.timings.get('total', 0):.1f} s"
    return record.message or f"The run was {record.status}."


def cancel_waiting(unfinished: Sequence[Run]) -> list[Run]:
    """Take waiting runs out of the queue, and delete those that have never started; ask running ones to stop.

    Returns:
        The runs that were asked to stop.
    """
    asked = []
    for run in unfinished:
        with contextlib.suppress(StudioError):  # the run no longer exists
            if not run.record().unfinished:  # keep its result
                continue
            with contextlib.suppress(InputError):  # the run is not in the queue
                control.cancel(run)
            record = run.record()
            of_nobody = record.status == "queued" and record.writer and record.writer.is_this_process()
            if record.unfinished and not of_nobody:
                control.stop(run)
                asked.append(run)
            elif recovery.starts_over(run, record) and not record.timings:  # the run has never started
                shutil.rmtree(run.path, ignore_errors=True)
            elif of_nobody:
                run.change(status="stopped")
    return asked
