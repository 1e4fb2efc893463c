"""Where the seconds went."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import InputError


class Timings(dict[str, float]):
    """Seconds by phase, in the order in which the phases began."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's duration to the phase."""
        start = time.perf_counter()
        self.setdefault(name, 0.0)
        try:
            yield
        finally:
            self[name] += time.perf_counter() - start


def seconds_asked(variable: str) -> float | None:
    """What an environment variable says; `None` where it is not set. Raises `InputError` when it is no number of
    seconds."""
    asked = os.environ.get(variable, "")
    try:
        seconds = float(asked or "0")
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise InputError(f"{variable} is {asked[:80]!r}: it must be a number of seconds, 0 or more, or not be set.")
    return seconds if asked else None


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
