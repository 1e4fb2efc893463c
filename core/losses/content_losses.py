"""The content loss and the total variation."""

import tensorflow as tf


def content_loss(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of feature maps `(1, H, W, C)`.

    Equation 1 of Gatys, Ecker and Bethge, 2015, arXiv:1508.06576, with a mean instead of half the sum.
    """
    return tf.reduce_mean(tf.square(features - target))


def total_variation(image: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of neighbouring pixels of `(1, H, W, 3)`, across plus down.

    Equation 3 of Mahendran and Vedaldi, 2015, arXiv:1412.0035, with β = 2 and a mean instead of the sum, so that the
    loss does not grow with the image.
    """
    across, down = (differences(image, axis) for axis in (2, 1))
    return tf.reduce_mean(tf.square(across)) + tf.reduce_mean(tf.square(down))


def differences(image: tf.Tensor, axis: int) -> tf.Tensor:
    """Return the difference between each pixel and its predecessor along an axis."""
    after, before = tf.split(image, [1, -1], axis)[1], tf.split(image, [-1, 1], axis)[0]
    return after - before  # split instead of slices: its gradient takes a quarter of the time
