"""Record a run while it is computed: metrics, pictures, checkpoints and its end."""

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

RESERVE_BYTES = 2**18  # reserved on the disk, so that a full disk can still be recorded


@dataclass(frozen=True)
class StepUpdate:
    """A step for the recorder. It can be unpickled without TensorFlow."""

    iteration: int
    evaluations: int
    seconds: float
    losses: Mapping[str, float]  # by column of the metrics
    picture: bytes | None  # a JPEG at the run's full size, if due
    checkpoint: Checkpoint | None  # if due


# The record's fields that the process which computes the run may change, also on a node; the recorder sets the others.
EXECUTION_FIELDS = frozenset(
    {"status", "message", "settings", "start", "steering", "weights", "weights_sha256", "precision", "style_targets"}
    | {"environment", "iteration", "evaluations", "best_iteration", "best_total"}
)


class ProgressSink(ABC):
    """Take the progress and result of a running run: a `Recorder` writes them, a `RemoteSink` sends them to a recorder.

    The end of the context decides the run's status: "done" at a normal end; "stopped" if a user requested it, after
    Ctrl-C, or if the generator of the steps was closed; "failed" with a message after another exception.
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
        """Change fields of the record."""
        self.record = self.record.model_copy(update=changes)

    @abstractmethod
    def write_live_picture(self, picture: bytes) -> None:
        """Take the current picture, a JPEG."""

    @abstractmethod
    def write_step(self, step: StepUpdate) -> None:
        """Take a step's losses, and its picture and checkpoint if they are due."""

    @abstractmethod
    def write_result(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        """Take the best image, `(H, W, 3)` float32 RGB in 0 … 255, and the run's last checkpoint."""

    @abstractmethod
    def write_summary(self, **fields: Any) -> None:
        """Take the record's fields about the result."""

    @abstractmethod
    def write_end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        """Take the record's fields about the end, the timings, and the traceback of an unexpected error."""

    def apply_request(self, request: Request, iteration: int) -> None:
        """Apply a user's request after this iteration. If it is not possible, the record's message says why."""
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
            self.update(message=f"The run continues unchanged: {error}")

    def request(self) -> Request:
        """Return the user's current request to the run."""
        return self.run.request()

    def settings_at(self, iteration: int) -> TransferSettings:
        """Return the settings with the weights at an iteration; a change applies from the iteration after it."""
        settings = self.record.settings
        for change in self.record.steering:
            if change.iteration < iteration:
                settings = settings.changed(**change.changes)
        return settings

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        out_of_memory = None
        if error and _is_out_of_memory(error):
            height, width = self.record.shape
            told = f"Memory ran out at {width} × {height} pixels: choose a smaller size or close other programs."
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
    """Write a run's progress and result to disk before each method returns; `write_end` writes the summary.

    The run may be computed in this process or on a cluster. The methods raise `StudioError` if the disk is full, or if
    the run's folder is gone or read-only.
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
            raise StudioError(f"The run {self.run.id} is already {self.record.status}; start a new one.")
        paths.remove_drafts(self.run.path)
        self.update(status="preparing", begun=datetime.now(UTC), writer=ProcessId.this_process())
        with writing(self.run):
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
        log.event("run started", run=self.run.id)
        return self

    def update(self, **changes: Any) -> None:
        """Change fields of the record, and write it to disk."""
        super().update(**changes)
        with writing(self.run):
            write_record(self.run, self.record)

    def write_live_picture(self, picture: bytes) -> None:
        """Replace live.jpg with this JPEG."""
        with writing(self.run):
            paths.write(self.run.live, picture)

    def write_step(self, step: StepUpdate) -> None:
        """Append the step's losses to metrics.csv; save its picture and checkpoint if they are due."""
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
        """Save the best image, `(H, W, 3)` float32 RGB in 0 … 255, and the checkpoint."""
        with writing(self.run):
            write_array(self.run, best)
            self._save(checkpoint)
        self._best = best

    def write_summary(self, **fields: Any) -> None:
        """Set the record's fields about the result, and write result.png."""
        super().update(**fields)  # `write_end` writes the record to disk
        self._has_summary = True
        if self._best is not None:
            with writing(self.run):
                codec.write_image(self.run.result, preprocessing.to_uint8(self._best), metadata(self.record))

    def write_end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        """Write the timings, the record's fields about the end, and a traceback to error.txt."""
        self.timings = Timings({**timings, **self.timings, **timings})
        if self._step_seconds:
            self.timings["median step"] = statistics.median(self._step_seconds)
        self.timings["total"] = time.perf_counter() - self._began
        if trace:
            with contextlib.suppress(OSError):
                (self.run.path / "error.txt").write_text(trace)
        with contextlib.suppress(OSError):  # on a full disk, this frees space for the record
            self._reserve.unlink(missing_ok=True)
        self.update(**{"timings": dict(self.timings), "writer": None, **ending})
        self.ended = True
        said = {name: ending[name] for name in ("status", "message") if name in ending}
        log.event("run ended", run=self.run.id, seconds=round(self.timings["total"], 1), **said)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.ended:  # the worker on the cluster has already reported the end
            return
        if not self.run.path.is_dir():  # do not recreate a run that someone deleted
            raise StudioError(gone(self.run)) from error
        self._use_checkpoint_without_result()
        super().__exit__(kind, error, trace)

    def put_back(self, why: str) -> None:
        """Queue the run again after its cluster worker was lost. Until it resumes, its checkpoint is the result."""
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
        """Write the metrics to the disk, then the checkpoint, so that it never has more steps than the metrics."""
        with (self.run.path / "metrics.csv").open("a") as file:
            os.fsync(file.fileno())
        checkpoint.save(self.run.checkpoint)

    def _begin_metrics(self, step: StepUpdate) -> None:
        """Start the metrics with a header and the lines before this step; delete later frames of an earlier part."""
        kept = [",".join([*METRICS[:3], *step.losses])]
        if step.iteration:
            kept += lines_before(self.run, step.iteration).values()
        for iteration, frame in self.run.frames():
            if iteration > step.iteration:
                frame.unlink()
        paths.write(self.run.path / "metrics.csv", ("\n".join(kept) + "\n").encode())


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on the machine or the GPU; check names, so as not to import TensorFlow."""
    names = {kind.__name__ for kind in type(error).mro()}
    return not names.isdisjoint(("MemoryError", "ResourceExhaustedError"))
