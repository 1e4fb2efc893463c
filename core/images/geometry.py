"""Sizes of images: resize to a longer side, and check the shorter side."""

import numpy as np
from PIL import Image

from core.errors import InputError
from core.images.codec import MIN_SIDE

SHAPE_TOLERANCE = 0.02  # largest relative difference of two aspect ratios, such as those of a photo and its mask


def have_same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two images, given as width and height, have the same aspect ratio except for rounding."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= SHAPE_TOLERANCE


def resized_shape(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the height and width after resizing the longer side to `size` px; each is at least 1 px."""
    longer = max(width, height)
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))


def resize(image: Image.Image, size: int, name: str = "the picture") -> np.ndarray:
    """Return the image as uint8 (H, W, 3) with a longer side of `size` px.

    Raises:
        InputError: If the shorter side would have fewer than MIN_SIDE pixels.
    """
    height, width = shape_at(image.size, size, name)
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS))


def shape_at(
    given: tuple[int, int], size: int, name: str, at: str = "", remedy: str = "choose a larger size"
) -> tuple[int, int]:
    """Return the height and width after `resize`.

    Args:
        given: The width and height of the image.
        size: The longer side after resizing, in px.
        name: The image's name in messages.
        at: A description of the size for messages, by default "size" and the number.
        remedy: The advice in messages if a larger size can help.

    Raises:
        InputError: If the shorter side would have fewer than MIN_SIDE pixels.
    """
    height, width = resized_shape(*given, size)
    if min(height, width) < MIN_SIDE:
        from core.settings import SETTINGS  # local, so that the sandbox process starts without the settings

        helps = min(resized_shape(*given, int(SETTINGS["size"].maximum or size))) >= MIN_SIDE
        raise InputError(
            f"{name} would be only {width} × {height} pixels at {at or f'size {size}'}, and the shorter side must "
            f"have at least {MIN_SIDE}: {remedy if helps else 'no size helps, so crop it to a less narrow part'}."
        )
    return height, width
