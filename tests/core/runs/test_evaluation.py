"""Evaluations with the same settings: losses and similarity."""

from datetime import UTC, datetime

import numpy as np
import pytest

from core import presets
from core.errors import InputError, StudioError
from core.images import codec, geometry, preprocessing
from core.jobs import execution
from core.machine import memory
from core.runs import evaluation, store
from core.runs.record import RunRecord, Steering
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.timings import Timings

SIZE = 64
BY = presets.choose("reference", style_weight=0.5)


@pytest.fixture
def run(own_home, engine):
    """Create a finished run whose weights differ from the evaluation's."""
    return painted(engine)


def painted(engine, **changes):
    content, style = (codec.read_image(sample.path()) for sample in (PHOTOS[1], STYLES[1]))
    given = {"size": SIZE, "iterations": 2, "style_weight": 1e-3, "init": "content", **changes}
    made = store.create(RunSpec([Style("waves", style)], presets.choose("draft", **given), "draft"), content, "me")
    for _ in execution.perform(made, lambda *_: engine):
        pass
    return made


def test_the_losses_use_the_evaluation_s_settings(run, engine):
    found = evaluation.evaluate(engine, run, run.record(), BY)
    content, style = (
        preprocessing.to_network(geometry.resize(codec.read_image(path), SIZE)) for path in (run.content, run.style(1))
    )
    objective, _ = engine.objective(content, style, BY, Timings())
    expected = objective.losses(preprocessing.to_network(np.load(run.path / "result.npy")))
    assert found.total == pytest.approx(expected.total, rel=1e-5)
    assert found.style == pytest.approx(expected.style, rel=1e-5)
    assert found.content == pytest.approx(expected.content, rel=1e-4)
    assert found.total > 10 * run.record().best_total  # the run's own losses had a smaller style weight


def test_the_similarity_of_the_photo_itself_is_1_and_of_noise_near_0(run, engine):
    photo = geometry.resize(codec.read_image(run.content), SIZE)
    np.save(run.path / "result.npy", photo.astype(np.float32))
    assert evaluation.evaluate(engine, run, run.record(), BY).similarity == pytest.approx(1)
    noise = np.random.default_rng(0).uniform(0, 255, photo.shape).astype(np.float32)
    np.save(run.path / "result.npy", noise)
    assert evaluation.evaluate(engine, run, run.record(), BY).similarity < 0.2


def test_an_evaluation_is_saved_for_one_result_and_its_settings(run, engine):
    assert evaluation.evaluations([run], BY) == {}
    found = evaluation.evaluate(engine, run, run.record(), BY)
    assert evaluation.evaluations([run], BY) == {run.id: found}
    assert evaluation.evaluations([run], BY.changed(iterations=7, learning_rate=1)) == {
        run.id: found
    }  # the weights are the same
    assert evaluation.evaluations([run], BY.changed(style_layer_weights=[1] * 5)) == {run.id: found}  # the default
    for other in ({"content_weight": 1}, {"style_scale": 1.5}, {"colours": "luminance"}, {"padding": "replicate"}):
        assert evaluation.evaluations([run], BY.changed(**other)) == {}
    np.save(run.path / "result.npy", np.load(run.path / "result.npy"))  # a new result
    assert evaluation.evaluations([run], BY) == {}


@pytest.mark.parametrize("colours", ["style", "luminance", "matched"])
def test_an_evaluation_with_a_run_s_own_settings_gives_its_own_loss(own_home, engine, colours):
    run = painted(engine, colours=colours, style_scale=1.5)
    found = evaluation.evaluate(engine, run, run.record(), run.record().settings)
    assert found.total == pytest.approx(run.record().best_total, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "compare"),
    [
        ({"iterations": 9, "optimizer": "adam", "style_layer_weights": (1.0,) * 5}, True),
        ({"style_weight": 0.25}, False),
        ({"style_loss": "wasserstein"}, False),
        ({"style_layers": ("block1_conv1",)}, False),
        ({"pooling": "average"}, False),
        ({"padding": "replicate"}, False),
        ({"style_scale": 2.0}, False),
        ({"colours": "luminance"}, False),
    ],
)
def test_losses_compare_if_their_settings_and_weights_are_the_same(new_record, changes, compare):
    one = new_record(BY)
    assert evaluation.comparable([one, new_record(BY.changed(**changes))]) == compare
    steered = one.model_copy(update={"steering": [Steering.of(1, {"style_weight": 9.0}, BY)]})
    assert evaluation.comparable([one]) and not evaluation.comparable([one, steered])


@pytest.fixture
def new_record():
    def make(chosen):
        return RunRecord(
            id="20250101-000000-a-b", created=datetime(2025, 1, 1, tzinfo=UTC), preset="draft", settings=chosen,
            content="a", styles=[{"name": "b"}], shape=(64, 64),
        )  # fmt: skip

    return make


def test_an_evaluation_uses_tiles_if_memory_is_short(own_home, engine, monkeypatch):
    run = painted(engine, size=320, iterations=1)
    whole = evaluation.evaluate(engine, run, run.record(), BY)
    monkeypatch.setattr(memory, "available_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "TILES", (128,))
    objectives, made = [], engine.objective

    def noted(*given, **more):
        objectives.append(made(*given, **more))
        return objectives[-1]

    monkeypatch.setattr(engine, "objective", noted)
    assert evaluation.evaluate(engine, run, run.record(), BY).total == pytest.approx(whole.total, rel=1e-4)
    assert objectives[0][0].side == 128


def test_a_run_without_a_result_cannot_be_evaluated(run, engine):
    (run.path / "result.npy").unlink()
    with pytest.raises(StudioError, match="has no usable result"):
        evaluation.evaluate(engine, run, run.record(), BY)
    np.save(run.path / "result.npy", np.zeros((8, 8, 3), np.float32))
    with pytest.raises(StudioError, match="differs in size"):
        evaluation.evaluate(engine, run, run.record(), BY)


def test_settings_come_from_a_preset_or_a_run(run):
    assert evaluation.settings_of("reference") == presets.PRESETS["reference"].settings()
    assert evaluation.settings_of(run.id) == run.record().settings
    with pytest.raises(InputError, match=r"neither a preset .*draft, fast, fine, reference.* nor a run"):
        evaluation.settings_of("nonsense")
