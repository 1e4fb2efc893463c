"""Folders and files: `NST_HOME`, by default the platform's folder for user data; models also next to the code."""

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

import platformdirs

from core.errors import InputError

CHECKOUT = Path(__file__).resolve().parent.parent
FEW = 50  # files to flush one by one; for more files, flushing the whole system is faster
DRAFT = ".draft-"  # prefix of files that are being written


def home() -> Path:
    """Return the folder of all data of this program: runs, cached targets, logs."""
    from core.environment import environment  # local: the process that decodes images starts without pydantic

    named = environment().home
    return named.expanduser().resolve() if named else Path(platformdirs.user_data_dir("style-transfer-studio"))


def runs() -> Path:
    """Return the folder of the runs."""
    return home() / "runs"


def queue() -> Path:
    """Return the folder with a file for each run that waits for a worker, named like the run."""
    return home() / "queue"


def cache() -> Path:
    """Return the folder of cached files, which can be computed again."""
    return home() / "cache"


def models() -> Path:
    """Return the folder for new models: `models/` of a source checkout, otherwise a folder under `NST_HOME`."""
    beside = CHECKOUT / "models"
    writable = (CHECKOUT / "pyproject.toml").is_file() and os.access(beside, os.W_OK)
    return beside if writable else home() / "models"


def find_model(name: str) -> Path | None:
    """Return the model file with this name, from the folder for new models or shipped with the code, or `None`."""
    files = (models() / name, CHECKOUT / "models" / name)
    return next(filter(is_file, files), None)


def is_file(path: Path) -> bool:
    """Return whether the file exists; `False` if access to the folder is denied."""
    try:
        return path.is_file()
    except OSError:
        return False


def read(path: Path, limit: int = 2**20) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: If the file cannot be read, is not a regular file (reading a pipe would block), or has more than
            `limit` bytes.
    """
    with _opened(path) as file:
        data = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)  # Python allocates this many bytes at once
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data


def read_ends(path: Path, length: int) -> bytes:
    """Return the first line and the last lines of a regular file, at most `length` bytes each; all of a short file.

    Raises:
        OSError: If the file cannot be read or is not a regular file.
    """
    with _opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) <= 2 * length:
            return file.read(2 * length)
        first = file.read(length)
        file.seek(size - length)
        last = file.read(length)
    return first[: first.find(b"\n") + 1] + last[last.find(b"\n") + 1 :]


def _opened(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return path.open("rb")


def check_writable(path: Path) -> None:
    """Check early that a file can be written.

    Raises:
        InputError: If the path is a folder, or its folder is missing or not writable.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a file.")
        if not folder.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {folder}.")
    except OSError as error:  # for example, the name is too long
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: the folder {folder} is not writable for you.")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: readers see the old file or the complete new file, also after a crash.

    Yields:
        A binary file to write to. It replaces `path` if the block raises nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{secrets.token_hex(6)}")  # does not contain the name, which may be long
    try:
        with draft.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # report the first error, not a failed removal
            draft.unlink(missing_ok=True)
        raise


def write(path: Path, data: bytes) -> None:
    """Write the bytes to a file atomically."""
    with replacing(path) as file:
        file.write(data)


def put_in_place(draft: Path, folder: Path) -> None:
    """Rename a folder so that after a loss of power it has all its files or does not exist."""
    inside = list(draft.rglob("*"))
    if len(inside) > FEW and sys.platform == "linux":  # only there does sync wait for the disk
        os.sync()
    else:
        for path in (*inside, draft):
            _flush(path)
    draft.rename(folder)
    _flush(folder.parent)


def remove_drafts(folder: Path) -> None:
    """Remove the unfinished files of killed processes; no process may be writing in the folder."""
    for draft in folder.rglob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):
            draft.unlink()


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk; do nothing on Windows, which cannot flush folders."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
