"""Where the seconds went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


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


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
