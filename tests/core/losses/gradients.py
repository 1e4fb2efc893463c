"""Random numbers for tests of losses, and gradients computed in two ways."""

import numpy as np
import tensorflow as tf


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)


def gradient_of(function, value):
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = function(value)
    return tape.gradient(result, value)


def finite_differences(function, value, step=1e-3):
    """Return the gradient by central differences, which are exact for a quadratic function except for rounding."""
    gradient = np.zeros(value.shape)
    for place in np.ndindex(value.shape):
        moved = np.zeros(value.shape)
        moved[place] = step
        gradient[place] = (function(tf.constant(value + moved)) - function(tf.constant(value - moved))) / (2 * step)
    return gradient


def assert_same_gradient_in_a_graph(loss, plain):
    """Check a loss for images of three sizes in a graph of unknown size."""
    traced = tf.function(lambda x: gradient_of(loss, x), input_signature=[tf.TensorSpec((1, None, None, 3))])
    for height, width in ((5, 7), (2, 9), (64, 96)):
        image = tf.constant(noise(1, height, width, 3))
        expected = gradient_of(plain, image).numpy()
        assert np.linalg.norm(traced(image) - expected) <= 1e-5 * np.linalg.norm(expected)
    assert traced.experimental_get_tracing_count() == 1
