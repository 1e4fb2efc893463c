"""Record a run while it paints: metrics, pictures, checkpoints and how it ends."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from core import log, paths
from core.environment import environment
from core.errors import InputError, StudioError
from core.images import codec, preprocessing
from core.machine.processes import ProcessId
from core.runs import recovery
from core.runs.record import Request, Steering, metadata
from core.runs.run import METRICS, SUMS, Run, gone, lines_before, write_array, write_record, writing
from core.settings import TransferSettings
from core.timings import Timings
from core.transfer.checkpoint import Checkpoint

if TYPE_CHECKING:
    from core.transfer.objective import EvaluatedImage, Losses
    from core.transfer.stylize import Step


LIVE_SECONDS = 0.4  # the live picture is written anew at most this often
# A checkpoint may take this share of the time, but so much work, in seconds, is lost at most and need not be less;
# NST_CHECKPOINT_SECONDS sets the interval whatever a checkpoint costs.
CHECKPOINT_SHARE = 0.02
CHECKPOINT_SECONDS = (5.0, 60.0)
RESERVE_BYTES = 2**18  # set aside, so that a run that fills the disk can still say so


@dataclass(frozen=True)
class StepUpdate:
    """What is told of a step. It can be read where there is no TensorFlow."""

    iteration: int
    evaluations: int
    seconds: float
    losses: Mapping[str, float]  # by the metrics' columns
    picture: bytes | None  # a JPEG of the run's size, where one is due
    checkpoint: Checkpoint | None  # likewise


# What painting says in a record; the rest is said by who records it.
PAINTED = frozenset(
    {"status", "message", "settings", "start", "steering", "weights", "weights_sha256", "precision", "style_targets"}
    | {"environment", "iteration", "evaluations", "best_iteration", "best_total"}
)


class ProgressSink(ABC):
    """What is told of a run while it is painted; who writes it down, a `Recorder` or someone far away, says what
    becomes of it. Used as a context: how the block ends decides the run's status.

    Ends well: "done", or "stopped" when that was requested or nobody asked for further steps. An exception: "failed",
    with its message. Either way the best picture so far is kept.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.record()
        self.timings = Timings({name: self.record.timings[name] for name in self.record.timings if name not in SUMS})
        self._last: Step | None = None
        self._live_written = -LIVE_SECONDS
        self._checkpoint_written, self._checkpoint_cost = time.perf_counter(), 0.0  # seconds
        self._answered = Request()  # the last that was taken up
        self._stopped = False
        self.ended = False
        self.final_losses: Callable[[EvaluatedImage], Losses] = lambda best: (
            best.losses
        )  # in float32, of the best image
        self.finished: Callable[[np.ndarray], np.ndarray] = lambda rgb: rgb  # in the colours that it is to have

    def __enter__(self) -> Self:
        return self

    def update(self, **changes: Any) -> None:
        """Change the record."""
        self.record = self.record.model_copy(update=changes)

    @abstractmethod
    def live(self, picture: bytes) -> None:
        """Take the picture of this moment, a JPEG."""

    @abstractmethod
    def note(self, told: StepUpdate) -> None:
        """Take down a step."""

    @abstractmethod
    def keep(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        """Keep the best picture, `(H, W, 3)` RGB, float32 in 0 … 255, and where the run stands at its end."""

    @abstractmethod
    def conclude(self, **said: Any) -> None:
        """Note what the record says of the picture that was kept."""

    @abstractmethod
    def end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        """Note how the run ended, what took how long, and where it failed unforeseen."""

    def show(self, start: np.ndarray) -> None:
        """The picture that painting starts from, uint8 `(H, W, 3)`: seen before its losses are computed."""
        self.live(codec.encode_jpeg(start))

    def write(self, step: Step) -> None:
        """Tell of a step: its losses, and its picture and a checkpoint where one is due."""
        if not self._last:
            self.update(status="running", message="")
        self._last = step
        losses = step.losses
        values = {"total": losses.total, "style": losses.style, "content": losses.content}
        values |= {"total_variation": losses.total_variation, **losses.style_layers}
        picture = self._picture(step)
        began = time.perf_counter()
        due = began - self._checkpoint_written >= _checkpoint_interval(self._checkpoint_cost)
        checkpoint = step.checkpoint() if due else None
        self.note(StepUpdate(step.iteration, step.evaluations, step.seconds, values, picture, checkpoint))
        if due:
            self._checkpoint_written = time.perf_counter()
            self._checkpoint_cost = self._checkpoint_written - began

    def _picture(self, step: Step) -> bytes | None:
        live_due = time.perf_counter() - self._live_written >= LIVE_SECONDS
        if not live_due and step.iteration % self.record.settings.frame_every:
            return None
        picture = codec.encode_jpeg(self._at_full_size(preprocessing.to_uint8(self.finished(step.image()))))
        self._live_written = time.perf_counter()
        return picture

    def answer(self, request: Request) -> None:
        """Take up what is wanted of the run, and record it; what cannot be is left aside, and said."""
        self._stopped = request.stop
        if request == self._answered or not self._last:
            return
        self._answered = request
        now = self.steered(self._last.iteration + 1)
        try:
            if request.iterations is not None:
                self.update(settings=self.record.settings.changed(iterations=request.iterations))
            wanted = Steering.of(self._last.iteration, request.weights, now)
            changes = {
                name: value
                for name, value in wanted.changes.items()
                if now.changed(**{name: value}).loss_weights() != now.loss_weights()
            }
            if changes:
                change = wanted.model_copy(update={"changes": changes})
                self.update(steering=sorted([*self.record.steering, change], key=lambda change: change.iteration))
        except InputError as error:
            self.update(message=f"It went on unchanged: {error}")

    def request(self) -> Request:
        """What is wanted of the run now."""
        return self.run.request()

    def steered(self, before: int) -> TransferSettings:
        """The settings with the weights as they were changed at iterations before this one."""
        settings = self.record.settings
        for change in self.record.steering:
            if change.iteration < before:
                settings = settings.changed(**change.changes)
        return settings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        instead = None  # of what ended the block
        if self._last:
            try:
                self._keep_result(self._last)
            except StudioError as problem:
                instead = StudioError(f"The result could not be written: {problem}")
                error = error or instead
            except BaseException as problem:  # such as a second Ctrl-C: the record must not say "running" for ever
                error = error or problem
        if error and _is_of_memory(error):
            height, width = self.record.shape
            told = f"Memory ran out at {width} × {height} pixels: choose a smaller size, or close other programs."
            error = instead = StudioError(told)
        where = ""
        if isinstance(error, StudioError):
            ending = {"status": "failed", "message": str(error)}
        elif isinstance(error, (GeneratorExit, KeyboardInterrupt)):
            ending = {"status": "stopped"}
        elif error:
            said = f"The engine failed: {type(error).__name__}: {error}".splitlines()[0]
            ending, where = {"status": "failed", "message": said}, "".join(traceback.format_exception(error))
        else:
            ending = {"status": "stopped" if self._stopped else "done"}
        self.end(ending, self.timings, where)
        if error and error is instead:
            raise instead

    def _at_full_size(self, rgb: np.ndarray) -> np.ndarray:
        """A picture on the way, which may be smaller: shown and filmed, they are all of one size."""
        height, width = self.record.shape
        return rgb if rgb.shape[:2] == (height, width) else np.asarray(Image.fromarray(rgb).resize((width, height)))

    def _keep_result(self, last: Step) -> None:
        last = last.settled()
        checkpoint = last.checkpoint()
        over = last.iteration >= self.record.settings.iterations
        self.keep(self.finished(last.best_image()), checkpoint.brief() if over else checkpoint)
        said = {"iteration": last.iteration, "evaluations": last.evaluations, "best_iteration": last.best_iteration}
        best, message = last.best, self.record.message
        self._last = None
        del last, checkpoint  # a second network may need their room
        best_total = best.losses.total
        try:
            best_total = self.final_losses(best).total
        except Exception as error:  # such as too little memory for a second network: the picture is good all the same
            message = f"Its loss is as the run computed it; in float32 it could not be had: {error}".splitlines()[0]
        self.conclude(**said, best_total=best_total, message=message)


class Recorder(ProgressSink):
    """Writes a run while it happens: what it is told, by who paints in this process or elsewhere, is on disk when the
    method returns.

    Methods raise `StudioError` when the disk is full, or the run's folder gone or read-only by now.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._began = time.perf_counter() - self.record.timings.get("total", 0.0)
        self._noted: float | None = None  # the seconds of the last step
        self._step_seconds: list[float] = []
        self._best: np.ndarray | None = None

    def __enter__(self) -> Self:
        if self.record.status != "queued":
            raise StudioError(f"The run {self.run.id} is {self.record.status} already; start a new one.")
        paths.remove_drafts(self.run.path)
        self.update(status="preparing", begun=datetime.now(UTC), writer=ProcessId.this_process())
        with writing(self.run):
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
        log.event("run started", run=self.run.id)
        return self

    def update(self, **changes: Any) -> None:
        """Change the record, on disk at once."""
        super().update(**changes)
        with writing(self.run):
            write_record(self.run, self.record)

    def live(self, picture: bytes) -> None:
        with writing(self.run):
            self._write_picture(self.run.live, picture)

    def note(self, told: StepUpdate) -> None:
        with writing(self.run):
            if self._noted is None:
                if told.iteration == 0:
                    self.timings.setdefault("first step", told.seconds)
                self._begin_metrics(told)
            else:
                self._step_seconds.append(told.seconds - self._noted)
            self._noted = told.seconds
            losses = (f"{value:.9g}" for value in told.losses.values())
            self._write_line([str(told.iteration), str(told.evaluations), f"{told.seconds:.4f}", *losses])
            if told.picture:
                if told.iteration % self.record.settings.frame_every == 0:
                    self._write_picture(self.run.path / "frames" / f"{told.iteration:06d}.jpg", told.picture)
                self._write_picture(self.run.live, told.picture)
            if told.checkpoint:
                self._save(told.checkpoint)

    def keep(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        with writing(self.run):
            write_array(self.run, best)
            self._save(checkpoint)
        self._best = best

    def conclude(self, **said: Any) -> None:
        super().update(**said)  # on disk with how the run ended
        if self._best is not None:
            with writing(self.run):
                codec.write_image(self.run.result, preprocessing.to_uint8(self._best), metadata(self.record))

    def end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        self.timings = Timings({**timings, **self.timings, **timings})
        if self._step_seconds:
            self.timings["median step"] = statistics.median(self._step_seconds)
        self.timings["total"] = time.perf_counter() - self._began
        if trace:
            with contextlib.suppress(OSError):
                (self.run.path / "error.txt").write_text(trace)
        with contextlib.suppress(OSError):  # on a full disk this is the room for the record
            self._reserve.unlink(missing_ok=True)
        self.update(**{"timings": dict(self.timings), "writer": None, **ending})
        self.ended = True
        said = {name: ending[name] for name in ("status", "message") if name in ending}
        log.event("run ended", run=self.run.id, seconds=round(self.timings["total"], 1), **said)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended:  # as who painted it elsewhere has told
            return
        if not self.run.path.is_dir():  # nothing is written of a run that someone has taken away
            raise StudioError(gone(self.run)) from error
        self._keep_what_was_told()
        super().__exit__(kind, error, trace)

    def put_back(self, why: str) -> None:
        """Have the run wait once more, as who painted it elsewhere is gone: it goes on from its last checkpoint, whose
        picture is its result if it does not."""
        self._keep_what_was_told()
        waits = {"queued": datetime.now(UTC), "begun": None, "writer": ProcessId.this_process()}
        self.end({"status": "queued", "message": why, **waits}, {})

    def _keep_what_was_told(self) -> None:
        if self._noted is not None and not self._last:  # who painted it was elsewhere, and is gone
            self.record = recovery.with_checkpoint_result(self.run, self.record)

    @property
    def _reserve(self) -> Path:
        return self.run.path / f"{paths.DRAFT}reserve"

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the metrics up to it are on the disk before it is."""
        with (self.run.path / "metrics.csv").open("a") as file:
            os.fsync(file.fileno())
        checkpoint.save(self.run.checkpoint)

    def _begin_metrics(self, told: StepUpdate) -> None:
        """A header, or what an earlier part of the run has written up to its checkpoint; later frames are dropped."""
        kept = [",".join([*METRICS[:3], *told.losses])]
        if told.iteration:
            kept += lines_before(self.run, told.iteration).values()
        for iteration, frame in self.run.frames():
            if iteration > told.iteration:
                frame.unlink()
        with paths.replacing(self.run.path / "metrics.csv") as file:
            file.write(("\n".join(kept) + "\n").encode())

    def _write_line(self, values: list[str]) -> None:
        with (self.run.path / "metrics.csv").open("a") as file:
            file.write(",".join(values) + "\n")

    def _write_picture(self, path: Path, picture: bytes) -> None:
        with paths.replacing(path) as file:
            file.write(picture)


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the machine's or the GPU's: TensorFlow's own error is known by its name, as it must not
    be loaded to look at a run."""
    return isinstance(error, MemoryError) or any(
        kind.__name__ == "ResourceExhaustedError" for kind in type(error).mro()
    )


def _checkpoint_interval(cost: float) -> float:
    """Seconds until the next checkpoint, where one takes `cost` seconds."""
    least, most = CHECKPOINT_SECONDS
    asked = environment().checkpoint_seconds
    return min(max(least, cost / CHECKPOINT_SHARE), most) if asked is None else asked
