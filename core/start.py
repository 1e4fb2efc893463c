"""The picture that painting starts from."""

from collections.abc import Callable

import numpy as np

from core import preview
from core.errors import StudioError
from core.settings import TransferSettings


def starting_picture(
    content: np.ndarray, style: np.ndarray, settings: TransferSettings, report: Callable[[str], None]
) -> tuple[np.ndarray, str]:
    """The settings' starting picture, uint8 `(H, W, 3)` like the two given, and in words what it is: where a preview
    is wanted and cannot be had, the content, and why. Needs no TensorFlow."""
    if settings.init == "content":
        return content, "content"
    try:
        return preview.obtain(report).paint(content, style), "preview"
    except StudioError as error:
        report(f"Without a preview, painting starts from the photo: {error}")
        return content, f"content, since there is no preview: {error}"
