"""Divide a large image into tiles whose borders overlap by the network's reach."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.vgg.layers import stride

GRID = 16  # px; the stride of the deepest layers


@dataclass(frozen=True)
class Tile:
    """A tile as two rectangles (top, left, bottom, right) in px of the image: its core, and its core with a border.

    Only the core counts in the sums; the network sees the rectangle with the border.
    """

    core: tuple[int, int, int, int]
    seen: tuple[int, int, int, int]

    def of(self, image: Any) -> Any:
        """Return the tile with its border from an image `(1, H, W, 3)`."""
        top, left, bottom, right = self.seen
        return image[:, top:bottom, left:right]

    def core_within(self) -> np.ndarray:
        """Return the core in px of the tile with its border."""
        return np.array(self.core, np.int32) - np.array(2 * self.seen[:2], np.int32)

    def at_layer(self, layer: str, activations: Any) -> Any:
        """Return the core of a layer's activations `(1, h, w, …)` for the whole image."""
        top, left, bottom, right = (side // stride(layer) for side in self.core)
        return activations[:, top:bottom, left:right]

    def core_at(self, layer: str, activations: Any) -> Any:
        """Return the core of a layer's activations for the tile with its border."""
        top, left, bottom, right = self.core_within() // stride(layer)
        return activations[:, top:bottom, left:right]


def tiles(height: int, width: int, side: int, border: int) -> list[Tile]:
    """Return tiles of `side` px, a multiple of 16, that cover an image; their borders start at multiples of 16 too."""

    def spans(length: int) -> Iterator[tuple[int, int, int, int]]:
        for begin in range(0, length, side):
            end = min(begin + side, length)
            yield begin, end, max(0, begin - border) // GRID * GRID, min(length, end + border)

    return [
        Tile((top, left, bottom, right), (above, before, below, after))
        for top, bottom, above, below in spans(height)
        for left, right, before, after in spans(width)
    ]
