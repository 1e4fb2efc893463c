"""The input images of a run, resized and converted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from core.errors import InputError
from core.images import codec, geometry, preprocessing
from core.images.color import COLOR_MODES
from core.images.masks import mask_at
from core.settings import MOST_STYLES, TransferSettings


@dataclass(frozen=True)
class ResizedInputs:
    """The input images at the size of one stage: RGB `(H, W, 3)`, 0 … 255, converted by the settings' color mode."""

    photo: np.ndarray
    photo_in_color: np.ndarray  # as given, uint8
    styles: Sequence[np.ndarray]  # of any size
    masks: Sequence[np.ndarray | None]  # where each style applies, `(H, W)` in 0 … 1
    kept: np.ndarray | None  # how much of the photo to keep, `(H, W)` in 0 … 1
    settings: TransferSettings

    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the smallest and largest allowed value of each pixel, `(1, H, W, 3)`, preprocessed, or `None`.

        A pixel with the value k in `kept` may differ from the photo by at most 255 · (1 - k).
        """
        if self.kept is None:
            return None
        photo, room = preprocessing.to_network(self.photo), 255 * (1 - self.kept[np.newaxis, ..., np.newaxis])
        return np.maximum(preprocessing.NETWORK_MIN, photo - room), np.minimum(preprocessing.NETWORK_MAX, photo + room)

    def initial_image(self, rgb: np.ndarray) -> np.ndarray:
        """Preprocess an initial image `(H, W, 3)` and clip it to the limits: `(1, H, W, 3)`."""
        image, limits = preprocessing.to_network(COLOR_MODES[self.settings.colours].convert(rgb)), self.limits()
        return np.clip(image, *limits).astype(np.float32) if limits else image

    def finish(self, rgb: np.ndarray) -> np.ndarray:
        """Return an optimized image, `(H, W, 3)`, 0 … 255, in its final colors."""
        return COLOR_MODES[self.settings.colours].finish(rgb, self.photo_in_color)


@dataclass(frozen=True)
class Inputs:
    """The input images as given."""

    photo: Image.Image
    styles: Sequence[Image.Image]
    masks: Sequence[Image.Image | None] = ()  # white where the style applies, black elsewhere
    kept: Image.Image | None = None  # white where the photo must not change

    def at(self, settings: TransferSettings, size: int) -> ResizedInputs:
        """Return the inputs at a size in px.

        Raises:
            InputError: If an image has too few pixels at this size.
        """
        photo = geometry.resize(self.photo, size, "the photo")
        styles = [geometry.resize(style, style_size(settings, size), "the style") for style in self.styles]
        mode = COLOR_MODES[settings.colours]
        styles = [mode.convert_style(style, photo) for style in styles]
        masks = [mask_at(mask, photo.shape) for mask in self.masks]
        return ResizedInputs(mode.convert(photo), photo, styles, masks, mask_at(self.kept, photo.shape), settings)


def check_styles(sizes: Sequence[tuple[int, int]], settings: TransferSettings, names: Sequence[str]) -> None:
    """Check the number of style images, their widths and heights, and the weights of the blend.

    Raises:
        InputError: If there are too many styles, a style is too small, or a style has no weight.
    """
    if len(sizes) > MOST_STYLES:
        raise InputError(f"There are {len(sizes)} paintings, but at most {MOST_STYLES} can be blended.")
    if settings.style_blend and len(settings.style_blend) != len(sizes):
        raise InputError(
            f"style_blend has {len(settings.style_blend)} numbers for {len(sizes)} paintings: give a number for each "
            "painting, or no numbers."
        )
    for size, name in zip(sizes, names, strict=True):
        check_side(size, settings, name, is_style=True)


def style_size(settings: TransferSettings, size: int) -> int:
    """Return the longer side of a style image in px, for a content image of `size` px."""
    return max(codec.MIN_SIDE, round(size * settings.style_scale))


def check_side(given: tuple[int, int], settings: TransferSettings, name: str, is_style: bool = False) -> None:
    """Check an image's width and height for the first stage.

    Raises:
        InputError: If the image is too small at that size; the message lists the remedies.
    """
    coarsest, _ = settings.schedule()[0]
    at, remedies = f"size {settings.size}", ["a larger size"]
    if is_style and settings.style_scale < 1:
        at += f" with style scale {settings.style_scale:g}"
        remedies.append("a larger style scale")
    if coarsest < settings.size:
        at += f" in the first of {settings.stages} stages"
        remedies.append("fewer stages")
    size = style_size(settings, coarsest) if is_style else coarsest
    geometry.shape_at(given, size, name, at, "choose " + " or ".join(remedies))
