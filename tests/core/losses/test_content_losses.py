"""The content loss and the total variation, compared with plain loops and values calculated by hand."""

import numpy as np
import pytest
import tensorflow as tf
from gradients import assert_same_gradient_in_a_graph, finite_differences, gradient_of, noise

from core.losses.content_losses import content_loss, total_variation


def plain_total_variation(image):
    _, height, width, channels = image.shape
    values = image[0].astype(float)
    across = [(values[y, x + 1] - values[y, x]) ** 2 for y in range(height) for x in range(width - 1)]
    down = [(values[y + 1, x] - values[y, x]) ** 2 for y in range(height - 1) for x in range(width)]
    return sum(map(np.sum, across)) / (len(across) * channels) + sum(map(np.sum, down)) / (len(down) * channels)


def straightforward_total_variation(image):
    across, down = image[:, :, 1:] - image[:, :, :-1], image[:, 1:] - image[:, :-1]
    return tf.reduce_mean(across**2) + tf.reduce_mean(down**2)


def test_content_loss():
    features, target = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]]), tf.constant([[[[1.0, 0.0], [0.0, 8.0]]]])
    assert content_loss(features, target) == 7.25  # (0 + 4 + 9 + 16) / 4
    assert content_loss(target, features) == 7.25
    assert content_loss(features, features) == 0
    a, b = noise(1, 3, 5, 4), noise(1, 3, 5, 4, seed=1)
    squares = [(float(x) - float(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)]
    np.testing.assert_allclose(content_loss(tf.constant(a), tf.constant(b)), sum(squares) / 60, rtol=1e-6)


def test_total_variation_by_hand():
    # Across: 3² and 1², mean 5; down: 1² and 1², mean 1.
    image = tf.repeat(tf.constant([[[[0.0], [3.0]], [[1.0], [2.0]]]]), 3, axis=-1)
    assert total_variation(image) == 6


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (1, 2, 2, 3), (1, 8, 3, 3)])
def test_total_variation_agrees_with_plain_loops(shape):
    image = noise(*shape)
    np.testing.assert_allclose(total_variation(tf.constant(image)), plain_total_variation(image), rtol=1e-5)


def test_total_variation_of_flat_striped_and_repeated_pictures():
    assert total_variation(tf.fill((1, 4, 5, 3), 9.0)) == 0
    rows = np.zeros((1, 4, 6, 3), np.float32)
    rows[:, ::2] = 2
    assert total_variation(tf.constant(rows)) == 4  # all differences down are 2, and across 0
    assert total_variation(tf.constant(rows.transpose(0, 2, 1, 3))) == 4
    larger = np.zeros((1, 40, 60, 3), np.float32)
    larger[:, ::2] = 2
    assert total_variation(tf.constant(larger)) == 4  # a mean does not grow with the size


def test_gradient_of_the_content_loss():
    value, target = tf.Variable([[3.0, 1.0]]), tf.constant([[1.0, 1.0]])
    with tf.GradientTape() as tape:
        result = content_loss(value, target)
    np.testing.assert_array_equal(tape.gradient(result, value), [[2, 0]])  # 2 (value - target) / 2


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 2, 2, 3), (1, 2, 6, 1)])
def test_gradient_of_the_total_variation(shape):
    image = noise(*shape).astype(float)
    gradient = gradient_of(total_variation, tf.constant(image))
    assert gradient.shape == shape
    plain = gradient_of(straightforward_total_variation, tf.constant(image))
    np.testing.assert_allclose(gradient, plain, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, finite_differences(total_variation, image), rtol=1e-6, atol=1e-6)


def test_gradient_of_the_total_variation_in_a_graph_of_unknown_size():
    assert_same_gradient_in_a_graph(total_variation, straightforward_total_variation)
