"""Marking a part of a photo with a brush."""

import base64
import io
import zlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw, ImageFilter
from pydantic import BaseModel, Field, ValidationError

from core.images import codec
from dashboard.compose.picture_picker import Picture

HERE = Path(__file__).parent
SHOWN = 640  # px, of the photo that is drawn on
MOST_SIDE = 2048  # px, of the mask that is drawn
SOFT = 0.01  # how soft an edge is at first, in the photo's longer side; a mask that was given stays as it is
TINT = (255, 32, 144)  # as brush.js has it

_brush = st.components.v2.component("brush", css=(HERE / "brush.css").read_text(), js=(HERE / "brush.js").read_text())

Part = Annotated[float, Field(ge=-1, le=2)]  # of the photo's width or height; a stroke may lead beyond its edge


class Stroke(BaseModel):
    """A line that was drawn: through these points, as wide as a part of the photo's longer side."""

    points: list[tuple[Part, Part]] = Field(min_length=1, max_length=5000)
    width: float = Field(gt=0, le=1)
    erases: bool = False


class Drawing(BaseModel):
    """What was drawn on a photo."""

    photo: int = 0  # which one it was
    base: int = 0  # which mask was under it; 0 for none
    strokes: list[Stroke] = Field(default_factory=list, max_length=2000)
    soft: float = Field(default=0.0, ge=0, le=0.1)  # how far the edges reach, in the photo's longer side

    def over(self, base: int) -> "Drawing":
        """This drawing over that mask. How soft the edges are was said of another one, so that it begins anew."""
        return self if self.base == base else self.model_copy(update={"base": base, "soft": 0.0 if base else SOFT})

    def mask(self, size: tuple[int, int], base: Image.Image | None = None) -> Image.Image:
        """White where it was drawn, on a base or on black; in the shape of a photo of that width and height."""
        scale = min(1.0, MOST_SIDE / max(size))
        width, height = (max(1, round(side * scale)) for side in size)
        mask = base.convert("L").resize((width, height)) if base else Image.new("L", (width, height))
        pen, longer = ImageDraw.Draw(mask), max(width, height)
        for stroke in self.strokes:
            value, thick = 0 if stroke.erases else 255, max(1, round(stroke.width * longer))
            points = [(x * width, y * height) for x, y in stroke.points]
            pen.line(points, value, thick)
            for point in points:
                pen.circle(point, thick / 2, value)
        return mask.filter(ImageFilter.GaussianBlur(self.soft * longer)) if self.soft else mask


def draw(photo: Picture, base: Image.Image | None, key: str) -> Drawing:
    """Let the user draw on the photo, where `base` is marked already. Another photo begins with nothing on it."""
    which = zlib.crc32(photo.preview)
    tinted = _base(base, photo.image.size) if base else ""
    under = zlib.crc32(tinted.encode())
    kept: Drawing = st.session_state.get(f"{key}-kept", Drawing())
    if kept.photo != which:
        kept = Drawing(photo=which, soft=SOFT)
    kept = kept.over(under)
    answer = _brush(
        data={"photo": _photo(which, photo.image), "base": tinted, "drawing": kept.model_dump()},
        default={"drawing": None},
        on_drawing_change=lambda: None,
        key=key,
    )
    drawn = _understood(answer.drawing)
    if drawn and drawn.photo == which:
        kept = drawn.over(under)
    st.session_state[f"{key}-kept"] = kept  # Streamlit forgets what a component said when another page is shown
    return kept


def _understood(answer: Any) -> Drawing | None:
    """What the browser says, if it is a drawing."""
    try:
        return Drawing.model_validate(answer) if answer else None
    except ValidationError:
        return None


@st.cache_data(show_spinner=False, max_entries=16)
def _photo(which: int, _image: Image.Image) -> str:
    small = _image.copy()
    small.thumbnail((SHOWN, SHOWN), reducing_gap=2.0)
    return "data:image/jpeg;base64," + base64.b64encode(codec.encode_jpeg(np.asarray(small), 85)).decode()


def _base(mask: Image.Image, size: tuple[int, int]) -> str:
    """The mask as what the brush would have drawn."""
    scale = SHOWN / max(size)
    tinted = Image.new("RGBA", (round(size[0] * scale) or 1, round(size[1] * scale) or 1), TINT)
    tinted.putalpha(mask.convert("L").resize(tinted.size))
    png = io.BytesIO()
    tinted.save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
