"""The brush that marks a part of a photo."""

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
SHOWN = 640  # px, of the photo under the brush
MOST_SIDE = 2048  # px, of the mask
SOFT = 0.01  # initial softness, as a fraction of the photo's longer side; 0 over a mask, which keeps its own edges
TINT = (255, 32, 144)  # the same as in brush.js

_brush = st.components.v2.component("brush", css=(HERE / "brush.css").read_text(), js=(HERE / "brush.js").read_text())

Part = Annotated[float, Field(ge=-1, le=2)]  # of the photo's width or height; a stroke may cross the photo's edge


class Stroke(BaseModel):
    """A line through points; its width is a fraction of the photo's longer side."""

    points: list[tuple[Part, Part]] = Field(min_length=1, max_length=5000)
    width: float = Field(gt=0, le=1)
    erases: bool = False


class Drawing(BaseModel):
    """The strokes on a photo."""

    photo: int = 0  # checksum of the photo
    base: int = 0  # checksum of the mask under the strokes; 0 without a mask
    strokes: list[Stroke] = Field(default_factory=list, max_length=2000)
    soft: float = Field(default=0.0, ge=0, le=0.1)  # width of the edges, as a fraction of the photo's longer side
    changes: int = Field(default=0, ge=0)  # how often it was changed: of two copies, the greater is the newer

    def over(self, base: int) -> "Drawing":
        """Return this drawing over a mask. Another mask resets the softness, which was chosen for the last one."""
        return self if self.base == base else self.model_copy(update={"base": base, "soft": 0.0 if base else SOFT})

    def mask(self, size: tuple[int, int], base: Image.Image | None = None) -> Image.Image:
        """Return a mask for a photo of this width and height: white strokes on `base`, or on black."""
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
    """Let the user draw on the photo, starting with the mask `base`. Another photo starts without strokes."""
    which = zlib.crc32(photo.preview)
    tinted = _base(base, photo.image.size) if base else ""
    under = zlib.crc32(tinted.encode())
    kept: Drawing = st.session_state.get(f"{key}-kept", Drawing())
    if kept.photo != which:
        kept = Drawing(photo=which, soft=SOFT)
    # A page that makes the brush anew starts with `kept`, so this needs the change that caused this run of the script.
    kept = _newer(kept, st.session_state.get(key)).over(under)
    answer = _brush(
        data={"photo": _photo(which, photo.image), "base": tinted, "drawing": kept.model_dump()},
        default={"drawing": None},
        on_drawing_change=lambda: None,
        key=key,
    )
    kept = _newer(kept, answer).over(under)
    st.session_state[f"{key}-kept"] = kept  # Streamlit forgets a component's state when another page is shown
    return kept


def _newer(kept: Drawing, state: Any) -> Drawing:
    """Return the drawing in the component's state, or `kept` if there is none of this photo."""
    drawn = _parse(state.get("drawing")) if state else None
    return drawn if drawn and drawn.photo == kept.photo else kept


def _parse(answer: Any) -> Drawing | None:
    """Return the browser's drawing, or `None` if it is invalid."""
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
    """Draw a mask as the brush would."""
    scale = SHOWN / max(size)
    tinted = Image.new("RGBA", (round(size[0] * scale) or 1, round(size[1] * scale) or 1), TINT)
    tinted.putalpha(mask.convert("L").resize(tinted.size))
    png = io.BytesIO()
    tinted.save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
