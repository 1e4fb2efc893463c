"""Estimate how long a run takes, from steps measured on this machine."""

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from core import paths
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.machine import hardware
from core.presets import DEFAULT_PRESET, PRESETS
from core.runs import store
from core.runs.record import RunRecord
from core.runs.run import Run
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.timings import Timings

if TYPE_CHECKING:
    import pandas as pd

    from core.transfer.engine import Engine

RECENT = 5  # an estimate uses this many recent runs
RECENT_STEPS = 20  # an estimate of the remaining time uses this many recent steps
TRIAL = PRESETS[DEFAULT_PRESET].settings().changed(size=256, iterations=5, init="content")


class Pace(BaseModel):
    """The seconds of a step per pixel, and the seconds before the first step."""

    processor: str
    step_per_pixel: float
    start: float


class Measurements:
    """The pace of each finished run on this machine, newest first. Reads each record once."""

    def __init__(self) -> None:
        self._unread = _measured_runs()
        self._read: list[tuple[RunRecord, Pace]] = []

    def __iter__(self) -> Iterator[tuple[RunRecord, Pace]]:
        yield from self._read
        for each in self._unread:
            self._read.append(each)
            yield each


def expected_seconds(
    settings: TransferSettings, shape: tuple[int, int], done: int = 0, measurements: Measurements | None = None
) -> float | None:
    """Return the seconds that a run should still take after `done` iterations; `None` without measurements.

    Args:
        settings: The run's settings.
        shape: Height and width of the result in px.
        done: The iterations that are already done.
        measurements: Pass the same object to many estimates, so that records are read only once.
    """
    paces = _recent_paces(settings, shape, measurements or Measurements()) or _trial()
    if not paces:
        return None
    step = statistics.median(pace.step_per_pixel for pace in paces)
    start = statistics.median(pace.start for pace in paces)
    return start + step * shape[0] * shape[1] * _iterations_at_full_size(settings, done)


def _iterations_at_full_size(settings: TransferSettings, done: int = 0) -> float:
    """Return how many full-size iterations take as long as the iterations of all stages after `done`."""
    begin, count = done, 0.0
    for size, end in settings.schedule():
        count += max(end - begin, 0) * (size / settings.size) ** 2
        begin = max(begin, end)
    return count


def _share(settings: TransferSettings, iteration: int) -> float:
    """Return the image's pixel count at an iteration, relative to the full size."""
    size = next((size for size, end in settings.schedule() if iteration <= end), settings.size)
    return (size / settings.size) ** 2


def seconds_of_the_rest(settings: TransferSettings, steps: "pd.DataFrame") -> float | None:
    """Return the seconds a run takes after `steps`, the latest rows of `Run.metrics`; `None` for fewer than two."""
    if len(steps) < 2:
        return None
    shares = [_share(settings, iteration) for iteration in steps["iteration"]]
    left = _iterations_at_full_size(settings, int(steps["iteration"].iloc[-1]))
    return float((steps["seconds"].diff() / shares).median() * left)


def seconds_left(run: Run, measurements: Measurements | None = None) -> float | None:
    """Return the seconds that a queued or running run should still take; `None` if unknown."""
    try:
        record = run.record()
        steps = run.metrics(last=RECENT_STEPS + 1)
    except StudioError:
        return None
    if record.status == "running" and (seconds := seconds_of_the_rest(record.settings, steps)) is not None:
        return seconds
    done = record.iteration if steps.empty else int(steps["iteration"].iloc[-1])
    return expected_seconds(record.settings, record.shape, done or 0, measurements)


def measure_pace(engine: "Engine") -> None:
    """Measure a few small steps, once on each machine, for estimates before the first run."""
    from core.transfer.stylize import stylize

    if _trial():
        return
    photo, style = (
        preprocessing.to_network(geometry.resize(codec.read_image(sample.path()), TRIAL.size))
        for sample in (PHOTOS[0], STYLES[0])
    )
    objective, _ = engine.objective(photo, style, TRIAL, timings := Timings())
    steps = list(stylize(objective, photo, TRIAL))
    durations = [after.seconds - before.seconds for before, after in itertools.pairwise(steps)]
    pace = Pace(
        processor=hardware.processor(),
        step_per_pixel=statistics.median(durations) / (photo.shape[1] * photo.shape[2]),
        start=sum(timings.values()) + steps[0].seconds,
    )
    paths.write(_file(), pace.model_dump_json().encode())


def _measured_runs() -> Iterator[tuple[RunRecord, Pace]]:
    here = hardware.processor()
    for _, record in store.readable_runs():
        step = record.timings.get("median step")
        of_one_size = record.settings.stages == 1  # the median step of a multi-stage run means nothing
        on_cluster = "node" in record.environment  # a cluster node may have fewer processors
        on_this_machine = record.environment.get("processor") == here and not on_cluster
        if step and of_one_size and on_this_machine and record.evaluations > 5:
            start = max(record.timings["total"] - step * (record.iteration or 0), 0.0)
            yield record, Pace(processor=here, step_per_pixel=step / math.prod(record.shape), start=start)


def _recent_paces(settings: TransferSettings, shape: tuple[int, int], measurements: Measurements) -> list[Pace]:
    """Return the paces of the newest runs with the same precision and optimizer.

    Runs of a similar size come first, because a small image takes longer per pixel.
    """
    similar: list[Pace] = []
    others: list[Pace] = []
    for record, pace in measurements:
        if (record.settings.precision, record.settings.optimizer) == (settings.precision, settings.optimizer):
            is_similar = 0.5 <= math.prod(record.shape) / math.prod(shape) <= 2
            (similar if is_similar else others).append(pace)
        if len(similar) == RECENT:
            break
    return (similar or others)[:RECENT]


def _trial() -> list[Pace]:
    try:
        pace = Pace.model_validate_json(_file().read_bytes())
    except (OSError, ValidationError):
        return []
    return [pace] if pace.processor == hardware.processor() else []


def _file() -> Path:
    return paths.home() / "pace.json"
