"""A run on disk: a directory. One process writes it, any number read it, and no file is ever half written.

runs/<id>/
  run.json          settings, status, provenance of the weights, timings per phase, environment, errors
  metrics.csv       a line per iteration
  content.png style-1.png    the inputs without their metadata; more styles as style-2.png …
  mask-1.png kept.png        optional: the mask of a style, and the mask of the part of the photo that stays
  start.png         optional: the picture to start from
  live.jpg          the latest picture while the run is running
  frames/000100.jpg intermediate pictures
  result.png result.npy      the best image, for people and in float32 (RGB, 0 … 255)
  checkpoint.npz    the state to resume from
  request.json      a user's request to the run
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from core import paths
from core.errors import StudioError
from core.images import codec, preprocessing
from core.runs.record import VERSIONS, OtherVersionError, QueueEntry, Request, RunRecord, Steering, metadata
from core.settings import MOST_STYLES
from core.transfer.inputs import Inputs
from core.vgg.layers import is_layer

if TYPE_CHECKING:
    import pandas as pd

STYLES = tuple(f"style-{number}.png" for number in range(1, MOST_STYLES + 1))
MASKS = tuple(f"mask-{number}.png" for number in range(1, MOST_STYLES + 1))
INPUTS = ("content.png", *STYLES, *MASKS, "kept.png", "start.png")
METRICS_BYTES = 64 * 2**20  # the limit for metrics.csv; a line has some hundred bytes
LINE_BYTES = 2048  # the limit for a line of the metrics, enough for all layers


@dataclass(frozen=True)
class Run:
    """A run's directory, for its readers."""

    path: Path

    @property
    def id(self) -> str:
        """Return the run's ID, which is the name of its folder."""
        return self.path.name

    @property
    def content(self) -> Path:
        """Return the path of the content image."""
        return self.path / "content.png"

    def style(self, number: int) -> Path:
        """Return the path of a style image; the first has number 1."""
        return self.path / STYLES[number - 1]

    def mask(self, number: int) -> Path:
        """Return the path of a style's mask; the record says whether it exists."""
        return self.path / MASKS[number - 1]

    @property
    def kept(self) -> Path:
        """Return the path of the mask of the unchanged part; it exists only if the run has one."""
        return self.path / "kept.png"

    @property
    def start(self) -> Path:
        """Return the path of the picture to start from; it exists only if the run has one."""
        return self.path / "start.png"

    def input_files(self) -> list[Path]:
        """Return the paths of the run's input pictures."""
        return [path for name in INPUTS if (path := self.path / name).is_file()]

    def pictures(self) -> Inputs:
        """Read the run's input pictures."""

        def read(path: Path) -> Image.Image:
            return codec.read_image(path, max_bytes=4 * codec.MAX_PIXELS)  # a PNG may be larger than the JPEG it was

        styles = self.record().styles
        return Inputs(
            read(self.content),
            [read(self.style(number)) for number in range(1, len(styles) + 1)],
            [read(self.mask(number)) if style.mask else None for number, style in enumerate(styles, 1)],
            read(self.kept) if self.kept.exists() else None,
        )

    @property
    def live(self) -> Path:
        """Return the path of the current picture, a JPEG."""
        return self.path / "live.jpg"

    @property
    def result(self) -> Path:
        """Return the path of the final picture, an 8-bit PNG."""
        return self.path / "result.png"

    def record(self) -> RunRecord:
        """Read the run's record. If the run has not ended but its writer is gone, its status is "interrupted".

        Raises:
            StudioError: If the record is missing, damaged or of another version.
        """
        try:
            record = RunRecord.from_json(paths.read(self.path / "run.json"), lambda name: (self.path / name).exists())
        except OSError as error:
            raise StudioError(f"The run {self.id} cannot be read: {error.strerror}.") from error
        except OtherVersionError as error:
            message = f"The run {self.id} has the schema version {error}; this program reads {VERSIONS}."
            raise StudioError(message) from error
        except (ValueError, RecursionError) as error:
            raise StudioError(f"The record of the run {self.id} is damaged.") from error
        waits = record.status == "queued" and QueueEntry.of(self.id) is not None
        if record.unfinished and not waits and not (record.writer and record.writer.is_alive()):
            record.status = "interrupted"
        return record

    def change(self, **changes: Any) -> None:
        """Change fields of the record, if no recorder writes the run."""
        write_record(self, self.record().model_copy(update=changes))

    def metrics(self, last: int | None = None) -> pd.DataFrame:
        """Return the metrics with a row for each iteration, or for the `last` ones; skip an unfinished line.

        Raises:
            StudioError: If the file is damaged.
        """
        import io

        import pandas as pd

        try:
            file = self.path / "metrics.csv"
            data = paths.read(file, METRICS_BYTES) if last is None else paths.read_ends(file, (last + 2) * LINE_BYTES)
            text = data.decode()
            whole = text[: text.rfind("\n") + 1]
            if not whole:
                return pd.DataFrame(columns=METRICS)
            heading, _, rows = whole.partition("\n")
            columns = heading.split(",")
            if tuple(columns[: len(METRICS)]) != METRICS or not all(map(is_layer, columns[len(METRICS) :])):
                raise ValueError(f"unknown columns: {columns[:20]}")
            if last is not None:
                rows = "\n".join(rows.rsplit("\n", last + 1)[-last - 1 :])  # the text after the last \n is empty
            metrics = pd.read_csv(io.StringIO(f"{heading}\n{rows}"))
            metrics.to_numpy(float)
            if not np.isfinite(metrics[["iteration", "evaluations", "seconds"]].to_numpy(float)).all():
                raise ValueError("a step without a number")
        except FileNotFoundError:
            return pd.DataFrame(columns=METRICS)
        except Exception as error:  # pandas raises many types
            raise StudioError(f"The metrics of the run {self.id} are damaged.") from error
        return metrics

    def with_progress(self, record: RunRecord) -> RunRecord:
        """Return the record with the progress; for a run that is unfinished or interrupted, it is in the metrics."""
        told = record.iteration is not None and not record.unfinished and record.status != "interrupted"
        try:
            if told or (metrics := self.metrics()).empty:
                return record
        except StudioError:
            return record
        last = metrics["iteration"].iloc[-1]
        steered = max((change.iteration for change in record.steering if change.iteration < last), default=-1)
        smaller = max((end for _, end in record.settings.schedule()[:-1] if end < last), default=-1)
        # Losses with other weights or of a smaller picture do not compare.
        metrics = metrics[metrics["iteration"] > max(steered, smaller)]
        best = int(metrics["total"].to_numpy().argmin())
        return record.model_copy(
            update={
                "iteration": int(metrics["iteration"].iloc[-1]),
                "evaluations": int(metrics["evaluations"].iloc[-1]),
                "best_iteration": int(metrics["iteration"].iloc[best]),
                "best_total": float(metrics["total"].iloc[best]),
            }
        )

    def frames(self) -> list[tuple[int, Path]]:
        """Return the iterations and paths of the intermediate pictures, in order."""
        return sorted(
            (int(path.stem), path)
            for path in (self.path / "frames").glob("[0-9]*.jpg")
            if re.fullmatch("[0-9]{1,9}", path.stem)
        )

    def ask(self, **wishes: Any) -> None:
        """Add to the user's request to the run's writer; `wishes` are the fields of `Request`.

        Raises:
            InputError: If iterations or weights are out of range, or cannot be changed during a run.
        """
        request, weights = self.request(), wishes.pop("weights", {})
        settings = self.record().settings
        if "iterations" in wishes:
            settings = settings.changed(iterations=wishes["iterations"])
        if weights:
            weights = {**request.weights, **weights}
            Steering.of(0, weights, settings)
        request = Request.model_validate({**request.model_dump(), **wishes, "weights": weights or request.weights})
        paths.write(self.path / "request.json", request.model_dump_json().encode())

    def request(self) -> Request:
        """Return the user's request; an empty one if the file is missing or damaged."""
        try:
            return Request.model_validate_json(paths.read(self.path / "request.json"))
        except (OSError, ValidationError):
            return Request()

    def write_result(self, path: Path, more: Mapping[str, str] = {}) -> None:
        """Write the result, its metadata and `more` metadata to another file; the suffix sets the format.

        Raises:
            StudioError: If there is no result yet, or it cannot be written.
        """
        picture = preprocessing.to_uint8(codec.read_exact(self.path / "result.npy"))
        codec.write_image(path, picture, {**metadata(self.record()), **more})

    @property
    def checkpoint(self) -> Path:
        """Return the path of the image and optimizer state from which the run can resume."""
        return self.path / "checkpoint.npz"


SUMS = ("total", "median step")  # the timings that are not the seconds of a phase
METRICS = ("iteration", "evaluations", "seconds", "total", "style", "content", "total_variation")


def lines_before(run: Run, iteration: int) -> dict[int, str]:
    """Return the lines of the metrics before an iteration, by iteration; ignore damaged lines after a power loss."""
    text = paths.read(run.path / "metrics.csv", METRICS_BYTES).decode(errors="replace")
    lines: dict[int, str] = {}
    for line in text[: text.rfind("\n") + 1].split("\n"):  # the last line may be unfinished
        number = line.partition(",")[0]
        if re.fullmatch("[0-9]{1,9}", number) and int(number) < iteration:
            lines.setdefault(int(number), line)  # the first line counts; a repetition is damaged data
    return lines


def write_record(run: Run, record: RunRecord) -> None:
    """Replace the run's record on disk."""
    paths.write(run.path / "run.json", record.model_dump_json(indent=2).encode())


@contextmanager
def writing(run: Run, folder: Path | None = None) -> Iterator[None]:
    """Turn an `OSError` in the context into a `StudioError` that names `folder`, by default the folder of all runs.

    Raises:
        StudioError: If the run's folder is gone, or the disk is full or not writable.
    """
    folder = folder or run.path.parent
    if not run.path.is_dir():  # do not recreate it
        raise StudioError(gone(run))
    try:
        yield
    except OSError as error:
        if not run.path.is_dir():
            raise StudioError(gone(run)) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = f"The disk of {folder} is full: free some space, then resume the run {run.id}."
        else:
            why = f"The run {run.id} can no longer be written in {folder}: {error.strerror or error}."
        raise StudioError(why) from error


def gone(run: Run) -> str:
    """Return the error message for a run whose folder was removed."""
    return f"The folder of the run {run.id} is gone: {run.path}."


def write_array(run: Run, best: np.ndarray) -> None:
    """Write the best image, `(H, W, 3)` float32 RGB in 0 … 255."""
    with paths.replacing(run.path / "result.npy") as file:
        np.save(file, best)
