"""The style losses, compared with plain loops and values calculated by hand."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from gradients import assert_same_gradient_in_a_graph, finite_differences, gradient_of, noise

from core.losses.style_losses import GRAM, STYLE_LOSSES, gram_matrix

WASSERSTEIN = STYLE_LOSSES["wasserstein"]


def plain_gram(features):
    _, height, width, channels = features.shape
    gram = np.zeros((channels, channels))
    for row, column, i, j in itertools.product(range(height), range(width), range(channels), range(channels)):
        gram[i, j] += float(features[0, row, column, i]) * float(features[0, row, column, j])
    return gram / (height * width)


def test_gram_matrix_by_hand():
    # For the positions (1, 2) and (3, 4), FᵀF is [[1 + 9, 2 + 12], [2 + 12, 4 + 16]]; divide by 2 positions.
    features = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]])
    np.testing.assert_array_equal(gram_matrix(features), [[5, 7], [7, 10]])


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (1, 1, 1, 4), (1, 9, 2, 1), (1, 1, 6, 5)])
def test_gram_matrix_agrees_with_plain_loops(shape):
    features = noise(*shape)
    gram = gram_matrix(tf.constant(features)).numpy()
    assert (gram.shape, gram.dtype) == ((shape[-1], shape[-1]), np.float32)
    np.testing.assert_allclose(gram, plain_gram(features), rtol=1e-5, atol=1e-4)


def test_gram_matrix_is_symmetric_and_has_no_negative_eigenvalue():
    gram = gram_matrix(tf.constant(noise(1, 6, 5, 16))).numpy()
    np.testing.assert_allclose(gram, gram.T, rtol=1e-6)
    assert np.linalg.eigvalsh(gram.astype(float)).min() > -1e-3


def test_gram_matrix_does_not_depend_on_positions_or_size():
    features = noise(1, 4, 6, 3)
    gram = gram_matrix(tf.constant(features))
    shuffled = np.random.default_rng(1).permutation(features.reshape(24, 3)).reshape(1, 3, 8, 3)
    np.testing.assert_allclose(gram_matrix(tf.constant(shuffled)), gram, rtol=1e-5, atol=1e-4)
    tiled = np.tile(features, (1, 3, 2, 1))  # six times as many positions, divided by their number
    np.testing.assert_allclose(gram_matrix(tf.constant(tiled)), gram, rtol=1e-5, atol=1e-4)


def test_gram_matrix_in_a_graph_of_unknown_size():
    traced = tf.function(gram_matrix, input_signature=[tf.TensorSpec((1, None, None, 3))])
    for height, width in ((5, 7), (2, 9)):
        features = noise(1, height, width, 3)
        np.testing.assert_allclose(traced(tf.constant(features)), plain_gram(features), rtol=1e-5, atol=1e-4)


def test_style_loss():
    gram, target = tf.constant([[1.0, 2.0], [2.0, 5.0]]), tf.constant([[0.0, 4.0], [4.0, 8.0]])
    assert GRAM.distance(gram, target) == 4.5  # (1 + 4 + 4 + 9) / 4
    assert GRAM.distance(target, gram) == 4.5
    assert GRAM.distance(gram, gram) == 0
    a, b = noise(7, 7), noise(7, 7, seed=1)
    squares = [(float(a[i, j]) - float(b[i, j])) ** 2 for i in range(7) for j in range(7)]
    np.testing.assert_allclose(GRAM.distance(tf.constant(a), tf.constant(b)), sum(squares) / 49, rtol=1e-6)


# Custom gradients


def straightforward_gram(features):
    rows = tf.reshape(features, (-1, features.shape[-1]))
    return tf.transpose(rows) @ rows / tf.cast(tf.shape(rows)[0], features.dtype)


def weighted_gram(formula, upstream):
    """Return a function of the features that weights each entry of the Gram matrix differently and asymmetrically."""
    return lambda features: tf.reduce_sum(formula(features) * upstream)


@pytest.mark.parametrize("shape", [(1, 3, 4, 3), (1, 1, 1, 4), (1, 4, 1, 2)])
def test_gradient_of_the_gram_matrix(shape):
    features, upstream = noise(*shape).astype(float), noise(shape[-1], shape[-1], seed=1).astype(float)
    assert not np.allclose(upstream, upstream.T)
    gradient = gradient_of(weighted_gram(gram_matrix, upstream), tf.constant(features))
    assert gradient.shape == shape
    plain = gradient_of(weighted_gram(straightforward_gram, upstream), tf.constant(features))
    np.testing.assert_allclose(gradient, plain, rtol=1e-12, atol=1e-12)
    by_differences = finite_differences(weighted_gram(gram_matrix, upstream), features)
    np.testing.assert_allclose(gradient, by_differences, rtol=1e-6, atol=1e-6)


def test_gram_matrix_of_bfloat16_features_is_float32_and_its_gradient_bfloat16():
    features, upstream = tf.cast(noise(1, 9, 13, 16), tf.bfloat16), noise(16, 16, seed=1)
    exact = tf.cast(features, tf.float32)
    assert gram_matrix(features).dtype == tf.float32
    np.testing.assert_allclose(gram_matrix(features), gram_matrix(exact), rtol=1e-5, atol=1e-5)
    ours, plain = (gradient_of(weighted_gram(gram_matrix, upstream), values) for values in (features, exact))
    assert ours.dtype == tf.bfloat16
    assert np.linalg.norm(tf.cast(ours, tf.float32) - plain) <= 2**-7 * np.linalg.norm(plain)


def test_gradient_of_a_style_loss_agrees_with_the_plain_formula():
    features = tf.constant(noise(1, 9, 13, 16))
    target = gram_matrix(tf.constant(noise(1, 5, 8, 16, seed=1)))
    ours, plain = (
        gradient_of(lambda x, formula=formula: GRAM.distance(formula(x), target), features)
        for formula in (gram_matrix, straightforward_gram)
    )
    assert ours.dtype == tf.float32
    assert np.linalg.norm(ours - plain) <= 1e-5 * np.linalg.norm(plain)


def test_gradient_of_the_gram_matrix_in_a_graph_of_unknown_size():
    loss, plain = (weighted_gram(formula, noise(3, 3)) for formula in (gram_matrix, straightforward_gram))
    assert_same_gradient_in_a_graph(loss, plain)


# Wasserstein distance


def distribution(channels, seed, positions=400, rank=None):
    """Return features `(1, 1, N, C)` with another mean and covariance for each seed, of a given rank."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(rank or channels, channels))
    return (random.normal(size=(positions, rank or channels)) @ mixing + random.normal(0, 2, channels))[None, None]


def moments(features):
    return WASSERSTEIN.sum(features) / (features.shape[1] * features.shape[2])


def wasserstein_2(statistic, target):
    return WASSERSTEIN.distance(statistic, target) / WASSERSTEIN.SCALE


def plain_wasserstein_2(one, other):
    """Calculate with SciPy's square root of an asymmetric matrix: tr (A B)^½ = tr (B^½ A B^½)^½."""
    (mean, a), (wanted_mean, b) = ((f[0, 0].mean(0), np.cov(f[0, 0].T, bias=True)) for f in (one, other))
    cross = np.trace(scipy.linalg.sqrtm(a @ b).real)
    return (np.sum((mean - wanted_mean) ** 2) + np.trace(a) + np.trace(b) - 2 * cross) / len(mean)


def test_a_channel_of_ones_adds_the_mean_to_the_gram_matrix():
    features = noise(1, 5, 7, 3)
    found = moments(features).numpy()
    np.testing.assert_allclose(found[:3, :3], gram_matrix(tf.constant(features)), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found[3, :3], features.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    assert found[3, 3] == 1


@pytest.mark.parametrize("channels", [2, 5, 16])
def test_wasserstein_2_agrees_with_scipy(channels):
    one, other = distribution(channels, 0), distribution(channels, 1)
    found = wasserstein_2(moments(one), moments(other))
    np.testing.assert_allclose(found, plain_wasserstein_2(one, other), rtol=1e-6)
    np.testing.assert_allclose(found, wasserstein_2(moments(other), moments(one)), rtol=1e-6)


def test_wasserstein_2_by_hand():
    """For one channel, it is (difference of the means)² + (difference of the standard deviations)²."""
    one, other = (
        np.array([[[[mean - deviation], [mean + deviation]]]]) for mean, deviation in ((1.0, 2.0), (4.0, 7.0))
    )
    np.testing.assert_allclose(wasserstein_2(moments(one), moments(other)), 3**2 + 5**2, rtol=1e-9)


@pytest.mark.parametrize("rank", [None, 3])
def test_wasserstein_2_of_equal_distributions_is_zero(rank):
    """This also holds for covariances of lower rank: rounding leaves a small part of the variance."""
    features = distribution(8, 0, rank=rank)
    scale = np.trace(np.cov(features[0, 0].T)) / 8
    assert abs(wasserstein_2(moments(features), moments(features))) < 1e-6 * scale
    single = moments(features.astype(np.float32))
    assert abs(wasserstein_2(single, single)) < 1e-3 * scale
    shuffled = features[:, :, np.random.default_rng(1).permutation(features.shape[2])]
    assert abs(wasserstein_2(moments(features), moments(shuffled))) < 1e-6 * scale


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_gradient_of_wasserstein_2(channels):
    """Compare the gradient with respect to the features with differences in float64."""
    features, target = distribution(channels, 0, positions=12), moments(distribution(channels, 1))

    def loss(values):
        return wasserstein_2(moments(values), target)

    gradient = gradient_of(loss, tf.constant(features))
    assert gradient.dtype == tf.float64
    expected = finite_differences(loss, features, step=1e-5)
    assert np.linalg.norm(gradient - expected) < 1e-5 * np.linalg.norm(expected)


def test_gradient_of_wasserstein_2_is_finite_for_channels_that_are_zero():
    """Channels are 0 in the style or in the image, or all vary equally, which gives equal eigenvalues."""
    nothing, alike = np.zeros((1, 1, 50, 4), np.float32), noise(1, 1, 50, 1) * np.ones(4, np.float32)
    for one, other in itertools.product((nothing, alike, noise(1, 1, 50, 4)), repeat=2):
        target = moments(other)
        gradient = gradient_of(lambda x, t=target: wasserstein_2(moments(x), t), tf.constant(one))
        assert np.isfinite(gradient).all()
