"""The picture that painting starts from."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from core.errors import StudioError
from core.images.masks import blend
from core.settings import TransferSettings
from core.transfer import preview

GREY, CONTRAST = 127.5, 40.0  # of noise: its mean and standard deviation, of 255


def create_initial_image(
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    settings: TransferSettings,
    report: Callable[[str], None],
    masks: Sequence[np.ndarray | None] = (),
) -> tuple[np.ndarray, str]:
    """The settings' starting picture, uint8 `(H, W, 3)` like those given, and in words what it is: where a preview
    is wanted and cannot be had, the content, and why. Needs no TensorFlow."""
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
        report(f"Without a preview, painting starts from the photo: {error}")
        return content, f"content, since there is no preview: {error}"
