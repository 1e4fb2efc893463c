"""The losses of neural style transfer (Gatys, Ecker and Bethge, 2015, arXiv:1508.06576)."""

from collections.abc import Callable

import tensorflow as tf


def gram_matrix(features: tf.Tensor) -> tf.Tensor:
    """G = FᵀF / N: which channels fire together, wherever in the picture.

    F holds the N = H·W positions of `features` `(1, H, W, C)` as rows; the result is `(C, C)`, and float32 where
    the features are bfloat16. Gatys et al. leave the division to the loss; dividing by N here makes pictures of
    different size comparable.
    """
    positions = tf.reshape(features, (-1, features.shape[-1]))
    product = _product_with_itself(positions)
    return product / tf.cast(tf.shape(positions)[0], product.dtype)


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


def content_loss(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of feature maps `(1, H, W, C)`: equation 1 of the paper, a mean for its half sum."""
    return tf.reduce_mean(tf.square(features - target))


def total_variation(image: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of neighbouring pixels of `(1, H, W, 3)`, across plus down.

    Mahendran and Vedaldi, 2015, arXiv:1412.0035, equation 3 with β = 2; a mean, so that it does not grow with the size.
    """
    across, down = (_after(image, axis) - _before(image, axis) for axis in (2, 1))
    return tf.reduce_mean(tf.square(across)) + tf.reduce_mean(tf.square(down))


def _before(image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.split(image, [-1, 1], axis)[0]  # a split's gradient costs a quarter of a slice's


def _after(image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.split(image, [1, -1], axis)[1]
