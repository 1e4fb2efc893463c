"""Loss and gradient of an image as one compiled TensorFlow function, in the precision that is asked for."""

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
    """The weighted losses of one image: `total` is the sum of the next three, `style` that of its layers' shares."""

    total: float
    style: float
    content: float
    total_variation: float
    style_layers: Mapping[str, float]


@dataclass(frozen=True)
class EvaluatedImage:
    """An image `(1, H, W, 3)` with the losses that it really has and their gradient with respect to it."""

    image: tf.Tensor = field(repr=False)
    losses: Losses
    gradient: tf.Tensor = field(repr=False)
    weights: LossWeights = field(repr=False)  # those it was evaluated with

    def without_gradient(self) -> "EvaluatedImage":
        """To be kept: of a large picture, each copy counts."""
        return replace(self, gradient=None)


class LossFunction:
    """The losses and their gradient for a network and a choice of layers, traced once for pictures of every size.

    Weights and targets are inputs, not constants: runs share the function, and a run can be steered while it paints.
    The network may compute in bfloat16. Gram matrices and losses are float32 all the same: near the end of a run a
    Gram matrix differs from its target by less than bfloat16 resolves, and a sum over 10⁵ positions has no 8 bits to
    spare. So are the image and its gradient.

    The losses are functions of sums over a picture's positions, so that they can be had of a picture in parts too:
    `part_sums` of all parts added up, `slopes` of the losses with respect to these, and a `part_gradient` for each.
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
        """`network` gives the activations of all those layers. With `regions`, so many parts of the picture have a
        style of their own. A picture that `is_gray` stays so: its channels move together."""
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
        """The activations `(1, h, w, C)` of a preprocessed content image, float32."""
        features = self.network(content)
        return {layer: tf.cast(features[layer], tf.float32) for layer in self.content_layers}

    def losses(self, image: tf.Tensor, weights: Any, targets: Any) -> tf.Tensor:
        """Style, content and total-variation loss, then each style layer's share, as one vector."""
        sums = self._sums(self.network(image), targets)
        style, content, shares = self._weighted(sums, weights, targets)
        return tf.stack([style, content, weights.total_variation * total_variation(image), *shares])

    def _sums(self, features: Mapping[str, tf.Tensor], part: Any) -> dict[str, Any]:
        """Of a style layer, its Gram matrix before the division, for each region; of a content layer, the squared
        differences'."""

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
        """Style and content loss, and each style layer's share. A region counts by its share of the picture."""

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
        """The gradient along which the image may move."""
        return gradient * 0 + tf.reduce_mean(gradient, -1, keepdims=True) if self._is_gray else gradient

    def _core(self, features: Mapping[str, tf.Tensor], core: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of each layer, the positions whose own square lies within (top, left, bottom, right), in px."""
        cut = {}
        for layer, activations in features.items():
            top, left, bottom, right = tf.unstack(core // stride(layer))
            cut[layer] = activations[:, top:bottom, left:right]
        return cut

    def _part_sums(self, image: tf.Tensor, core: tf.Tensor, part: Any) -> dict[str, Any]:
        top, left, bottom, right = tf.unstack(core)
        across = differences(image[:, top:bottom, left : right + 1], 2)  # a pixel and the next, if there is one
        down = differences(image[:, top : bottom + 1, left:right], 1)
        variation = tuple(tf.reduce_sum(tf.square(each)) for each in (across, down))
        return {**self._sums(self._core(self.network(image), core), part), "variation": variation}

    def _part_content(self, image: tf.Tensor, core: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._core(self.content_targets(image), core)

    def _slopes(self, sums: Any, weights: Any, whole: Any) -> tuple[tf.Tensor, Any]:
        """The losses as `losses` has them, and the derivative of their sum by the parts' sums."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sums)
            style, content, shares = self._weighted(sums, weights, whole)
            means = (value / count for value, count in zip(sums["variation"], whole["neighbours"], strict=True))
            variation = weights.total_variation * tf.add_n([*means])
            total = style + content + variation
        return tf.stack([style, content, variation, *shares]), tape.gradient(total, sums)

    def _part_gradient(self, image: tf.Tensor, core: tf.Tensor, part: Any, slopes: Any) -> tf.Tensor:
        """What this part's sums add to the gradient, `(1, h, w, 3)`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            sums = self._part_sums(image, core, part)
            pairs = zip(tf.nest.flatten(slopes), tf.nest.flatten(sums), strict=True)
            along = tf.add_n([tf.reduce_sum(slope * value) for slope, value in pairs])
        return self._along(tape.gradient(along, image))


class Objective:
    """What the image is moved to lessen: the weighted sum of style, content and total-variation loss."""

    side: int | None = None  # of the tiles that it computes in, in px; `None` for the whole picture at once

    def __init__(
        self,
        function: LossFunction,
        style_targets: Mapping[str, np.ndarray],
        content: np.ndarray,
        weights: LossWeights,
        guides: np.ndarray | None = None,
    ) -> None:
        """`style_targets` holds the Gram matrices `(C, C)` of the function's style layers; `content` is the
        preprocessed content image `(1, H, W, 3)`.

        For R regions the targets are `(R, C, C)`, and the guides `(R, H, W)` say in 0 … 1 where each region is
        (spatially guided Gram matrices: Gatys, Ecker, Bethge, Hertzmann and Shechtman, 2017, arXiv:1611.07865).
        """
        self.weights = weights  # unless a call gives others
        self.evaluations = 0  # so far
        self._function = function
        height, width = content.shape[1:3]
        self._whole = _whole(function, style_targets, height, width, guides)
        self._guides = {
            layer: tuple(tf.constant(guide) for guide in _at_layer(guides, layer)) for layer in function.style_layers
        }
        self._contents = self._content_targets(content)

    def __call__(self, image: tf.Tensor, weights: LossWeights | None = None) -> EvaluatedImage:
        """Evaluate an image `(1, H, W, 3)`, float32, with these weights, by default the objective's own."""
        self.evaluations += 1
        weights = weights or self.weights
        values, gradient = self._function.with_gradient(image, self._constants(weights), self._targets)
        return EvaluatedImage(image, self._losses(values), gradient, weights)

    def losses(self, image: tf.Tensor, weights: LossWeights | None = None) -> Losses:
        """Return the losses alone, computed without tracing: for a single image."""
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
    """Of each style layer, what the losses need of the whole picture: the regions' targets, how many positions each
    region has, and its share of the picture; of each content layer, how many values it has; and how many pairs of
    neighbours there are, across and down."""
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
    """The guides `(R, H, W)` as the layer sees them, `(1, h, w, 1)` each: a position has its square's mean."""
    if guides is None:
        return []
    step = stride(layer)
    height, width = (side // step for side in guides.shape[1:])
    squares = guides[:, : height * step, : width * step].reshape(-1, height, step, width, step)
    return [guide[np.newaxis, ..., np.newaxis] for guide in squares.mean((2, 4), dtype=np.float32)]
