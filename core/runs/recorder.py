"""Record a run while it paints: metrics, pictures, checkpoints and how it ends."""

import contextlib
import os
import statistics
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from core import log, paths
from core.errors import InputError, StudioError
from core.images import codec, preprocessing
from core.machine.processes import ProcessId
from core.runs import recovery
from core.runs.record import Request, Steering, metadata
from core.runs.run import METRICS, SUMS, Run, gone, lines_before, write_array, write_record, writing
from core.settings import TransferSettings
from core.timings import Timings
from core.transfer.checkpoint import Checkpoint

RESERVE_BYTES = 2**18  # set aside, so that a run that fills the disk can still say so


@dataclass(frozen=True)
class StepUpdate:
    """A step as it is written. It can be unpickled where there is no TensorFlow."""

    iteration: int
    evaluations: int
    seconds: float
    losses: Mapping[str, float]  # by the metrics' columns
    picture: bytes | None  # a JPEG of the run's size, where one is due
    checkpoint: Checkpoint | None  # likewise


# The fields of a record that execution may change, here or on a cluster's node; the recorder sets the others.
EXECUTION_FIELDS = frozenset(
    {"status", "message", "settings", "start", "steering", "weights", "weights_sha256", "precision", "style_targets"}
    | {"environment", "iteration", "evaluations", "best_iteration", "best_total"}
)


class ProgressSink(ABC):
    """Takes a run's progress and result while it is painted: a `Recorder` writes them, others send them to one.

    Used as a context: how the block ends decides the run's status. Ends well: "done", or "stopped" when that was
    requested or nobody asked for further steps. An exception: "failed", with its message.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.record()
        self.timings = Timings({name: self.record.timings[name] for name in self.record.timings if name not in SUMS})
        self._applied = Request()  # the last that was applied
        self._stopped = False
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def update(self, **changes: Any) -> None:
        """Change the record."""
        self.record = self.record.model_copy(update=changes)

    @abstractmethod
    def write_live_picture(self, picture: bytes) -> None:
        """Take the picture of this moment, a JPEG."""

    @abstractmethod
    def write_step(self, step: StepUpdate) -> None:
        """Take a step."""

    @abstractmethod
    def write_result(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        """Take the best image, `(H, W, 3)` RGB, float32 in 0 … 255, and the run's last checkpoint."""

    @abstractmethod
    def write_summary(self, **fields: Any) -> None:
        """Take what the record says of the result."""

    @abstractmethod
    def write_end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        """Take how the run ended, its timings, and the traceback of an unforeseen failure."""

    def apply_request(self, request: Request, iteration: int) -> None:
        """Change the record as a user requests after this iteration; what is not possible goes into its message."""
        self._stopped = request.stop
        if request == self._applied:
            return
        self._applied = request
        now = self.settings_at(iteration + 1)
        try:
            if request.iterations is not None:
                self.update(settings=self.record.settings.changed(iterations=request.iterations))
            wanted = Steering.of(iteration, request.weights, now)
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
        """Return what a user requests of the run now."""
        return self.run.request()

    def settings_at(self, iteration: int) -> TransferSettings:
        """Return the settings with the weights of an iteration's image: each change counts from the next one on."""
        settings = self.record.settings
        for change in self.record.steering:
            if change.iteration < iteration:
                settings = settings.changed(**change.changes)
        return settings

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        out_of_memory = None
        if error and _is_out_of_memory(error):
            height, width = self.record.shape
            told = f"Memory ran out at {width} × {height} pixels: choose a smaller size, or close other programs."
            error = out_of_memory = StudioError(told)
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
        self.write_end(ending, self.timings, where)
        if out_of_memory:
            raise out_of_memory


class Recorder(ProgressSink):
    """Writes a run, painted in this process or elsewhere: what a method takes is on disk when it returns.

    Methods raise `StudioError` when the disk is full, or the run's folder gone or read-only by now.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._began = time.perf_counter() - self.record.timings.get("total", 0.0)
        self._noted: float | None = None  # the seconds of the last step
        self._step_seconds: list[float] = []
        self._best: np.ndarray | None = None
        self._has_summary = False

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

    def write_live_picture(self, picture: bytes) -> None:
        with writing(self.run):
            paths.write(self.run.live, picture)

    def write_step(self, step: StepUpdate) -> None:
        with writing(self.run):
            if self._noted is None:
                if step.iteration == 0:
                    self.timings.setdefault("first step", step.seconds)
                self._begin_metrics(step)
            else:
                self._step_seconds.append(step.seconds - self._noted)
            self._noted = step.seconds
            losses = (f"{value:.9g}" for value in step.losses.values())
            with (self.run.path / "metrics.csv").open("a") as file:
                file.write(",".join([f"{step.iteration},{step.evaluations},{step.seconds:.4f}", *losses]) + "\n")
            if step.picture:
                if step.iteration % self.record.settings.frame_every == 0:
                    paths.write(self.run.path / "frames" / f"{step.iteration:06d}.jpg", step.picture)
                paths.write(self.run.live, step.picture)
            if step.checkpoint:
                self._save(step.checkpoint)

    def write_result(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        with writing(self.run):
            write_array(self.run, best)
            self._save(checkpoint)
        self._best = best

    def write_summary(self, **fields: Any) -> None:
        super().update(**fields)  # on disk with how the run ended
        self._has_summary = True
        if self._best is not None:
            with writing(self.run):
                codec.write_image(self.run.result, preprocessing.to_uint8(self._best), metadata(self.record))

    def write_end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
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

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.ended:  # as who painted it elsewhere has told
            return
        if not self.run.path.is_dir():  # nothing is written of a run that someone has taken away
            raise StudioError(gone(self.run)) from error
        self._use_checkpoint_without_result()
        super().__exit__(kind, error, trace)

    def put_back(self, why: str) -> None:
        """Queue the run again, as its worker elsewhere is gone; until it goes on, its checkpoint gives the result."""
        self._use_checkpoint_without_result()
        waits = {"queued": datetime.now(UTC), "begun": None, "writer": ProcessId.this_process()}
        self.write_end({"status": "queued", "message": why, **waits}, {})

    def _use_checkpoint_without_result(self) -> None:
        if self._noted is not None and not self._has_summary:
            self.record = recovery.with_checkpoint_result(self.run, self.record)

    @property
    def _reserve(self) -> Path:
        return self.run.path / f"{paths.DRAFT}reserve"

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the metrics up to it are on the disk before it is."""
        with (self.run.path / "metrics.csv").open("a") as file:
            os.fsync(file.fileno())
        checkpoint.save(self.run.checkpoint)

    def _begin_metrics(self, step: StepUpdate) -> None:
        """A header, or what an earlier part of the run has written up to its checkpoint; later frames are dropped."""
        kept = [",".join([*METRICS[:3], *step.losses])]
        if step.iteration:
            kept += lines_before(self.run, step.iteration).values()
        for iteration, frame in self.run.frames():
            if iteration > step.iteration:
                frame.unlink()
        paths.write(self.run.path / "metrics.csv", ("\n".join(kept) + "\n").encode())


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or the GPU's memory ran out; the names suffice, so that TensorFlow need not be loaded."""
    names = {kind.__name__ for kind in type(error).mro()}
    return not names.isdisjoint(("MemoryError", "ResourceExhaustedError"))
