"""The optimizers: on objectives with a known minimum, on difficult objectives, and on the real objective."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from PIL import Image

from core.errors import StudioError
from core.images.preprocessing import NETWORK_MAX, NETWORK_MIN
from core.jobs import execution
from core.runs import recovery, store
from core.runs.spec import RunSpec, Style
from core.settings import LossWeights, TransferSettings
from core.transfer.checkpoint import Checkpoint
from core.transfer.objective import EvaluatedImage, Losses
from core.transfer.optimizers import LBFGS, REAL_PIXELS, Adam, Averaged, Limits, optimizer, spectral_scale
from core.transfer.stylize import stylize

SHAPE = (1, 7, 6, 3)
SIZE = math.prod(SHAPE)


def settings_with(**changes):
    return TransferSettings(**{"optimizer": "l-bfgs", "preconditioning": 0.0, "history": 10, **changes})


class Quadratic:
    """(x - c)ᵀ M (x - c) / 2 in float64, for a matrix M with the given curvatures in random directions.

    `lie` can change the reported loss: it gets the number of the evaluation, from 1, and the true total loss.
    """

    weights = None  # it has no losses to weight

    def __init__(self, centre, curvatures=(1.0, 10.0), seed=0, lie=lambda number, total: total):
        random = np.random.default_rng(seed)
        directions, _ = np.linalg.qr(random.normal(size=(SIZE, SIZE)))
        self.matrix = directions * np.geomspace(*curvatures, SIZE) @ directions.T
        self.centre = np.broadcast_to(centre, SHAPE).astype(float).ravel()
        self.lie = lie
        self.evaluations = 0
        self.seen = []  # all evaluated images

    def value_and_gradient(self, flat, weights=None):
        away = flat - self.centre
        return away @ self.matrix @ away / 2, self.matrix @ away

    def __call__(self, image, weights=None):
        weights = weights or self.weights
        self.evaluations += 1
        self.seen.append(image.numpy())
        total, gradient = self.value_and_gradient(image.numpy().astype(float).ravel(), weights)
        total = self.lie(self.evaluations, total)
        gradient = gradient if math.isfinite(total) else np.full_like(gradient, math.nan)
        gradient = tf.constant(gradient.reshape(SHAPE), tf.float32)
        return EvaluatedImage(image, Losses(total, total, 0.0, 0.0, {}), gradient, weights)


def run(objective, start, iterations, **changes):
    """Return the evaluation of each iteration, and the optimizer."""
    image = tf.constant(np.broadcast_to(start, SHAPE), tf.float32)
    moves = optimizer(image, settings_with(**changes))
    found = [objective(image)]
    for _ in range(iterations):
        found.append(moves.step(objective, found[-1]))
    return found, moves


def inside(seed=1, spread=60):
    """Return an image far from the limits, with different pixels."""
    return np.random.default_rng(seed).uniform(-spread, spread, SHAPE)


def within_range(image):
    return bool((image >= NETWORK_MIN).all() and (image <= NETWORK_MAX).all())


def totals(found):
    return [evaluation.losses.total for evaluation in found]


def test_the_settings_choose_the_optimizer():
    image = tf.zeros(SHAPE)
    assert isinstance(optimizer(image, TransferSettings()), Adam)
    assert isinstance(optimizer(image, settings_with()), LBFGS)


def test_each_channel_is_clipped_to_its_own_limits():
    far = tf.constant([[[[-1e3, 0.0, 1e3], [1e3, -1e3, 5.0]]]])
    low, high = NETWORK_MIN, NETWORK_MAX
    np.testing.assert_array_equal(REAL_PIXELS.clip(far)[0, 0], [[low[0], 0, high[2]], [high[0], low[1], 5]])


# Adam


def test_adams_first_step_by_hand():
    """m = (1 - β₁) g and v = (1 - β₂) g²; the step is η √(1 - β₂) / (1 - β₁) · m / (√v + ε)."""
    settings = TransferSettings(learning_rate=3.0, beta_1=0.9, beta_2=0.99, epsilon=0.5)
    objective = Quadratic(inside())
    first = objective(tf.zeros(SHAPE))
    second = Adam(tf.zeros(SHAPE), settings).step(objective, first)
    gradient = first.gradient.numpy().astype(float)
    expected = -3.0 * 0.1 * gradient / (0.1 * np.abs(gradient) + 0.5)
    np.testing.assert_allclose(second.image, expected, rtol=1e-5)
    assert objective.evaluations == 2


def test_adam_comes_near_the_minimum_and_stays_in_range():
    objective = Quadratic(inside(), curvatures=(1.0, 5.0))
    found, _ = run(objective, 300.0 * np.sign(inside(2)), 150, optimizer="adam", beta_1=0.9)
    assert totals(found)[-1] < 1e-3 * totals(found)[0]
    assert all(map(within_range, objective.seen[1:]))


# L-BFGS with a known minimum


@pytest.mark.parametrize("preconditioning", [0.0, 0.3])
def test_l_bfgs_reaches_the_minimum_of_a_quadratic(preconditioning):
    centre = inside()
    objective = Quadratic(centre)
    found, _ = run(objective, 0.0, 25, preconditioning=preconditioning)
    assert totals(found)[-1] < 1e-8 * totals(found)[0]
    np.testing.assert_allclose(found[-1].image, centre, atol=0.05)
    assert totals(found) == sorted(totals(found), reverse=True)
    assert objective.evaluations < 1.3 * len(found)  # the full step nearly always succeeds


def test_l_bfgs_uses_the_curvature():
    """With a history of only one step, it needs several times more iterations."""
    with_history, without = (
        run(Quadratic(inside(), curvatures=(1.0, 100.0)), 0.0, 30, history=history)[0] for history in (30, 1)
    )
    assert totals(with_history)[-1] < 0.1 * totals(without)[-1]


@pytest.mark.parametrize("preconditioning", [0.0, 0.3])
def test_l_bfgs_agrees_with_scipy_for_pixels_at_their_limits(preconditioning):
    objective = Quadratic(inside(spread=250), curvatures=(1.0, 10.0))
    low, high = (np.broadcast_to(limit, SHAPE).astype(float).ravel() for limit in (NETWORK_MIN, NETWORK_MAX))
    expected = scipy.optimize.minimize(
        objective.value_and_gradient,
        np.zeros(SIZE),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"ftol": 1e-14, "gtol": 1e-6, "maxiter": 1000},
    )
    at_a_bound = (expected.x == low) | (expected.x == high)
    assert 0.2 < at_a_bound.mean() < 0.8  # enough pixels are at a limit for a meaningful test
    found, _ = run(objective, 0.0, 60, preconditioning=preconditioning)
    assert found[-1].losses.total == pytest.approx(expected.fun, rel=1e-5)
    np.testing.assert_allclose(found[-1].image.numpy().ravel(), expected.x, atol=0.5)
    assert all(map(within_range, objective.seen))


def test_an_initial_image_out_of_range_is_in_range_after_a_step():
    objective = Quadratic(inside())
    run(objective, 400.0, 10)
    assert not within_range(objective.seen[0])
    assert all(map(within_range, objective.seen[1:]))


@pytest.mark.parametrize("history", [1, 3, 200])
def test_history_is_limited(history):
    objective = Quadratic(inside(), curvatures=(1.0, 1000.0))
    image = tf.zeros(SHAPE)
    moves, evaluation = LBFGS(image, settings_with(history=history)), objective(image)
    for iteration in range(1, 9):
        before, evaluation = evaluation, moves.step(objective, evaluation)
        assert len(moves._pairs) == min(iteration, history)
        np.testing.assert_array_equal(moves._pairs[-1].s, evaluation.image - before.image)
        np.testing.assert_array_equal(moves._pairs[-1].y, evaluation.gradient - before.gradient)


def test_first_step_is_steepest_descent_of_the_first_move():
    objective = Quadratic(inside(), curvatures=(1.0, 1.0))
    found, _ = run(objective, 0.0, 1)
    move, gradient = found[1].image.numpy(), found[0].gradient.numpy()
    assert np.sqrt(np.mean(move**2)) == pytest.approx(LBFGS.FIRST_MOVE, rel=1e-4)
    np.testing.assert_allclose(move / np.linalg.norm(move), -gradient / np.linalg.norm(gradient), atol=1e-5)


# L-BFGS at the limits


@pytest.mark.parametrize("preconditioning", [0.0, 0.3])
def test_a_pixel_at_its_limit_moves_only_inward(preconditioning):
    """This also holds if the preconditioning or the history would move the pixel because of its neighbours."""
    outward, inward = (0, 2, 3, 1), (0, 5, 1, 2)
    centre, start = inside(), np.zeros(SHAPE)
    centre[outward], centre[inward] = 300.0, 0.0
    start[outward], start[inward] = NETWORK_MAX[outward[-1]], NETWORK_MIN[inward[-1]]
    objective = Quadratic(centre, curvatures=(1.0, 3.0))
    found, moves = run(objective, start, 6, preconditioning=preconditioning)
    assert len(moves._pairs) == 6
    assert all(evaluation.gradient[outward] < 0 for evaluation in found)  # all steps push it outward
    assert all(evaluation.image[outward] == NETWORK_MAX[outward[-1]] for evaluation in found)
    assert found[0].gradient[inward] < 0 and found[1].image[inward] > NETWORK_MIN[inward[-1]]


def test_without_a_gradient_the_image_does_not_change():
    centre = inside()
    objective = Quadratic(centre.astype(np.float32))
    found, _ = run(objective, centre, 3)
    assert not found[0].gradient.numpy().any()
    assert all(evaluation is found[0] for evaluation in found)
    assert objective.evaluations == 1


def test_the_image_does_not_change_if_all_pixels_are_pushed_out_of_range():
    objective = Quadratic(1000.0, curvatures=(1.0, 1.0))
    found, _ = run(objective, NETWORK_MAX, 3)
    assert all(evaluation is found[0] for evaluation in found)
    assert objective.evaluations == 1


# L-BFGS with failures


def lies(numbers, told):
    return lambda number, total: told(total) if number in numbers else total


def worse(total):
    return total + 1e9


@pytest.mark.parametrize("told", [worse, lambda total: math.nan, lambda total: math.inf], ids=["worse", "nan", "inf"])
def test_a_bad_trial_shortens_the_step(told):
    """The fifth evaluation is the first trial of the fourth step; the step gets shorter, and the run continues."""
    objective = Quadratic(inside(), lie=lies({5}, told))
    found, moves = run(objective, 0.0, 25)
    assert np.isfinite(totals(found)).all()
    assert totals(found) == sorted(totals(found), reverse=True)
    assert all(np.isfinite(pair.y).all() for pair in moves._pairs)
    assert totals(found)[-1] < 1e-6 * totals(found)[0]
    tried, taken = (image - found[3].image.numpy() for image in objective.seen[4:6])
    shorter = np.linalg.norm(taken) / np.linalg.norm(tried)
    assert 0.1 - 1e-3 < shorter < 0.5 + 1e-3
    np.testing.assert_allclose(taken, shorter * tried, atol=1e-3)


def test_a_failed_line_search_restarts_with_steepest_descent():
    objective = Quadratic(inside(), lie=lies(range(5, 5 + LBFGS.TRIALS), worse))
    found, moves = run(objective, 0.0, 4)
    assert objective.evaluations == 4 + LBFGS.TRIALS + 1
    assert len(moves._pairs) == 1  # the history was dropped
    move, gradient = (found[4].image - found[3].image).numpy(), found[3].gradient.numpy()
    assert np.vdot(move, -gradient) == pytest.approx(np.linalg.norm(move) * np.linalg.norm(gradient), rel=1e-3)
    assert totals(found)[4] < totals(found)[3]
    for _ in range(20):
        found.append(moves.step(objective, found[-1]))
    assert totals(found)[-1] < 1e-6 * totals(found)[0]


def test_a_failed_steepest_descent_keeps_the_image_and_shortens_the_next_try():
    lying = range(5, 5 + 2 * LBFGS.TRIALS)
    objective = Quadratic(inside(), lie=lies(lying, worse))
    found, moves = run(objective, 0.0, 5)
    assert found[4] is found[3]
    assert totals(found)[5] < totals(found)[3]
    last = objective.seen[-1] - found[3].image.numpy()
    assert np.sqrt(np.mean(last**2)) == pytest.approx(LBFGS.FIRST_MOVE / 10, rel=1e-3)
    for _ in range(20):
        found.append(moves.step(objective, found[-1]))
    assert totals(found)[-1] < 1e-6 * totals(found)[0]


def test_noise_does_not_end_the_run():
    """Noise like rounding: below the noise no step is clearly better, so searches fail, but without harm."""
    random, noise = np.random.default_rng(7), 5.0
    objective = Quadratic(inside(), lie=lambda _, total: total + noise * random.normal())
    found, _ = run(objective, 0.0, 40)
    true = [objective.value_and_gradient(evaluation.image.numpy().astype(float).ravel())[0] for evaluation in found]
    assert totals(found) == sorted(totals(found), reverse=True)
    assert any(after is before for before, after in itertools.pairwise(found))  # searches did fail
    assert true[-1] < 10 * noise < 1e-3 * true[0]
    assert all(map(within_range, objective.seen))


def test_l_bfgs_continues_after_many_failures():
    objective = Quadratic(inside(), lie=lies(range(2, 200), worse))
    found, _ = run(objective, 0.0, 40)
    assert objective.evaluations > 200
    assert totals(found)[-1] < 0.9 * totals(found)[0]


# Resuming and new weights, with exact numbers


class Tug(Quadratic):
    """An objective with two minima, weighted by style and content weight. The same calls give identical numbers."""

    weights = LossWeights(1.0, 0.5, 0.0, ())

    def __init__(self, **changes):
        super().__init__(inside(), curvatures=(1.0, 30.0), **changes)
        self.other = Quadratic(inside(2), curvatures=(1.0, 300.0), seed=1)

    def value_and_gradient(self, flat, weights):
        style, gradient = super().value_and_gradient(flat, weights)
        content, other_gradient = self.other.value_and_gradient(flat, weights)
        total = weights.style * style + weights.content * content
        return total, weights.style * gradient + weights.content * other_gradient


ONLY_STYLE = LossWeights(1.0, 0.0, 0.0, ())
START = np.zeros(SHAPE, np.float32)
ADAM = TransferSettings(iterations=14, learning_rate=20.0)  # it overshoots, so the best image is not the last
SMOOTH = settings_with(iterations=14, preconditioning=0.3)
SHORT = settings_with(iterations=14, history=2)


def painted(objective, start, settings, steering=None, until=None):
    """Return the steps from `start`; as in `perform`, `steering` maps an iteration to the weights after it."""

    def weights(iteration):
        changes = [change for change in sorted(steering or {}) if change < iteration]
        return steering[changes[-1]] if changes else objective.weights

    iterations = None if until is None else lambda: until
    return list(stylize(objective, start, settings, weights=weights, iterations=iterations))


def assert_same_course(found, expected):
    for step, wanted in zip(found, expected, strict=True):
        assert (step.iteration, step.evaluations) == (wanted.iteration, wanted.evaluations)
        assert (step.losses, step.best.losses) == (wanted.losses, wanted.best.losses), step.iteration
        assert step.best_iteration == wanted.best_iteration
        np.testing.assert_array_equal(step.evaluated.image, wanted.evaluated.image)
        np.testing.assert_array_equal(step.best.image, wanted.best.image)


@pytest.mark.parametrize("steering", [{}, {4: ONLY_STYLE}, {2: ONLY_STYLE, 6: Tug.weights}], ids=["straight", "1", "2"])
@pytest.mark.parametrize("settings", [ADAM, SMOOTH, SHORT], ids=["adam", "l-bfgs", "short history"])
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, settings, steering):
    """This holds for every iteration, also if the weights change at that moment, and after saving and loading."""
    whole = painted(Tug(), START, settings, steering)
    for stop in (0, 4, 5, 9):
        *_, last = painted(Tug(), START, settings, steering, until=stop)
        last.checkpoint().save(tmp_path / "checkpoint.npz")
        found = painted(Tug(), Checkpoint.load(tmp_path / "checkpoint.npz"), settings, steering)
        assert_same_course(found, whole[stop:])
        assert found[0].seconds > last.seconds


def test_a_run_can_be_resumed_twice(tmp_path):
    for settings in (ADAM, SMOOTH):
        whole, start = painted(Tug(), START, settings), START
        for stop in (3, 5, 9):
            *_, last = painted(Tug(), start, settings, until=stop)
            start = last.checkpoint()
        assert_same_course(painted(Tug(), start, settings), whole[9:])


def test_a_resumed_run_keeps_its_best_image():
    """Adam stops after its best image, and all later images are worse."""
    whole = painted(Tug(), START, ADAM)
    stop = max(step.iteration for step in whole if step.best_iteration < step.iteration)
    best = whole[stop].best_iteration
    assert 0 < best < stop
    objective = Tug()
    found = painted(objective, whole[stop].checkpoint(), ADAM.model_copy(update={"iterations": stop}))
    assert [step.iteration for step in found] == [stop]
    assert found[0].best_iteration == best and found[0].best.losses == whole[best].losses
    np.testing.assert_array_equal(found[0].best.image, whole[best].evaluated.image)
    assert objective.evaluations == 2  # the image and the best image
    assert found[0].evaluations == whole[stop].evaluations  # the interrupted run has counted them


def test_l_bfgs_restarts_if_only_its_history_is_missing():
    whole = painted(Tug(), START, SMOOTH)
    brief = whole[7].checkpoint()
    found = painted(Tug(), Checkpoint(brief.image, brief.best_image, 7, 7, brief.evaluations), SMOOTH)
    assert [step.iteration for step in found] == list(range(7, 15))
    assert found[0].losses == whole[7].losses
    assert totals(found) == sorted(totals(found), reverse=True)
    assert totals(found)[-1] < totals(found)[0]


@pytest.mark.parametrize("settings", [ADAM, SMOOTH], ids=["adam", "l-bfgs"])
def test_new_weights_restart_the_best_image_and_cost_an_evaluation(settings):
    plain = painted(Tug(), START, settings)
    raised = LossWeights(50.0, 25.0, 0.0, ())  # the losses with these weights exceed all losses with the old weights
    objective = Tug()
    steered = painted(objective, START, settings, {6: raised})
    assert_same_course(steered[:7], plain[:7])
    first = steered[7]
    assert first.best is first.evaluated and first.best_iteration == 7
    assert first.losses.total > steered[6].best.losses.total
    assert {step.evaluated.weights for step in steered[7:]} == {step.best.weights for step in steered[7:]} == {raised}
    tried = len(objective.seen[: steered[6].evaluations])
    np.testing.assert_array_equal(
        objective.seen[tried], steered[6].evaluated.image
    )  # evaluated again with the new weights
    assert steered[-1].evaluations == objective.evaluations
    for step in steered[7:]:
        assert step.best.losses.total == min(other.losses.total for other in steered[7 : step.iteration + 1])


@pytest.mark.parametrize("settings", [ADAM, SMOOTH], ids=["adam", "l-bfgs"])
def test_setting_the_same_weights_changes_nothing(settings):
    same = LossWeights(*map(float, Tug.weights[:3]), ())
    assert same is not Tug.weights
    assert_same_course(painted(Tug(), START, settings, {3: same, 4: same, 9: same}), painted(Tug(), START, settings))


def test_l_bfgs_drops_its_history_when_the_weights_change():
    image = tf.constant(START)
    objective, moves = Tug(), LBFGS(image, SMOOTH)
    evaluation = objective(image)
    for _ in range(5):
        evaluation = moves.step(objective, evaluation)
    assert len(moves._pairs) == 5
    evaluation = moves.step(objective, objective(evaluation.image, ONLY_STYLE))
    assert len(moves._pairs) == 1
    moves.step(objective, evaluation)
    assert len(moves._pairs) == 2


# The spectral scale


def frequencies(height, width):
    return np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (7, 6), (5, 9), (33, 8)])
def test_spectral_scale_falls_with_frequency_and_has_mean_1(height, width):
    np.testing.assert_array_equal(spectral_scale(height, width, 0.0), np.ones((height, width // 2 + 1)))
    for exponent in (0.3, 1.0):
        scale = spectral_scale(height, width, exponent).numpy()
        assert scale.shape == (height, width // 2 + 1)
        assert not scale.imag.any() and scale.real.min() > 0
        assert scale.real.mean() == pytest.approx(1, rel=1e-5)
        by_frequency = scale.real.ravel()[np.argsort(frequencies(height, width), axis=None)]
        assert (np.diff(by_frequency) <= 1e-6 * by_frequency[:-1]).all()
        assert by_frequency[0] > by_frequency[-1]


def test_spectral_scale_has_the_given_exponent():
    scale, frequency = spectral_scale(64, 96, 0.3).numpy().real, frequencies(64, 96)
    assert scale[0, 20] / scale[0, 5] == pytest.approx((frequency[0, 20] / frequency[0, 5]) ** -0.6, rel=1e-4)
    assert scale[8, 0] / scale[32, 0] == pytest.approx(4**0.6, rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(8, 10), (7, 9)])
def test_preconditioning_is_symmetric_positive_and_keeps_channels_apart(height, width):
    random = np.random.default_rng(3)
    a, b = (tf.constant(random.normal(size=(1, height, width, 3)), tf.float32) for _ in range(2))
    same = LBFGS(a, settings_with(preconditioning=0.0))._precondition
    np.testing.assert_allclose(same(a), a, atol=1e-5)
    smooth = LBFGS(a, settings_with(preconditioning=0.3))._precondition
    assert np.vdot(a, smooth(b)) == pytest.approx(np.vdot(smooth(a), b), rel=1e-3, abs=1e-3)
    assert np.vdot(a, smooth(a)) > 0
    one_channel = tf.constant(a.numpy() * [0, 1, 0], tf.float32)
    np.testing.assert_allclose(smooth(one_channel)[..., ::2], 0, atol=1e-6)
    np.testing.assert_allclose(smooth(one_channel)[..., 1], smooth(a)[..., 1], atol=1e-5)


# With the real engine


EVALUATIONS = 15


@pytest.fixture(scope="module")
def runs_of_each(engine, photo, painting):
    """Minimize the reference's objective with each optimizer, for the same number of evaluations."""
    objective, _ = engine.objective(photo, painting, TransferSettings())

    def steps(**changes):
        settings = TransferSettings(**changes, iterations=100)
        return list(
            itertools.takewhile(lambda step: step.evaluations <= EVALUATIONS, stylize(objective, photo, settings))
        )

    return {"adam": steps(), "l-bfgs": steps(optimizer="l-bfgs"), "again": steps(optimizer="l-bfgs")}


def test_l_bfgs_has_a_lower_loss_than_adam_after_equally_many_evaluations(runs_of_each):
    adam, lbfgs = (runs_of_each[name][-1] for name in ("adam", "l-bfgs"))
    assert adam.evaluations == EVALUATIONS >= lbfgs.evaluations
    assert lbfgs.best.losses.total < 0.5 * adam.best.losses.total  # measured: 0.3


def test_l_bfgs_never_increases_the_loss_and_stays_in_range(runs_of_each):
    found = [step.evaluated for step in runs_of_each["l-bfgs"]]
    assert totals(found) == sorted(totals(found), reverse=True)
    assert all(within_range(evaluation.image.numpy()) for evaluation in found)


def test_l_bfgs_is_reproducible(runs_of_each):
    """Except for rounding, which differs because threads add in another order, and which grows with the iterations."""
    for once, again in zip(runs_of_each["l-bfgs"], runs_of_each["again"], strict=True):
        assert again.evaluations == once.evaluations
        tolerance = 1e-4 if once.iteration <= 5 else 2e-2
        assert again.losses.total == pytest.approx(once.losses.total, rel=tolerance), once.iteration


def test_evaluations_count_every_trial(engine, photo, painting):
    settings = TransferSettings(optimizer="l-bfgs", iterations=8)
    objective, _ = engine.objective(photo, painting, settings)
    for _ in range(2):  # each run counts its own evaluations, although the objective counts all
        before = objective.evaluations
        steps = list(stylize(objective, photo, settings))
        assert [step.iteration for step in steps] == list(range(9))
        assert steps[0].evaluations == 1
        assert all(after.evaluations > before.evaluations for before, after in itertools.pairwise(steps))
        assert steps[-1].evaluations == objective.evaluations - before


def test_l_bfgs_continues_after_an_increase_of_the_weights(engine, photo, painting):
    """Losses before and after the change cannot be compared."""
    settings = TransferSettings(optimizer="l-bfgs", iterations=8)
    raised = settings.changed(style_weight=3 * settings.style_weight).loss_weights()
    objective, _ = engine.objective(photo, painting, settings)
    steps = list(stylize(objective, photo, settings, weights=lambda i: raised if i > 3 else objective.weights))
    before, after = (objective(steps[at].evaluated.image, raised).losses.total for at in (3, 8))
    assert after < before


# The average of the last images, and other limits


def test_the_average_is_the_mean_of_the_images():
    decay, objective = 0.7, Quadratic(inside())
    found, moves = run(objective, 0.0, 6, optimizer="adam", averaging=decay)
    assert isinstance(moves, Averaged)
    weights = decay ** np.arange(5, -1, -1.0)
    expected = sum(weight * each.image for weight, each in zip(weights, found[1:], strict=True)) / weights.sum()
    np.testing.assert_allclose(moves.average(), expected, rtol=1e-4, atol=1e-3)
    assert run(objective, 0.0, 1, optimizer="adam")[1].average() is None
    assert run(objective, 0.0, 0, optimizer="adam", averaging=decay)[1].average() is None  # there is no image yet


def test_averaging_does_not_change_the_steps():
    with_mean, without = (run(Quadratic(inside()), 0.0, 5, optimizer="adam", averaging=d)[0] for d in (0.9, 0.0))
    assert totals(with_mean) == totals(without)


@pytest.fixture(scope="module")
def far_steps(engine, photo, painting):
    """Return a function that runs Adam with steps that are far too long, or resumes such a run."""
    settings = TransferSettings(learning_rate=60.0, beta_1=0.5, averaging=0.9)
    objective = engine.objective(photo, painting, settings)[0]

    def of(iterations, start=None):
        return list(stylize(objective, photo if start is None else start, settings.changed(iterations=iterations)))

    return of


def test_with_long_steps_the_average_is_better_than_the_last_image(far_steps):
    last = far_steps(25)[-1]
    mean = last.objective.losses(last.optimizer.average())
    assert mean.total < 0.8 * last.losses.total
    averaged = last.with_average()
    assert averaged.best.losses.total == pytest.approx(min(mean.total, last.best.losses.total), rel=1e-4)
    assert averaged.best.losses.total <= last.best.losses.total
    if mean.total < last.best.losses.total:
        assert averaged.best_iteration == 25
        np.testing.assert_allclose(averaged.best.image, last.optimizer.average())


def test_a_resumed_averaged_run_equals_an_uninterrupted_run(far_steps, tmp_path):
    whole = far_steps(10)[-1]
    far_steps(6)[-1].checkpoint().save(tmp_path / "checkpoint.npz")
    rest = far_steps(10, Checkpoint.load(tmp_path / "checkpoint.npz"))
    assert [step.iteration for step in rest] == [6, 7, 8, 9, 10]
    assert rest[-1].losses.total == pytest.approx(whole.losses.total, rel=2e-3)
    np.testing.assert_allclose(rest[-1].optimizer.average(), whole.optimizer.average(), atol=1.0)
    assert int(rest[-1].optimizer.state()["mean-steps"]) == 10


def test_the_average_is_the_result_if_it_is_the_best(own_home, engine):
    """The steps are too long; a resumed run also starts with the average as its best image."""
    random = np.random.default_rng(1)
    photo, style = (
        Image.fromarray(random.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize((80, 64)) for _ in range(2)
    )
    layers = {"style_layers": ("block1_conv1", "block2_conv1"), "content_layers": ("block2_conv2",)}
    far = {"learning_rate": 30.0, "beta_1": 0.1, "beta_2": 0.5, "averaging": 0.8, "content_weight": 1.0}
    settings = TransferSettings(size=64, iterations=30, init="noise", **layers, **far)
    run = store.create(RunSpec([Style("painting", style)], settings, "draft"), photo, "photo")
    *_, last = execution.perform(run, lambda *_: engine)
    averaged, record = last.with_average(), run.record()
    assert averaged.best.losses.total < 0.9 * last.best.losses.total
    assert record.best_total == pytest.approx(averaged.best.losses.total) and record.best_iteration == 30
    np.testing.assert_array_equal(np.load(run.path / "result.npy"), averaged.best_image())
    recovery.resume(run, 1)
    first, _ = execution.perform(run, lambda *_: engine)
    assert first.best.losses.total == pytest.approx(record.best_total)


def test_a_resumed_run_keeps_an_average_as_its_best_image(far_steps):
    """The average has the iteration of the last image but equals no image."""
    last = far_steps(25)[-1]
    mean = last.objective.losses(last.optimizer.average()).total
    kept = replace(last.checkpoint(), best_image=last.optimizer.average().numpy(), best_iteration=25)
    first, second = far_steps(26, kept)
    assert first.best.losses.total == pytest.approx(mean, rel=1e-4) and mean < 0.8 * last.losses.total
    assert (first.best_iteration, first.evaluations, second.evaluations) == (25, last.evaluations, last.evaluations + 1)
    np.testing.assert_allclose(first.evaluated.image, last.evaluated.image)


@pytest.mark.parametrize("method", ["adam", "l-bfgs"])
def test_each_pixel_stays_within_its_own_limits(method):
    least, greatest = np.full(SHAPE, -20, np.float32), np.full(SHAPE, 20, np.float32)
    least[0, :3], greatest[0, :3] = 3.0, 3.0
    objective = Quadratic(inside(), curvatures=(1.0, 3.0))
    settings = settings_with(optimizer=method, learning_rate=8.0)
    image = tf.constant(np.clip(np.zeros(SHAPE, np.float32), least, greatest))
    moves, evaluation = optimizer(image, settings, limits=Limits(least, greatest)), objective(image)
    for _ in range(12):
        evaluation = moves.step(objective, evaluation)
        found = evaluation.image.numpy()
        assert (found >= least).all() and (found <= greatest).all()
        assert (found[0, :3] == 3).all()
    assert ((found == 20) | (found == -20)).any()  # some pixels reached their limits
    assert evaluation.losses.total < 0.9 * objective(image).losses.total


@pytest.mark.parametrize(
    ("changes", "damage"),
    [
        ({}, lambda state: state.pop("s-0")),
        ({}, lambda state: state.pop("move")),
        ({}, lambda state: state.update(move=np.float64("nan"))),
        ({}, lambda state: state.update({"y-0": np.zeros(3, np.float32)})),
        ({}, lambda state: state.update(weights=np.zeros(2))),
        ({"optimizer": "adam"}, lambda state: state.popitem()),
        ({"optimizer": "adam"}, lambda state: state.update({"adam-0": np.array("words")})),
        ({"optimizer": "adam", "averaging": 0.9}, lambda state: state.update({"mean-sum": np.zeros(3, np.float32)})),
    ],
)
def test_an_invalid_state_is_refused(engine, photo, painting, changes, damage):
    settings = TransferSettings(iterations=3, **{"optimizer": "l-bfgs", **changes})
    from core.transfer.stylize import stylize

    *_, last = stylize(engine.objective(photo, painting, settings)[0], photo, settings)
    state = dict(last.checkpoint().optimizer)
    optimizer(last.evaluated.image, settings, state)
    damage(state)
    with pytest.raises(StudioError, match=r"^The checkpoint is damaged: "):
        optimizer(last.evaluated.image, settings, state)
