"""How long a transfer will take here, from steps measured on this machine."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from core import paths
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.machine import hardware
from core.presets import DEFAULT_PRESET, PRESETS
from core.runs import store
from core.runs.run import Run
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.timings import Timings

if TYPE_CHECKING:
    import pandas as pd

    from core.transfer.engine import Engine

RECENT = 5  # so many runs speak for the machine
RECENT_STEPS = 20  # so many steps speak for a run
TRIAL = PRESETS[DEFAULT_PRESET].settings().changed(size=256, iterations=5, init="content")


class Pace(BaseModel):
    """Seconds of one step for each pixel, and of everything before the first."""

    processor: str
    step_per_pixel: float
    start: float


@dataclass(frozen=True)
class Measured:
    """What a run that is kept says of this machine."""

    pace: Pace
    pixels: int
    precision: str  # that it was asked for
    optimizer: str


class Known:
    """What the runs say of this machine, the newest first: each is read once, however many estimates need it."""

    def __init__(self) -> None:
        self._source = _measured()
        self._read: list[Measured] = []

    def __iter__(self) -> Iterator[Measured]:
        yield from self._read
        for each in self._source:
            self._read.append(each)
            yield each


def expected_seconds(
    settings: TransferSettings, shape: tuple[int, int], done: int = 0, known: Known | None = None
) -> float | None:
    """How long a run of these settings on an image of `shape` (height, width) should take, where so many iterations are
    `done`; `None` if unmeasured. Many estimates share what is `known`."""
    paces = _recent(settings, shape, known or Known()) or _trial()
    if not paces:
        return None
    step, start = (
        statistics.median(values) for values in zip(*((p.step_per_pixel, p.start) for p in paces), strict=True)
    )
    return start + step * shape[0] * shape[1] * _iterations_at_full_size(settings, done)


def _iterations_at_full_size(settings: TransferSettings, done: int = 0) -> float:
    """How many would take as long as those of all stages after `done`."""
    begin, count = done, 0.0
    for size, end in settings.schedule():
        count += max(end - begin, 0) * (size / settings.size) ** 2
        begin = max(begin, end)
    return count


def _share(settings: TransferSettings, iteration: int) -> float:
    """How many of the full size's pixels the picture of an iteration has."""
    size = next((size for size, end in settings.schedule() if iteration <= end), settings.size)
    return (size / settings.size) ** 2


def seconds_of_the_rest(settings: TransferSettings, steps: "pd.DataFrame") -> float | None:
    """How long the iterations after these last steps, of `Run.metrics`, should take: each by the pixels of its stage.
    `None` where the steps are too few."""
    if len(steps) < 2:
        return None
    shares = [_share(settings, iteration) for iteration in steps["iteration"]]
    left = _iterations_at_full_size(settings, int(steps["iteration"].iloc[-1]))
    return float((steps["seconds"].diff() / shares).median() * left)


def seconds_left(run: Run, known: Known | None = None) -> float | None:
    """How long a run that waits or is being painted should still take; `None` if that cannot be told."""
    try:
        record = run.record()
        steps = run.metrics(last=RECENT_STEPS + 1)
    except StudioError:
        return None
    if record.status == "running" and (seconds := seconds_of_the_rest(record.settings, steps)) is not None:
        return seconds
    done = record.iteration if steps.empty else int(steps["iteration"].iloc[-1])
    return expected_seconds(record.settings, record.shape, done or 0, known)


def measure_pace(engine: "Engine") -> None:
    """Measure a few small steps, for an estimate before there is any run. Once for a machine."""
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
    with paths.replacing(_file()) as file:
        file.write(pace.model_dump_json().encode())


def _measured() -> Iterator[Measured]:
    here = hardware.processor()
    for _, record in store.readable_runs():
        step = record.timings.get("median step")
        usable = record.settings.stages == 1  # a median over several sizes is of none
        usable = usable and "node" not in record.environment  # on a cluster it may have had fewer processors
        if step and usable and record.environment.get("processor") == here and record.evaluations > 5:
            pixels = record.shape[0] * record.shape[1]
            start = max(record.timings["total"] - step * (record.iteration or 0), 0.0)
            pace = Pace(processor=here, step_per_pixel=step / pixels, start=start)
            yield Measured(pace, pixels, record.settings.precision, record.settings.optimizer)


def _recent(settings: TransferSettings, shape: tuple[int, int], known: Known) -> list[Pace]:
    """Of the newest runs with that precision and optimizer; of those about as large where there are any, since a small
    picture costs more a pixel."""
    as_large: list[Pace] = []
    others: list[Pace] = []
    for each in known:
        if (each.precision, each.optimizer) == (settings.precision, settings.optimizer):
            found = as_large if 0.5 <= each.pixels / (shape[0] * shape[1]) <= 2 else others
            found.append(each.pace)
        if len(as_large) == RECENT:
            break
    return (as_large or others)[:RECENT]


def _trial() -> list[Pace]:
    try:
        pace = Pace.model_validate_json(_file().read_bytes())
    except (OSError, ValidationError):
        return []
    return [pace] if pace.processor == hardware.processor() else []


def _file() -> Path:
    return paths.home() / "pace.json"
