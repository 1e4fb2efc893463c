"""Export a run to a ZIP file, and import it again, also on another machine."""

import io
import re
import secrets
import shutil
import struct
import zipfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from core import log, paths
from core.errors import InputError, StudioError
from core.images import codec, sandbox
from core.machine import processes
from core.runs.library import Marks, trash
from core.runs.record import RUN_ID, VERSIONS, OtherVersionError, RunRecord
from core.runs.run import INPUTS, MASKS, METRICS, METRICS_BYTES, STYLES, Run, write_record

# The errors that zipfile raises for a damaged file.
DAMAGED = (zipfile.BadZipFile, EOFError, IndexError, OverflowError, RuntimeError, ValueError, struct.error, zlib.error)
DRAFT = ".import-"  # the prefix of a folder for an unfinished import
MAX_FILES = 25_000
MAX_BYTES = 2 * 2**30  # unpacked
MAX_DIRECTORY = 8 * 2**20  # bytes of the list of files, which zipfile keeps in memory
PICTURES = (*INPUTS, "result.png", "live.jpg")
FORMATS = {".png": "PNG", ".jpg": "JPEG"}
LIMITS = {"run.json": 2**20, "marks.json": 2**16, "metrics.csv": METRICS_BYTES}  # in bytes; others: PICTURE_BYTES
PICTURE_BYTES = 4 * codec.MAX_PIXELS
# The files that an archive may hold. The checkpoint is not exported, because it can take a hundred megabytes.
MEMBER = re.compile(r"run\.json|metrics\.csv|marks\.json|result\.npy|frames/[0-9]{6}\.jpg|" + "|".join(PICTURES))
NEEDED = ("run.json", "content.png", "style-1.png")


def export_run(run: Run, target: IO[bytes]) -> None:
    """Write a run's files, including its inputs, to a ZIP file, in a folder with the run's name."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(run.path.rglob("*")):
            name = path.relative_to(run.path).as_posix()
            if MEMBER.fullmatch(name) and path.is_file() and not path.is_symlink():  # a link could expose other files
                if name == "run.json":  # the owner's name is private
                    record = run.record().model_copy(update={"owner": ""})
                    archive.writestr(f"{run.id}/{name}", record.model_dump_json(indent=2), zipfile.ZIP_DEFLATED)
                    continue
                packed = zipfile.ZIP_STORED if path.suffix in (".png", ".jpg") else zipfile.ZIP_DEFLATED
                archive.write(path, f"{run.id}/{name}", packed)
    log.event("run exported", run=run.id)


def import_run(source: Path | bytes, name: str = "the file", owner: str = "") -> Run:
    """Check a ZIP file that `export_run` wrote, and create a new run from it, which belongs to no batch.

    Args:
        source: The file's path or content.
        name: The file's name in error messages.
        owner: The new run's owner.

    Raises:
        InputError: If the ZIP file is damaged or does not contain exactly one valid run.
        StudioError: If the run cannot be written.
    """
    try:
        run = _brought_in(source, name, owner)
    except StudioError as error:
        log.refused("import refused", error)
        raise
    log.event("run imported", run=run.id)
    return run


def _brought_in(source: Path | bytes, name: str, owner: str) -> Run:
    try:
        raw = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=0)
        with _Source(raw) as file, zipfile.ZipFile(file) as archive:
            file.largest = MAX_BYTES
            members = _members(archive, name)
            data = b"".join(_chunks(archive, members["run.json"], LIMITS["run.json"], name))
            record = _record(data, name, members)
            _clear_drafts()
            draft = paths.runs() / f"{DRAFT}{processes.own_lock()}-{secrets.token_hex(8)}"
            try:
                draft.mkdir(parents=True)
                _unpack(archive, members, draft, name)
                _check(Run(draft), record, name)
                with FileLock(paths.home() / "imports.lock"):  # two imports at once must not get the same id
                    run = Run(paths.runs() / _free_id(record))
                    here = {"id": run.id, "owner": owner, "batch": "", "job": ""}  # so that no batch reuses the run
                    write_record(Run(draft), record.model_copy(update=here))
                    paths.put_in_place(draft, run.path)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except StudioError:
        raise
    except DAMAGED as error:
        raise InputError(f"{name} is not a ZIP file, or is damaged.") from error
    except OSError as error:
        raise StudioError(f"{name} cannot be imported: {error.strerror or error}.") from error
    return run


def _clear_drafts() -> None:
    """Remove the drafts of imports whose process is gone."""
    for draft in paths.runs().glob(f"{DRAFT}*"):
        lock = draft.name.removeprefix(DRAFT).partition("-")[0]
        if lock and not processes.is_locked(lock):
            shutil.rmtree(draft, ignore_errors=True)


class _Source(io.BufferedReader):
    """A file that refuses to read more than `largest` bytes at once."""

    largest = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.largest:
            raise zipfile.BadZipFile(f"{size} bytes of directory")
        return super().read(size)


def _members(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's files by their names in the run; raise `InputError` if it is not exactly one run."""
    files = [info for info in archive.infolist() if not info.is_dir()]
    if len(files) > MAX_FILES:
        raise InputError(f"{name} contains {len(files):,} files, but a run has at most {MAX_FILES:,}.")
    if len({info.filename.partition("/")[0] for info in files}) != 1:
        raise InputError(f"{name} is not an exported run: it must contain exactly one folder.")
    members = {info.filename.partition("/")[2]: info for info in files}
    if foreign := [inner for inner in members if not MEMBER.fullmatch(inner)]:
        raise InputError(f"{name} contains {foreign[0]!r}, which does not belong to a run.")
    if missing := [inner for inner in NEEDED if inner not in members]:
        raise InputError(f"{name} is not a run: {missing[0]} is missing.")
    if len(members) < len(files):
        raise InputError(f"{name} contains a file twice.")
    return members


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int, name: str) -> Iterator[bytes]:
    """Yield a file in chunks; raise `InputError` beyond `limit` bytes, as the size in the directory may be wrong."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile unpacks bzip2 and LZMA without a limit: in the worst case, each byte becomes a megabyte.
        raise InputError(f"{name}: the compression of {info.filename} must be stored or deflated, as in most ZIPs.")
    with archive.open(info) as file:
        left = limit
        while chunk := file.read(2**20):
            left -= len(chunk)
            if left < 0:
                raise InputError(f"{name}: {info.filename} is larger than {limit:,} bytes.")
            yield chunk


def _record(data: bytes, name: str, members: Container[str]) -> RunRecord:
    try:
        record = RunRecord.from_json(data, members.__contains__)
        record = RunRecord.model_validate_json(record.model_dump_json())  # NaN becomes `None`, as in a saved record
    except OtherVersionError as error:
        raise InputError(f"{name} contains a run of another version; this program reads {VERSIONS}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: the run's record is damaged.") from error
    masks = [mask for mask, style in zip(MASKS, record.styles, strict=False) if style.mask]
    if missing := [inner for inner in (*STYLES[: len(record.styles)], *masks) if inner not in members]:
        raise InputError(f"{name} is not a complete run: {missing[0]} is missing.")
    if not RUN_ID.fullmatch(record.id):
        raise InputError(f"{name}: {record.id!r} is not a valid name of a run.")
    status = "interrupted" if record.unfinished else record.status
    return record.model_copy(update={"status": status, "writer": None, "queued": None, "begun": None})


def _free_id(record: RunRecord) -> str:
    taken = any((folder / record.id).exists() for folder in (paths.runs(), trash()))  # a deleted run may be restored
    return f"{record.id}-{secrets.token_hex(2)}" if taken else record.id


def _unpack(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path, name: str) -> None:
    left = MAX_BYTES
    for inner, info in members.items():
        (folder / inner).parent.mkdir(exist_ok=True)
        with (folder / inner).open("xb") as file:  # flushed later, with all other files
            for chunk in _chunks(archive, info, LIMITS.get(inner, PICTURE_BYTES), name):
                left -= len(chunk)
                if left < 0:
                    raise InputError(f"{name} is larger than {MAX_BYTES:,} bytes when unpacked.")
                file.write(chunk)


def _check(draft: Run, record: RunRecord, name: str) -> None:
    """Raise `InputError` if the content of a file does not match its name or the run's record."""
    exact = draft.path / "result.npy"
    if exact.exists() and codec.array_kind(exact) != (*record.shape, 3, np.float32):
        raise InputError(f"{name}: result.npy does not match the run's record.")
    try:
        metrics = draft.metrics()
    except StudioError as error:
        raise InputError(f"{name}: metrics.csv is damaged.") from error
    if not np.isfinite(metrics.to_numpy(float)).all():
        raise InputError(f"{name}: metrics.csv is damaged.")
    if list(metrics.columns) not in ([*METRICS], [*METRICS, *record.settings.style_layers]):
        raise InputError(f"{name}: metrics.csv has unknown columns.")
    marks = draft.path / "marks.json"
    try:
        if marks.exists():
            Marks.model_validate_json(marks.read_bytes())
    except ValidationError as error:
        raise InputError(f"{name}: marks.json is damaged.") from error
    _check_pictures(draft, record, name)


def _check_pictures(draft: Run, record: RunRecord, name: str) -> None:
    height, width = record.shape
    with sandbox.Decoder() as decoder:
        for picture in (*(draft.path / inner for inner in PICTURES), *(path for _, path in draft.frames())):
            if not picture.exists():
                continue
            most = codec.MAX_PIXELS if picture.name in INPUTS else height * width
            label, kind = f"{name}: {picture.name}", FORMATS[picture.suffix]
            size = decoder.read(picture, label, PICTURE_BYTES, formats=(kind,), max_pixels=most).size
            if picture.name not in INPUTS and size != (width, height):
                raise InputError(f"{label} has another size than the run's record says.")
