"""A sign that a process is alive, also for one that sees it under another number or not at all, as from another
container on the same host: a file that it keeps locked for as long as it lives."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sys
from pathlib import Path

from core import paths

if sys.platform != "win32":
    import fcntl


def namespace() -> str:
    """In which the numbers of processes count that this one sees; nothing where the system has no such."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def sign() -> str:
    """The name of this process's file, locked from now on; nothing where there are no namespaces, or no room."""
    return _kept(paths.home(), os.getpid()) if namespace() else ""


def is_given(name: str) -> bool:
    """Whether a process keeps the file of that name locked."""
    if sys.platform == "win32" or not name:
        return False
    try:
        with (_folder(paths.home()) / name).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: several may ask at once
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@functools.cache
def _kept(home: Path, process: int) -> str:
    if sys.platform == "win32":
        return ""
    folder, name = _folder(home), secrets.token_hex(8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        path = folder / name
        path.touch()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # it stays open, and so locked, until the process ends
        return name if path.exists() else ""  # who cleared just then took it for one that was left
    except OSError:
        return ""


def _clear(folder: Path) -> None:
    """Remove what processes have left that are gone."""
    for path in folder.iterdir():
        if not is_given(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _folder(home: Path) -> Path:
    return home / "processes"
