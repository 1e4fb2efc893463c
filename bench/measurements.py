"""Timings as data: measured side by side in one run, and stored with a description of the machine."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core import paths
from core.errors import InputError, StudioError
from core.machine import hardware
from core.names import as_name
from core.settings import SETTINGS

MAX_BYTES = 4 * 2**20  # of a file to read; a measurement has some tens of KiB
MOST, LEAST = 10, 3  # repetitions of quick and of slow ways
SIZES = (256, 512, 768, 1024)  # px, for the comparison of a step
MARKS = (5, 10, 20, 40)  # seconds after Start at which courses are compared
ENOUGH_SECONDS = 15.0  # for the repetitions of one way

Report = Callable[[str], None]
Seconds = list[Annotated[float, Field(gt=0, le=1e9)]]
Loss = Annotated[float, Field(ge=0, le=1e30)]
Name = Annotated[str, Field(max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Timing(_Strict):
    """The times of each repetition of a way to compute something."""

    way: Name
    size: int | None = Field(default=None, ge=0, le=100_000)  # px, the picture's longer side
    seconds: Seconds = Field(min_length=1, max_length=1000)

    @property
    def median(self) -> float:
        """The median in seconds."""
        return float(np.median(self.seconds))

    @property
    def range(self) -> tuple[float, float]:
        """The 10th and the 90th percentile in seconds."""
        low, high = np.percentile(self.seconds, (10, 90))
        return float(low), float(high)


class Comparison(_Strict):
    """Ways to compute the same, measured side by side."""

    title: Name
    timings: list[Timing] = Field(max_length=1000)


class Course(_Strict):
    """How the float32 total loss falls with the time since Start, and when it reaches the target."""

    way: Name
    seconds: Seconds = Field(max_length=20_000)
    totals: list[Loss] = Field(max_length=20_000)  # the lowest so far
    step: float = Field(gt=0, le=1e9)  # median seconds of a further iteration
    to_target: float | None = Field(le=1e12)  # seconds; `None` if not reached
    extrapolated: bool = False  # to_target is the start plus a number of median steps

    @model_validator(mode="after")
    def _a_total_for_each_second(self) -> "Course":
        if len(self.seconds) != len(self.totals):
            raise ValueError(f"{len(self.seconds)} seconds for {len(self.totals)} totals")
        return self

    def total_at(self, seconds: float) -> float | None:
        """Return the lowest loss until `seconds`, or `None` before the first picture."""
        reached = [total for at, total in zip(self.seconds, self.totals, strict=True) if at <= seconds]
        return reached[-1] if reached else None


class Pair(_Strict):
    """The courses of a pair of pictures."""

    pair: Name
    shape: tuple[int, int]
    target: Loss  # the float32 total loss that the preset reference reaches at iteration 900
    courses: list[Course] = Field(max_length=50)


class Measurement(_Strict):
    """The results of one run of `nst bench`, and its machine."""

    schema_version: Literal[1] = 1
    created: datetime
    environment: dict[str, Any]
    weights: Name
    comparisons: list[Comparison] = Field(default_factory=list, max_length=100)
    pairs: list[Pair] = Field(default_factory=list, max_length=100)

    @property
    def label(self) -> str:
        """The machine and the time."""
        processor = as_name(str(self.environment.get("processor", "unknown processor")))
        return f"{processor}, {self.created:%d %b %Y %H:%M} UTC"

    @staticmethod
    def begin(weights: str) -> "Measurement":
        """Return an empty measurement of this machine, dated now."""
        survey = hardware.survey()
        environment = {
            **dataclasses.asdict(survey),
            "versions": hardware.versions(),
            "precision auto": hardware.choose(survey).precision,
        }
        return Measurement(created=datetime.now(UTC), environment=environment, weights=weights)

    def save(self, path: Path) -> None:
        """Write the measurement as JSON.

        Raises:
            StudioError: If the file cannot be written.
        """
        try:
            paths.write(path, self.model_dump_json(indent=1).encode())
        except OSError as error:
            raise StudioError(f"{path} could not be written: {error.strerror or error}.") from error


def tables(measurements: Mapping[str, Measurement]) -> dict[str, list[dict[str, Any]]]:
    """Merge the comparisons of several measurements into tables for `export.charts.durations`.

    Args:
        measurements: Measurements by the names of their machines.

    Returns:
        For each title a row per timing, in seconds, with the number of repetitions as "times".
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for machine, measurement in measurements.items():
        for comparison in (each for each in measurement.comparisons if each.timings):
            found.setdefault(comparison.title, []).extend(
                {
                    "machine": machine,
                    "way": timing.way,
                    "size": timing.size or 0,
                    "median": timing.median,
                    "low": timing.range[0],
                    "high": timing.range[1],
                    "times": len(timing.seconds),
                }
                for timing in comparison.timings
            )
    return found


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return sizes from text such as "256,512".

    Raises:
        InputError: If the text is no list of numbers, or a size is out of range.
    """
    size = SETTINGS["size"]
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--sizes {text} is no list of sizes such as 256,512.") from None
    if wrong := [number for number in sizes if not (size.minimum or 0) <= number <= (size.maximum or number)]:
        raise InputError(f"--sizes {text}: {wrong[0]} is not between {size.minimum:g} and {size.maximum:g} px.")
    return sizes


def folder() -> Path:
    """Return the folder of this machine's measurements."""
    return paths.home() / "bench"


def read(path: Path) -> Measurement:
    """Read a measurement of this or another machine.

    Raises:
        InputError: If the file is unreadable or holds no measurement.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file.")
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def parse(data: bytes, name: str) -> Measurement:
    """Return the measurement in `data`; `name` is for the messages.

    Raises:
        InputError: If the data hold no measurement.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES // 2**20} MiB, too much for a measurement.")
    try:
        return Measurement.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = " at " + ".".join(map(str, first["loc"])) if first["loc"] else ""
        raise InputError(f"{name} holds no measurement of nst bench: {first['msg']}{where}.") from error


def interleaved(
    ways: Mapping[str, Callable[[], object]], size: int | None = None, report: Report = lambda line: None
) -> Iterator[Timing]:
    """Time all ways: twice to warm up, then in turns, more often if they are quick."""
    for way, do in ways.items():
        report(f"{way}{f', {size} px' if size else ''} …")
        do()
    once = sum(_seconds(do) for do in ways.values())
    turns = int(np.clip(ENOUGH_SECONDS * len(ways) / max(once, 1e-9), LEAST, MOST))
    seconds: dict[str, Seconds] = {way: [] for way in ways}
    for turn in range(turns):
        report(f"turn {turn + 1} of {turns}{f', {size} px' if size else ''} …")
        for way, do in ways.items():
            seconds[way].append(_seconds(do))
    for way in ways:
        yield Timing(way=way, size=size, seconds=seconds[way])


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
