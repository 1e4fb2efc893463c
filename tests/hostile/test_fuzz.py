"""Short runs of the fuzzer, and property tests of JSON, settings and names: bad input is refused in a sentence.

tests/soak/fuzz.py does long runs.
"""

import json

import mutations
import pytest
import seeds
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as some

from bench import measurements
from core import presets
from core.errors import InputError, StudioError
from core.names import LONGEST, as_name, legible
from core.presets import PRESETS
from core.runs import store
from core.runs.archive import import_run
from core.runs.record import Request, Steering
from core.runs.run import Run
from core.settings import SETTINGS
from dashboard.common.text import plain

INPUTS = {
    "picture": 250,
    "picture of a run": 50,
    "zip": 40,
    "zip of damaged files": 25,
    "run directory": 60,
    "bench JSON": 100,
    "settings": 100,
    "names": 50,
    "weights": 50,
}
QUICK = how(max_examples=100, deadline=None, derandomize=True, database=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


@pytest.fixture
def fuzzer(own_home, tmp_path):
    made = mutations.Fuzzer(tmp_path, seed=2)
    yield made
    made.close()


@pytest.mark.parametrize("way", mutations.Fuzzer.WAYS)
def test_damaged_files_are_read_or_refused_in_a_sentence(fuzzer, way):
    tally = fuzzer.feed(way, INPUTS[way])
    assert tally.failures == [] and tally.broke_down <= tally.refused
    assert tally.refused > 0 and tally.inputs == INPUTS[way]


def test_the_fuzzer_notices_a_changed_file_outside_the_runs(fuzzer, monkeypatch):
    monkeypatch.setattr(fuzzer, "_names", lambda: fuzzer.canaries[-1].write_bytes(b"dead"))
    (failure,) = fuzzer.feed("names", 2).failures
    assert failure.startswith("names 0: left ") and "canary" in failure


def test_the_fuzzer_counts_broken_down_decoders_separately(fuzzer, monkeypatch):
    def break_down():
        fuzzer._decoded(fuzzer.pictures[next(iter(fuzzer.pictures))], "whole")
        fuzzer.decoder._process.kill()
        fuzzer._decoded(fuzzer.pictures[next(iter(fuzzer.pictures))], "whole")

    monkeypatch.setattr(fuzzer, "_picture", break_down)
    tally = fuzzer.feed("picture", 1)
    assert (tally.failures, tally.refused, tally.broke_down) == ([], 1, 1)


def test_undamaged_files_are_accepted(own_home, tmp_path):
    """Otherwise the fuzzer would test nothing."""
    made = mutations.Fuzzer(tmp_path, seed=2)
    try:
        for name, data in made.pictures.items():
            made._decoded(data, name)
        made._imported(seeds.zipped(made.files))
    finally:
        made.close()
    assert measurements.parse(json.dumps(seeds.measurement()).encode(), "b.json").pairs


def test_the_fuzzer_finds_exceptions_hangs_and_left_files(fuzzer, own_home, monkeypatch):
    monkeypatch.setattr(mutations, "HANG_SECONDS", 0.0)
    fuzzer._settings = lambda: {}["evil"]
    fuzzer._names = lambda: (own_home / "evil").touch()
    assert "KeyError" in fuzzer.feed("settings", 1).failures[0]
    assert [failure.split(": ", 1)[1][:4] for failure in fuzzer.feed("names", 1).failures] == ["took", "left"]


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=30),
    lambda inner: some.lists(inner, max_size=5) | some.dictionaries(some.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@QUICK
@given(name=some.sampled_from(sorted(seeds.record())), value=JSON)
def test_any_value_in_a_record(own_home, name, value):
    run = Run(own_home / "runs" / seeds.RUN_ID)
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "run.json").write_text(json.dumps(seeds.record() | {name: value}))
    try:
        record = run.record()
    except StudioError:
        return
    assert record.title == legible(record.title)
    assert [(each, said.id) for each, said in store.readable_runs()] == [(run, record.id)]
    assert run.with_progress(record).id == record.id


@QUICK
@given(name=some.sampled_from(sorted(seeds.measurement())), value=JSON)
def test_any_value_in_a_measurement(name, value):
    try:
        found = measurements.parse(json.dumps(seeds.measurement() | {name: value}).encode(), "b.json")
    except InputError as error:
        assert str(error).startswith("b.json holds no measurement")
        return
    assert set(measurements.tables({found.label: found})) == {each.title for each in found.comparisons if each.timings}


@QUICK
@given(value=JSON)
def test_any_request(own_home, value):
    run = Run(own_home / "runs" / seeds.RUN_ID)
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "request.json").write_text(json.dumps(value))
    assert isinstance(run.request(), Request)


@QUICK
@given(preset=some.sampled_from(sorted(PRESETS)), choices=some.dictionaries(some.sampled_from(sorted(SETTINGS)), JSON))
def test_any_choice_of_settings(preset, choices):
    try:
        chosen = presets.choose(preset, **choices)
    except InputError as error:
        assert str(error).endswith(".")
        return
    for name, setting in SETTINGS.items():
        if setting.maximum is not None:
            assert setting.minimum <= getattr(chosen, name) <= setting.maximum


@QUICK
@given(text=some.text() | some.from_regex(r"[0-9]{1,30}:[a-z_]+=.*"))
def test_any_text_for_steering(text):
    wanted = presets.choose()
    try:
        change = Steering.parse(text, wanted)
    except InputError:
        return
    assert [Steering.parse(option, wanted) for option in change.options()] == [change]


@QUICK
@given(text=some.text(max_size=400))
def test_any_name(text):
    name = as_name(text)
    assert as_name(name) == name == legible(name) and len(name) <= LONGEST and "\n" not in name
    assert plain(name).replace("\\", "") == name.replace("\\", "")
    with pytest.raises(InputError):
        store.find(text)


@QUICK
@given(data=some.binary(max_size=300))
def test_any_bytes_for_a_run(own_home, data):
    with pytest.raises(InputError, match=r"^my\.zip "):
        import_run(data, "my.zip")
