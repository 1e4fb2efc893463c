"""Divide a large image into tiles whose borders overlap by the reach of the network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.vgg.layers import stride

GRID = 16  # px: where the deepest layers' positions begin


@dataclass(frozen=True)
class Tile:
    """Rectangles of the picture, (top, left, bottom, right) in px: what the tile adds to the sums, and what is seen."""

    core: tuple[int, int, int, int]
    seen: tuple[int, int, int, int]

    def of(self, image: Any) -> Any:
        top, left, bottom, right = self.seen
        return image[:, top:bottom, left:right]

    def core_within(self) -> np.ndarray:
        """The core, as what is seen counts."""
        return np.array(self.core, np.int32) - np.array(2 * self.seen[:2], np.int32)

    def at_layer(self, layer: str, activations: Any) -> Any:
        """The core's part of a whole layer `(1, h, w, …)`."""
        top, left, bottom, right = (side // stride(layer) for side in self.core)
        return activations[:, top:bottom, left:right]

    def core_at(self, layer: str, activations: Any) -> Any:
        """The core's part of a layer of what is seen, likewise."""
        top, left, bottom, right = self.core_within() // stride(layer)
        return activations[:, top:bottom, left:right]


def tiles(height: int, width: int, side: int, border: int) -> list[Tile]:
    """Tiles of `side` px, a multiple of 16, that cover a picture; what is seen begins on the grid of 16 px too."""

    def spans(length: int) -> Iterator[tuple[int, int, int, int]]:
        for begin in range(0, length, side):
            end = min(begin + side, length)
            yield begin, end, max(0, begin - border) // GRID * GRID, min(length, end + border)

    return [
        Tile((top, left, bottom, right), (above, before, below, after))
        for top, bottom, above, below in spans(height)
        for left, right, before, after in spans(width)
    ]
