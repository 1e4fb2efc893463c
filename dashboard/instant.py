"""The instant preview: what the pair may look like, before anything is started."""

import numpy as np
import streamlit as st
from PIL import Image

from core import images, jobs, preview
from core.errors import StudioError
from core.preview import Preview
from dashboard.gallery import Picture
from dashboard.paintings import Chosen
from dashboard.wording import plain

SIZE = 512  # px


def show(content: Picture, styles: Chosen) -> None:
    """The preview of the photo after the painting that counts most; where its network is not here, what to do about
    it."""
    network = _network()
    if network is None:
        said = jobs.readiness()
        why = said and said.without_preview
        st.caption(
            plain(
                f"There is no instant preview: {why}"
                if why
                else "There is no instant preview yet: its network comes with the preparation, or by nst preview."
            )
        )
        return
    try:
        photo = images.resize(content.image, min(SIZE, max(content.image.size)), content.name)
        side = 2 * (preview.STYLE_SIDE,)  # as the network reads it, whatever the photo's size
        weights = styles.weights or (1.0,) * len(styles.pictures)
        most = styles.pictures[weights.index(max(weights))]
        painting = np.asarray(most.image.resize(side, Image.Resampling.LANCZOS, reducing_gap=3.0))
        picture = _painted(network, photo, painting)
    except StudioError as error:
        st.caption(plain(str(error)))
        return
    alone = f" of {plain(most.name)} alone" if len(styles.pictures) > 1 else ""
    said = f"Instant preview{alone}, by another network: the painting will differ"
    st.image(picture, caption=said, width="stretch", alt=said)


def _network() -> Preview | None:
    """Opened once for all sessions; one that is not here yet is looked for again."""
    try:
        return _opened()
    except LookupError:
        return None


@st.cache_resource(show_spinner=False)
def _opened() -> Preview:
    network = preview.find()
    if network is None:
        raise LookupError
    return network


@st.cache_data(show_spinner=False, max_entries=32)
def _painted(_network: Preview, content: np.ndarray, style: np.ndarray) -> bytes:
    return images.encode_jpeg(_network.paint(content, style))
