"""Timings of the phases of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings(dict[str, float]):
    """The seconds of each phase, in the order of their starts."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the `with` block to a phase."""
        start = time.perf_counter()
        self.setdefault(name, 0.0)
        try:
            yield
        finally:
            self[name] += time.perf_counter() - start


def duration(seconds: float) -> str:
    """Format a duration for people: "12 s", "5 min" or "2.0 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
