"""Choosing a picture: a sample, an upload, a photo from the camera, or a picture of an earlier run."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import streamlit as st
from PIL import Image, ImageOps
from streamlit.delta_generator import DeltaGenerator

from core import log
from core.errors import StudioError
from core.images import codec, sandbox
from core.samples.gallery import PHOTOS, STYLES, Sample, find, thumbnail
from dashboard.common.text import plain
from dashboard.compose import crop
from dashboard.compose.crop import Crop

TILE = 104  # px
PREVIEW = (640, 480)  # px
FILE_TYPES = ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif"]


@dataclass(frozen=True)
class Picture:
    """A picture for a run, RGB and upright, with the name that the user sees."""

    name: str
    image: Image.Image

    @cached_property
    def preview(self) -> bytes:
        """Return a small PNG. Transparent margins give every preview the same shape, so that the page does not jump."""
        small = self.image.copy()
        small.thumbnail(PREVIEW, Image.Resampling.BICUBIC, reducing_gap=2.0)
        png = io.BytesIO()
        ImageOps.pad(small.convert("RGBA"), PREVIEW, color=(0, 0, 0, 0)).save(png, "PNG", compress_level=1)
        return png.getvalue()


def heading(title: str) -> DeltaGenerator:
    """Show a column's heading and return its container; elements added there appear beside the title."""
    row = st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key=f"heading-{title}"
    )
    row.header(title, anchor=False, width="content")
    return row


def choose(place: str) -> Picture | None:
    """Let the user choose the picture of a place: "photo", "style" (the first painting), "style-2" and so on.

    Returns `None` if the picture cannot be used; the page then shows the error.
    """
    shown = st.empty()
    tools = st.container(horizontal=True)
    own = _own(place)
    try:
        picture = _read(place, own)
        if picture:
            with tools:
                chosen = crop.choose(place, picture.name, picture.image)
            if chosen != Crop():
                picture = Picture(picture.name, chosen.of(picture.image))
    except (StudioError, OSError) as error:
        log_once(place, error)
        st.error(plain(str(error)))
        return None
    if picture:
        shown.image(picture.preview, width="stretch", alt=picture.name)
    return picture


def _samples(place: str) -> Sequence[Sample]:
    return PHOTOS if place == "photo" else STYLES


def log_once(place: str, error: Exception) -> None:
    """Log a refused picture once, not at every rerun of the page."""
    if st.session_state.get(f"refused-{place}") != str(error):
        st.session_state[f"refused-{place}"] = str(error)
        log.refused("picture refused", error)


def keep(place: str, path: Path, name: str) -> None:
    """Start with a picture of an earlier run."""
    st.session_state.pop(f"own-{place}", None)
    st.session_state[f"kept-{place}"] = (path, name)


def forget(place: str) -> None:
    """Start again with a sample."""
    for what in ("own", "kept", "sample", "framing"):
        st.session_state.pop(f"{what}-{place}", None)
    st.session_state.pop(f"framing-{place}-of", None)


def _own(place: str) -> tuple[bytes, str] | None:
    """Return the picture from the user's file or camera, and its name."""
    uploaded = upload(
        place,
        "Your own picture",
        f"JPEG, PNG, WebP, TIFF, BMP or GIF, up to {codec.MAX_PIXELS // 1_000_000} megapixels.",
    )
    if uploaded:
        return uploaded
    if place == "photo" and st.toggle("Use the camera", key="camera"):
        taken = st.camera_input("Take a photo", key="camera-photo", resolution="1080p", label_visibility="collapsed")
        return (taken.getvalue(), "camera.jpg") if taken else None
    return None


def upload(place: str, label: str, meaning: str) -> tuple[bytes, str] | None:
    """Return the uploaded file and its name. They survive a visit to another page, which empties the uploader."""
    shown = st.file_uploader(
        label,
        FILE_TYPES,
        key=f"upload-{place}",
        max_upload_size=codec.MAX_BYTES // 2**20,
        help=meaning,
        on_change=_note_upload,
        args=(place,),
    )
    own: tuple[bytes, str] | None = st.session_state.get(f"own-{place}")
    if own and not shown:
        offer_to_drop(f"own-{place}", f"Remove {plain(own[1])}", f"disown-{place}")
    return own


def offer_to_drop(what: str, label: str, key: str, meaning: str | None = None) -> None:
    """Show a button that removes a picture from the session's state."""
    drop = st.session_state.pop
    st.button(label, key=key, icon=":material/close:", on_click=drop, args=(what, None), help=meaning)


def _note_upload(place: str) -> None:
    file = st.session_state[f"upload-{place}"]
    st.session_state[f"own-{place}"] = (file.getvalue(), file.name) if file else None


def _read(place: str, own: tuple[bytes, str] | None) -> Picture | None:
    if own:
        return _uploaded(*own)
    if kept := st.session_state.get(f"kept-{place}"):
        path, name = kept
        meaning = "This picture comes from the run that you started from."
        offer_to_drop(f"kept-{place}", "Choose another", f"unkeep-{place}", meaning)
        return _kept(path, name)
    return _sample(_chosen_sample(place))


def _chosen_sample(place: str) -> str:
    """Return the chosen sample's name; each place starts with a different sample."""
    samples = _samples(place)
    number = int(place.partition("-")[2] or 1)
    name: str = st.session_state.setdefault(f"sample-{place}", samples[(number - 1) % len(samples)].name)
    return name


def offer_samples(place: str) -> None:
    """Show the samples to choose from. Making the sample styles takes a few seconds the first time."""
    own, kept = (st.session_state.get(f"{source}-{place}") for source in ("own", "kept"))
    chosen = None if own or kept else _chosen_sample(place)
    of_place = "" if place in ("photo", "style") else f"{place}-"
    with st.container(horizontal=True, gap="small", key=f"samples-{place}"):
        for sample in _samples(place):
            with st.container(width=TILE, gap="xxsmall"):
                st.image(_thumbnail(sample.name), width="stretch", alt=sample.title)
                st.button(
                    sample.title,
                    key=f"choose-{of_place}{sample.name}",
                    type="primary" if sample.name == chosen else "tertiary",
                    help=sample.credit,
                    width="stretch",
                    disabled=chosen is None,
                    on_click=st.session_state.update,
                    args=({f"sample-{place}": sample.name},),
                )
    if chosen is None:
        st.caption("Remove your own picture to choose a sample." if own else "“Choose another” enables the samples.")


@st.cache_data(show_spinner="Painting the sample styles …", max_entries=32)
def _thumbnail(name: str) -> bytes:
    return codec.encode_jpeg(thumbnail(find(name)))


@st.cache_resource(show_spinner=False, max_entries=16)
def _sample(name: str) -> Picture:
    sample = find(name)
    return Picture(sample.title, codec.read_image(sample.path(), name))


@st.cache_resource(show_spinner=False, max_entries=8)
def _kept(path: Path, name: str) -> Picture:
    # The sandbox reads it because the run may be imported.
    return Picture(name, sandbox.read(path, name, max_bytes=4 * codec.MAX_PIXELS))


@st.cache_resource(show_spinner="Reading the picture …", max_entries=8)
def _uploaded(data: bytes, name: str) -> Picture:
    return Picture(name.rsplit(".", 1)[0], sandbox.read(data, name))
