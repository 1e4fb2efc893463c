"""Time to quality on small pictures: targets and courses."""

import json

import pytest

from bench import quality
from bench.quality import Pictures
from core.errors import StudioError
from core.presets import PRESETS
from core.samples.gallery import find


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setattr(quality, "REFERENCE", quality.REFERENCE.model_copy(update={"size": 64}))
    return Pictures.read("small pair", find("coffee").path(), find("circles").path())


@pytest.fixture
def targets_file(own_home, tmp_path, monkeypatch):
    file = tmp_path / "targets.json"
    file.write_text("[]")
    monkeypatch.setattr(quality, "TARGETS", file)
    return file


def test_every_stored_target_names_its_source():
    kept = json.loads(quality.TARGETS.read_text())
    assert {"published pair"} <= {entry["pair"] for entry in kept}
    for entry in kept:
        assert entry["total"] > 0 and entry["iteration"] == quality.ITERATION
        assert {"weights_sha256", "weights", "shape", "date", "processor", "tensorflow"} <= set(entry)


def test_a_target_is_measured_once_and_then_read(engine, pictures, targets_file, monkeypatch):
    with pytest.raises(StudioError, match="--remeasure"):
        quality.target(engine, pictures, False, print)
    monkeypatch.setattr(quality, "ITERATION", 5)
    measured = quality.target(engine, pictures, True, print)
    monkeypatch.setattr(quality, "stylize", None)  # painting again would fail
    assert quality.target(engine, pictures, False, print) == measured
    # The project's file is unchanged; the new target is with the measurements.
    assert json.loads(targets_file.read_text()) == []
    (entry,) = json.loads(quality._own_file().read_text())
    assert (entry["pair"], entry["iteration"], entry["weights_sha256"]) == ("small pair", 5, engine.weights.sha256)


def test_courses_of_a_pair(engine, pictures, targets_file, monkeypatch):
    monkeypatch.setattr(quality, "ITERATION", 12)
    monkeypatch.setattr(quality, "STEPS", 4)
    monkeypatch.setattr(quality, "MARKS", (0.1,))
    found = quality.time_to_quality(engine, pictures, True, lambda line: None)
    published, adam, fast = found.courses
    assert [course.way for course in found.courses] == ["published code path", "compiled Adam", "fast"]
    assert len(published.seconds) == 5
    rounding = {"float32": 1e-4, "bfloat16": 1e-2}[engine.choice(PRESETS["fast"].settings()).precision]
    assert published.totals == pytest.approx(adam.totals[:5], rel=rounding)  # the same trajectory
    assert published.to_target == pytest.approx(published.seconds[0] + 12 * published.step)
    assert fast.totals[-1] <= found.target < fast.totals[-2]  # it stops at the target
    assert fast.to_target == fast.seconds[-1]
    for course in found.courses:
        assert course.seconds == sorted(course.seconds)
        assert course.totals == sorted(course.totals, reverse=True)
