"""Slots: how many runs this machine computes at once. One slot for each accelerator, or as many as NST_WORKERS says."""

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
    """A place for one run at a time, on this machine or on a cluster."""

    number: int  # from 0
    on_cluster: bool = False

    def work_lock(self) -> FileLock:
        """Return the lock that the slot's worker holds while it lives."""
        return FileLock(self._file("worker", ".lock"))

    def turn_lock(self) -> FileLock:
        """Return the lock that a process holds while it computes a run in this slot."""
        return FileLock(self._file("painting", ".lock"))

    @property
    def readiness_file(self) -> Path:
        """Return the path of the JSON file in which the slot's worker reports its preparation."""
        return self._file("worker", ".json")

    @contextlib.contextmanager
    def occupied_by(self, run: Run) -> Iterator[None]:
        """Record in the context that a run occupies this slot.

        Raises:
            StudioError: If this cannot be written.
        """
        with writing(run, paths.home()):
            paths.write(self._file("painting"), run.id.encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the first error counts more
                self._file("painting").unlink(missing_ok=True)

    def run(self) -> Run | None:
        """Return the run that occupies this slot, if any."""
        try:
            run = Run(paths.runs() / self._file("painting").read_text())
            return run if run.record().status in ("preparing", "running") else None
        except (OSError, StudioError):
            return None

    def choose_card(self) -> None:
        """Let this process see only this slot's GPU of those it may use, unless TensorFlow is already loaded."""
        found = hardware.cards()
        if len(found) > 1 and "tensorflow" not in sys.modules:
            if "CUDA_VISIBLE_DEVICES" not in os.environ:
                os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's order; CUDA would order the GPUs by speed
            os.environ["CUDA_VISIBLE_DEVICES"] = found[self.number % len(found)]

    def _file(self, name: str, suffix: str = "") -> Path:
        name += "-on-cluster" if self.on_cluster else ""
        return paths.home() / f"{name}{f'-{self.number + 1}' if self.number else ''}{suffix}"


def local_slots() -> tuple[Slot, ...]:
    """Return all slots of this machine.

    Raises:
        InputError: If the value of NST_WORKERS is not allowed.
    """
    return tuple(map(Slot, range(environment().workers or _accelerators())))


def cluster_slots() -> tuple[Slot, ...]:
    """Return the slots of this machine for runs on clusters; all processes that record such runs share them."""
    return tuple(Slot(number, on_cluster=True) for number in range(MOST_SLOTS))


@functools.cache
def _accelerators() -> int:
    """Return the number of accelerators, cached because this process sees only one GPU after it chose its GPU."""
    return min(max(len(hardware.cards()), 1), MOST_SLOTS)


def first_free(places: Iterable[Slot], lock_of: Callable[[Slot], FileLock]) -> tuple[Slot, AcquiredLock] | None:
    """Return the first slot whose lock is free, and that lock, acquired; `None` if there is no such slot."""
    return next(((slot, lock) for slot in places if (lock := try_acquire(lock_of(slot)))), None)


def try_acquire(lock: FileLock) -> AcquiredLock | None:
    """Acquire the lock without waiting; return `None` if it is held."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        return None
