"""Measurements: turns, statistics, and files for other machines."""

import json

import pytest

from bench import measurements
from bench.measurements import Comparison, Course, Measurement, Pair, Timing
from core.errors import InputError, StudioError


def a_measurement() -> Measurement:
    found = Measurement.begin("imagenet, 8-bit")
    found.comparisons.append(Comparison(title="One step", timings=[Timing(way="eager", size=256, seconds=[2.0, 1.0])]))
    course = Course(way="fast", seconds=[1.0, 2.5], totals=[9e6, 8e6], step=1.5, to_target=None)
    found.pairs.append(Pair(pair="a × b", shape=(64, 96), target=7e6, courses=[course]))
    return found


def test_ways_warm_up_and_then_take_turns():
    calls = []
    found = list(
        measurements.interleaved({"one": lambda: calls.append("one"), "two": lambda: calls.append("two")}, size=64)
    )
    assert calls == (2 + measurements.MOST) * ["one", "two"]
    assert [(timing.way, timing.size, len(timing.seconds)) for timing in found] == [
        ("one", 64, measurements.MOST),
        ("two", 64, measurements.MOST),
    ]
    assert all(second >= 0 for timing in found for second in timing.seconds)


def test_a_slow_way_is_repeated_less_often(monkeypatch):
    clock = iter(range(0, 10_000, 10))  # every call takes ten seconds
    monkeypatch.setattr(measurements.time, "perf_counter", lambda: next(clock))
    (found,) = measurements.interleaved({"slow": lambda: None})
    assert found.seconds == measurements.LEAST * [10.0]


def test_median_and_range_match_numpy():
    timing = Timing(way="x", seconds=[float(second) for second in range(1, 12)])
    assert timing.median == 6
    assert timing.range == (2, 10)


def test_total_at_is_the_loss_of_the_last_picture_before_the_mark():
    course = Course(way="x", seconds=[2.0, 4.0, 6.0], totals=[9.0, 5.0, 3.0], step=2.0, to_target=6.0)
    assert [course.total_at(mark) for mark in (1.9, 2.0, 5.9, 100)] == [None, 9.0, 5.0, 3.0]


def test_a_measurement_is_the_same_after_saving_and_reading(tmp_path):
    found = a_measurement()
    found.save(tmp_path / "m.json")
    assert measurements.read(tmp_path / "m.json").model_dump_json() == found.model_dump_json()
    assert found.environment["processor"]
    assert found.environment["versions"]["tensorflow"]


def test_a_measurement_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StudioError, match="could not be written"):
        a_measurement().save(tmp_path / "file" / "m.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"created": "yesterday"}, "created"),
        ({"comparisons": [{"title": "x", "timings": [{"way": "y", "seconds": []}]}]}, "seconds"),
        ({"comparisons": [{"title": "x", "timings": [{"way": "y", "seconds": ["soon"]}]}]}, "seconds"),
        ({"pairs": 3}, "pairs"),
        ({"more": 1}, "more"),
    ],
)
def test_invalid_json_values_are_refused_in_one_line(tmp_path, change, says):
    file = tmp_path / "m.json"
    file.write_text(json.dumps(a_measurement().model_dump(mode="json") | change))
    with pytest.raises(InputError, match=says) as refusal:
        measurements.read(file)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_invalid_json_is_refused(tmp_path, content):
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(InputError, match="holds no measurement"):
        measurements.read(tmp_path / "m.json")


def test_missing_and_huge_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        measurements.read(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(measurements.MAX_BYTES + 1)
    with pytest.raises(InputError, match="MiB"):
        measurements.read(tmp_path / "huge.json")


def test_tables_put_measurements_side_by_side():
    def measured(median):
        timing = Timing(way="w", size=64, seconds=[median / 2, median, 2 * median])
        found = Measurement.begin("weights")
        found.comparisons = [Comparison(title="T", timings=[timing])]
        return found

    (title, rows), *others = measurements.tables({"here": measured(1.0), "there": measured(3.0)}).items()
    assert title == "T" and not others
    assert [(row["machine"], row["way"], row["size"], row["median"], row["times"]) for row in rows] == [
        ("here", "w", 64, 1.0, 3),
        ("there", "w", 64, 3.0, 3),
    ]
    assert rows[0]["low"] == pytest.approx(0.6) and rows[0]["high"] == pytest.approx(1.8)
