"""The instant preview of a pair before a run."""

from collections.abc import Sequence

import numpy as np
import streamlit as st
from PIL import Image

from core.errors import StudioError
from core.images import codec, geometry
from core.images.masks import mask_at
from core.jobs import workers
from core.transfer import preview
from core.transfer.preview import Preview
from dashboard.common.text import plain
from dashboard.compose.picture_picker import Picture
from dashboard.compose.style_picker import ChosenStyles

SIZE = 512  # px


def show(content: Picture, chosen: ChosenStyles) -> None:
    """Show the preview, or say how to get its network if that is missing."""
    try:
        network = _opened()
    except LookupError:
        readiness = workers.readiness()
        why = readiness and readiness.without_preview
        yet = "There is no instant preview yet: the preparation or nst preview downloads its network."
        st.caption(plain(f"There is no instant preview: {why}" if why else yet))
        return
    try:
        photo = geometry.resize(content.image, min(SIZE, max(content.image.size)), content.name)
        side = 2 * (preview.STYLE_SIDE,)  # the network's input size, whatever the photo's size
        paintings = [
            np.asarray(style.picture.resize(side, Image.Resampling.LANCZOS, reducing_gap=3.0))
            for style in chosen.styles
        ]
        masks = [mask_at(style.mask, photo.shape) for style in chosen.styles]
        picture = _painted(network, photo, paintings, chosen.weights, masks)
    except StudioError as error:
        st.caption(plain(str(error)))
        return
    caption = "Instant preview by another network: the result will differ"
    st.image(picture, caption=caption, width="stretch", alt=caption)


@st.cache_resource(show_spinner=False)
def _opened() -> Preview:
    """Open the network once for all sessions. Raises `LookupError`, which is not cached, if the network is missing."""
    network = preview.find()
    if network is None:
        raise LookupError
    return network


@st.cache_data(show_spinner=False, max_entries=32)
def _painted(
    _network: Preview,
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    weights: Sequence[float],
    masks: Sequence[np.ndarray | None],
) -> bytes:
    return codec.encode_jpeg(_network.paint(content, *styles, weights=weights, masks=masks))
