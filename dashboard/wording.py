"""What a user or a file says, shown as it is."""

import re


def plain(text: str) -> str:
    """Escape what Streamlit would take for Markdown, so that a file's name stays a name."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$:~^])", r"\\\1", text)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
