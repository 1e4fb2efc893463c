"""The library of runs: names, notes, favourites, search, and deletion that can be undone."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from core import log, paths
from core.errors import InputError, StudioError
from core.runs import store
from core.runs.record import RunRecord, Status
from core.runs.run import Run

TRASH_SECONDS = 24 * 3600.0  # how long a deleted run can be restored
GIGABYTE = 10**9

Order = Literal["newest", "oldest", "name", "loss", "duration", "size"]
ORDERS: tuple[Order, ...] = get_args(Order)


class Marks(BaseModel):
    """A user's name and note for a run, in a file of their own: only the run's writer may change its record."""

    name: str = Field(default="", max_length=120)
    note: str = Field(default="", max_length=4000)
    favourite: bool = False

    def title_of(self, record: RunRecord) -> str:
        """Return the name that the user gave the run, otherwise the names of its pictures."""
        return self.name or record.title


@dataclass(frozen=True)
class Entry:
    """A run in the library's list."""

    run: Run
    record: RunRecord
    marks: Marks
    size: int  # bytes

    @property
    def title(self) -> str:
        """Return the run's title, as `Marks.title_of`."""
        return self.marks.title_of(self.record)


class Quota(BaseModel):
    """The size of all runs from which the library suggests deletions."""

    gigabytes: float = Field(default=10.0, ge=0.1, le=1e5)


def entries(owner: str | None = None) -> list[Entry]:
    """Return every readable run of an owner, or of all owners; the newest first."""
    return [Entry(run, record, marks(run), size(run)) for run, record in store.readable_runs(owner)]


def size(run: Run) -> int:
    """Return the bytes that a run takes on the disk."""
    return sum(_bytes_in(folder) for folder in (run.path, run.path / "frames"))


def marks(run: Run) -> Marks:
    """Return a run's marks; empty ones if they cannot be read."""
    try:
        return Marks.model_validate_json(paths.read(run.path / "marks.json"))
    except (OSError, ValidationError):
        return Marks()


def mark(run: Run, **changes: Any) -> None:
    """Change a run's marks: `name`, `note` or `favourite`.

    Raises:
        InputError: If a text is too long, or the run does not exist.
    """
    try:
        changed = Marks.model_validate({**marks(run).model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first['loc'][0]}: {first['msg']}.") from error
    if not run.path.is_dir():
        raise InputError(f"The run {run.id} no longer exists.")
    paths.write(run.path / "marks.json", changed.model_dump_json().encode())


def select(
    found: Iterable[Entry],
    words: str = "",
    statuses: Sequence[Status] = (),
    presets: Sequence[str] = (),
    favourites: bool = False,
    order: Order = "newest",
) -> list[Entry]:
    """Return the matching entries, sorted.

    Args:
        found: The entries to choose from.
        words: The entry's text must contain each of these words.
        statuses: The statuses to choose; all if empty.
        presets: The presets to choose; all if empty.
        favourites: Whether to choose only favourites.
        order: The sort order.
    """
    wanted = words.casefold().split()
    chosen = [
        entry
        for entry in found
        if (not statuses or entry.record.status in statuses)
        and (not presets or entry.record.preset in presets)
        and (entry.marks.favourite or not favourites)
        and all(word in _text(entry) for word in wanted)
    ]
    return sorted(chosen, key=_KEYS[order], reverse=order in ("newest", "size"))


def damaged(entries: Sequence[Entry]) -> list[tuple[Run, str]]:
    """Return the runs missing in `entries` (of all owners) because their record is damaged, each with the reason."""
    listed, found = {entry.run for entry in entries}, []
    for run in store.all_runs():
        if run not in listed:
            try:
                run.record()
            except StudioError as error:
                found.append((run, str(error)))
    return found


def delete(run: Run) -> None:
    """Delete a run; it can be restored for 24 hours.

    Raises:
        InputError: If the run has not ended.
        StudioError: If it cannot be moved to the trash.
    """
    if _unfinished(run):
        raise InputError(f"The run {run.id} has not ended: stop it first.")
    trash().mkdir(parents=True, exist_ok=True)
    empty_trash()
    try:
        os.utime(run.path)  # the 24 hours start now
        run.path.rename(trash() / run.id)
    except OSError as error:
        raise StudioError(f"The run {run.id} cannot be deleted: {error.strerror or error}.") from error
    log.event("run deleted", run=run.id)


def restore(run: Run) -> None:
    """Restore a deleted run.

    Raises:
        StudioError: If it is no longer in the trash, or cannot be moved.
    """
    try:
        (trash() / run.id).rename(paths.runs() / run.id)
    except OSError as error:
        raise StudioError(f"The run {run.id} cannot be restored: {error.strerror or error}.") from error
    log.event("run restored", run=run.id)


def deleted(owner: str | None = None) -> list[Run]:
    """Return the runs of an owner, or of all, that can be restored, the last deleted first; remove older ones."""
    empty_trash()
    found = [Run(path) for path in sorted(trash().glob("*"), key=_since, reverse=True)]
    return [run for run in found if owner is None or store.is_of(run, owner)]


def empty_trash(older_than: float = TRASH_SECONDS) -> None:
    """Remove the runs that were deleted more than `older_than` seconds ago."""
    for path in trash().glob("*"):
        if time.time() - _since(path) > older_than:
            shutil.rmtree(path, ignore_errors=True)
            log.event("run removed for good", run=path.name)


def trash() -> Path:
    """Return the folder of the deleted runs."""
    return paths.home() / "trash"


def quota() -> Quota:
    """Read the saved quota; if it is missing or damaged, return the default."""
    try:
        return Quota.model_validate_json(paths.read(_quota_file()))
    except (OSError, ValidationError):
        return Quota()


def set_quota(gigabytes: float) -> None:
    """Save the quota, 0.1 to 100,000 gigabytes."""
    paths.write(_quota_file(), Quota(gigabytes=gigabytes).model_dump_json().encode())


def beyond_quota(found: Iterable[Entry], quota: Quota) -> list[Entry]:
    """Return the oldest runs without marks; without them, the other runs fit into the quota."""
    found = list(found)
    excess = sum(entry.size for entry in found) - quota.gigabytes * GIGABYTE
    offered: list[Entry] = []
    for entry in sorted(found, key=_KEYS["oldest"]):
        if excess <= 0:
            break
        if entry.marks == Marks() and not entry.record.unfinished:
            offered.append(entry)
            excess -= entry.size
    return offered


_KEYS: dict[Order, Callable[[Entry], Any]] = {
    "newest": lambda entry: entry.record.created,
    "oldest": lambda entry: entry.record.created,
    "name": lambda entry: entry.title.casefold(),
    "loss": lambda entry: (entry.record.best_total is None, entry.record.best_total),
    "duration": lambda entry: entry.record.timings.get("total", float("inf")),
    "size": lambda entry: entry.size,
}


def _text(entry: Entry) -> str:
    marks, record = entry.marks, entry.record
    text = (marks.name, marks.note, record.content, record.style, record.preset, record.status, record.batch, record.id)
    return " ".join(text).casefold()


def _unfinished(run: Run) -> bool:
    try:
        return run.record().unfinished
    except StudioError:
        return False  # a damaged run can still be deleted


def _since(path: Path) -> float:
    """Return when a run was deleted; the present time if another process has just restored it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _bytes_in(folder: Path) -> int:
    try:
        with os.scandir(folder) as files:
            return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:  # the folder does not exist, or a file was just replaced
        return 0


def _quota_file() -> Path:
    return paths.home() / "quota.json"
