"""Baselines for the engine: the published code path, other ways to compile, and the convolutions alone."""

import copy
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from core.images import preprocessing
from core.losses.content_losses import content_loss
from core.losses.style_losses import GRAM
from core.settings import TransferSettings
from core.transfer.objective import LossFunction
from core.vgg.layers import CONVOLUTIONS, Precision
from core.vgg.network import feature_network
from core.vgg.weights import Weights


class PublishedLoop:
    """The code path of the published run: eager TensorFlow in float32, iteration by iteration."""

    def __init__(self, weights: Weights, content: np.ndarray, style: np.ndarray, settings: TransferSettings) -> None:
        """Compute the targets of preprocessed images `(1, H, W, 3)`; `settings` are those of the preset reference."""
        self._settings = settings
        self._network = feature_network(weights, sorted({*settings.style_layers, *settings.content_layers}))
        style_features, content_features = self._network(style), self._network(content)
        self._grams = {layer: _gram(style_features[layer]) for layer in settings.style_layers}
        self._contents = {layer: content_features[layer] for layer in settings.content_layers}
        self._image = tf.Variable(content)
        self._adam = keras.optimizers.Adam(
            settings.learning_rate, settings.beta_1, settings.beta_2, epsilon=settings.epsilon
        )
        self.best_total, self.best = math.inf, b""

    def iterate(self) -> float:
        """Do an iteration, and return the total loss of the image before it."""
        with tf.GradientTape() as tape:
            features = self._network(self._image)
            styles = [GRAM.distance(_gram(features[layer]), gram) for layer, gram in self._grams.items()]
            contents = [content_loss(features[layer], wanted) for layer, wanted in self._contents.items()]
            style = self._settings.style_weight * tf.add_n(styles) / len(styles)
            total = style + self._settings.content_weight * tf.add_n(contents) / len(contents)
        self._adam.apply_gradients([(tape.gradient(total, self._image), self._image)])
        self._image.assign(tf.clip_by_value(self._image, preprocessing.NETWORK_MIN, preprocessing.NETWORK_MAX))
        if float(total) < self.best_total:
            self.best_total = float(total)
            self.best = preprocessing.to_uint8(preprocessing.from_network(self._image.numpy())).tobytes()
        return float(total)


def _gram(features: tf.Tensor) -> tf.Tensor:
    """Return the Gram matrix as published: its automatic gradient needs two products."""
    positions = tf.reshape(features, (-1, features.shape[-1]))
    return tf.matmul(positions, positions, transpose_a=True) / tf.cast(tf.shape(positions)[0], tf.float32)


def eager(function: LossFunction) -> LossFunction:
    """Return the same losses, computed eagerly."""
    variant = copy.copy(function)
    variant.with_gradient = function.with_gradient.python_function
    return variant


def xla(function: LossFunction) -> LossFunction:
    """Return the same losses, compiled by XLA."""
    variant = copy.copy(function)
    variant.with_gradient = tf.function(function.with_gradient.python_function, jit_compile=True)
    return variant


def convolutions(
    weights: Weights, height: int, width: int, precision: Precision, deepest: str = "block5_conv2"
) -> Callable[[], None]:
    """Return a function that computes only the convolutions of a step: a lower bound for the time of a step.

    It computes each convolution up to `deepest` and the gradient of its input, channels last, without bias.
    """
    calls: list[Callable[[], tf.Tensor]] = []
    for name in list(CONVOLUTIONS)[: list(CONVOLUTIONS).index(deepest) + 1]:
        block = int(name.removeprefix("block").partition("_")[0]) - 1
        calls += _convolution(weights.layers[name][0], height >> block, width >> block, precision)

    def all_of_them() -> None:
        for call in calls:
            last = call()
        last[0, 0, 0, 0].numpy()  # waits until a GPU has finished

    return all_of_them


def _convolution(kernel: np.ndarray, height: int, width: int, precision: Precision) -> list[Callable[[], tf.Tensor]]:
    channels_in, channels_out = kernel.shape[2:]
    generator = np.random.default_rng(0)
    shape = (1, height, width, channels_in)
    given = tf.constant(generator.random(shape), precision)
    upstream = tf.constant(generator.random((1, height, width, channels_out)), precision)

    @tf.function
    def forward(values: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(values, tf.constant(kernel, precision), 1, "SAME")

    @tf.function
    def backward(gradient: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d_transpose(gradient, tf.constant(kernel, precision), shape, 1, "SAME")

    # Traced here, because TensorFlow warns about many first calls of such small functions.
    traced_forward, traced_backward = forward.get_concrete_function(given), backward.get_concrete_function(upstream)
    return [lambda: traced_forward(given), lambda: traced_backward(upstream)]
