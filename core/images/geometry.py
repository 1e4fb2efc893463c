"""Sizes of images: scale to the longer side, and check that enough is left of both sides."""

import numpy as np
from PIL import Image

from core.errors import InputError
from core.images.codec import MIN_SIDE

OTHER_SHAPE = 0.02  # so much may a mask's width by its height differ from its photo's


def of_one_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two pictures of these widths and heights differ in their proportions by rounding at most."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= OTHER_SHAPE


def resized_shape(width: int, height: int, size: int) -> tuple[int, int]:
    """(height, width) in pixels once the longer side is `size` and the shorter one follows, at least 1."""
    longer = max(width, height)
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))


def resize(image: Image.Image, size: int, name: str = "the picture") -> np.ndarray:
    """Return the picture, uint8 (H, W, 3), with a longer side of `size` px. Raises InputError as `shape_at` does."""
    height, width = shape_at(image.size, size, name)
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS))


def shape_at(
    given: tuple[int, int], size: int, name: str, at: str = "", remedy: str = "choose a larger size"
) -> tuple[int, int]:
    """Return the height and width that `resize` gives of a picture of that width and height.

    Raises InputError when the shorter one is under MIN_SIDE; it says `at` which size, by default that of the settings.
    """
    height, width = resized_shape(*given, size)
    if min(height, width) < MIN_SIDE:
        from core.settings import SETTINGS  # here, so that a picture is decoded without them

        helps = min(resized_shape(*given, int(SETTINGS["size"].maximum or size))) >= MIN_SIDE
        raise InputError(
            f"{name} would be only {width} × {height} pixels at {at or f'size {size}'}, and the shorter side must have "
            f"at least {MIN_SIDE}: {remedy if helps else 'no size helps, so cut it to a less narrow part'}."
        )
    return height, width
