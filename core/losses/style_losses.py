"""Style losses: the distance between the style of an image and its target, in one layer of the network.

To add a style loss, write a class here and add it to `STYLE_LOSSES`: the settings and their help list what that holds.
The settings must not load TensorFlow, so each function here imports it locally.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


class StyleLoss(ABC):
    """A loss that compares the Gram matrix FᵀF / N of an image's features with the Gram matrix of the style.

    F holds the features at N positions as rows, `(N, C)`. A loss may add a channel of ones, which makes the last row of
    the Gram matrix the mean of the features. The FᵀF of an image is the sum of the FᵀF of its tiles.
    """

    name: ClassVar[str]  # in the settings
    meaning: ClassVar[str]  # completes the help text of the setting
    adds_ones: ClassVar[bool] = False

    @property
    def target_is_exported(self) -> bool:
        """Return whether the exported ONNX model has this statistic: it computes only plain Gram matrices."""
        return not self.adds_ones

    def width(self, channels: int) -> int:
        """Return the number of rows (and columns) of the statistic for this number of channels."""
        return channels + self.adds_ones

    def sum(self, features: tf.Tensor, guide: tf.Tensor | None = None) -> tf.Tensor:
        """Return FᵀF `(width, width)` of features `(1, H, W, C)`, multiplied by a guide `(1, H, W, 1)` if given."""
        import tensorflow as tf

        if self.adds_ones:
            features = tf.concat([features, tf.ones_like(features[..., :1])], -1)
        return gram_sum(features if guide is None else features * tf.cast(guide, features.dtype))

    def sum_of_array(self, positions: np.ndarray) -> np.ndarray:
        """Return FᵀF `(width, width)` of an array `(N, C)`, without TensorFlow."""
        import numpy as np

        if self.adds_ones:
            positions = np.pad(positions, ((0, 0), (0, 1)), constant_values=1)
        return positions.T @ positions

    @abstractmethod
    def distance(self, statistic: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Return the loss of a statistic against its target, both `(width, width)` and divided by N."""


class GramLoss(StyleLoss):
    """Mean squared difference of two Gram matrices G and A `(C, C)`: Σ (G - A)² / C².

    Equation 4 of Gatys, Ecker and Bethge, 2015, arXiv:1508.06576, without the constant 1/4.
    """

    name = "gram"
    meaning = "Gram matrices, as published"

    def distance(self, statistic: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Return the mean squared difference."""
        import tensorflow as tf

        return tf.reduce_mean(tf.square(statistic - target))


class WassersteinLoss(StyleLoss):
    """Squared Wasserstein-2 distance of two normal distributions, divided by the number of channels and scaled.

    (|μ - ν|² + tr(A + B - 2 (B^½ A B^½)^½)) / C for means μ, ν `(C,)` and covariances A, B `(C, C)`: Olkin and
    Pukelsheim, 1982, Linear Algebra and its Applications 48. The means and covariances come from Gram matrices
    `(C + 1, C + 1)` of features with a channel of ones.
    """

    name = "wasserstein"
    meaning = "mean and covariance of the activations, by the Wasserstein-2 distance"
    adds_ones = True
    # With this scale, a style weight has about the same effect as for Gram matrices: at a photo, both gradients have
    # the same length (7·10⁵ on three sample pairs, within 10 %).
    SCALE = 7e5

    def distance(self, statistic: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Return the scaled distance."""
        import tensorflow as tf

        (mean, covariance), (wanted_mean, wanted) = self._moments(statistic), self._moments(target)
        fidelity = tf.custom_gradient(self._fidelity)(covariance, wanted)
        trace = tf.linalg.trace(covariance) + tf.linalg.trace(wanted) - 2 * fidelity
        distance = (tf.reduce_sum(tf.square(mean - wanted_mean)) + trace) / tf.cast(mean.shape[0], mean.dtype)
        return self.SCALE * distance

    @staticmethod
    def _moments(statistic: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean = statistic[-1, :-1]
        return mean, statistic[:-1, :-1] - mean[:, None] * mean

    @staticmethod
    def _fidelity(covariance: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        """Return tr (B^½ A B^½)^½ and its gradient with respect to A, ½ B^½ (B^½ A B^½)^-½ B^½.

        The automatic gradient of an eigendecomposition is not finite for equal eigenvalues.
        """
        import tensorflow as tf

        values, vectors = tf.linalg.eigh(wanted)
        root = tf.matmul(vectors * tf.sqrt(tf.maximum(values, 0.0)), vectors, transpose_b=True)
        values, vectors = tf.linalg.eigh(root @ covariance @ root)
        # Smaller values are rounding errors: channels that are 0 everywhere in the style must not change the gradient.
        least = 1e-6 * tf.reduce_max(tf.abs(values)) + 1e-12
        roots = tf.sqrt(tf.maximum(values, least))

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
            inverse = tf.matmul(vectors / roots, vectors, transpose_b=True)
            return upstream * 0.5 * root @ inverse @ root, None

        return tf.reduce_sum(tf.sqrt(tf.maximum(values, 0.0))), gradient


GRAM = GramLoss()
STYLE_LOSSES: Mapping[str, StyleLoss] = {loss.name: loss for loss in (GRAM, WassersteinLoss())}


def gram_matrix(features: tf.Tensor) -> tf.Tensor:
    """Return the Gram matrix FᵀF / N, `(C, C)`: which channels are active together, anywhere in the image.

    F holds the N = H·W positions of `features` `(1, H, W, C)` as rows. The result is float32 for bfloat16 features.
    Gatys et al. divide in the loss; the division by N here makes images of different sizes comparable.
    """
    import tensorflow as tf

    product = gram_sum(features)
    return product / tf.cast(tf.shape(features)[1] * tf.shape(features)[2], product.dtype)


def gram_sum(features: tf.Tensor) -> tf.Tensor:
    """Return FᵀF of `features` `(1, H, W, C)`, in float32 or better.

    Both factors are F, so the gradient for an upstream U is one product, F (U + Uᵀ). It is computed in the precision of
    F, because it is rounded to that precision next.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def product(positions: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.matmul(positions, tf.cast(upstream + tf.transpose(upstream), positions.dtype))

        exact = tf.cast(positions, tf.float32) if positions.dtype == tf.bfloat16 else positions
        return tf.matmul(exact, exact, transpose_a=True), gradient

    return product(tf.reshape(features, (-1, features.shape[-1])))
