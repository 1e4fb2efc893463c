"""Collect what a report shows of its runs: pictures, metrics, frames and settings."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import codec
from core.names import legible
from core.runs import library
from core.runs.evaluation import Evaluation
from core.runs.library import Marks
from core.runs.record import RunRecord
from core.runs.run import Run
from core.runs.styles import styles_of
from export import describe

if TYPE_CHECKING:
    import pandas as pd

PICTURE_SIDE = 1024  # px, at most
PICTURE_QUALITY = 85
FRAME_SIDE = 192  # px
FRAME_QUALITY = 80
FRAMES = 8  # in the strip of a run
LEGEND_CHARACTERS = 42  # of a run's label
TimingRows = Sequence[Mapping[str, Any]]
Kind = Literal["input", "mask", "painted"]


@dataclass(frozen=True)
class Picture:
    """A picture embedded in the page."""

    source: str  # a data URI
    width: int
    height: int
    caption: str
    alternative: str
    kind: Kind


@dataclass(frozen=True)
class ReportRun:
    """A run in the report."""

    number: int
    run: Run
    record: RunRecord
    marks: Marks
    metrics: pd.DataFrame
    evaluation: Evaluation | None

    @property
    def title(self) -> str:
        """Return the name that the user gave the run, otherwise the names of its pictures."""
        return legible(self.marks.title_of(self.record))

    @property
    def short(self) -> str:
        """Return the run's number in the report, such as "Run 1"."""
        return f"Run {self.number}"

    @property
    def label(self) -> str:
        """Return the number and the title, cut to `LEGEND_CHARACTERS`."""
        whole = f"{self.short} · {self.title}"
        return whole if len(whole) <= LEGEND_CHARACTERS else whole[: LEGEND_CHARACTERS - 1] + "…"

    @property
    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase; empty before the run has ended."""
        return describe.phase_seconds(self.record.timings)


def check(found: Sequence[Run]) -> None:
    """Check the runs before long evaluations start.

    Raises:
        InputError: If there is no run, or a record or its metrics are unreadable.
    """
    read_run(found, {})


def read_run(found: Sequence[Run], evaluations: Mapping[str, Evaluation]) -> list[ReportRun]:
    """Read the records and metrics of the runs.

    Raises:
        InputError: If there is no run, or a record or its metrics are unreadable.
    """
    if not found:
        raise InputError("A report needs at least one run.")
    return [_read(number, run, evaluations.get(run.id)) for number, run in enumerate(found, 1)]


def _read(number: int, run: Run, evaluation: Evaluation | None) -> ReportRun:
    import pandas as pd

    try:
        record, metrics = run.record(), run.metrics()
    except StudioError as error:
        raise InputError(str(error)) from error
    if not (metrics.empty or all(map(pd.api.types.is_numeric_dtype, metrics.dtypes))):
        raise InputError(f"The metrics of the run {run.id} are damaged.")
    return ReportRun(number, run, run.with_progress(record), library.marks(run), metrics, evaluation)


def bytes_of(path: Path, run: Run) -> bytes:
    """Return the bytes of a file of a run.

    Raises:
        InputError: If the file is unreadable.
    """
    try:
        return paths.read(path, 4 * codec.MAX_PIXELS)
    except OSError as error:
        raise InputError(f"{path.name} of the run {run.id} cannot be read: {error.strerror or error}.") from error


def picture(
    run: Run,
    path: Path,
    caption: str,
    alternative: str,
    side: int = PICTURE_SIDE,
    quality: int = PICTURE_QUALITY,
    kind: Kind = "input",
) -> Picture:
    """Return the picture as JPEG, its longer side at most `side` px."""
    own_copy = codec.read_image(path, f"{path.name} of the run {run.id}", max_bytes=4 * codec.MAX_PIXELS)
    own_copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = base64.b64encode(codec.encode_jpeg(np.asarray(own_copy), quality)).decode()
    return Picture(f"data:image/jpeg;base64,{data}", *own_copy.size, legible(caption), legible(alternative), kind)


def pictures(each: ReportRun) -> list[Picture]:
    """Return the inputs of a run and its result, or its last picture if it has no result."""
    run, record = each.run, each.record
    side = min(PICTURE_SIDE, max(record.shape))  # no larger than the result
    pictures = [picture(run, run.content, f"Photo: {record.content}", f"The photo {record.content}", side)]
    if run.kept.is_file():
        pictures.append(_mask(run, run.kept, "Unchanged where white", "The mask of the unchanged part"))
    for style in styles_of(run, record):
        caption = f"{style.label}: {', '.join(filter(None, (style.name, style.share_text)))}"
        pictures.append(picture(run, style.path, caption, f"The painting {style.name}", side))
        if style.mask:
            where = f"{style.label} is used where white"
            pictures.append(_mask(run, style.mask, where, f"The mask of {style.name}"))
    title = f"{record.content} in the style of {record.style}"
    if run.result.is_file():
        caption = f"Result: best picture, iteration {record.best_iteration}"
        pictures.append(picture(run, run.result, caption, f"The result: {title}", kind="painted"))
    elif run.live.is_file():
        caption = "Painted so far" if record.unfinished else "No result; the last picture"
        pictures.append(picture(run, run.live, caption, f"Not finished: {title}", side, kind="painted"))
    return pictures


def _mask(run: Run, path: Path, caption: str, alternative: str) -> Picture:
    return picture(run, path, caption, alternative, FRAME_SIDE, kind="mask")


def frames(each: ReportRun) -> list[Picture]:
    """Return at most `FRAMES` frames of a run, evenly spaced; none if it has only one."""
    frames = each.run.frames()
    if len(frames) < 2:
        return []
    chosen = sorted({round(place) for place in np.linspace(0, len(frames) - 1, FRAMES)})
    return [
        picture(each.run, path, str(iteration), f"The picture at iteration {iteration}", FRAME_SIDE, FRAME_QUALITY)
        for iteration, path in (frames[place] for place in chosen)
    ]


def painted(each: ReportRun, side: int) -> Picture | None:
    """Return the result of a run or its last picture, or `None` if it has neither."""
    record = each.record
    for path in (each.run.result, each.run.live):
        if path.is_file():
            what = "" if path == each.run.result else "Not finished: "
            alternative = f"{what}{record.content} in the style of {record.style}"
            return picture(each.run, path, "", alternative, side, kind="painted")
    return None
