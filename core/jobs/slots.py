"""The places that runs are painted at: one for each accelerator, or as many as NST_WORKERS says."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from core import paths
from core.environment import MOST_SLOTS, environment
from core.errors import StudioError
from core.machine import hardware
from core.runs.run import Run, writing

AcquiredLock = AcquireReturnProxy[FileLock]  # as a context, it releases the lock at the end


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time is painted, here or by a worker on a cluster."""

    number: int  # from 0
    on_cluster: bool = False

    def work_lock(self) -> FileLock:
        """Held by the worker whose place this is, for as long as it lives."""
        return FileLock(self._file("worker", ".lock"))

    def turn_lock(self) -> FileLock:
        """Held by who paints here, a worker or a command line."""
        return FileLock(self._file("painting", ".lock"))

    @property
    def readiness_file(self) -> Path:
        return self._file("worker", ".json")

    @contextlib.contextmanager
    def occupied_by(self, run: Run) -> Iterator[None]:
        """Say which run has the turn here. Raises `StudioError` where that cannot be written."""
        with writing(run, paths.home()):
            paths.write(self._file("painting"), run.id.encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what ended the block counts more
                self._file("painting").unlink(missing_ok=True)

    def run(self) -> Run | None:
        """The run that is being painted here by who holds the turn."""
        try:
            run = Run(paths.runs() / self._file("painting").read_text())
            return run if run.record().status in ("preparing", "running") else None
        except (OSError, StudioError):
            return None

    def choose_card(self) -> None:
        """Let this process see only this slot's GPU, unless TensorFlow is loaded already."""
        found = hardware.cards()
        if len(found) > 1 and "tensorflow" not in sys.modules:
            if "CUDA_VISIBLE_DEVICES" not in os.environ:
                os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML numbers them; CUDA does it by their speed
            os.environ["CUDA_VISIBLE_DEVICES"] = found[self.number % len(found)]

    def _file(self, name: str, suffix: str = "") -> Path:
        name += "-on-cluster" if self.on_cluster else ""
        return paths.home() / f"{name}{f'-{self.number + 1}' if self.number else ''}{suffix}"


def local_slots() -> tuple[Slot, ...]:
    """Return all slots of this machine. Raises `InputError` if NST_WORKERS is not allowed."""
    return tuple(map(Slot, range(environment().workers or _accelerators())))


def cluster_slots() -> tuple[Slot, ...]:
    """The places of all runs that workers on clusters may have at a time, whoever records them here."""
    return tuple(Slot(number, on_cluster=True) for number in range(MOST_SLOTS))


@functools.cache
def _accelerators() -> int:
    """Looked up before this process chooses a card, after which it would see only that one."""
    return min(max(len(hardware.cards()), 1), MOST_SLOTS)


def first_free(places: Iterable[Slot], lock_of: Callable[[Slot], FileLock]) -> tuple[Slot, AcquiredLock] | None:
    """Return the first slot whose lock could be acquired, and that lock."""
    return next(((slot, lock) for slot in places if (lock := try_acquire(lock_of(slot)))), None)


def try_acquire(lock: FileLock) -> AcquiredLock | None:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        return None
