"""The page Timings: measurements of this and other machines, and new measurements."""

import copy
import json
import re

import pytest

from bench import measurements
from core.errors import StudioError
from dashboard import background_jobs
from dashboard.common.text import plain

HOSTILE = '"><script>alert(1)</script>'
MEASURED = {
    "schema_version": 1,
    "created": "2026-02-03T04:05:06Z",
    "environment": {"processor": "Abacus 3000", "cores": 2, "gpus": []},
    "weights": "tests",
    "comparisons": [
        {
            "title": "One step",
            "timings": [
                {"way": "slow", "size": 64, "seconds": [0.4, 0.5, 0.6]},
                {"way": "quick", "size": 64, "seconds": [0.1, 0.1, 0.1]},
            ],
        }
    ],
    "pairs": [
        {
            "pair": "cat and waves",
            "shape": [64, 48],
            "target": 10.0,
            "courses": [
                {"way": "auto", "seconds": [1, 6, 12], "totals": [90, 20, 9], "step": 0.5, "to_target": 12.0},
                {"way": "reference", "seconds": [2, 9], "totals": [80, 30], "step": 0.7, "to_target": None},
            ],
        }
    ],
}  # fmt: skip


def keep(name="20260203-040506", **changes):
    measurements.folder().mkdir(parents=True, exist_ok=True)
    (measurements.folder() / f"{name}.json").write_text(json.dumps({**MEASURED, **changes}))


def texts(page):
    return " ".join(element.value for element in [*page.markdown, *page.caption, *page.header, *page.info])


def button(page, label):
    return next(button for button in page.button if button.label == label)


@pytest.fixture
def commands(monkeypatch):
    """Record commands instead of starting them, because they take minutes."""
    calls = []
    monkeypatch.setattr(background_jobs, "start", lambda *words: calls.append(words))
    return calls


def test_the_form_is_open_before_the_first_measurement(visit):
    page = visit("timings")
    assert "Nothing has been measured" in page.info[0].value
    assert page.expander[0].proto.expanded and button(page, "Measure")


def test_a_measurement_is_shown_as_tables(visit):
    keep()
    page = visit("timings")
    assert "Abacus 3000" in texts(page) and "no GPU" in texts(page)
    assert "One step" in texts(page) and plain("Time to quality: cat and waves") in texts(page)
    steps, courses = (table.value for table in page.dataframe)
    assert list(steps["way"]) == ["slow", "quick"] and list(steps["median (s)"]) == [0.5, 0.1]
    assert list(steps["faster"]) == pytest.approx([1, 5])
    assert list(courses["s to the target"]) == ["12", "not reached"]
    assert list(courses["loss at 10 s"]) == [20, 30]


def test_two_measurements_are_shown_side_by_side(visit):
    keep()
    keep("imported-20260203-040506", environment={"processor": "Elsewhere"})
    page = visit("timings", show="20260203-040506,imported-20260203-040506")
    assert set(page.dataframe[0].value[""]) == {"1", "2"}
    assert any(plain("2. Elsewhere") in caption.value for caption in page.caption)


def test_only_imported_measurements_can_be_removed(visit):
    keep()
    keep("imported-20260203-040506")
    page = visit("timings", show="20260203-040506,imported-20260203-040506")
    (remove,) = (each for each in page.button if each.label == "Remove")
    remove.click().run()
    assert not page.exception
    assert [path.stem for path in measurements.folder().glob("*.json")] == ["20260203-040506"]


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_impossible_seconds_are_refused(seconds):
    wrong = copy.deepcopy(MEASURED)
    wrong["comparisons"][0]["timings"][0]["seconds"][0] = seconds
    with pytest.raises(StudioError, match="holds no measurement"):
        measurements.parse(json.dumps(wrong).encode(), "wrong.json")


def test_an_unknown_measurement_in_the_url_is_reported(visit):
    keep()
    page = visit("timings", show=f"20260203-040506,{HOSTILE}")
    assert page.warning[0].value == f"There is no measurement {plain(HOSTILE)} here."
    assert len(page.dataframe) == 2


def test_a_damaged_file_is_named_and_the_others_are_shown(visit):
    keep()
    keep("20260204-000000", comparisons=7)
    page = visit("timings")
    assert "20260204" in page.warning[0].value and "holds no measurement" in page.warning[0].value
    assert len(page.dataframe) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"comparisons": [{"title": "empty", "timings": []}]},
        {"pairs": [{"pair": "empty", "shape": [1, 1], "target": 1.0, "courses": []}]},
        {
            "pairs": [
                {
                    **MEASURED["pairs"][0],
                    "courses": [{**MEASURED["pairs"][0]["courses"][0], "seconds": [], "totals": []}],
                }
            ]
        },
        {"pairs": [{**MEASURED["pairs"][0], "courses": [{**MEASURED["pairs"][0]["courses"][0], "seconds": [1]}]}]},
        {"environment": {"gpus": 7, "processor": None, "cores": {}}},
        {"environment": {"processor": HOSTILE, "gpus": [HOSTILE]}, "weights": HOSTILE},
        {"created": "2026-02-03T04:05:06"},
    ],
)
def test_an_odd_measurement_breaks_no_page(visit, changes):
    keep(**changes)
    page = visit("timings")
    assert "<script>" not in texts(page).replace(plain(HOSTILE), "")


def test_measuring_starts_the_command_with_the_chosen_parts(visit, commands):
    page = visit("timings")
    button(page, "Measure").click().run()
    page.multiselect(key="parts").set_value(["targets"]).run()
    button(page, "Measure").click().run()
    assert commands == [("bench", "bench", "targets", "step", "--sizes", "256,512"), ("bench", "bench", "targets")]


@pytest.mark.parametrize("sizes", ["big", "7", "64,,128", ""])
def test_impossible_sizes_are_refused(visit, commands, sizes):
    page = visit("timings")
    page.text_input(key="sizes").set_value(sizes).run()
    button(page, "Measure").click().run()
    assert len(page.error) == 1 and not page.exception and commands == []


def test_a_command_that_cannot_start_says_why(visit, monkeypatch):
    def refused(*words):
        raise StudioError("Such a measurement is already running: wait until it ends.")

    monkeypatch.setattr(background_jobs, "start", refused)
    page = visit("timings")
    button(page, "Measure").click().run()
    assert "already running" in page.error[0].value


def test_a_running_measurement_is_shown_and_can_be_stopped(visit, set_command):
    set_command("bench", ["bench", "targets"], "Loading TensorFlow …", "turn 2 of [3] …", running=True)
    page = visit("timings")
    assert re.match(r"Measuring for \d+ s: turn 2 of \\\[3", page.status[0].label)
    assert button(page, "Stop measuring") and "Measure" not in [each.label for each in page.button]


def test_a_measurement_that_failed_says_why(visit, set_command):
    set_command("bench", ["bench", "targets"], "Loading TensorFlow …", "nst: No weights can be had.", running=False)
    page = visit("timings")
    assert page.error[0].value == r"No weights can be had\." and button(page, "Measure")


def imported(page, data, name="theirs.json"):
    return page.file_uploader(key="import-bench").set_value((name, data, "application/json")).run()


def test_another_machines_measurement_is_imported(visit):
    other = copy.deepcopy(MEASURED) | {"environment": {"processor": "Elsewhere"}}
    page = imported(visit("timings"), json.dumps(other).encode())
    assert not page.error and "UTC, imported" in texts(page).replace("\\", "")
    (path,) = measurements.folder().iterdir()
    assert path.name.startswith("imported-20260203-040506-")


def test_two_measurements_of_the_same_second_are_both_kept(visit):
    page = visit("timings")
    for machine in ("First", "Second"):
        imported(page, json.dumps(MEASURED | {"environment": {"processor": machine}}).encode())
    imported(page, json.dumps(MEASURED | {"environment": {"processor": "Second"}}).encode())
    assert len(list(measurements.folder().iterdir())) == 2  # importing the same file again adds none


@pytest.mark.parametrize("data", [b"", b"{}", b"[1, 2]", b"\xff\xfe", b'{"a": NaN}'])
def test_an_import_that_is_no_measurement_is_refused_with_a_reason(visit, data):
    page = imported(visit("timings"), data, f"{HOSTILE}.json")
    assert page.error[0].value.startswith(plain(f"{HOSTILE}.json holds no measurement"))
    assert not measurements.folder().exists()
