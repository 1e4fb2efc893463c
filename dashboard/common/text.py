"""Texts for the pages: labels of statuses, escaped names, sizes and durations."""

import re
from typing import Literal

from core.names import legible
from core.timings import duration as duration

Colour = Literal["gray", "blue", "green", "orange", "red"]

#: The label, colour and icon of each status of a run.
STATUSES: dict[str, tuple[str, Colour, str]] = {
    "queued": ("Queued", "gray", ":material/hourglass_empty:"),
    "preparing": ("Preparing", "blue", ":material/hourglass_top:"),
    "running": ("Running", "blue", ":material/brush:"),
    "done": ("Done", "green", ":material/check:"),
    "stopped": ("Stopped", "orange", ":material/stop:"),
    "failed": ("Failed", "red", ":material/error:"),
    "interrupted": ("Interrupted", "orange", ":material/power_off:"),
}


def plain(text: str) -> str:
    """Escape Markdown and replace illegible characters, so that Streamlit shows a name literally."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$:~^])", r"\\\1", legible(text))


def size(count: float) -> str:
    """Return a number of bytes in words, such as "12 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
