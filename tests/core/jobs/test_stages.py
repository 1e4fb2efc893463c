"""Multi-stage runs (coarse to fine): complete, stopped, steered and resumed."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import StudioError
from core.images import codec, geometry
from core.jobs import execution
from core.machine import memory
from core.runs import recovery, store
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings
from core.transfer.checkpoint import Checkpoint
from core.transfer.optimizers import optimizer
from core.transfer.stylize import stylize

LAYERS = {"style_layers": ("block1_conv1", "block2_conv1"), "content_layers": ("block2_conv2",), "content_weight": 1.0}
ENDS = (8, 12, 14)  # the last iteration of each stage below


@pytest.fixture
def make_engine(engine):
    return lambda report, timings: engine


def new_run(kept=None, **changes):
    """Create a run with three stages: 64 × 51, 128 × 102 and 256 × 205 px."""
    random = np.random.default_rng(3)
    content, style = (
        Image.fromarray(random.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize((320, 256)) for _ in range(2)
    )
    settings = TransferSettings(**{"size": 256, "iterations": 14, "stages": 3, "frame_every": 4, **LAYERS, **changes})
    return store.create(RunSpec([Style("painting", style)], settings, "draft", kept), content, "photo")


def painted(run, make_engine, wishes=None):
    """Compute a run to its end, with requests by iteration; return the image sizes of its steps."""
    sizes = {}
    for step in execution.perform(run, make_engine):
        assert step.iteration not in sizes
        sizes[step.iteration] = step.evaluated.image.shape[1:3]
        if step.iteration in (wishes or {}):
            run.ask(**wishes[step.iteration])
    return sizes


def assert_same_course(found, expected):
    for column in ("iteration", "evaluations"):
        assert list(found[column]) == list(expected[column])
    for column in ("total", "style"):
        np.testing.assert_allclose(found[column], expected[column], rtol=2e-3)


@pytest.mark.parametrize("method", ["adam", "l-bfgs"])
def test_a_run_through_three_stages(own_home, make_engine, method):
    run = new_run(optimizer=method)
    assert run.record().settings.schedule() == [(64, 8), (128, 12), (256, 14)]
    sizes = painted(run, make_engine)
    record, metrics = run.record(), run.metrics()
    assert list(sizes) == list(metrics["iteration"]) == list(range(15))
    for iteration, size in sizes.items():
        longer = 64 if iteration <= 8 else 128 if iteration <= 12 else 256
        assert size == geometry.resized_shape(320, 256, longer), iteration
    assert (record.status, record.iteration, record.shape) == ("done", 14, (205, 256))
    assert codec.read_image(run.result).size == (256, 205)
    assert np.load(run.path / "result.npy").shape == (205, 256, 3)
    assert list(metrics["seconds"]) == sorted(metrics["seconds"])
    assert [iteration for iteration, _ in run.frames()] == [0, 4, 8, 12]
    assert {codec.read_image(path).size for _, path in run.frames()} == {(256, 205)}  # all frames have the full size
    totals = metrics["total"].to_numpy()
    assert totals[8] < totals[0] and totals[14] < totals[13] * 1.5
    assert record.best_iteration >= 12  # losses at other sizes do not compare
    if record.best_iteration > 12:
        assert record.best_total == pytest.approx(totals[record.best_iteration], rel=1e-3)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_a_run_has_exactly_the_requested_iterations(own_home, make_engine, iterations):
    """This also holds for fewer iterations than stages."""
    run = new_run(iterations=iterations)
    sizes = painted(run, make_engine)
    assert list(sizes) == list(run.metrics()["iteration"]) == list(range(iterations + 1))
    assert sizes[iterations] == (205, 256) and run.record().status == "done"


def test_the_next_stage_starts_from_the_last_picture(own_home, make_engine):
    """Its first picture differs from the enlarged last picture by one step."""
    run, pictures = new_run(learning_rate=1.0), {}
    for step in execution.perform(run, make_engine):
        pictures[step.iteration] = step.image()
    enlarged = tf.image.resize(pictures[8], pictures[9].shape[:2], "bicubic").numpy()
    photo = geometry.resize(codec.read_image(run.content), 128)
    assert np.abs(pictures[9] - enlarged).mean() < 2 < np.abs(pictures[9] - photo).mean()


@pytest.mark.parametrize(("method", "stops"), [("l-bfgs", (10,)), ("adam", (8,)), ("l-bfgs", (3, 12))])
def test_a_run_stopped_in_any_stage_resumes_without_any_difference(own_home, make_engine, method, stops):
    """The stops include the end of a stage and the start of the next."""
    whole, parts = (new_run(optimizer=method) for _ in range(2))
    painted(whole, make_engine)
    for stop in stops:
        painted(parts, make_engine, {stop: {"stop": True}})
        assert (parts.record().status, parts.record().iteration) == ("stopped", stop)
        recovery.resume(parts)
    painted(parts, make_engine)
    assert_same_course(parts.metrics(), whole.metrics())
    assert parts.record().status == "done"
    np.testing.assert_allclose(np.load(parts.path / "result.npy"), np.load(whole.path / "result.npy"), atol=3)


def test_steering_stays_in_the_next_stages(own_home, make_engine):
    plain, steered, early = new_run(), new_run(), new_run()
    painted(plain, make_engine)
    painted(steered, make_engine, {9: {"weights": {"style_weight": 1.0}}})
    painted(early, make_engine, {8: {"weights": {"style_weight": 1.0}}})  # at the last iteration of the stage
    expected, found, other = (run.metrics()["style"].to_numpy() for run in (plain, steered, early))
    np.testing.assert_allclose(found[:10], expected[:10], rtol=2e-3)
    assert (found[10:] > 20 * expected[10:]).all()
    np.testing.assert_allclose(other[:9], expected[:9], rtol=2e-3)
    assert (other[9:] > 20 * expected[9:]).all()


def test_the_progress_of_an_interrupted_run_uses_losses_at_its_last_size(own_home, make_engine):
    """Losses of smaller pictures or with other weights do not compare."""
    run = new_run()
    painted(run, make_engine)
    lines = (run.path / "metrics.csv").read_text().splitlines(keepends=True)
    smallest = lines[5].split(",")
    (run.path / "metrics.csv").write_text(
        "".join([*lines[:5], ",".join([*smallest[:3], "1", *smallest[4:]]), *lines[6:]])
    )
    run.change(iteration=None, best_iteration=None, best_total=None, status="stopped")
    record = run.with_progress(run.record())
    assert record.iteration == 14 and record.best_iteration > 12
    assert record.best_total == pytest.approx(run.metrics()["total"][13:].min())


def test_added_iterations_are_at_full_size(own_home, make_engine):
    run = new_run()
    sizes = painted(run, make_engine, {10: {"iterations": 16}})
    assert list(sizes) == list(range(17)) and sizes[16] == (205, 256)
    recovery.resume(run, 2)
    assert list(painted(run, make_engine).values()) == [(205, 256)] * 3
    assert list(run.metrics()["iteration"]) == list(range(19))


def test_the_checkpoint_of_another_picture_is_refused(own_home, make_engine):
    run = new_run()
    painted(run, make_engine, {2: {"stop": True}})
    kept = Checkpoint.load(run.checkpoint)
    recovery.resume(run)
    other = np.zeros((1, 60, 64, 3), np.float32)
    Checkpoint(other, other, kept.iteration).save(run.checkpoint)
    with pytest.raises(StudioError, match=f"The checkpoint of {run.id} belongs to another picture"):
        list(execution.perform(run, make_engine))
    assert run.record().status == "failed"


def test_the_kept_part_stays_unchanged_in_every_stage(own_home, make_engine):
    mask = np.zeros((256, 320), np.uint8)
    mask[:, :160] = 255
    run = new_run(kept=Image.fromarray(mask), learning_rate=20.0)
    for step in execution.perform(run, make_engine):
        image = step.image()
        photo = geometry.resize(codec.read_image(run.content), max(image.shape))
        left = image.shape[1] // 2 - 1
        assert np.abs(image[:, :left] - photo[:, :left]).max() <= 1e-3, step.iteration
    assert np.abs(image[:, left + 2 :] - photo[:, left + 2 :]).mean() > 3


# The optimizer's state from one size to the next


@pytest.fixture
def last(engine, photo, painting):
    """Return a function that returns the last step of a short 64 × 96 px run with the given settings."""

    def of(settings):
        *_, step = stylize(engine.objective(photo, painting, settings)[0], photo, settings)
        return step

    return of


def test_adam_s_moments_are_enlarged_and_scaled_like_the_gradient(last):
    settings = TransferSettings(**LAYERS, iterations=5)
    step = last(settings)
    state, larger = step.optimizer.state(), step.checkpoint_at(64, 96)
    assert larger.image.shape == larger.best_image.shape == (1, 64, 96, 3)
    assert (larger.iteration, larger.best_iteration, larger.evaluations) == (5, 5, 7)
    moments = [name for name, array in state.items() if array.ndim == 4]
    assert len(moments) == 2 and list(larger.optimizer) == list(state)
    for name, share in zip(moments, (4, 16), strict=True):
        expected = state[name].mean() / share, state[name].std() / share
        found = larger.optimizer[name]
        assert found.shape == (1, 64, 96, 3) and found.dtype == np.float32
        assert found.mean() == pytest.approx(expected[0], rel=0.05, abs=0.02 * float(expected[1]))
        assert 0.5 * expected[1] < found.std() < 1.1 * expected[1]
    made = optimizer(tf.constant(larger.image), settings, larger.optimizer)
    for name, array in made.state().items():
        np.testing.assert_array_equal(array, larger.optimizer[name])


def test_l_bfgs_restarts_at_another_size(last):
    step = last(TransferSettings(**LAYERS, iterations=3, optimizer="l-bfgs"))
    assert step.optimizer.state()["s_y-0"] and step.checkpoint_at(64, 96).optimizer == {}


def test_with_averaging_the_next_stage_starts_from_the_better_picture(last):
    settings = TransferSettings(**LAYERS, iterations=12, averaging=0.8, learning_rate=60.0)
    step = last(settings)
    best = step.with_average().best.image
    expected = tf.image.resize(best, (64, 96), "bicubic").numpy()
    np.testing.assert_allclose(step.checkpoint_at(64, 96).image, expected, atol=1e-3)
    assert "mean-sum" not in step.checkpoint_at(64, 96).optimizer


def test_all_stages_use_the_tile_size_of_the_last_stage(own_home, make_engine, monkeypatch):
    """TensorFlow never frees the memory of larger tiles."""
    monkeypatch.setattr(memory, "_tile_side", lambda settings, shape, *rest: 48 if max(shape) == 256 else None)
    sides = [step.objective.side for step in execution.perform(new_run(optimizer="adam"), make_engine)]
    assert len(sides) == 15 and set(sides) == {48}
