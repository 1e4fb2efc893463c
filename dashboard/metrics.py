"""Metrics for Prometheus, served if NST_METRICS_PORT is set: totals over all runs, without names.

Gauges give the current state. Counters and histograms start at 0 with the server. Deleting a run does not lower them:
Prometheus would take a lower counter for a restart.
"""

import collections
import errno
import math
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core import log, paths
from core.environment import environment
from core.errors import InputError, StudioError
from core.jobs import queue, slots, workers
from core.machine import memory
from core.machine.processes import ProcessId
from core.runs import store
from core.runs.record import UNFINISHED, Status
from core.runs.run import Run

LOOK_SECONDS = 5.0  # minimum between two reads of the store, for any number of clients
DAMAGED = "damaged"  # state of a run whose record cannot be read
ENDED = tuple(status for status in get_args(Status) if status not in UNFINISHED)
PRECISIONS = ("float32", "bfloat16")
SIZES = (256, 512, 1024, 2048)  # px
WAITS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)  # seconds
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)  # seconds


def serve_where_asked() -> None:
    """Serve the metrics at NST_METRICS_PORT, if it is set. Raises `InputError` if that fails."""
    port, address = environment().metrics_port, environment().metrics_address
    if port is None:
        return
    registry = CollectorRegistry()
    registry.register(Store())
    try:
        start_http_server(port, address, registry)
    except (OSError, UnicodeError) as error:
        raise InputError(_why_not_served(address, port, error)) from error
    log.begin()


def _why_not_served(address: str, port: int, error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"NST_METRICS_PORT is {port}, but another program listens there: choose another port."
    why = error.strerror if isinstance(error, OSError) else "it is no host name"
    return f"The metrics cannot be served at {address[:80]!r}, port {port}: {why}."


class Store(Collector):
    """The metrics of the store. It reads only records that have changed, or whose process may have ended."""

    def __init__(self) -> None:
        disable_created_metrics()  # they would double the series, and nobody uses them
        self._since = time.time()
        self._looking = threading.Lock()  # each scrape has its own thread
        self._due = -math.inf
        self._found: list[Metric] = []
        self._facts: dict[str, _RunFacts] = {}  # by run
        self._counted: set[tuple[str, str, float]] = set()
        self._ended = Counter(
            "nst_runs_ended", "Runs that ended since the server started, by state.", ["state"], registry=None
        )
        self._targets = Counter(
            "nst_style_targets",
            "Runs that ended since the server started: hit if all style targets came from the cache, else miss.",
            ["result"],
            registry=None,
        )
        self._wait = Histogram(
            "nst_run_wait_seconds",
            "Time from queueing a run to beginning it, of the runs begun since the server started.",
            registry=None,
            buckets=WAITS,
        )
        self._step = Histogram(
            "nst_run_step_seconds",
            "Median time of an iteration, one value for each single-stage run that ended since the server started, by "
            "precision and by the upper limit of the longer side in px.",
            ["precision", "size"],
            registry=None,
            buckets=STEPS,
        )
        for state in ENDED:
            self._ended.labels(state)
        for result in ("hit", "miss"):
            self._targets.labels(result)

    def collect(self) -> list[Metric]:
        with self._looking:
            if time.monotonic() >= self._due:
                self._found = list(self._look())
                self._due = time.monotonic() + LOOK_SECONDS
            return self._found

    def _look(self) -> Iterator[Metric]:
        gauges: list[Metric] = []
        try:
            self._read_changed()
            gauges = [self._runs(), *self._queue(), *_workers(), *_disk()]
        except OSError as error:  # such as a home that may not be read; the counters keep their values
            log.refused("metrics not read", error)
        meaning = "1 if the server can read its runs; if 0, the other gauges are missing."
        yield _gauge("nst_store_readable", meaning, float(bool(gauges)))
        yield from gauges
        for counted in (self._ended, self._targets, self._wait, self._step):
            yield from counted.collect()

    def _read_changed(self) -> None:
        found = {}
        for run in store.all_runs():
            facts, stamp = self._facts.get(run.id), _stamp(run)
            if facts is None or facts.stamp != stamp or facts.state in UNFINISHED:
                facts = _RunFacts.of(run, stamp)
            found[run.id] = facts
            self._count(run.id, facts)
        self._facts = found

    def _count(self, run_id: str, facts: "_RunFacts") -> None:
        """Count each start and each end once, even if the run continues, or is deleted and restored."""
        if facts.queued is None:
            return
        if facts.begun and self._since <= facts.begun <= time.time() and self._is_new(run_id, "begun", facts.begun):
            self._wait.observe(max(facts.begun - facts.queued, 0.0))  # the clock may have been set
        if facts.state in ENDED and facts.written >= self._since and self._is_new(run_id, "ended", facts.queued):
            self._ended.labels(facts.state).inc()
            if facts.begun and facts.targets:
                self._targets.labels(facts.targets).inc()
            if facts.begun and facts.step is not None:
                self._step.labels(facts.precision, facts.size).observe(facts.step)

    def _is_new(self, run_id: str, what: str, when: float) -> bool:
        new = (run_id, what, when) not in self._counted
        self._counted.add((run_id, what, when))
        return new

    def _runs(self) -> Metric:
        states = collections.Counter(facts.state for facts in self._facts.values())
        return _gauge(
            "nst_runs",
            "Runs in the library, by state.",
            {state: states[state] for state in (*get_args(Status), DAMAGED)},
            "state",
        )

    def _queue(self) -> Iterator[Metric]:
        waiting = [self._facts[run.id] for run in queue.queued_runs() if run.id in self._facts]
        waits = (time.time() - facts.queued for facts in waiting if facts.queued)
        yield _gauge("nst_queue_length", "Runs in the queue.", len(waiting))
        yield _gauge(
            "nst_queue_longest_wait_seconds",
            "Time that the longest waiting run has waited so far; 0 if the queue is empty.",
            max((0.0, *waits)),
        )


@dataclass(frozen=True)
class _RunFacts:
    """The facts that are kept of a run's record."""

    stamp: tuple[int, int, int]  # changes with the file
    written: float  # seconds since 1970, as the next two
    queued: float | None = None
    begun: float | None = None
    state: str = DAMAGED
    targets: str = ""  # "hit" or "miss"; empty if the run ended before its targets
    step: float | None = None  # seconds
    precision: str = ""
    size: str = ""

    @staticmethod
    def of(run: Run, stamp: tuple[int, int, int]) -> "_RunFacts":
        written = stamp[2] / 1e9
        try:
            record = run.record()
        except StudioError:
            return _RunFacts(stamp, written)
        sources = set(record.style_targets.split(", "))
        # Else the median step mixes several sizes, or is from an earlier part of the run.
        as_measured = record.settings.stages == 1 and record.status != "interrupted"
        return _RunFacts(
            stamp,
            written,
            queued=record.queued.timestamp() if record.queued else None,
            begun=record.begun.timestamp() if record.begun else None,
            state=record.status,
            targets=("hit" if sources == {"cache"} else "miss") if record.style_targets else "",
            step=record.timings.get("median step") if as_measured else None,
            precision=record.precision if record.precision in PRECISIONS else "other",
            size=next((str(size) for size in SIZES if max(record.shape) <= size), "larger"),
        )


def _stamp(run: Run) -> tuple[int, int, int]:
    try:
        file = (run.path / "run.json").stat()
    except OSError:  # missing, or not readable
        return (0, 0, 0)
    return (file.st_ino, file.st_size, file.st_mtime_ns)


def _workers() -> Iterator[Metric]:
    alive = workers.workers()
    if not environment().ray_address:  # a cluster has no fixed number of slots
        count = len(slots.local_slots())
        yield _gauge("nst_slots", "Runs that can be painted at the same time.", count)
        yield _gauge("nst_easels", "Old name of nst_slots.", count)
    yield _gauge("nst_workers", "Worker processes that are alive.", len(alive))
    yield _gauge(
        "nst_resident_memory_bytes",
        "Memory of the server, and of its workers together.",
        {"server": psutil.Process().memory_info().rss, "workers": sum(map(_resident, alive))},
        "process",
    )


def _resident(worker: ProcessId) -> int:
    """Return the process's memory in bytes; 0 if it has ended or belongs to another container."""
    try:
        return psutil.Process(worker.pid).memory_info().rss if worker.is_visible_here() else 0
    except psutil.Error:
        return 0


def _disk() -> Iterator[Metric]:
    disk = shutil.disk_usage(memory.existing(paths.home()))
    yield _gauge("nst_home_disk_free_bytes", "Free space on the disk of the home folder.", disk.free)
    yield _gauge("nst_home_disk_size_bytes", "Size of the disk of the home folder.", disk.total)


def _gauge(name: str, meaning: str, value: float | Mapping[str, float], label: str = "") -> Metric:
    """Return a gauge with one value, or with one for each value of the label."""
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, meaning, value=value)
    gauge = GaugeMetricFamily(name, meaning, labels=[label])
    for each, number in value.items():
        gauge.add_metric([each], number)
    return gauge
