"""The picture viewer: pictures side by side with one zoom, or two under a slider."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import streamlit as st

from core.errors import StudioError
from core.images import codec

HERE = Path(__file__).parent

_viewer = st.components.v2.component(
    "picture_viewer", css=(HERE / "viewer.css").read_text(), js=(HERE / "viewer.js").read_text()
)


def show(pictures: Sequence[tuple[str, bytes]], slider: bool, key: str) -> None:
    """Show labelled JPEGs side by side at the same width with one zoom, or exactly two under a slider."""
    data = [
        {"label": label, "source": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()}
        for label, jpeg in pictures
    ]
    _viewer(data={"pictures": data, "slider": slider}, key=key)


def jpeg(path: Path, side: int) -> bytes | None:
    """Return a run's picture as a JPEG of at most `side` px, or `None` if it cannot be read."""
    try:
        return _jpeg(path, path.stat().st_mtime, side)
    except (OSError, StudioError):
        return None


@st.cache_data(show_spinner=False, max_entries=512)
def _jpeg(path: Path, changed: float, side: int) -> bytes:
    return codec.encode_jpeg(np.asarray(codec.shrunk(path, side)), quality=88)
