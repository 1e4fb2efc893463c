"""Process identity and liveness: each process keeps a file of its own locked.

The system releases the lock when the process ends, however that happens. So every process that shares the home folder
can tell, also in another container, where the process has another number or none.
"""

import contextlib
import os
import secrets
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import AliasChoices, BaseModel, Field

from core import paths

_held: dict[tuple[Path, int], FileLock] = {}  # by home folder and process: a fork is another process


class ProcessId(BaseModel):
    """A process: its lock says whether it is alive, its number is for signals."""

    pid: int = Field(ge=0, lt=2**31)
    # The name of its lock file; "sign" is what earlier versions call it.
    lock: str = Field(default="", pattern=r"^[0-9a-f]{0,32}$", validation_alias=AliasChoices("lock", "sign"))
    boot: str = ""  # the boot id of its machine
    namespace: str = ""  # its PID namespace: the processes of a container have numbers of their own

    @staticmethod
    def this_process() -> "ProcessId":
        return ProcessId(pid=os.getpid(), lock=own_lock(), boot=_boot(), namespace=_namespace())

    def is_alive(self) -> bool:
        return is_locked(self.lock)

    def is_this_process(self) -> bool:
        return self.lock != "" and self.lock == own_lock()

    def is_visible_here(self) -> bool:
        """Whether its number means the same process here."""
        return (self.boot, self.namespace) == (_boot(), _namespace())

    def is_suspended(self) -> bool:
        """Whether it was stopped by a signal and can continue, as after Ctrl-Z."""
        try:
            return self.is_visible_here() and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def is_of_an_earlier_boot(self) -> bool:
        return self.boot not in ("", _boot())


def own_lock() -> str:
    """Return the name of this process's lock file, locked until the process ends; nothing where there can be none."""
    home = paths.home()
    try:
        lock = _held.get((home, os.getpid())) or _held.setdefault((home, os.getpid()), _lock_new_file(home))
    except OSError:
        return ""
    return Path(lock.lock_file).name


def is_locked(name: str) -> bool:
    """Tell whether a process holds the lock of that name. Remove the file if none does."""
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
        is_locked(path.name)  # removes those of processes that are gone
    lock = FileLock(folder / secrets.token_hex(8), thread_local=False)
    lock.acquire()
    return lock


def _boot() -> str:
    """Return the boot id, which changes with every start of the machine; nothing where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""
