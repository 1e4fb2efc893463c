"""The losses and their gradient for an image of any size in bounded memory, computed tile by tile.

The losses depend on sums over positions (Gram matrices, squared differences). The first pass adds up the sums of all
tiles and computes the losses and their derivatives with respect to the sums. The second pass computes each tile's
gradient from these derivatives. The network sees each tile with a border as wide as the network's reach, so all
activations within the tile equal those of the whole image. The gradient is therefore the same, and there are no seams.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from core.settings import LossWeights
from core.transfer.objective import EvaluatedImage, Losses, LossFunction, Objective
from core.transfer.tiles import GRID, Tile, tiles
from core.vgg.layers import channels, reach, stride


class TiledObjective(Objective):
    """An `Objective` with the same losses and gradient, in the memory of one tile."""

    side: int

    def __init__(self, function: LossFunction, *arguments: Any, side: int, **named: Any) -> None:
        """Create an objective from the arguments of `Objective` and the side of the tiles in px."""
        self.side = max(GRID, side // GRID * GRID)
        self._border = reach((*function.style_layers, *function.content_layers))
        super().__init__(function, *arguments, **named)

    def __call__(self, image: tf.Tensor, weights: LossWeights | None = None) -> EvaluatedImage:
        """Evaluate a float32 image `(1, H, W, 3)` tile by tile, in two passes."""
        self.evaluations += 1
        weights = weights or self.weights
        values, slopes = self._function.slopes(self._sums(image), self._constants(weights), self._whole)
        gradient = np.zeros(image.shape, np.float32)
        for tile in self._tiles(image):
            part = self._function.part_gradient(tile.of(image), tile.core_within(), self._part(tile), slopes)
            top, left, bottom, right = tile.seen
            gradient[:, top:bottom, left:right] += part.numpy()
        return EvaluatedImage(image, self._losses(values), tf.constant(gradient), weights)

    def losses(self, image: tf.Tensor, weights: LossWeights | None = None) -> Losses:
        """Return the losses without the gradient, in one pass over the tiles."""
        constants = self._constants(weights or self.weights)
        values, _ = self._function.slopes(self._sums(image), constants, self._whole)
        return self._losses(values)

    def _sums(self, image: tf.Tensor) -> Any:
        """Add up the sums of all tiles, in float64, so that they are as exact as a sum over the whole image."""
        total: list[Any] = []
        for tile in self._tiles(image):
            sums = self._function.part_sums(tile.of(image), tile.core_within(), self._part(tile))
            flat = [value.numpy().astype(np.float64) for value in tf.nest.flatten(sums)]
            total = [before + value for before, value in zip(total, flat, strict=True)] if total else flat
        return tf.nest.pack_sequence_as(sums, [tf.constant(value, tf.float32) for value in total])

    def _content_targets(self, content: np.ndarray) -> dict[str, Any]:
        _, height, width, _ = content.shape
        whole = {
            layer: np.zeros((1, height // stride(layer), width // stride(layer), channels(layer)), np.float32)
            for layer in self._function.content_layers
        }
        for tile in self._tiles(content):
            part = self._function.part_content(tile.of(content), tile.core_within())
            for layer, activations in part.items():
                tile.at_layer(layer, whole[layer])[...] = activations.numpy()
        return whole

    def _tiles(self, image: Any) -> list[Tile]:
        return tiles(image.shape[1], image.shape[2], self.side, self._border)

    def _part(self, tile: Tile) -> dict[str, Any]:
        return {
            "content": {layer: tile.at_layer(layer, target) for layer, target in self._contents.items()},
            "guides": {
                layer: tuple(tile.at_layer(layer, guide) for guide in guides) for layer, guides in self._guides.items()
            },
        }
