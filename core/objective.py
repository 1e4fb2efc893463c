"""Loss and gradient of an image as one compiled TensorFlow function, in the precision that is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.losses import content_loss, gram_matrix, style_loss, total_variation
from core.settings import LossWeights
from core.vgg import CONVOLUTIONS


@dataclass(frozen=True)
class Losses:
    """The weighted losses of one image: `total` is the sum of the next three, `style` that of its layers' shares."""

    total: float
    style: float
    content: float
    total_variation: float
    style_layers: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """An image `(1, H, W, 3)` with the losses that it really has and their gradient with respect to it."""

    image: tf.Tensor = field(repr=False)
    losses: Losses
    gradient: tf.Tensor = field(repr=False)
    weights: LossWeights = field(repr=False)  # those it was evaluated with


class LossFunction:
    """The losses and their gradient for a network and a choice of layers, traced once for pictures of every size.

    Weights and targets are inputs, not constants: runs share the function, and a run can be steered while it paints.
    The network may compute in bfloat16. Gram matrices and losses are float32 all the same: near the end of a run a
    Gram matrix differs from its target by less than bfloat16 resolves, and a sum over 10⁵ positions has no 8 bits to
    spare. So are the image and its gradient.
    """

    def __init__(self, network: keras.Model, style_layers: Sequence[str], content_layers: Sequence[str]) -> None:
        """`network` gives the activations of all those layers."""
        self.network = network
        self.style_layers, self.content_layers = tuple(style_layers), tuple(content_layers)
        scalar = tf.TensorSpec((), tf.float32)
        weights = LossWeights(scalar, scalar, scalar, (scalar,) * len(style_layers))
        channels = {layer: CONVOLUTIONS[layer][-1] for layer in (*style_layers, *content_layers)}
        targets = {
            "style": {layer: tf.TensorSpec(2 * (channels[layer],), tf.float32) for layer in style_layers},
            "content": {layer: tf.TensorSpec((1, None, None, channels[layer]), tf.float32) for layer in content_layers},
        }
        image = tf.TensorSpec((1, None, None, 3), tf.float32)
        self.with_gradient = tf.function(self._with_gradient, input_signature=(image, weights, targets))

    def content_targets(self, content: tf.Tensor) -> dict[str, tf.Tensor]:
        """The activations `(1, h, w, C)` of a preprocessed content image, float32."""
        features = self.network(content)
        return {layer: tf.cast(features[layer], tf.float32) for layer in self.content_layers}

    def losses(self, image: tf.Tensor, weights: Any, targets: Any) -> tf.Tensor:
        """Style, content and total-variation loss, then each style layer's share, as one vector."""
        features = self.network(image)
        styles = [style_loss(gram_matrix(features[layer]), targets["style"][layer]) for layer in self.style_layers]
        shares = [
            weights.style * factor * loss / len(styles)
            for factor, loss in zip(weights.style_layers, styles, strict=True)
        ]
        contents = [
            content_loss(tf.cast(features[layer], tf.float32), target) for layer, target in targets["content"].items()
        ]
        content = weights.content * tf.add_n(contents) / len(contents)
        variation = weights.total_variation * total_variation(image)
        return tf.stack([tf.add_n(shares), content, variation, *shares])

    def _with_gradient(self, image: tf.Tensor, weights: Any, targets: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            values = self.losses(image, weights, targets)
            total = tf.reduce_sum(values[:3])
        return values, tape.gradient(total, image)


class Objective:
    """What the image is moved to lessen: the weighted sum of style, content and total-variation loss."""

    def __init__(
        self,
        function: LossFunction,
        style_targets: Mapping[str, np.ndarray],
        content: tf.Tensor,
        weights: LossWeights,
    ) -> None:
        """`style_targets` holds the Gram matrices `(C, C)` of the function's style layers; `content` is the
        preprocessed content image `(1, H, W, 3)`."""
        self.weights = weights  # may be changed between two calls
        self.evaluations = 0  # so far
        self._function = function
        self._targets = {
            "style": {layer: tf.constant(style_targets[layer], tf.float32) for layer in function.style_layers},
            "content": function.content_targets(content),
        }

    def __call__(self, image: tf.Tensor) -> Evaluation:
        """Evaluate an image `(1, H, W, 3)`, float32."""
        self.evaluations += 1
        values, gradient = self._function.with_gradient(image, self._constants(), self._targets)
        return Evaluation(image, self._told(values), gradient, self.weights)

    def losses(self, image: tf.Tensor) -> Losses:
        """The losses alone, computed without tracing: for a picture now and then."""
        return self._told(self._function.losses(image, self._constants(), self._targets))

    def _constants(self) -> LossWeights:
        return tf.nest.map_structure(lambda weight: tf.constant(weight, tf.float32), self.weights)

    def _told(self, values: tf.Tensor) -> Losses:
        style, content, variation, *shares = values.numpy().tolist()  # one transfer from the device
        layers = dict(zip(self._function.style_layers, shares, strict=True))
        return Losses(style + content + variation, style, content, variation, layers)
