"""What Prometheus may ask of the server, where NST_METRICS_PORT is set: sums over the store, with nobody's name.

Gauges tell how things stand. Counters and histograms are at 0 when the server starts, and a run that is deleted takes
nothing away from them: Prometheus takes a counter that falls for one that began anew.
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

LOOK_SECONDS = 5.0  # so often at most the store is looked at, however many ask
DAMAGED = "damaged"  # the state of a run whose record cannot be read
ENDED = tuple(status for status in get_args(Status) if status not in UNFINISHED)
PRECISIONS = ("float32", "bfloat16")
SIZES = (256, 512, 1024, 2048)  # px
WAITS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)  # seconds
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)  # seconds


def serve_where_asked() -> None:
    """Answer Prometheus at the port that NST_METRICS_PORT names, if any. Raises `InputError` where that fails."""
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
        return f"NST_METRICS_PORT is {port}, where another program listens already: name another port."
    why = error.strerror if isinstance(error, OSError) else "it is no name of a machine"
    return f"The metrics cannot be served at {address[:80]!r}, port {port}: {why}."


class Store(Collector):
    """Reads only the records that have changed since it looked last, or whose process may have ended."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series beside each, which nobody looks at
        self._since = time.time()
        self._looking = threading.Lock()  # each scrape has a thread of its own
        self._due = -math.inf
        self._found: list[Metric] = []
        self._told: dict[str, _Told] = {}  # by run
        self._counted: set[tuple[str, str, float]] = set()
        self._ended = Counter(
            "nst_runs_ended", "Runs that ended since the server was started, by how.", ["state"], registry=None
        )
        self._targets = Counter(
            "nst_style_targets",
            "Runs that ended since the server was started, by whether all their style targets were in the cache.",
            ["result"],
            registry=None,
        )
        self._wait = Histogram(
            "nst_run_wait_seconds",
            "From when a run was queued until it was begun; of the runs begun since the server was started.",
            registry=None,
            buckets=WAITS,
        )
        self._step = Histogram(
            "nst_run_step_seconds",
            "Median time of an iteration, one value a run, by precision and by the size in px that the run's longer "
            "side is within; of the runs of one stage that ended since the server was started.",
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
        except OSError as error:  # such as a home that is closed to us; what was counted stays
            log.refused("metrics not read", error)
        meaning = "1, or 0 where the server cannot read its runs; then the other gauges are missing."
        yield _gauge("nst_store_readable", meaning, float(bool(gauges)))
        yield from gauges
        for counted in (self._ended, self._targets, self._wait, self._step):
            yield from counted.collect()

    def _read_changed(self) -> None:
        found = {}
        for run in store.all_runs():
            told, stamp = self._told.get(run.id), _stamp(run)
            if told is None or told.stamp != stamp or told.state in UNFINISHED:
                told = _Told.of(run, stamp)
            found[run.id] = told
            self._count(run.id, told)
        self._told = found

    def _count(self, run_id: str, told: "_Told") -> None:
        """Each beginning and each end once, also of a run that went on, or was deleted and came back."""
        if told.queued is None:
            return
        if told.begun and self._since <= told.begun <= time.time() and self._is_new(run_id, "begun", told.begun):
            self._wait.observe(max(told.begun - told.queued, 0.0))  # a clock may have been set meanwhile
        if told.state in ENDED and told.written >= self._since and self._is_new(run_id, "ended", told.queued):
            self._ended.labels(told.state).inc()
            if told.begun and told.targets:
                self._targets.labels(told.targets).inc()
            if told.begun and told.step is not None:
                self._step.labels(told.precision, told.size).observe(told.step)

    def _is_new(self, run_id: str, what: str, when: float) -> bool:
        new = (run_id, what, when) not in self._counted
        self._counted.add((run_id, what, when))
        return new

    def _runs(self) -> Metric:
        states = collections.Counter(told.state for told in self._told.values())
        return _gauge(
            "nst_runs",
            "Runs in the library, by state.",
            {state: states[state] for state in (*get_args(Status), DAMAGED)},
            "state",
        )

    def _queue(self) -> Iterator[Metric]:
        waiting = [self._told[run.id] for run in queue.queued_runs() if run.id in self._told]
        waits = (time.time() - told.queued for told in waiting if told.queued)
        yield _gauge("nst_queue_length", "Runs that wait for their turn.", len(waiting))
        yield _gauge(
            "nst_queue_longest_wait_seconds",
            "How long the run that has waited longest has waited so far; 0 where none waits.",
            max((0.0, *waits)),
        )


@dataclass(frozen=True)
class _Told:
    """What is kept of a run's record."""

    stamp: tuple[int, int, int]  # tells whether the file is still that one
    written: float  # this and the next two in seconds since 1970
    queued: float | None = None
    begun: float | None = None
    state: str = DAMAGED
    targets: str = ""  # "hit", "miss", or nothing of a run that ended before
    step: float | None = None  # seconds
    precision: str = ""
    size: str = ""

    @staticmethod
    def of(run: Run, stamp: tuple[int, int, int]) -> "_Told":
        written = stamp[2] / 1e9
        try:
            record = run.record()
        except StudioError:
            return _Told(stamp, written)
        sources = set(record.style_targets.split(", "))
        as_measured = record.settings.stages == 1 and record.status != "interrupted"  # or it is of several, or earlier
        return _Told(
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
    except OSError:  # there is none, or none that we may see
        return (0, 0, 0)
    return (file.st_ino, file.st_size, file.st_mtime_ns)


def _workers() -> Iterator[Metric]:
    alive = workers.workers()
    if not environment().ray_address:  # which has as many as there is room for on the cluster
        count = len(slots.local_slots())
        yield _gauge("nst_slots", "Runs that can be painted at the same time.", count)
        yield _gauge("nst_easels", "Old name of nst_slots.", count)
    yield _gauge("nst_workers", "Worker processes that are alive.", len(alive))
    yield _gauge(
        "nst_resident_memory_bytes",
        "Memory that the server holds, and that its workers hold together.",
        {"server": psutil.Process().memory_info().rss, "workers": sum(map(_resident, alive))},
        "process",
    )


def _resident(worker: ProcessId) -> int:
    """Bytes; 0 where the process has just gone, or is another container's."""
    try:
        return psutil.Process(worker.pid).memory_info().rss if worker.is_visible_here() else 0
    except psutil.Error:
        return 0


def _disk() -> Iterator[Metric]:
    disk = shutil.disk_usage(memory.existing(paths.home()))
    yield _gauge("nst_home_disk_free_bytes", "Room that is left on the disk of the home folder.", disk.free)
    yield _gauge("nst_home_disk_size_bytes", "Size of the disk of the home folder.", disk.total)


def _gauge(name: str, meaning: str, value: float | Mapping[str, float], label: str = "") -> Metric:
    """One value, or one for each value of the label."""
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, meaning, value=value)
    gauge = GaugeMetricFamily(name, meaning, labels=[label])
    for each, number in value.items():
        gauge.add_metric([each], number)
    return gauge
