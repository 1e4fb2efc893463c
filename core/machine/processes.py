"""Identify processes and find out whether they are alive: each process keeps its own file locked.

The system releases the lock when the process ends for any reason. So every process that shares the home folder can
check the lock, even from another container, where process ids differ.
"""

import contextlib
import os
import secrets
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import AliasChoices, BaseModel, Field

from core import paths

_held: dict[tuple[Path, int], FileLock] = {}  # by home folder and process id, because a fork is another process


class ProcessId(BaseModel):
    """A process: its lock shows whether it is alive; signals need its process id."""

    pid: int = Field(ge=0, lt=2**31)
    # The name of its lock file; earlier versions call this field "sign".
    lock: str = Field(default="", pattern=r"^[0-9a-f]{0,32}$", validation_alias=AliasChoices("lock", "sign"))
    boot: str = ""  # the boot id of its machine
    namespace: str = ""  # its PID namespace: a container has its own process ids

    @staticmethod
    def this_process() -> "ProcessId":
        """Identify the calling process, and lock its file."""
        return ProcessId(pid=os.getpid(), lock=own_lock(), boot=_boot(), namespace=_namespace())

    def is_alive(self) -> bool:
        """Tell whether the process still holds its lock."""
        return is_locked(self.lock)

    def is_this_process(self) -> bool:
        """Tell whether the calling process holds the lock."""
        return self.lock != "" and self.lock == own_lock()

    def is_visible_here(self) -> bool:
        """Tell whether its process id refers to the same process here."""
        return (self.boot, self.namespace) == (_boot(), _namespace())

    def is_suspended(self) -> bool:
        """Tell whether a signal has suspended it, as Ctrl-Z does."""
        try:
            return self.is_visible_here() and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def is_of_an_earlier_boot(self) -> bool:
        """Tell whether the machine has restarted since; `False` if the boot is unknown."""
        return self.boot not in ("", _boot())


def own_lock() -> str:
    """Lock this process's file until the process ends; return its name, or an empty text if that is impossible."""
    home = paths.home()
    try:
        lock = _held.get((home, os.getpid())) or _held.setdefault((home, os.getpid()), _lock_new_file(home))
    except OSError:
        return ""
    return Path(lock.lock_file).name


def is_locked(name: str) -> bool:
    """Tell whether a process holds the lock with this name. Remove the file if none does."""
    path = paths.home() / "processes" / name
    if not name or not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            path.unlink()
    except Timeout:
        return True
    except OSError:
        pass
    return False


def _lock_new_file(home: Path) -> FileLock:
    folder = home / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        is_locked(path.name)  # removes the file if its process is gone
    lock = FileLock(folder / secrets.token_hex(8), thread_local=False)
    lock.acquire()
    return lock


def _boot() -> str:
    """Return the boot id, which changes with every start of the machine; an empty text if there is none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""
