"""The initial image of the optimization."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from core.errors import StudioError
from core.images.masks import blend
from core.settings import TransferSettings
from core.transfer import preview

GREY, CONTRAST = 127.5, 40.0  # mean and standard deviation of the noise, in 0 … 255


def create_initial_image(
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    settings: TransferSettings,
    report: Callable[[str], None],
    masks: Sequence[np.ndarray | None] = (),
) -> tuple[np.ndarray, str]:
    """Return the initial image that the settings ask for, uint8 `(H, W, 3)`, and a description of it.

    If the settings ask for a preview and its network is missing, return the content image; the description gives the
    reason. The function does not load TensorFlow.
    """
    height, width, _ = content.shape
    match settings.init:
        case "content":
            return content, "content"
        case "style":
            most = styles[int(np.argmax(blend(len(styles), settings.style_blend)))]
            return np.array(ImageOps.fit(Image.fromarray(most), (width, height))), "style"
        case "noise":
            grey = np.random.default_rng(settings.seed).normal(GREY, CONTRAST, content.shape)
            return np.rint(np.clip(grey, 0, 255)).astype(np.uint8), f"noise, seed {settings.seed}"
    try:
        network = preview.obtain(report)
        return network.paint(content, *styles, weights=settings.style_blend, masks=masks), "preview"
    except StudioError as error:
        report(f"The run starts from the photo, because there is no preview: {error}")
        return content, f"content, because there is no preview: {error}"
