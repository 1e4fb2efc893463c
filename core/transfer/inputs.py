"""What is painted from what, at the size that it is painted at."""

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
    """The images at one size: RGB, `(H, W, 3)`, 0 … 255, converted by the color mode of the settings."""

    photo: np.ndarray
    photo_in_color: np.ndarray  # as given, uint8
    styles: Sequence[np.ndarray]  # of any size
    masks: Sequence[np.ndarray | None]  # where each style is, `(H, W)` in 0 … 1
    kept: np.ndarray | None  # how far the photo is left as it is, likewise
    settings: TransferSettings

    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The least and the greatest value that each pixel may have, as the network counts, `(1, H, W, 3)`, where some
        of the photo is kept: the more of it, the less they may differ from it."""
        if self.kept is None:
            return None
        photo, room = preprocessing.to_network(self.photo), 255 * (1 - self.kept[np.newaxis, ..., np.newaxis])
        return np.maximum(preprocessing.NETWORK_MIN, photo - room), np.minimum(preprocessing.NETWORK_MAX, photo + room)

    def initial_image(self, rgb: np.ndarray) -> np.ndarray:
        """Return an image to start from, `(H, W, 3)`, preprocessed and within the limits, `(1, H, W, 3)`."""
        image, limits = preprocessing.to_network(COLOR_MODES[self.settings.colours].convert(rgb)), self.limits()
        return np.clip(image, *limits).astype(np.float32) if limits else image

    def finish(self, rgb: np.ndarray) -> np.ndarray:
        """Return an optimized image, `(H, W, 3)`, 0 … 255, in its final colors."""
        return COLOR_MODES[self.settings.colours].finish(rgb, self.photo_in_color)


@dataclass(frozen=True)
class Inputs:
    """The pictures as they were given."""

    photo: Image.Image
    styles: Sequence[Image.Image]
    masks: Sequence[Image.Image | None] = ()  # where each style is: white there, black elsewhere
    kept: Image.Image | None = None  # white where the photo is left as it is

    def at(self, settings: TransferSettings, size: int) -> ResizedInputs:
        """Raises `InputError` when a picture has too little in it at this size."""
        photo = geometry.resize(self.photo, size, "the photo")
        styles = [geometry.resize(style, style_size(settings, size), "the style") for style in self.styles]
        mode = COLOR_MODES[settings.colours]
        styles = [mode.convert_style(style, photo) for style in styles]
        masks = [mask_at(mask, photo.shape) for mask in self.masks]
        return ResizedInputs(mode.convert(photo), photo, styles, masks, mask_at(self.kept, photo.shape), settings)


def check_styles(sizes: Sequence[tuple[int, int]], settings: TransferSettings, names: Sequence[str]) -> None:
    """Check styles by their widths and heights: raise `InputError` when there are too many, one is too small, or the
    blend has not a weight for each."""
    if len(sizes) > MOST_STYLES:
        raise InputError(f"{len(sizes)} paintings were given; {MOST_STYLES} can be blended at most.")
    if settings.style_blend and len(settings.style_blend) != len(sizes):
        raise InputError(
            f"style_blend has {len(settings.style_blend)} numbers for {len(sizes)} paintings: give one for each, or "
            "none."
        )
    for size, name in zip(sizes, names, strict=True):
        check_side(size, settings, name, is_style=True)


def style_size(settings: TransferSettings, size: int) -> int:
    """The length in px of a painting's longer side, beside a photo of `size`."""
    return max(codec.MIN_SIDE, round(size * settings.style_scale))


def check_side(given: tuple[int, int], settings: TransferSettings, name: str, is_style: bool = False) -> None:
    """Raise `InputError` when a picture is too small at the size of the first stage, with all that would help."""
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
