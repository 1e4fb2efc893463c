"""Paint one run, stage by stage, and report its progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from PIL import Image

from core.environment import environment
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.jobs.slots import local_slots
from core.machine import hardware, memory
from core.runs.record import RunRecord
from core.runs.recorder import ProgressSink, Recorder
from core.runs.run import Run
from core.settings import SETTINGS
from core.timings import Timings
from core.transfer.checkpoint import Checkpoint
from core.transfer.initial_image import create_initial_image
from core.transfer.inputs import Inputs, ResizedInputs

if TYPE_CHECKING:
    from core.transfer.engine import Engine
    from core.transfer.objective import EvaluatedImage, Losses, Objective
    from core.transfer.style_targets import StyleTargets
    from core.transfer.stylize import Step


Report = Callable[[str], None]
EngineMaker = Callable[[Report, Timings], "Engine"]


def perform(run: Run, make_engine: EngineMaker, report: Report = lambda line: None) -> Iterator[Step]:
    """Perform a queued run in this process, recording it; yields each step when it is on disk.

    Stops when a stop is requested in the run's directory or nobody asks for the next step. `report` hears what is
    being prepared. Raises what makes the run fail, after it is recorded.
    """
    with Recorder(run) as recorder:
        yield from paint(recorder, make_engine, report)


def paint(account: ProgressSink, make_engine: EngineMaker, report: Report = lambda line: None) -> Iterator[Step]:
    """Compute a run's steps, giving account of them; yields each when that is done. It ends when a stop is requested
    in the run's directory; what makes the run fail is raised."""
    run = account.run

    def tell(line: str) -> None:
        account.update(message=line)
        report(line)

    wanted = account.record.settings
    _ = environment().checkpoint_seconds  # raises InputError before much is done
    memory.check(wanted, account.record.shape, bool(hardware.cards()), _memory_of_other_runs(run), account.record.masks)
    tell("Reading the pictures …")
    with account.timings.phase("pictures"):
        pictures = run.pictures()
        begun = Checkpoint.load(run.checkpoint) if run.checkpoint.exists() else None
        stages = _stages_left(account.record, pictures, begun)
        subject = pictures.at(wanted, stages[0][0])
    if not begun:
        with account.timings.phase("start"):  # before TensorFlow is loaded: a preview is seen within a second
            picture = _initial_image(account, subject, tell)
            account.show(preprocessing.to_uint8(subject.finished(picture)))
    tell("Loading TensorFlow …")
    with account.timings.phase("imports"):
        hardware.import_tensorflow()
    engine = make_engine(tell, account.timings)
    choice = engine.choice(wanted)
    account.update(
        weights=engine.weights.provenance,
        weights_sha256=engine.weights.sha256,
        precision=choice.precision,
        environment={
            **dataclasses.asdict(engine.hardware),
            "versions": hardware.versions(),
            "why this precision": choice.why_precision,
        },
    )
    starts = [begun or subject.begun_from(picture)]
    begun = None
    for number, (_, end) in enumerate(stages, 1):
        is_last = number == len(stages)
        # popped, it is kept no longer than it is needed: of a large picture, each copy counts
        for step in _stage(account, engine, subject, starts.pop(), tell, again=number > 1):
            yield step
            request = account.request()
            account.answer(request)
            if request.stop:
                return
            if step.iteration >= (account.record.settings.iterations if is_last else end):
                break
            step.objective.weights = account.steered(step.iteration + 1).loss_weights()
        if not is_last:
            subject = pictures.at(wanted, stages[number][0])
            starts.append(step.enlarged(*subject.photo.shape[:2]))


def _stage(
    account: ProgressSink,
    engine: Engine,
    subject: ResizedInputs,
    start: np.ndarray | Checkpoint,
    tell: Report,
    again: bool,
) -> Iterator[Step]:
    """Paint at one size, recording it, for as long as one asks. Where `again`, the step that is started from has been
    recorded already, at the size before."""
    from core.transfer.optimizers import Limits
    from core.transfer.stylize import stylize

    wanted, precision = account.record.settings, engine.choice(account.record.settings).precision
    if not again:
        tell("Measuring the style …")
    on_gpu, beside = bool(hardware.cards()), _memory_of_other_runs(account.run)
    shapes = [(style.shape[0], style.shape[1]) for style in subject.styles]
    # In tiles as small as those of the last stage: what TensorFlow has once taken for larger ones, it keeps.
    side, style_side = memory.tile_sides(wanted, account.record.shape, shapes, on_gpu, beside, account.record.masks)

    def objective(**other: Any) -> tuple[Objective, StyleTargets]:
        content, styles = preprocessing.to_network(subject.photo), map(preprocessing.to_network, subject.styles)
        return engine.objective(content, styles, wanted, masks=subject.masks, side=side, style_side=style_side, **other)

    made, targets = objective(timings=account.timings)

    def in_float32(best: EvaluatedImage) -> Losses:
        exact, _ = objective(precision="float32")
        exact.weights = best.weights
        return exact.losses(best.image)

    if precision != "float32":
        account.final_losses = in_float32
    account.finished = subject.finished
    begun = start.iteration if isinstance(start, Checkpoint) else 0
    if not again:
        account.update(style_targets=targets.source, message="Compiling the first step …")
    made.weights = account.steered(begun + again).loss_weights()
    limits = subject.limits()
    if isinstance(start, Checkpoint) and again and limits:
        start = dataclasses.replace(start, image=(within := np.clip(start.image, *limits)), best_image=within)
    endless = wanted.changed(iterations=SETTINGS["iterations"].maximum)
    steps = stylize(made, start, endless, limits and Limits(*limits))
    del start
    for step in steps:
        if again and step.iteration == begun:
            continue
        account.write(step)
        yield step


def _memory_of_other_runs(beside: Run) -> float:
    """Bytes of memory that the other runs which are being painted here will take yet, by the estimate."""
    bytes_ = 0.0
    for run in filter(None, (slot.run() for slot in local_slots())):
        try:
            record = run.record()
            if run != beside and record.writer and record.writer.is_visible_here():
                held = psutil.Process(record.writer.pid).memory_info().rss
                bytes_ += max(memory.estimate(record.settings, record.shape) - held, 0.0)
        except (StudioError, psutil.Error):  # it has just ended
            continue
    return bytes_


def _stages_left(record: RunRecord, pictures: Inputs, begun: Checkpoint | None) -> list[tuple[int, int]]:
    """The stages that are still to be painted, of `TransferSettings.schedule`: the one that was begun comes first."""
    schedule = record.settings.schedule()
    if begun is None:
        return schedule
    photo = pictures.photo
    shapes = [(1, *geometry.resized_shape(photo.width, photo.height, size), 3) for size, _ in schedule]
    if begun.image.shape not in shapes:
        raise StudioError(f"The checkpoint of {record.id} is of another picture than the run's.")
    return schedule[shapes.index(begun.image.shape) :]


def _initial_image(account: ProgressSink, subject: ResizedInputs, tell: Report) -> np.ndarray:
    """The picture that was given to start from, otherwise the settings' own."""
    run, wanted = account.run, account.record.settings
    height, width = subject.photo.shape[:2]
    if run.start.exists():
        given = codec.read_image(run.start, max_bytes=4 * codec.MAX_PIXELS)
        return np.asarray(given.resize((width, height), Image.Resampling.LANCZOS))
    styles = [preprocessing.to_uint8(style) for style in subject.styles]
    picture, start_is = create_initial_image(subject.in_colours, styles, wanted, tell, subject.masks)
    account.update(start=start_is)
    return picture
