"""Marking a part of the photo: with the brush, with an uploaded mask, or with both."""

from pathlib import Path

import streamlit as st
from PIL import Image

from core.errors import StudioError
from core.images import codec, geometry, sandbox
from dashboard.common.text import plain
from dashboard.compose import brush, picture_picker
from dashboard.compose.picture_picker import Picture


def choose(place: str, label: str, meaning: str, photo: Picture | None) -> Image.Image | None:
    """Let the user mark a part of the photo. Return the mask, white where marked, or `None` if nothing is marked."""
    if not st.toggle(label, key=f"part-{place}", help=meaning, persist_state="session"):
        return None
    if not photo:
        st.caption("Choose a photo first.")
        return None
    sheet = st.container()  # shows the brush above the upload, which must be read first
    base = _base(place)
    with sheet:
        drawing = brush.draw(photo, base, f"brush-{place}")
    if base and not geometry.have_same_shape(base.size, photo.image.size):
        st.caption("The mask has another aspect ratio than the photo, so it is stretched.")
    mask = drawing.mask(photo.image.size, base)
    nothing_marked = mask.getbbox() is None
    with st.container():  # always there, so that nothing moves under the pointer when the caption disappears
        if nothing_marked:
            st.caption("Nothing is marked yet, so this has no effect.")
    return None if nothing_marked else mask


def keep(place: str, path: Path) -> None:
    """Start with a run's mask."""
    forget(place)
    st.session_state[f"part-{place}"] = True
    st.session_state[f"kept-part-{place}"] = path


def forget(place: str) -> None:
    """Start with nothing marked."""
    for key in (f"part-{place}", f"own-part-{place}", f"kept-part-{place}", f"brush-{place}-kept", f"brush-{place}"):
        st.session_state.pop(key, None)


def _base(place: str) -> Image.Image | None:
    """Return the mask to draw on: an uploaded one or a run's."""
    own = picture_picker.upload(
        f"part-{place}",
        "Or upload a mask",
        "A picture with the photo's shape: white marks a place fully, grey in part, black or transparent not at all. "
        "You can draw on it.",
    )
    kept: Path | None = st.session_state.get(f"kept-part-{place}")
    try:
        if own:
            return _mask(*own)
        if kept:
            picture_picker.offer_to_drop(f"kept-part-{place}", "Remove the run's mask", f"unkeep-part-{place}")
            return _mask(kept, "the run's mask")
    except (StudioError, OSError) as error:
        picture_picker.log_once(f"part-{place}", error)
        st.error(plain(str(error)))
    return None


@st.cache_resource(show_spinner="Reading the mask …", max_entries=8)
def _mask(source: bytes | Path, name: str) -> Image.Image:
    most = 4 * codec.MAX_PIXELS if isinstance(source, Path) else codec.MAX_BYTES  # a run's is a larger PNG
    return sandbox.read_mask(source, name, most)
