"""Runs that have ended: resume them, note how they ended, and keep what their checkpoint holds."""

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

ENDINGS_SECONDS = 30.0  # that one who notes how a run ended waits for others who do


def fail(run: Run, message: str) -> None:
    """Note that a run which no recorder writes has failed: on a full disk in the place of the record that is there.

    Raises `StudioError` when not even that can be written.
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
    """Queue a run that has ended once more, to go on from its checkpoint, for `more` iterations than it was to have.
    One that ended before its first checkpoint begins anew.

    Raises `InputError` when it has not ended or would have nothing left to do, `StudioError` without a checkpoint.
    """
    with _endings():
        record = run.record()
        if record.unfinished:
            raise InputError(f"The run {run.id} is {record.status}; it can go on when it has ended.")
        inside = [*run.path.iterdir(), *run.path.glob("frames/*")]
        if links := [path.name for path in inside if path.is_symlink()]:
            raise InputError(f"The run {run.id} does not go on: {links[0]} is a link, and it writes nowhere but here.")
        if pipes := [path.name for path in inside if not (path.is_file() or path.is_dir())]:
            raise InputError(f"The run {run.id} does not go on: {pipes[0]} is not a file.")
        iterations = record.settings.iterations + more
        if not starts_over(run, record):
            done = Checkpoint.load(run.checkpoint).iteration
            if done >= iterations and record.status != "interrupted":  # that one has its result still to write
                raise InputError(f"The run {run.id} has done its {iterations} iterations; ask for more.")
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
    """Whether a run that goes on does so from its beginning: no part of it was ever kept."""
    return record.iteration is None and not run.checkpoint.exists()


def record_ending(run: Run, cause: Callable[[ProcessId], str]) -> RunRecord:
    """Return the run's record. If its writer is gone, first note that it was interrupted and why (`cause` says so of
    the writer), and make the best image of its last checkpoint its result.

    Raises `StudioError` for a record that cannot be read.
    """
    record = run.record()
    if record.status != "interrupted" or not record.writer:
        return record
    with _endings():
        record = run.record()
        if record.status != "interrupted" or not record.writer:  # someone was faster
            return record
        paths.remove_drafts(run.path)
        record = record.model_copy(update={"message": cause(record.writer), "writer": None})
        record = with_checkpoint_result(run, record)
        try:
            write_record(run, record)
        except OSError:  # it is told all the same, and noted another time
            return record
    log.event("run interrupted", run=run.id, message=record.message)
    return record


def with_checkpoint_result(run: Run, record: RunRecord) -> RunRecord:
    """Make the best image of the last checkpoint the run's result, if possible; return the record that says so."""
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
    """Raise `StudioError` for an image of another shape than the run has at any of its stages."""
    height, width = record.shape
    for size, _ in record.settings.schedule():
        expected = geometry.resized_shape(width, height, size)
        if np.abs(np.subtract(image.shape[1:3], expected)).max() <= 1:  # the photo's own sides would round otherwise
            return
    raise StudioError(f"The checkpoint of {record.id} is of another picture than the run's.")


@contextmanager
def _endings() -> Iterator[None]:
    """Held by who changes the record of a run that has ended. Raises `StudioError` when another holds it for long."""
    paths.home().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.home() / "endings.lock", timeout=ENDINGS_SECONDS):
            yield
    except Timeout as error:
        raise StudioError(f"Another process holds {error.lock_file} for too long: end it, then try again.") from error
