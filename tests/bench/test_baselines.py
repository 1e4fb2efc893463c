"""The baselines compute the same as the engine, so that their times can be compared."""

import itertools

import numpy as np
import pytest

from bench import baselines
from core.settings import TransferSettings
from core.transfer.stylize import stylize

SETTINGS = TransferSettings(size=96, iterations=4)


@pytest.fixture(scope="module")
def objective(engine, photo, painting):
    return engine.objective(photo, painting, SETTINGS)[0]


def test_the_published_loop_gives_the_same_totals(engine, objective, photo, painting):
    loop = baselines.PublishedLoop(engine.weights, photo, painting, SETTINGS)
    theirs = [loop.iterate() for _ in range(SETTINGS.iterations + 1)]
    ours = [step.losses.total for step in stylize(objective, photo, SETTINGS)]
    assert theirs[:2] == pytest.approx(ours[:2], rel=1e-5)
    # Rounding may change the choice in a pooling tie, and the difference stays.
    assert theirs == pytest.approx(ours, rel=1e-3)
    assert loop.best_total == min(theirs)
    assert len(loop.best) == photo.size


@pytest.mark.parametrize("variant", [baselines.eager, baselines.xla])
def test_eager_and_xla_losses_are_the_same(engine, objective, photo, painting, variant):
    import tensorflow as tf

    other, _ = engine.objective(photo, painting, SETTINGS)
    other._function = variant(other._function)
    image = tf.constant(photo[:, ::-1].copy())
    ours, theirs = objective(image), other(image)
    assert theirs.losses.total == pytest.approx(ours.losses.total, rel=1e-5)
    difference = np.linalg.norm(theirs.gradient - ours.gradient) / np.linalg.norm(ours.gradient)
    assert difference < 1e-3


def test_convolutions_computes_every_convolution_forward_and_backward(engine, monkeypatch):
    import tensorflow as tf

    shapes = []
    originals = tf.nn.conv2d, tf.nn.conv2d_transpose

    def noting(original):
        def call(values, *rest):
            result = original(values, *rest)
            shapes.append((tuple(values.shape), tuple(result.shape)))
            return result

        return call

    monkeypatch.setattr(tf.nn, "conv2d", noting(originals[0]))
    monkeypatch.setattr(tf.nn, "conv2d_transpose", noting(originals[1]))
    baselines.convolutions(engine.weights, 64, 96, "float32")()
    forward, backward = shapes[::2], shapes[1::2]
    assert len(forward) == len(backward) == 14
    assert forward[0] == ((1, 64, 96, 3), (1, 64, 96, 64))
    assert forward[-1] == ((1, 4, 6, 512), (1, 4, 6, 512))
    for (given, result), (upstream, gradient) in zip(forward, backward, strict=True):
        assert (given, result) == (gradient, upstream)
    for (_, before), (after, _) in itertools.pairwise(forward):
        assert before[3] == after[3]
        assert after[1] in (before[1], before[1] // 2)
