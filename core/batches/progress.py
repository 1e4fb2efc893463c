"""The progress of a batch: start its runs, watch them, and stop those that no longer wait for anyone."""

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

TOLD_EVERY = 20  # runs that are made ready
LOOK_SECONDS = 0.3
WORKER_SECONDS = 10.0  # how often it is seen to that someone paints: a worker that starts is not seen at once
ESTIMATE_SECONDS = 2.0  # how often the time left is told anew, at most: that reads the record of every run that waits
ESTIMATE_SHARE = 0.05  # of the time
State = Literal["painted", "under way", "interrupted", "new"]
_RANKS: tuple[State, ...] = ("painted", "under way", "interrupted")


@dataclass
class BatchItem:
    """A job of a batch, the run that stands for it, and how that was when the batch was looked at."""

    job: Job
    run: Run | None = None
    state: State = "new"
    varied: Sequence[str] = ()  # the settings that tell it from others of the same pictures and preset

    @property
    def title(self) -> str:
        values = (f"{name}={_plainly(getattr(self.job.settings, name))}" for name in self.varied)
        return f"{self.job.title} ({', '.join([self.job.preset, *values])})"


def _plainly(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_plainly, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def batch_items(wanted: Sequence[Job], again: bool = False) -> list[BatchItem]:
    """Return the jobs, each with the earlier run that still paints it and got furthest, unless `again` is set. Runs of
    people who logged in do not count."""
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
    """Queue a run for each item: resume the one that was interrupted, or else create one. Raises `StudioError` if a run
    cannot be written or a picture be read."""
    read = functools.lru_cache(maxsize=4)(PictureSource.read)  # jobs that follow one another share their pictures
    begun = []
    for number, item in enumerate(due, 1):
        job = item.job
        if number % TOLD_EVERY == 1:
            report(f"Getting the runs ready: {number} of {len(due)} …")
        if not (item.run and _resume(item.run, job.settings)):
            styles = [Style(style.name, read(style)) for style in job.styles]
            spec = RunSpec(styles, job.settings, job.preset)
            item.run = store.create(spec, read(job.content), job.content.name, batch=batch, job=job.digest)
        begun.append(item.run)
    return begun


def _resume(run: Run, wanted: TransferSettings) -> bool:
    """Resume a run by the settings asked for now, which may allow more memory; say whether it was possible."""
    try:
        recovery.resume(run)
        run.change(settings=wanted)
        return True
    except StudioError:  # such as a damaged checkpoint
        return False


@dataclass(frozen=True)
class Snapshot:
    """How far a batch is."""

    over: int  # runs
    runs: int
    iterations: int  # of all its runs together
    under_way: str  # what is being painted, or prepared, in words
    seconds_left: float | None

    @property
    def words(self) -> str:
        return f"{self.over} of {self.runs} over{f', {self.under_way}' if self.under_way else ''}"

    @property
    def left(self) -> str:
        return "" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"


@dataclass
class BatchProgress:
    """The progress of a batch's runs, until all are over."""

    items: Sequence[BatchItem]
    over: dict[Run, RunRecord | str] = field(default_factory=dict)  # in the order in which they ended; or why not seen
    _seconds_left: float | None = None  # as it was estimated
    _estimated_again: float = -math.inf  # when it is next

    def snapshot(self) -> Snapshot:
        """Look at every run that is not over."""
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
        """Say whether a run has ended, and note it. Raises `StudioError` for a record that cannot be read."""
        if run not in self.over and not run.record().unfinished:
            self.over[run] = control.record_ending(run)
        return run in self.over

    def until_over(self) -> Iterator[Snapshot]:
        """Yield snapshots until all runs are over. Keeps workers running."""
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
        """Return the unfinished runs that no other command has begun."""
        return [item.run for item in self.items if item.run in self.unfinished() and item.state != "under way"]

    def unfinished(self) -> list[Run]:
        return [item.run for item in self.items if item.run and item.run not in self.over]

    def painted(self) -> list[BatchItem]:
        return [item for item in self.items if item.run and _ended_well(self.over.get(item.run))]

    def endings(self) -> list[str]:
        """Return a line on each run that ended, in the order in which they did."""
        titles = self.titles()
        return [
            f"{number} of {len(self.items)}, {titles[run]}: {_ending(record)}"
            for number, (run, record) in enumerate(self.over.items(), 1)
        ]

    def titles(self) -> dict[Run, str]:
        return {item.run: item.title for item in self.items if item.run}

    def failed(self) -> dict[str, list[str]]:
        """Return the messages of the runs that did not succeed, each with the titles of its runs."""
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
    return "another run is being painted" if schedule.running() else "waiting for a worker"


def _ended_well(record: RunRecord | str | None) -> bool:
    return isinstance(record, RunRecord) and record.status == "done"


def _ending(record: RunRecord | str) -> str:
    if isinstance(record, str):
        return record
    if record.status == "done":
        return f"loss {record.best_total:.4g}, {record.timings.get('total', 0):.1f} s"
    return record.message or f"It was {record.status}."


def cancel_waiting(unfinished: Sequence[Run]) -> list[Run]:
    """Stop runs: remove those that wait from the queue, and from the library if nothing was painted yet; ask those that
    are being painted to stop, and return them."""
    asked = []
    for run in unfinished:
        with contextlib.suppress(StudioError):  # it is gone
            if not run.record().unfinished:  # what it came to stays
                continue
            with contextlib.suppress(InputError):  # it does not wait
                control.cancel(run)
            record = run.record()
            of_nobody = record.status == "queued" and record.writer and record.writer.is_this_process()
            if record.unfinished and not of_nobody:
                control.stop(run)
                asked.append(run)
            elif recovery.starts_over(run, record) and not record.timings:  # never begun, on an earlier day either
                shutil.rmtree(run.path, ignore_errors=True)
            elif of_nobody:
                run.change(status="stopped")
    return asked
