"""The losses of neural style transfer (Gatys, Ecker and Bethge, 2015, arXiv:1508.06576), and what they are made of."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def gram_matrix(features: tf.Tensor) -> tf.Tensor:
    """G = FᵀF / N: which channels fire together, wherever in the picture.

    F holds the N = H·W positions of `features` `(1, H, W, C)` as rows; the result is `(C, C)`, and float32 where
    the features are bfloat16. Gatys et al. leave the division to the loss; dividing by N here makes pictures of
    different size comparable.
    """
    product = gram_sum(features)
    return product / tf.cast(tf.shape(features)[1] * tf.shape(features)[2], product.dtype)


def gram_sum(features: tf.Tensor) -> tf.Tensor:
    """FᵀF, not divided yet: of a picture in parts, the parts' sums add up to the whole's."""
    return _product_with_itself(tf.reshape(features, (-1, features.shape[-1])))


def with_one(features: tf.Tensor) -> tf.Tensor:
    """`(1, H, W, C)` and one more channel, of ones: the Gram matrix `(C + 1, C + 1)` then holds the mean too."""
    return tf.concat([features, tf.ones_like(features[..., :1])], -1)


@tf.custom_gradient
def _product_with_itself(positions: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """FᵀF, in float32 at least. Both factors are the same F, so that one product, F (U + Uᵀ), is its whole gradient
    for an upstream U; it is computed in the precision of F, to which it would be rounded next."""

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return tf.matmul(positions, tf.cast(upstream + tf.transpose(upstream), positions.dtype))

    exact = tf.cast(positions, tf.float32) if positions.dtype == tf.bfloat16 else positions
    return tf.matmul(exact, exact, transpose_a=True), gradient


def style_loss(gram: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of two Gram matrices `(C, C)`: equation 4 of the paper but for the constant 1/4."""
    return tf.reduce_mean(tf.square(gram - target))


#: By so much the distribution's loss is multiplied, so that a style weight means about the same for both: its gradient
#: at a photo is then as long as that of the Gram matrices' loss (7·10⁵ on three of the sample pairs, within 10 %).
WASSERSTEIN_SCALE = 7e5


def wasserstein_2(moments: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Squared Wasserstein-2 distance of two normal distributions, a mean over the channels:
    (|μ − ν|² + tr(A + B − 2 (B^½ A B^½)^½)) / C for means μ, ν and covariances A, B.

    Olkin and Pukelsheim, 1982, Linear Algebra and its Applications 48. Both arguments are Gram matrices
    `(C + 1, C + 1)` of features `with_one`, divided by their number.
    """
    (mean, covariance), (wanted_mean, wanted) = _normal(moments), _normal(target)
    trace = tf.linalg.trace(covariance) + tf.linalg.trace(wanted) - 2 * _fidelity(covariance, wanted)
    return (tf.reduce_sum(tf.square(mean - wanted_mean)) + trace) / tf.cast(mean.shape[0], mean.dtype)


def _normal(moments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean = moments[-1, :-1]
    return mean, moments[:-1, :-1] - mean[:, tf.newaxis] * mean


@tf.custom_gradient
def _fidelity(covariance: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
    """tr (B^½ A B^½)^½. Its gradient with respect to A is ½ B^½ (B^½ A B^½)^-½ B^½: written down, since that of an
    eigendecomposition is not finite where two eigenvalues meet."""
    values, vectors = tf.linalg.eigh(wanted)
    root = tf.matmul(vectors * tf.sqrt(tf.maximum(values, 0.0)), vectors, transpose_b=True)
    values, vectors = tf.linalg.eigh(root @ covariance @ root)
    # What is smaller is rounding; channels that never fire in the style pull at nothing.
    least = 1e-6 * tf.reduce_max(tf.abs(values)) + 1e-12
    roots = tf.sqrt(tf.maximum(values, least))

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        inverse = tf.matmul(vectors / roots, vectors, transpose_b=True)
        return upstream * 0.5 * root @ inverse @ root, None

    return tf.reduce_sum(tf.sqrt(tf.maximum(values, 0.0))), gradient


def content_loss(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of feature maps `(1, H, W, C)`: equation 1 of the paper, a mean for its half sum."""
    return tf.reduce_mean(tf.square(features - target))


def total_variation(image: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of neighbouring pixels of `(1, H, W, 3)`, across plus down.

    Mahendran and Vedaldi, 2015, arXiv:1412.0035, equation 3 with β = 2; a mean, so that it does not grow with the size.
    """
    across, down = (differences(image, axis) for axis in (2, 1))
    return tf.reduce_mean(tf.square(across)) + tf.reduce_mean(tf.square(down))


def differences(image: tf.Tensor, axis: int) -> tf.Tensor:
    """Of each pixel and the one before it, along an axis."""
    return _after(image, axis) - _before(image, axis)


def _before(image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.split(image, [-1, 1], axis)[0]  # a split's gradient costs a quarter of a slice's


def _after(image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.split(image, [1, -1], axis)[1]
