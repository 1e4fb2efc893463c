"""Estimates of a run's duration, from measurements on this machine."""

import json
from datetime import UTC, datetime

import pandas as pd
import pytest

from core import paths
from core.jobs import eta
from core.machine import hardware
from core.runs import store
from core.runs.record import RunRecord
from core.settings import TransferSettings

HERE = hardware.processor()
SHAPE = (60, 80)
PIXELS = 60 * 80


def finished(number, step, start=2.0, processor=HERE, iterations=10, **changes):
    """Write a finished run's record. A higher number is newer; a step takes `step` s, the preparation `start` s."""
    run_id = f"20250101-{number:06d}-photo-style-0000"
    values = {
        "id": run_id,
        "created": datetime(2025, 1, 1, tzinfo=UTC),
        "status": "done",
        "preset": "draft",
        "settings": TransferSettings(iterations=iterations),
        "content": "photo",
        "styles": [{"name": "style"}],
        "shape": SHAPE,
        "timings": {"median step": step, "total": start + step * iterations},
        "environment": {"processor": processor},
        "iteration": iterations,
        "evaluations": iterations + 1,
    }
    folder = paths.runs() / run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(RunRecord(**{**values, **changes}).model_dump_json())


def trial(step_per_pixel, start, processor=HERE):
    paths.home().mkdir(parents=True, exist_ok=True)
    said = {"processor": processor, "step_per_pixel": step_per_pixel, "start": start}
    (paths.home() / "pace.json").write_text(json.dumps(said))


def expected(iterations=100, shape=SHAPE):
    return eta.expected_seconds(TransferSettings(iterations=iterations), shape)


def test_there_is_no_estimate_without_measurements(own_home):
    assert expected() is None
    assert not own_home.exists()


def test_a_finished_run_gives_an_estimate_for_the_next(own_home):
    finished(1, step=0.5, start=2.0)
    assert expected(100) == pytest.approx(2.0 + 50.0)


def test_estimate_grows_with_pixels_and_iterations(own_home):
    finished(1, step=0.5, start=2.0)
    assert expected(200) == pytest.approx(2.0 + 100.0)
    assert expected(100, (120, 160)) == pytest.approx(2.0 + 4 * 50.0)
    assert expected(100, (30, 40)) == pytest.approx(2.0 + 50.0 / 4)


def test_estimate_depends_on_the_size_of_the_measured_run(own_home):
    finished(1, step=0.5, start=2.0, shape=(120, 160))
    assert expected(100) == pytest.approx(2.0 + 50.0 / 4)


def test_estimate_is_the_median_of_the_newest_five_runs(own_home):
    for number, step in enumerate([9.0, 9.0, 0.1, 0.4, 0.3, 0.2, 0.5]):
        finished(number, step, start=10 * step)
    assert expected(100) == pytest.approx(3.0 + 30.0)


def test_stopped_runs_count_with_their_own_iterations(own_home):
    finished(1, step=0.5, start=2.0, status="stopped", iterations=20, settings=TransferSettings(iterations=5000))
    assert expected(100) == pytest.approx(2.0 + 50.0)


def test_runs_that_say_nothing_about_this_machine_are_ignored(own_home):
    finished(9, step=7.0, processor="another processor")
    finished(8, step=7.0, environment={})
    finished(7, step=7.0, iterations=3)  # too few steps
    finished(6, step=7.0, status="queued", timings={})
    (paths.runs() / "20250101-000005-damaged").mkdir()
    (paths.runs() / "20250101-000005-damaged" / "run.json").write_text("{")
    assert expected() is None
    finished(1, step=0.5)
    assert expected(100) == pytest.approx(2.0 + 50.0)


def test_the_trial_counts_until_a_run_has_finished(own_home):
    trial(1e-4, 3.0)
    assert expected(100) == pytest.approx(3.0 + 1e-4 * PIXELS * 100)
    finished(1, step=0.5, start=2.0)
    assert expected(100) == pytest.approx(2.0 + 50.0)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"processor": "x"}'])
def test_a_trial_of_another_processor_or_a_damaged_one_is_ignored(own_home, damage):
    trial(1e-4, 3.0, processor="another processor")
    assert expected() is None
    (paths.home() / "pace.json").write_text(damage)
    assert expected() is None


def test_the_trial_is_measured_once(own_home, engine):
    eta.measure_pace(engine)
    file = paths.home() / "pace.json"
    measured = eta.Pace.model_validate_json(file.read_bytes())
    assert measured.processor == HERE
    assert 1e-8 < measured.step_per_pixel < 1e-2
    assert measured.start > 0
    assert expected(100) == pytest.approx(measured.start + measured.step_per_pixel * PIXELS * 100)
    before = file.stat().st_mtime_ns
    eta.measure_pace(engine)
    assert file.stat().st_mtime_ns == before


# The remaining time


STAGED = {"size": 256, "iterations": 14, "stages": 3}  # to iteration 8 at 64 px, to 12 at 128 px


def painted(*durations, begin=0):
    """Return metrics like `Run.metrics`: steps of these durations, starting at iteration `begin`."""
    seconds = [3.0 + sum(durations[:count]) for count in range(len(durations) + 1)]
    return pd.DataFrame({"iteration": range(begin, begin + len(seconds)), "seconds": seconds})


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (painted(1.0, 1.0, 1.0), 5 * 1.0 + 4 * 4.0 + 2 * 16.0),  # at 64 px; time is proportional to pixels
        (painted(4.0, begin=8), 3 * 4.0 + 2 * 16.0),
        (painted(1.0, 1.0, 4.0, begin=6), 3 * 4.0 + 2 * 16.0),  # the last step is the first at the next size
        (painted(16.0, begin=12), 16.0),
        (painted(16.0, begin=13), 0.0),
        (painted(16.0, begin=14), 0.0),  # meanwhile, fewer iterations were requested
    ],
)
def test_remaining_time_depends_on_the_pixels_of_each_stage(steps, expected):
    assert eta.seconds_of_the_rest(TransferSettings(**STAGED), steps) == pytest.approx(expected)


def test_remaining_time_without_stages_is_the_remaining_steps():
    steps = painted(1.0, 9.0, 1.0, 1.0)
    assert eta.seconds_of_the_rest(TransferSettings(iterations=20), steps) == pytest.approx(16.0)


@pytest.mark.parametrize("steps", [painted(), painted().iloc[:0]])
def test_remaining_time_is_unknown_before_the_second_step(steps):
    assert eta.seconds_of_the_rest(TransferSettings(**STAGED), steps) is None


def test_a_resumed_run_is_estimated_by_its_remaining_iterations(own_home):
    finished(1, step=0.5, start=2.0)
    settings = TransferSettings(**STAGED)
    finished(2, step=0.5, status="stopped", iteration=8, settings=settings, iterations=14, evaluations=1)
    assert eta.seconds_left(store.find("20250101-000002")) == pytest.approx(2.0 + 0.5 * (4 / 4 + 2))
