"""What is painted from what, at the size that it is painted at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core import colours, images
from core.runs import Run, style_size
from core.settings import TransferSettings


@dataclass(frozen=True)
class Subject:
    """The pictures at one size: RGB, `(H, W, 3)` in 0 … 255, in the colours that they are painted in."""

    photo: np.ndarray
    in_colours: np.ndarray  # the photo as it was given, uint8
    styles: Sequence[np.ndarray]  # of any size
    masks: Sequence[np.ndarray | None]  # where each style is, `(H, W)` in 0 … 1
    kept: np.ndarray | None  # how far the photo is left as it is, likewise
    settings: TransferSettings

    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The least and the greatest value that each pixel may have, as the network counts, `(1, H, W, 3)`, where some
        of the photo is kept: the more of it, the less they may differ from it."""
        if self.kept is None:
            return None
        photo, room = images.to_network(self.photo), 255 * (1 - self.kept[np.newaxis, ..., np.newaxis])
        return np.maximum(images.NETWORK_MIN, photo - room), np.minimum(images.NETWORK_MAX, photo + room)

    def begun_from(self, rgb: np.ndarray) -> np.ndarray:
        """A picture to start from, `(H, W, 3)`, as the network takes it and within the limits."""
        grey = colours.lightness(rgb) if self.settings.colours == "luminance" else rgb
        image, limits = images.to_network(grey), self.limits()
        return np.clip(image, *limits).astype(np.float32) if limits else image

    def finished(self, rgb: np.ndarray) -> np.ndarray:
        """What was painted, `(H, W, 3)` in 0 … 255, in the colours that it is to have."""
        return colours.with_colours_of(self.in_colours, rgb) if self.settings.colours == "luminance" else rgb


@dataclass(frozen=True)
class Pictures:
    """The pictures as they were given."""

    photo: Image.Image
    styles: Sequence[Image.Image]
    masks: Sequence[Image.Image | None] = ()  # where each style is: white there, black elsewhere
    kept: Image.Image | None = None  # white where the photo is left as it is

    @staticmethod
    def of(run: Run) -> "Pictures":
        """A run's own copies: as PNGs they are larger than the JPEGs that they were."""

        def read(path: Path) -> Image.Image:
            return images.read_image(path, max_bytes=4 * images.MAX_PIXELS)

        styles = run.styles
        masks = [run.mask(number) for number in range(1, len(styles) + 1)]
        return Pictures(
            read(run.content),
            [read(path) for path in styles],
            [read(path) if path.exists() else None for path in masks],
            read(run.kept) if run.kept.exists() else None,
        )

    def at(self, settings: TransferSettings, size: int) -> Subject:
        """Raises `InputError` when a picture has too little in it at this size."""
        photo = images.resize(self.photo, size, "the photo")
        styles = [images.resize(style, style_size(settings, size), "the style") for style in self.styles]
        painted = photo
        if settings.colours == "matched":
            styles = [colours.matched(style, photo) for style in styles]
        elif settings.colours == "luminance":
            painted, styles = colours.lightness(photo), [colours.lightness(style) for style in styles]
        masks = [mask_at(mask, photo.shape) for mask in self.masks]
        return Subject(painted, photo, styles, masks, mask_at(self.kept, photo.shape), settings)


def mask_at(mask: Image.Image | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """The mask at the height and width of that shape: `(H, W)`, float32 in 0 … 1."""
    if mask is None:
        return None
    grey = mask.convert("L").resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(grey, np.float32) / 255
