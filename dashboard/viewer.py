"""Pictures looked at together: side by side under one zoom, or two under a slider."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent

_viewer = st.components.v2.component(
    "picture_viewer", css=(HERE / "viewer.css").read_text(), js=(HERE / "viewer.js").read_text()
)


@dataclass(frozen=True)
class Shown:
    """A picture by what is written under it, and its file's bytes, JPEG."""

    label: str
    jpeg: bytes


def together(pictures: Sequence[Shown], slider: bool = False, key: str = "viewer") -> None:
    """Side by side at the same width under one zoom, or the first two under a slider."""
    data = [
        {"label": shown.label, "source": "data:image/jpeg;base64," + base64.b64encode(shown.jpeg).decode()}
        for shown in (pictures[:2] if slider else pictures)
    ]
    _viewer(data={"pictures": data, "slider": slider}, key=key)
