"""Loss and gradient of an image as one compiled TensorFlow function."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from core.losses import content_loss, gram_matrix, style_loss, total_variation
from core.settings import TransferSettings


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


class Objective:
    """What the image is moved to lessen: the weighted sum of style, content and total-variation loss.

    The weights are inputs of the compiled function, not constants in it: they may be changed between two calls
    without tracing again.
    """

    def __init__(
        self,
        network: keras.Model,
        style_targets: Mapping[str, np.ndarray],
        content: tf.Tensor,
        settings: TransferSettings,
    ) -> None:
        """`network` gives the activations of the settings' layers, `style_targets` their Gram matrices `(C, C)`;
        `content` is the preprocessed content image `(1, H, W, 3)`."""
        self.weights = settings
        features = network(content)
        self._targets = {
            "style": {layer: tf.constant(style_targets[layer], tf.float32) for layer in settings.style_layers},
            "content": {layer: features[layer] for layer in settings.content_layers},
        }
        self._network = network
        self._loss_and_gradient = tf.function(self._differentiate)

    def __call__(self, image: tf.Tensor) -> Evaluation:
        """Evaluate an image `(1, H, W, 3)`, float32."""
        weights = {
            "style": tf.constant(self.weights.style_weight, tf.float32),
            "content": tf.constant(self.weights.content_weight, tf.float32),
            "total_variation": tf.constant(self.weights.total_variation_weight, tf.float32),
        }
        values, gradient = self._loss_and_gradient(image, weights, self._targets)
        style, content, variation, *shares = values.numpy().tolist()  # one transfer from the device
        layers = dict(zip(self._targets["style"], shares, strict=True))
        return Evaluation(image, Losses(style + content + variation, style, content, variation, layers), gradient)

    def _differentiate(self, image: tf.Tensor, weights: Any, targets: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            features = self._network(image)
            shares = [style_loss(gram_matrix(features[layer]), gram) for layer, gram in targets["style"].items()]
            shares = [weights["style"] * share / len(shares) for share in shares]
            contents = [content_loss(features[layer], target) for layer, target in targets["content"].items()]
            style = tf.add_n(shares)
            content = weights["content"] * tf.add_n(contents) / len(contents)
            variation = weights["total_variation"] * total_variation(image)
            total = style + content + variation
        return tf.stack([style, content, variation, *shares]), tape.gradient(total, image)
