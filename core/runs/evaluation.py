"""Evaluate results with the same settings, because the losses of runs with different weights do not compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, preprocessing
from core.images.color import COLOR_MODES
from core.machine import hardware, memory
from core.presets import PRESETS
from core.runs import store
from core.runs.record import RunRecord, Steering
from core.runs.run import Run
from core.settings import TransferSettings

if TYPE_CHECKING:
    from core.transfer.engine import Engine

LOSSES = ("style_layers", "content_layers", "style_loss", "pooling", "padding", "style_scale", "colours")


class Evaluation(BaseModel):
    """A result's losses with given settings, in float32 at its own size, and its similarity to the content image."""

    run: str
    total: float
    style: float
    content: float
    total_variation: float
    similarity: float  # structural similarity to the content image; 1 if they are equal


def losses_of(settings: TransferSettings, steering: Sequence[Steering] = ()) -> str:
    """Return a key for the settings and weights of the losses: losses compare if their keys are equal."""
    steered = [change.model_dump(mode="json") for change in steering]
    return json.dumps([settings.model_dump(mode="json", include=set(LOSSES)), settings.loss_weights(), steered])


def comparable(records: Iterable[RunRecord]) -> bool:
    """Tell whether the runs' own losses can be compared with each other."""
    return len({losses_of(record.settings, record.steering) for record in records}) <= 1


def evaluate(
    engine: Engine, run: Run, record: RunRecord, by: TransferSettings, told: Callable[[str], None] = lambda line: None
) -> Evaluation:
    """Compute the losses of a run's result with other settings, and save the evaluation.

    The structural similarity is the one of Wang, Bovik, Sheikh and Simoncelli (2004), over the three channels.

    Args:
        engine: Computes the losses.
        run: The run.
        record: The run's record.
        by: The settings of the evaluation.
        told: Receives a line about the progress.

    Raises:
        StudioError: If the run has no result, or its result differs in size from its content image.
    """
    from skimage.metrics import structural_similarity

    told(f"Computing the losses of {record.title} …")
    result = codec.read_exact(run.path / "result.npy")
    # The evaluation needs no optimizer memory, and may use all of the machine's memory.
    given = by.changed(style_blend=record.settings.style_blend, memory=0.0, optimizer="adam")
    subject = run.pictures().at(given, record.settings.size)
    content, styles = subject.photo_in_color, [preprocessing.to_network(style) for style in subject.styles]
    if result.shape != content.shape:
        raise StudioError(f"The result of {run.id} differs in size from its photo.")
    photo = preprocessing.to_network(subject.photo)
    shapes = [style.shape[:2] for style in subject.styles]
    side, style_side = memory.tile_sides(given, content.shape[:2], shapes, bool(hardware.cards()), masks=record.masks)
    objective, _ = engine.objective(
        photo, styles, given, precision="float32", masks=subject.masks, side=side, style_side=style_side
    )
    losses = objective.losses(preprocessing.to_network(COLOR_MODES[given.colours].convert(result)))
    similarity = structural_similarity(content, preprocessing.to_uint8(result), channel_axis=2, data_range=255)
    evaluation = Evaluation(
        run=run.id,
        total=losses.total,
        style=losses.style,
        content=losses.content,
        total_variation=losses.total_variation,
        similarity=float(similarity),
    )
    paths.write(_file(run, by), evaluation.model_dump_json().encode())
    return evaluation


def settings_of(by: str) -> TransferSettings:
    """Return the settings of the preset or run with the name `by`.

    Raises:
        InputError: If there is no preset and no run with this name.
    """
    if by in PRESETS:
        return PRESETS[by].settings()
    try:
        return store.find(by).record().settings
    except InputError as error:
        raise InputError(f"{by!r} is neither a preset ({', '.join(PRESETS)}) nor a run.") from error


def evaluations(found: Iterable[Run], by: TransferSettings) -> dict[str, Evaluation]:
    """Return the saved evaluations with the settings `by`, by run id; runs without an evaluation are missing."""
    kept = {}
    for run in found:
        with suppress(OSError, ValidationError):
            kept[run.id] = Evaluation.model_validate_json(_file(run, by).read_bytes())
    return kept


def _file(run: Run, by: TransferSettings) -> Path:
    """Return the file of an evaluation; a new result or other settings have another file."""
    try:
        painted = (run.path / "result.npy").stat().st_mtime_ns
    except OSError:
        painted = 0
    key = json.dumps([run.id, painted, losses_of(by)])
    return paths.cache() / "yardstick" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
