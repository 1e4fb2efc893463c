"""Choosing a picture: from the samples, one of one's own, what the camera sees, or that of an earlier run."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import streamlit as st
from PIL import Image, ImageOps

from core import decoding, images, log, samples
from core.errors import StudioError
from core.samples import Sample
from dashboard import framing as frame
from dashboard.framing import Framing
from dashboard.wording import plain

Kind = Literal["photo", "style"]
HEADINGS: dict[Kind, str] = {"photo": "Photo", "style": "Painting"}
SAMPLES: dict[Kind, tuple[Sample, ...]] = {"photo": samples.PHOTOS, "style": samples.STYLES}
TILE = 104  # pixels
PREVIEW = (640, 480)  # pixels
FILE_TYPES = ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif"]


@dataclass(frozen=True)
class Picture:
    """A picture chosen for a run, RGB and upright, and the name that the user knows it by."""

    name: str
    image: Image.Image
    preview: bytes  # a small PNG


def choose(kind: Kind) -> Picture | None:
    """Let the user choose; `None` when what they uploaded cannot be used (they are told why)."""
    st.header(HEADINGS[kind], anchor=False)
    shown = st.empty()
    tools = st.container(horizontal=True)
    own = _own(kind)
    try:
        picture = _read(kind, own)
        if picture:
            with tools:
                framing = frame.choose(kind, picture.name, picture.image)
            picture = _framed(picture, framing)
    except (StudioError, OSError) as error:
        _log_once(kind, error)
        st.error(plain(str(error)))
        return None
    if picture:
        shown.image(picture.preview, width="stretch", alt=picture.name)
    return picture


def _log_once(kind: Kind, error: Exception) -> None:
    """A picture that is refused is met again each time the page is drawn."""
    if st.session_state.get(f"refused-{kind}") != str(error):
        st.session_state[f"refused-{kind}"] = str(error)
        log.refused("picture refused", error)


def keep(kind: Kind, path: Path, name: str) -> None:
    """Have the next picture be a run's own, as when its settings are tried on another one."""
    st.session_state[f"kept-{kind}"] = (path, name)


def _own(kind: Kind) -> tuple[bytes, str] | None:
    """A picture that the user brings, and its name: a file, or what the camera sees."""
    upload = st.file_uploader(
        "Your own picture",
        FILE_TYPES,
        key=f"upload-{kind}",
        max_upload_size=images.MAX_BYTES // 2**20,
        help=f"JPEG, PNG, WebP, TIFF, BMP or GIF, up to {images.MAX_PIXELS // 1_000_000} megapixels.",
    )
    if upload:
        return upload.getvalue(), upload.name
    if kind == "photo" and st.toggle("Use the camera", key="camera"):
        taken = st.camera_input("Take a photo", key="camera-photo", resolution="highest", label_visibility="collapsed")
        return (taken.getvalue(), "camera.jpg") if taken else None
    return None


def _read(kind: Kind, own: tuple[bytes, str] | None) -> Picture | None:
    if own:
        return _uploaded(*own)
    if kept := st.session_state.get(f"kept-{kind}"):
        path, name = kept
        st.button(
            "Choose another",
            key=f"unkeep-{kind}",
            icon=":material/close:",
            on_click=_forget,
            args=(kind,),
            help="It is the picture of the run that you came from.",
        )
        return _kept(path, name)
    return _sample(_chosen_sample(kind))


def _forget(kind: Kind) -> None:
    st.session_state.pop(f"kept-{kind}", None)


def _has_own(kind: Kind) -> bool:
    return any(st.session_state.get(f"{source}-{kind}") for source in ("upload", "kept"))


def _chosen_sample(kind: Kind) -> str:
    return st.session_state.setdefault(f"sample-{kind}", SAMPLES[kind][0].name)


def offer_samples(kind: Kind) -> None:
    """The samples to choose from; at the very first start painting the styles takes a few seconds."""
    chosen = None if _has_own(kind) else _chosen_sample(kind)
    with st.container(horizontal=True, gap="small", key=f"samples-{kind}"):
        for sample in SAMPLES[kind]:
            with st.container(width=TILE, gap="xxsmall"):
                st.image(_thumbnail(sample.name), width="stretch", alt=sample.title)
                st.button(
                    sample.title,
                    key=f"choose-{sample.name}",
                    type="primary" if sample.name == chosen else "tertiary",
                    help=sample.credit,
                    width="stretch",
                    disabled=chosen is None,
                    on_click=_choose_sample,
                    args=(kind, sample.name),
                )
    if chosen is None:
        own = st.session_state.get(f"upload-{kind}")
        st.caption("Remove your own picture to choose a sample." if own else "“Choose another” offers the samples.")


def _choose_sample(kind: Kind, name: str) -> None:
    st.session_state[f"sample-{kind}"] = name


@st.cache_data(show_spinner="Painting the sample styles …", max_entries=32)
def _thumbnail(name: str) -> bytes:
    return images.encode_jpeg(samples.thumbnail(samples.find(name)))


@st.cache_resource(show_spinner=False, max_entries=16)
def _sample(name: str) -> Picture:
    sample = samples.find(name)
    image = images.read_image(sample.path(), name)
    return Picture(sample.title, image, _preview(image))


@st.cache_resource(show_spinner=False, max_entries=8)
def _kept(path: Path, name: str) -> Picture:
    image = decoding.read(path, name, max_bytes=4 * images.MAX_PIXELS)  # of a run that may come from elsewhere
    return Picture(name, image, _preview(image))


def _framed(picture: Picture, framing: Framing) -> Picture:
    if framing == Framing():
        return picture
    image = framing.of(picture.image)
    return Picture(picture.name, image, _preview(image))


@st.cache_resource(show_spinner="Reading the picture …", max_entries=4)
def _uploaded(data: bytes, name: str) -> Picture:
    image = decoding.read(data, name)
    return Picture(name.rsplit(".", 1)[0], image, _preview(image))


def _preview(image: Image.Image) -> bytes:
    """Small, and with see-through margins brought to one shape for both sides, so that the page keeps its lines."""
    small = image.copy()
    small.thumbnail(PREVIEW, Image.Resampling.BICUBIC, reducing_gap=2.0)
    png = io.BytesIO()
    ImageOps.pad(small.convert("RGBA"), PREVIEW, color=(0, 0, 0, 0)).save(png, "PNG", compress_level=1)
    return png.getvalue()
