"""Time to quality: seconds from Start until a picture is as good as the published run at iteration 900."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench import baselines, reference
from bench.comparisons import REFERENCE, own_home
from bench.measurements import MARKS, Course, Pair, Report, folder
from core import paths
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.machine import hardware
from core.presets import PRESETS
from core.samples.gallery import find
from core.settings import TransferSettings
from core.transfer.engine import Engine
from core.transfer.initial_image import create_initial_image
from core.transfer.stylize import Step, stylize

ITERATION = 900  # of the preset reference: the last published row
STEPS = 20  # measured iterations of a run that would take too long
TARGETS = Path(__file__).parent / "targets.json"  # of the project; this machine's targets are beside its measurements
SAMPLE_PAIRS = (("coffee", "mosaic"), ("chelsea", "waves"), ("astronaut", "night"))


@dataclass(frozen=True)
class Pictures:
    """A named pair, its pictures resized as for a run: uint8 `(H, W, 3)`."""

    name: str
    content: np.ndarray
    style: np.ndarray

    @staticmethod
    def read(name: str, content: Path, style: Path) -> "Pictures":
        """Read and resize a pair."""
        return Pictures(name, *(geometry.resize(codec.read_image(path), REFERENCE.size) for path in (content, style)))


def pairs(report: Report) -> Iterator[Pictures]:
    """Yield the published pair, if it can be downloaded, and three pairs of samples."""
    try:
        yield Pictures.read("published pair", *reference.fetch_pair())
    except StudioError as error:
        report(f"Without the published pair: {error}")
    for content, style in SAMPLE_PAIRS:
        yield Pictures.read(f"{content} × {style}", find(content).path(), find(style).path())


def time_to_quality(engine: Engine, pictures: Pictures, remeasure: bool, report: Report) -> Pair:
    """Measure the published code path, compiled Adam and the preset fast on a pair.

    Each starts in a warm worker: functions are traced, but style targets are not computed.
    """
    goal = target(engine, pictures, remeasure, report)
    engine.warm_up(PRESETS["fast"].settings())
    courses = [
        _published_loop(engine, pictures, report),
        _course(engine, pictures, "compiled Adam", REFERENCE.model_copy(update={"precision": "auto"}), goal, report),
        _course(engine, pictures, "fast", PRESETS["fast"].settings(), goal, report),
    ]
    return Pair(pair=pictures.name, shape=pictures.content.shape[:2], target=goal, courses=courses)


def target(engine: Engine, pictures: Pictures, remeasure: bool, report: Report) -> float:
    """Return the total loss to reach, which is measured and saved for each pair and weights.

    Raises:
        StudioError: If there is no target for these weights and `remeasure` is false.
    """
    key = {"pair": pictures.name, "weights_sha256": engine.weights.sha256}
    if not remeasure:
        for entry in (*_own_targets(), *json.loads(TARGETS.read_text())):
            if key.items() <= entry.items():
                return float(entry["total"])
        raise StudioError(
            f"The target of {pictures.name} has not been measured with these weights: use --remeasure, which takes "
            f"{ITERATION} iterations of the preset reference."
        )
    content, style = preprocessing.to_network(pictures.content), preprocessing.to_network(pictures.style)
    objective, _ = engine.objective(content, style, REFERENCE)
    for step in stylize(objective, content, REFERENCE):
        report(f"{pictures.name}: target, iteration {step.iteration} of {ITERATION} …")
        if step.iteration == ITERATION:
            break
    entry = {
        **key,
        "total": step.losses.total,
        "weights": engine.weights.provenance,
        "shape": pictures.content.shape[:2],
        "iteration": ITERATION,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": hardware.processor(),
        "tensorflow": hardware.versions()["tensorflow"],
        "seconds": round(step.seconds, 1),
    }
    paths.write(_own_file(), json.dumps([entry, *_own_targets()], indent=1, ensure_ascii=False).encode())
    return step.losses.total


def _own_targets() -> list[dict[str, object]]:
    """Return the targets measured on this machine, newest first."""
    try:
        return list(json.loads(_own_file().read_bytes()))
    except (OSError, ValueError):
        return []


def _own_file() -> Path:
    return folder() / "targets" / "targets.json"


def _published_loop(engine: Engine, pictures: Pictures, report: Report) -> Course:
    content, style = preprocessing.to_network(pictures.content), preprocessing.to_network(pictures.style)
    began = time.perf_counter()
    loop = baselines.PublishedLoop(engine.weights, content, style, REFERENCE)
    seconds, totals = [], []
    for iteration in range(STEPS + 1):
        report(f"{pictures.name}: the published code path, iteration {iteration} of {STEPS} …")
        loop.iterate()
        seconds.append(time.perf_counter() - began)
        totals.append(loop.best_total)
    return _extrapolated("published code path", seconds, totals)


def _extrapolated(way: str, seconds: list[float], totals: list[float]) -> Course:
    """Extrapolate a course of the published algorithm, which reaches the target at iteration 900."""
    step = float(np.median(np.diff(seconds)))
    to_target = seconds[0] + ITERATION * step
    return Course(way=way, seconds=seconds, totals=totals, step=step, to_target=to_target, extrapolated=True)


def _course(
    engine: Engine, pictures: Pictures, way: str, settings: TransferSettings, goal: float, report: Report
) -> Course:
    """Paint until the target or the end; with Adam stop after the last of `MARKS`, and extrapolate."""
    published = settings.optimizer == "adam"
    clock = _Clock()
    with own_home(engine), clock:
        content, style = preprocessing.to_network(pictures.content), preprocessing.to_network(pictures.style)
        start, _ = create_initial_image(pictures.content, [pictures.style], settings, report)
        objective, _ = engine.objective(content, style, settings)
    exact = objective
    if engine.choice(settings).precision != "float32":
        exact, _ = engine.objective(content, style, settings, precision="float32")
    steps = stylize(objective, preprocessing.to_network(start), settings)
    seconds: list[float] = []
    totals: list[float] = []
    for step in clock.timing(steps):
        total = step.best.losses.total if exact is objective else exact.losses(step.best.image).total
        seconds.append(clock.seconds)
        totals.append(min([total, *totals[-1:]]))
        report(f"{pictures.name}: {way}, iteration {step.iteration}, {total:.4g} of {goal:.4g} …")
        if total <= goal or (published and clock.seconds > max(MARKS) and step.iteration >= STEPS):
            break
    if published:
        return _extrapolated(way, seconds, totals)
    median = float(np.median(np.diff(seconds)))
    reached = seconds[-1] if totals[-1] <= goal else None
    return Course(way=way, seconds=seconds, totals=totals, step=median, to_target=reached)


class _Clock:
    """Seconds since Start, without the time for evaluating losses."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began

    def timing(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield the steps; the clock runs only while they are computed."""
        while True:
            with self:
                step = next(steps, None)
            if step is None:
                return
            yield step
