"""Where things lie: `NST_HOME`, by default the platform's folder for user data; models also beside the code."""

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
FEW = 50  # files that are flushed one by one: of more, all that the system has to write is sooner written at once
DRAFT = ".draft-"  # how the name of a file begins that is not whole yet


def home() -> Path:
    """The folder of everything that this program keeps: runs, cached targets, logs."""
    from core.environment import environment  # here: the process that decodes pictures starts without pydantic

    named = environment().home
    return named.expanduser().resolve() if named else Path(platformdirs.user_data_dir("style-transfer-studio"))


def runs() -> Path:
    return home() / "runs"


def queue() -> Path:
    """A file for each run that waits for a worker, by the run's name."""
    return home() / "queue"


def cache() -> Path:
    return home() / "cache"


def models() -> Path:
    """The folder that new models are written to: `models/` of a source checkout, otherwise one under `NST_HOME`."""
    beside = CHECKOUT / "models"
    writable = (CHECKOUT / "pyproject.toml").is_file() and os.access(beside, os.W_OK)
    return beside if writable else home() / "models"


def find_model(name: str) -> Path | None:
    """The model file of that name: from the folder that is written to, or as shipped beside the code."""
    files = (models() / name, CHECKOUT / "models" / name)
    return next(filter(is_file, files), None)


def is_file(path: Path) -> bool:
    """Whether a file is there; one in a folder that is closed to us is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def read(path: Path, limit: int = 2**20) -> bytes:
    """A regular file's bytes. Raises `OSError` also for another thing (a pipe would be waited for) and for a file of
    more than `limit` bytes."""
    with _opened(path) as file:
        data = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)  # room is made for so many at once
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data


def read_ends(path: Path, length: int) -> bytes:
    """A regular file's first line and its last ones, of `length` bytes at most each; a short one's all. Raises
    `OSError` as `read` does."""
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
    """Raise `InputError` if a file is bound not to be written there, before much is done for it."""
    folder = path.parent
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a file.")
        if not folder.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {folder}.")
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: the folder {folder} is not writable for you.")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces `path` if the block ends well: a reader sees the old file or the whole new one,
    also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{secrets.token_hex(6)}")  # short, whatever the name's length
    try:
        with draft.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # such as a read-only folder by now: the first error counts
            draft.unlink(missing_ok=True)
        raise


def write(path: Path, data: bytes) -> None:
    """Write a file of these bytes, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


def put_in_place(draft: Path, folder: Path) -> None:
    """Rename a folder of whole files so that after a loss of power it has all of them or does not exist."""
    inside = list(draft.rglob("*"))
    if len(inside) > FEW and sys.platform == "linux":  # where it waits for the disk
        os.sync()
    else:
        for path in (*inside, draft):
            _flush(path)
    draft.rename(folder)
    _flush(folder.parent)


def remove_drafts(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote there; nobody may be writing."""
    for draft in folder.rglob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):
            draft.unlink()


def _flush(path: Path) -> None:
    """Have a file, or a folder's new names, survive a loss of power, where they can be flushed so (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
