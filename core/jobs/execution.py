"""Compute one run, stage by stage; report its progress and finish its result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil
from PIL import Image

from core.environment import environment
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.jobs.slots import local_slots
from core.machine import hardware, memory
from core.runs.record import RunRecord
from core.runs.recorder import ProgressSink, Recorder, StepUpdate
from core.runs.run import Run
from core.timings import Timings
from core.transfer.checkpoint import Checkpoint
from core.transfer.initial_image import create_initial_image
from core.transfer.inputs import Inputs, ResizedInputs

if TYPE_CHECKING:
    from core.transfer.engine import Engine
    from core.transfer.objective import EvaluatedImage, Losses, Objective
    from core.transfer.style_targets import StyleTargets
    from core.transfer.stylize import Step

LIVE_SECONDS = 0.4  # the live picture is updated at most once in this interval
# Checkpoints take at most this share of the time, within these limits (in seconds) of the interval between them.
# NST_CHECKPOINT_SECONDS overrides both.
CHECKPOINT_SHARE = 0.02
CHECKPOINT_SECONDS = (5.0, 60.0)

Report = Callable[[str], None]
EngineMaker = Callable[[Report, Timings], "Engine"]


def perform(run: Run, make_engine: EngineMaker, report: Report = lambda line: None) -> Iterator[Step]:
    """Compute a queued run in this process and record it.

    Args:
        run: The run, which must be queued.
        make_engine: Creates the engine when it is needed.
        report: Receives a line for each step of the preparation.

    Yields:
        Each step, after it is on disk.

    Raises:
        Exception: Any error that makes the run fail, after it is recorded.
    """
    with Recorder(run) as recorder:
        yield from paint(recorder, make_engine, report)


def paint(sink: ProgressSink, make_engine: EngineMaker, report: Report = lambda line: None) -> Iterator[Step]:
    """Compute a run and report each step to the sink, then yield the step; see `perform`."""

    def tell(line: str) -> None:
        sink.update(message=line)
        report(line)

    with StepReporter(sink) as reporter:
        yield from _paint_stages(reporter, make_engine, tell)


def _paint_stages(reporter: StepReporter, make_engine: EngineMaker, tell: Report) -> Iterator[Step]:
    sink, run = reporter.sink, reporter.sink.run
    settings = sink.record.settings
    _ = environment().checkpoint_seconds  # raises InputError early
    memory.check(settings, sink.record.shape, bool(hardware.cards()), _memory_of_other_runs(run), sink.record.masks)
    tell("Reading the pictures …")
    with sink.timings.phase("pictures"):
        pictures = run.pictures()
        checkpoint = Checkpoint.load(run.checkpoint) if run.checkpoint.exists() else None
        stages = _stages_left(sink.record, pictures, checkpoint)
        inputs = pictures.at(settings, stages[0][0])
    if not checkpoint:
        with sink.timings.phase("start"):  # before TensorFlow is loaded, so that a preview appears within a second
            picture = _initial_image(sink, inputs, tell)
            sink.write_live_picture(codec.encode_jpeg(preprocessing.to_uint8(inputs.finish(picture))))
    tell("Loading TensorFlow …")
    with sink.timings.phase("imports"):
        hardware.import_tensorflow()
    engine = make_engine(tell, sink.timings)
    choice = engine.choice(settings)
    sink.update(
        weights=engine.weights.provenance,
        weights_sha256=engine.weights.sha256,
        precision=choice.precision,
        environment={
            **dataclasses.asdict(engine.hardware),
            "versions": hardware.versions(),
            "why this precision": choice.why_precision,
        },
    )
    starts = [checkpoint or inputs.initial_image(picture)]
    checkpoint = None
    for number, (_, end) in enumerate(stages, 1):
        is_last = number == len(stages)
        stage = _Stage(sink, engine, inputs)
        # Popping the start frees it as soon as possible, because each copy of a large picture counts.
        for step in stage.steps(starts.pop(), tell, None if is_last else end, is_first=number == 1):
            reporter.write(step, stage)
            yield step
            request = sink.request()
            sink.apply_request(request, step.iteration)
            if request.stop:
                return
        if not is_last:
            inputs = pictures.at(settings, stages[number][0])
            starts.append(step.checkpoint_at(*inputs.photo.shape[:2]))


class _Stage:
    """A stage of a run: the inputs at one size, and the losses of an image of that size."""

    def __init__(self, sink: ProgressSink, engine: Engine, inputs: ResizedInputs) -> None:
        self._sink, self._engine, self.inputs = sink, engine, inputs
        self._settings, run = sink.record.settings, sink.run
        on_gpu, beside = bool(hardware.cards()), _memory_of_other_runs(run)
        shapes = [(style.shape[0], style.shape[1]) for style in inputs.styles]
        # All stages use the small tiles of the last stage, because TensorFlow never frees the memory of larger tiles.
        self._sides = memory.tile_sides(self._settings, sink.record.shape, shapes, on_gpu, beside, sink.record.masks)

    def final_losses(self, best: EvaluatedImage) -> Losses:
        """Return the losses of the best image in float32."""
        if self._engine.choice(self._settings).precision == "float32":
            return best.losses
        exact, _ = self._objective(precision="float32")
        return exact.losses(best.image, best.weights)

    def _objective(self, **options: Any) -> tuple[Objective, StyleTargets]:
        inputs, (side, style_side) = self.inputs, self._sides
        content, styles = preprocessing.to_network(inputs.photo), map(preprocessing.to_network, inputs.styles)
        return self._engine.objective(
            content, styles, self._settings, masks=inputs.masks, side=side, style_side=style_side, **options
        )

    def steps(self, start: np.ndarray | Checkpoint, tell: Report, end: int | None, is_first: bool) -> Iterator[Step]:
        """Yield the steps up to iteration `end`; by default up to the iterations in the run's settings.

        Only the first stage yields the step of `start`: otherwise the stage before has yielded it.
        """
        from core.transfer.optimizers import Limits
        from core.transfer.stylize import stylize

        sink = self._sink
        if is_first:
            tell("Measuring the style …")
        objective, targets = self._objective(timings=sink.timings)
        if is_first:
            sink.update(style_targets=targets.source, message="Compiling the first step …")
        begun = start.iteration if isinstance(start, Checkpoint) else 0
        first = begun if is_first else begun + 1
        limits = self.inputs.limits()
        if isinstance(start, Checkpoint) and not is_first and limits:
            start = dataclasses.replace(start, image=(within := np.clip(start.image, *limits)), best_image=within)
        steps = stylize(
            objective,
            start,
            self._settings,
            limits and Limits(*limits),
            weights=lambda iteration: sink.settings_at(max(iteration, first)).loss_weights(),
            iterations=lambda: max(end or sink.record.settings.iterations, first),
        )
        del start
        for step in steps:
            if step.iteration >= first:
                yield step


class StepReporter:
    """Report a run's steps to its sink; at the end of the context, even after an error, report the result."""

    def __init__(self, sink: ProgressSink) -> None:
        self.sink = sink
        self._last: tuple[Step, _Stage] | None = None
        self._live_written = -LIVE_SECONDS
        self._checkpoint_written, self._checkpoint_cost = time.perf_counter(), 0.0  # seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not self._last:
            return
        try:
            self._write_result()
        except BaseException as problem:
            if isinstance(problem, StudioError):
                problem = StudioError(f"The result could not be written: {problem}")
            if not error:
                raise problem

    def write(self, step: Step, stage: _Stage) -> None:
        """Report a step's losses, and a picture and a checkpoint if they are due."""
        if not self._last:
            self.sink.update(status="running", message="")
        self._last = step, stage
        losses = step.losses
        values = {"total": losses.total, "style": losses.style, "content": losses.content}
        values |= {"total_variation": losses.total_variation, **losses.style_layers}
        picture = self._picture(step, stage)
        began = time.perf_counter()
        is_due = began - self._checkpoint_written >= _checkpoint_interval(self._checkpoint_cost)
        checkpoint = step.checkpoint() if is_due else None
        self.sink.write_step(StepUpdate(step.iteration, step.evaluations, step.seconds, values, picture, checkpoint))
        if is_due:
            self._checkpoint_written = time.perf_counter()
            self._checkpoint_cost = self._checkpoint_written - began

    def _picture(self, step: Step, stage: _Stage) -> bytes | None:
        """Return a JPEG of the step at the size of the last stage; `None` if none is due."""
        is_live_due = time.perf_counter() - self._live_written >= LIVE_SECONDS
        if not is_live_due and step.iteration % self.sink.record.settings.frame_every:
            return None
        rgb = preprocessing.to_uint8(stage.inputs.finish(step.image()))
        height, width = self.sink.record.shape
        if rgb.shape[:2] != (height, width):
            rgb = np.asarray(Image.fromarray(rgb).resize((width, height)))
        picture = codec.encode_jpeg(rgb)
        self._live_written = time.perf_counter()
        return picture

    def _write_result(self) -> None:
        assert self._last
        last, stage = self._last
        last, self._last = last.with_average(), None
        checkpoint = last.checkpoint()
        is_over = last.iteration >= self.sink.record.settings.iterations
        self.sink.write_result(
            stage.inputs.finish(last.best_image()), checkpoint.without_large_state() if is_over else checkpoint
        )
        summary = {"iteration": last.iteration, "evaluations": last.evaluations, "best_iteration": last.best_iteration}
        best, message = last.best, self.sink.record.message
        del last, checkpoint  # a second network may need their memory
        best_total = best.losses.total
        try:
            best_total = stage.final_losses(best).total
        except Exception as error:  # such as too little memory for a second network; the picture is still good
            message = f"The loss is not in float32, because its computation failed: {error}".splitlines()[0]
        finally:  # also after an interrupt
            self.sink.write_summary(**summary, best_total=best_total, message=message)


def _checkpoint_interval(cost: float) -> float:
    """Return the seconds until the next checkpoint, if a checkpoint takes `cost` seconds."""
    least, most = CHECKPOINT_SECONDS
    asked = environment().checkpoint_seconds
    return min(max(least, cost / CHECKPOINT_SHARE), most) if asked is None else asked


def _memory_of_other_runs(beside: Run) -> float:
    """Return the bytes of memory that the other running runs on this machine will probably still take."""
    bytes_ = 0.0
    for run in filter(None, (slot.run() for slot in local_slots())):
        try:
            record = run.record()
            if run != beside and record.writer and record.writer.is_visible_here():
                held = psutil.Process(record.writer.pid).memory_info().rss
                bytes_ += max(memory.estimate(record.settings, record.shape) - held, 0.0)
        except (StudioError, psutil.Error):  # the run has just ended
            continue
    return bytes_


def _stages_left(record: RunRecord, pictures: Inputs, begun: Checkpoint | None) -> list[tuple[int, int]]:
    """Return the stages of `TransferSettings.schedule` that are left, starting with the stage of the checkpoint."""
    schedule = record.settings.schedule()
    if begun is None:
        return schedule
    photo = pictures.photo
    shapes = [(1, *geometry.resized_shape(photo.width, photo.height, size), 3) for size, _ in schedule]
    if begun.image.shape not in shapes:
        raise StudioError(f"The checkpoint of {record.id} belongs to another picture.")
    return schedule[shapes.index(begun.image.shape) :]


def _initial_image(sink: ProgressSink, inputs: ResizedInputs, tell: Report) -> np.ndarray:
    """Return the given start picture, otherwise the picture that the settings ask for."""
    run, settings = sink.run, sink.record.settings
    height, width = inputs.photo.shape[:2]
    if run.start.exists():
        given = codec.read_image(run.start, max_bytes=4 * codec.MAX_PIXELS)
        return np.asarray(given.resize((width, height), Image.Resampling.LANCZOS))
    styles = [preprocessing.to_uint8(style) for style in inputs.styles]
    picture, start_is = create_initial_image(inputs.photo_in_color, styles, settings, tell, inputs.masks)
    sink.update(start=start_is)
    return picture
