"""Loss and gradient of an image, as one compiled TensorFlow function in a chosen precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.losses.content_losses import differences, total_variation
from core.losses.style_losses import GRAM, StyleLoss
from core.settings import LossWeights
from core.vgg.layers import channels, stride


@dataclass(frozen=True)
class Losses:
    """The weighted losses of one image.

    `total` is style + content + total variation; `style` is the sum of `style_layers`.
    """

    total: float
    style: float
    content: float
    total_variation: float
    style_layers: Mapping[str, float]


@dataclass(frozen=True)
class EvaluatedImage:
    """An image `(1, H, W, 3)`, its losses, and the gradient of the total loss with respect to the image."""

    image: tf.Tensor = field(repr=False)
    losses: Losses
    gradient: tf.Tensor = field(repr=False)
    weights: LossWeights = field(repr=False)  # used for `losses` and `gradient`

    def without_gradient(self) -> "EvaluatedImage":
        """Return a copy without the gradient, which saves memory."""
        return replace(self, gradient=None)


class LossFunction:
    """The losses and their gradient for a network and a choice of layers, traced once for images of any size.

    Weights and targets are inputs, not constants: runs share the function, and the weights of a run can change while
    it computes. The network may compute in bfloat16. The image, its gradient, Gram matrices and losses are always
    float32: near the end of a run, a Gram matrix differs from its target by less than bfloat16 resolves, and a sum
    over 10⁵ positions loses too much in bfloat16.

    The losses depend on sums over the image's positions, so an image can be computed in parts: add up `part_sums` of
    all parts, compute the `slopes` of the losses with respect to these sums, and add up each `part_gradient`.
    """

    def __init__(
        self,
        network: keras.Model,
        style_layers: Sequence[str],
        content_layers: Sequence[str],
        style_loss: StyleLoss = GRAM,
        regions: int = 0,
        is_gray: bool = False,
    ) -> None:
        """Define the functions; TensorFlow traces each at its first call.

        Args:
            network: Returns the activations of all the layers.
            style_layers: The layers of the style loss.
            content_layers: The layers of the content loss.
            style_loss: The style loss.
            regions: The number of image regions with their own style; 0 for one style everywhere.
            is_gray: Whether the image stays gray: its channels then share one gradient.
        """
        self.network = network
        self.style_layers, self.content_layers = tuple(style_layers), tuple(content_layers)
        self._style_loss, self.regions, self._is_gray = style_loss, regions, is_gray
        scalar = tf.TensorSpec((), tf.float32)
        many = max(1, regions)
        weights = LossWeights(scalar, scalar, scalar, (scalar,) * len(style_layers), (scalar,) * len(content_layers))
        grams, positions, guides = {}, {}, {}
        for layer in style_layers:
            width = style_loss.width(channels(layer))
            grams[layer] = (tf.TensorSpec((width, width), tf.float32),) * many
            positions[layer] = (scalar,) * many
            guides[layer] = (tf.TensorSpec((1, None, None, 1), tf.float32),) * regions
        contents = {layer: tf.TensorSpec((1, None, None, channels(layer)), tf.float32) for layer in content_layers}
        part = {"content": contents, "guides": guides}
        sizes = {"positions": positions, "shares": positions, "content values": dict.fromkeys(content_layers, scalar)}
        whole = {"style": grams, "neighbours": (scalar, scalar), **sizes}
        image, core = tf.TensorSpec((1, None, None, 3), tf.float32), tf.TensorSpec((4,), tf.int32)
        sums = {"style": grams, "content": dict.fromkeys(content_layers, scalar), "variation": (scalar, scalar)}

        def traced(function: Callable[..., Any], *signature: Any) -> Any:
            return tf.function(function, input_signature=signature)

        self.with_gradient = traced(self._with_gradient, image, weights, {**part, **whole})
        self.part_sums = traced(self._part_sums, image, core, part)
        self.part_gradient = traced(self._part_gradient, image, core, part, sums)
        self.slopes = traced(self._slopes, sums, weights, whole)
        self.part_content = traced(self._part_content, image, core)

    def content_targets(self, content: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the activations `(1, h, w, C)` of a preprocessed content image, float32."""
        features = self.network(content)
        return {layer: tf.cast(features[layer], tf.float32) for layer in self.content_layers}

    def losses(self, image: tf.Tensor, weights: Any, targets: Any) -> tf.Tensor:
        """Return the style, content and total-variation loss, then the loss of each style layer, as one vector."""
        sums = self._sums(self.network(image), targets)
        style, content, shares = self._weighted(sums, weights, targets)
        return tf.stack([style, content, weights.total_variation * total_variation(image), *shares])

    def _sums(self, features: Mapping[str, tf.Tensor], part: Any) -> dict[str, Any]:
        """Return FᵀF of each style layer and region, and the sum of squared differences of each content layer."""

        def guided(layer: str) -> tuple[tf.Tensor, ...]:
            guides = part["guides"][layer] if self.regions else (None,)
            return tuple(self._style_loss.sum(features[layer], guide) for guide in guides)

        def difference(layer: str) -> tf.Tensor:
            return tf.reduce_sum(tf.square(tf.cast(features[layer], tf.float32) - part["content"][layer]))

        return {
            "style": {layer: guided(layer) for layer in self.style_layers},
            "content": {layer: difference(layer) for layer in self.content_layers},
        }

    def _weighted(self, sums: Any, weights: Any, whole: Any) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return the style loss, the content loss and the loss of each style layer; regions count by their area."""

        def of_layer(layer: str) -> tf.Tensor:
            grams, targets = sums["style"][layer], whole["style"][layer]
            regions = zip(grams, targets, whole["positions"][layer], whole["shares"][layer], strict=True)
            loss = self._style_loss.distance
            return tf.add_n([share * loss(gram / positions, target) for gram, target, positions, share in regions])

        shares = [
            weights.style * factor * of_layer(layer) / len(self.style_layers)
            for layer, factor in zip(self.style_layers, weights.style_layers, strict=True)
        ]
        contents = [
            factor * sums["content"][layer] / whole["content values"][layer]
            for layer, factor in zip(self.content_layers, weights.content_layers, strict=True)
        ]
        return tf.add_n(shares), weights.content * tf.add_n(contents) / len(contents), shares

    def _with_gradient(self, image: tf.Tensor, weights: Any, targets: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            values = self.losses(image, weights, targets)
            total = tf.reduce_sum(values[:3])
        return values, self._along(tape.gradient(total, image))

    def _along(self, gradient: tf.Tensor) -> tf.Tensor:
        """Return the gradient, averaged over the channels if the image stays gray."""
        return gradient * 0 + tf.reduce_mean(gradient, -1, keepdims=True) if self._is_gray else gradient

    def _core(self, features: Mapping[str, tf.Tensor], core: tf.Tensor) -> dict[str, tf.Tensor]:
        """Cut each layer's activations to the core (top, left, bottom, right), in px of the image."""
        cut = {}
        for layer, activations in features.items():
            top, left, bottom, right = tf.unstack(core // stride(layer))
            cut[layer] = activations[:, top:bottom, left:right]
        return cut

    def _part_sums(self, image: tf.Tensor, core: tf.Tensor, part: Any) -> dict[str, Any]:
        top, left, bottom, right = tf.unstack(core)
        across = differences(image[:, top:bottom, left : right + 1], 2)  # + 1: pairs that cross the core's edge
        down = differences(image[:, top : bottom + 1, left:right], 1)
        variation = tuple(tf.reduce_sum(tf.square(each)) for each in (across, down))
        return {**self._sums(self._core(self.network(image), core), part), "variation": variation}

    def _part_content(self, image: tf.Tensor, core: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._core(self.content_targets(image), core)

    def _slopes(self, sums: Any, weights: Any, whole: Any) -> tuple[tf.Tensor, Any]:
        """Return the losses as in `losses`, and the derivative of the total loss with respect to the sums."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sums)
            style, content, shares = self._weighted(sums, weights, whole)
            means = (value / count for value, count in zip(sums["variation"], whole["neighbours"], strict=True))
            variation = weights.total_variation * tf.add_n([*means])
            total = style + content + variation
        return tf.stack([style, content, variation, *shares]), tape.gradient(total, sums)

    def _part_gradient(self, image: tf.Tensor, core: tf.Tensor, part: Any, slopes: Any) -> tf.Tensor:
        """Return this part's contribution to the gradient, `(1, h, w, 3)`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            sums = self._part_sums(image, core, part)
            pairs = zip(tf.nest.flatten(slopes), tf.nest.flatten(sums), strict=True)
            along = tf.add_n([tf.reduce_sum(slope * value) for slope, value in pairs])
        return self._along(tape.gradient(along, image))


class Objective:
    """The function to minimize: the weighted sum of style, content and total-variation loss of an image."""

    side: int | None = None  # of the tiles, in px; `None` computes the whole image at once

    def __init__(
        self,
        function: LossFunction,
        style_targets: Mapping[str, np.ndarray],
        content: np.ndarray,
        weights: LossWeights,
        guides: np.ndarray | None = None,
    ) -> None:
        """Compute the content targets.

        Args:
            function: The loss function for the network and the layers.
            style_targets: The Gram matrix of each style layer, `(C, C)`, or `(R, C, C)` for R regions.
            content: The preprocessed content image `(1, H, W, 3)`.
            weights: The default weights of the losses.
            guides: Where each region is, `(R, H, W)` in 0 … 1. Gatys, Ecker, Bethge, Hertzmann and Shechtman, 2017,
                arXiv:1611.07865, call the resulting matrices spatially guided.
        """
        self.weights = weights
        self.evaluations = 0
        self._function = function
        height, width = content.shape[1:3]
        self._whole = _whole(function, style_targets, height, width, guides)
        self._guides = {
            layer: tuple(tf.constant(guide) for guide in _at_layer(guides, layer)) for layer in function.style_layers
        }
        self._contents = self._content_targets(content)

    def __call__(self, image: tf.Tensor, weights: LossWeights | None = None) -> EvaluatedImage:
        """Evaluate a float32 image `(1, H, W, 3)` with these weights, or with the default weights."""
        self.evaluations += 1
        weights = weights or self.weights
        values, gradient = self._function.with_gradient(image, self._constants(weights), self._targets)
        return EvaluatedImage(image, self._losses(values), gradient, weights)

    def losses(self, image: tf.Tensor, weights: LossWeights | None = None) -> Losses:
        """Return the losses without the gradient; the computation is not traced, which is faster for one image."""
        constants = self._constants(weights or self.weights)
        return self._losses(self._function.losses(image, constants, self._targets))

    def _content_targets(self, content: np.ndarray) -> dict[str, tf.Tensor]:
        return self._function.content_targets(tf.constant(content))

    @property
    def _targets(self) -> dict[str, Any]:
        return {"content": self._contents, "guides": self._guides, **self._whole}

    def _constants(self, weights: LossWeights) -> LossWeights:
        each = weights.content_layers or (1.0,) * len(self._function.content_layers)
        weights = weights._replace(content_layers=each)
        return tf.nest.map_structure(lambda weight: tf.constant(weight, tf.float32), weights)

    def _losses(self, values: tf.Tensor) -> Losses:
        style, content, variation, *shares = values.numpy().tolist()  # one transfer from the device
        layers = dict(zip(self._function.style_layers, shares, strict=True))
        return Losses(style + content + variation, style, content, variation, layers)


def _whole(
    function: LossFunction, targets: Mapping[str, np.ndarray], height: int, width: int, guides: np.ndarray | None
) -> dict[str, Any]:
    """Return the targets and counts that the losses need of the whole image.

    For each style layer: the targets of the regions, the number of positions of each region, and its share of the
    image. For each content layer: the number of values. For the image: the number of neighbour pairs, across and down.
    """
    grams, positions, shares = {}, {}, {}
    for layer in function.style_layers:
        matrices = np.asarray(targets[layer], np.float32)
        grams[layer] = tuple(map(tf.constant, matrices.reshape(-1, *matrices.shape[-2:])))
        count = _count(layer, height, width)
        squares = [float(np.square(guide).sum()) for guide in _at_layer(guides, layer)] or [float(count)]
        positions[layer] = tuple(tf.constant(max(square, 1e-6), tf.float32) for square in squares)
        shares[layer] = tuple(tf.constant(square / count, tf.float32) for square in squares)
    values = {
        layer: tf.constant(float(_count(layer, height, width) * channels(layer)), tf.float32)
        for layer in function.content_layers
    }
    neighbours = tuple(tf.constant(3.0 * count) for count in (height * (width - 1), (height - 1) * width))
    sizes = {"positions": positions, "shares": shares, "content values": values, "neighbours": neighbours}
    return {"style": grams, **sizes}


def _count(layer: str, height: int, width: int) -> int:
    return (height // stride(layer)) * (width // stride(layer))


def _at_layer(guides: np.ndarray | None, layer: str) -> list[np.ndarray]:
    """Scale the guides `(R, H, W)` to a layer, `(1, h, w, 1)` each: the mean over each position's square of pixels."""
    if guides is None:
        return []
    step = stride(layer)
    height, width = (side // step for side in guides.shape[1:])
    squares = guides[:, : height * step, : width * step].reshape(-1, height, step, width, step)
    return [guide[np.newaxis, ..., np.newaxis] for guide in squares.mean((2, 4), dtype=np.float32)]
