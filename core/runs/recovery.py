"""Runs that have ended: resume them, record why they ended, and make their checkpoint the result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import numpy as np
from filelock import FileLock, Timeout

from core import log, paths
from core.errors import InputError, StudioError
from core.images import codec, geometry, preprocessing
from core.machine.processes import ProcessId
from core.runs.record import RunRecord, metadata
from core.runs.run import METRICS, Run, lines_before, write_array, write_record, writing
from core.transfer.checkpoint import Checkpoint

ENDINGS_SECONDS = 30.0  # how long to wait for another process that changes the record of an ended run


def fail(run: Run, message: str) -> None:
    """Mark a run without a recorder as failed. On a full disk, overwrite the existing record in place.

    Raises:
        StudioError: If the record cannot be written at all.
    """
    record = run.record().model_copy(update={"status": "failed", "message": message, "writer": None})
    try:
        write_record(run, record)
    except OSError:
        with writing(run), (run.path / "run.json").open("r+b") as file:
            room = len(file.read())
            file.seek(0)
            file.write(record.model_dump_json().encode().ljust(room))


def resume(run: Run, more: int = 0) -> None:
    """Queue an ended run again, with `more` iterations; it resumes from its checkpoint, or starts over without one.

    Raises:
        InputError: If the run has not ended, has no iterations left, or contains links or other special files.
        StudioError: If the checkpoint is missing or damaged.
    """
    with _endings():
        record = run.record()
        if record.unfinished:
            raise InputError(f"The run {run.id} is {record.status}; you can resume it when it has ended.")
        inside = [*run.path.iterdir(), *run.path.glob("frames/*")]
        if links := [path.name for path in inside if path.is_symlink()]:
            raise InputError(
                f"The run {run.id} cannot resume: {links[0]} is a link. Replace it with a copy of the file."
            )
        if pipes := [path.name for path in inside if not (path.is_file() or path.is_dir())]:
            raise InputError(f"The run {run.id} cannot resume: {pipes[0]} is not a file.")
        iterations = record.settings.iterations + more
        if not starts_over(run, record):
            done = Checkpoint.load(run.checkpoint).iteration
            if done >= iterations and record.status != "interrupted":  # an interrupted run must still write its result
                raise InputError(f"The run {run.id} has done all its {iterations} iterations; add more.")
        settings = record.settings.changed(iterations=iterations)
        (run.path / "request.json").unlink(missing_ok=True)
        run.change(
            status="queued",
            queued=datetime.now(UTC),
            begun=None,
            message="",
            settings=settings,
            writer=ProcessId.this_process(),
        )


def starts_over(run: Run, record: RunRecord) -> bool:
    """Tell whether a resumed run starts over, because nothing of it was saved."""
    return record.iteration is None and not run.checkpoint.exists()


def record_ending(run: Run, cause: Callable[[ProcessId], str]) -> RunRecord:
    """Return the run's record. If its writer is gone, first record the `cause`, and make its checkpoint the result.

    Raises:
        StudioError: If the record cannot be read.
    """
    record = run.record()
    if record.status != "interrupted" or not record.writer:
        return record
    with _endings():
        record = run.record()
        if record.status != "interrupted" or not record.writer:  # another process was faster
            return record
        paths.remove_drafts(run.path)
        record = record.model_copy(update={"message": cause(record.writer), "writer": None})
        record = with_checkpoint_result(run, record)
        try:
            write_record(run, record)
        except OSError:  # the next reader tries again to write it
            return record
    log.event("run interrupted", run=run.id, message=record.message)
    return record


def with_checkpoint_result(run: Run, record: RunRecord) -> RunRecord:
    """Make the best image of the last checkpoint the run's result, if possible; return the changed record."""
    with suppress(StudioError, LookupError, ValueError, OSError):
        best, iteration = Checkpoint.load_best(run.checkpoint)
        _check_is_of(record, best)
        line = lines_before(run, iteration + 1)[iteration]
        total = float(line.split(",")[METRICS.index("total")])
        record = record.model_copy(update={"best_iteration": iteration, "best_total": total})
        write_array(run, preprocessing.from_network(best))
        codec.write_image(run.result, preprocessing.to_uint8(preprocessing.from_network(best)), metadata(record))
    return record


def _check_is_of(record: RunRecord, image: np.ndarray) -> None:
    """Raise `StudioError` if the image's shape is not the shape of one of the run's stages."""
    height, width = record.shape
    for size, _ in record.settings.schedule():
        expected = geometry.resized_shape(width, height, size)
        if np.abs(np.subtract(image.shape[1:3], expected)).max() <= 1:  # the photo's own size may round differently
            return
    raise StudioError(f"The checkpoint of {record.id} belongs to another picture.")


@contextmanager
def _endings() -> Iterator[None]:
    """Hold the lock for changes of ended runs; raise `StudioError` if another process holds it for too long."""
    paths.home().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.home() / "endings.lock", timeout=ENDINGS_SECONDS):
            yield
    except Timeout as error:
        raise StudioError(f"Another process has held {error.lock_file} for too long: end it and try again.") from error
