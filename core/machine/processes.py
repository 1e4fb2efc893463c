"""A sign that a process is alive, also for one that sees it under another number or not at all, as from another
container on the same host: a file that it keeps locked for as long as it lives."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sys
from pathlib import Path

import psutil
from pydantic import BaseModel, Field

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


class ProcessId(BaseModel):
    """The process that writes a run; its start time tells it from a later one of the same number."""

    pid: int = Field(ge=0, lt=2**31)
    started: float  # seconds since the machine's start where that is known: a clock that is set changes nothing of it
    boot: str = ""  # which start of the machine that was
    namespace: str = ""  # where its number counts: a container has numbers of its own
    sign: str = Field(default="", pattern=r"^[0-9a-f]{0,32}$")  # of `presence`, for who cannot see the process

    @staticmethod
    def of(pid: int) -> ProcessId:
        """Raises `psutil.Error` when there is no such process."""
        since = psutil.boot_time() if sys.platform == "linux" else 0.0  # what psutil adds there
        started = psutil.Process(pid).create_time() - since
        return ProcessId(pid=pid, started=started, boot=_boot(), namespace=namespace())

    @staticmethod
    def this_process() -> ProcessId:
        return ProcessId.of(os.getpid()).model_copy(update={"sign": sign()})

    def is_seen_from_here(self) -> bool:
        """Whether its number means the same process here."""
        return not self.namespace or self.namespace == namespace()

    def is_alive(self) -> bool:
        if not self.is_seen_from_here():
            return self.boot == _boot() and is_given(self.sign)
        try:
            now = ProcessId.of(self.pid)
            same = abs(now.started - self.started) < 0.1 and now.boot == self.boot
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def is_this_process(self) -> bool:
        return self.pid == os.getpid() and self.is_seen_from_here() and self.is_alive()

    def is_suspended(self) -> bool:
        """Whether it is alive and does nothing until someone lets it go on, as after Ctrl-Z."""
        try:
            here = self.is_seen_from_here() and self.is_alive()
            return here and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def is_of_an_earlier_boot(self) -> bool:
        """Whether the machine was surely started anew since."""
        return bool(self.boot) and self.boot != _boot()


def _boot() -> str:
    """A name for this start of the machine; nothing where the system gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
