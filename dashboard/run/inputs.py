"""The inputs of a run as small pictures, each with its mask in the corner."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image, ImageOps

from core.images import codec
from core.runs.record import RunRecord
from core.runs.run import Run
from core.runs.styles import styles_of

MASK = 3  # a mask is this many times smaller than its picture


@dataclass(frozen=True)
class Input:
    """An input picture and its caption."""

    what: str  # such as "Painting 2, 67 %"
    name: str
    path: Path
    mask: Path | None

    def jpeg(self, side: int) -> bytes:
        """Return a JPEG of at most `side` px with the mask. Raises `OSError` or `StudioError` if a file is damaged."""
        return _jpeg(self, self.path.stat().st_mtime, side)

    def drawn(self, side: int) -> Image.Image:
        """Return the picture of at most `side` px with its mask in the corner."""
        picture = codec.shrunk(self.path, side)
        if self.mask:
            longer = max(picture.size)
            small = codec.shrunk(self.mask, max(1, longer // MASK))
            framed = ImageOps.expand(small, max(1, longer // 160), "#888888")
            picture.paste(framed, (picture.width - framed.width, picture.height - framed.height))
        return picture


def photo(run: Run, record: RunRecord) -> Input:
    """Return the run's photo, with the mask of the part that stays as it is."""
    kept = run.kept if run.kept.is_file() else None
    return Input("Photo, partly left as it is" if kept else "Photo", record.content, run.content, kept)


def paintings(run: Run, record: RunRecord) -> list[Input]:
    """Return the run's paintings, with their weights and masks."""
    return [
        Input(", ".join(filter(None, (each.label, each.share_text))), each.name, each.path, each.mask)
        for each in styles_of(run, record)
    ]


@st.cache_data(show_spinner=False, max_entries=128)
def _jpeg(given: Input, changed: float, side: int) -> bytes:
    return codec.encode_jpeg(np.asarray(given.drawn(side)), 88)
