"""A run on disk: its files, recording and reading, also during writing and after its writer died."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import threading
import time
import types
import weakref
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from filelock import FileLock
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, preprocessing
from core.jobs.execution import StepReporter, _checkpoint_interval
from core.machine.processes import ProcessId
from core.presets import PRESETS
from core.runs import recovery, store
from core.runs.record import Request, RunRecord, Steering, metadata
from core.runs.recorder import Recorder
from core.runs.run import METRICS, Run
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings
from core.timings import Timings
from core.transfer import inputs
from core.transfer.checkpoint import Checkpoint

SETTINGS = TransferSettings(size=96, iterations=4, frame_every=2)
ROOT = Path(__file__).parents[3]


def picture(width=48, height=40, seed=1):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def new_run(settings=SETTINGS, content=None, content_name="photo", style_name="painting"):
    spec = RunSpec([Style(style_name, picture(seed=2))], settings, "reference")
    return store.create(spec, content or picture(), content_name)


class Plain:
    """A stage that does not change images and losses."""

    inputs = types.SimpleNamespace(finish=lambda rgb: rgb)

    @staticmethod
    def final_losses(best):
        return best.losses


@contextlib.contextmanager
def reporting(run, stage=Plain):
    """Report steps to a run's recorder."""
    with Recorder(run) as recorder, StepReporter(recorder) as reporter:
        reporter.write = functools.partial(reporter.write, stage=stage)
        yield reporter


def rewrite(run, **changes):
    """Change fields of `run.json` directly."""
    said = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(said | changes))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def photo(home):
    """Return a preprocessed photo of the runs' size, `(1, 64, 96, 3)`."""
    return preprocessing.to_network(np.asarray(picture(96, 64)))


@pytest.fixture(autouse=True)
def _own_home(own_home):
    """These tests count runs."""


@pytest.fixture(scope="module")
def steps(engine, photo, painting):
    """Return iterations 0 to 4 of a real transfer."""
    from core.transfer.stylize import stylize

    settings = PRESETS["reference"].settings().model_copy(update={"iterations": 4})
    return list(stylize(engine.objective(photo, painting, settings, Timings())[0], photo, settings))


@pytest.fixture
def gone_writer(other_process):
    """Return a process that has ended."""
    assert other_process.id.is_alive()
    other_process.kill()
    other_process.communicate()
    return other_process.id


# Creating


def test_files_of_a_new_run(own_home):
    run = new_run(content_name="Grüße vom  Meer, Teil 2/3!", style_name="The Great Wave off Kanagawa")
    assert run.path.parent == own_home / "runs"
    assert names(run.path) == ["content.png", "run.json", "style-1.png"]
    day, clock, fraction, *words, random = run.id.split("-")
    assert "-".join(words) == "gr-e-vom-meer-teil-2-the-great-wave-off-k"
    assert (len(day), len(clock), len(fraction), len(random)) == (8, 6, 6, 4)
    record = run.record()
    assert (record.id, record.status, record.preset, record.schema_version) == (run.id, "queued", "reference", 2)
    assert record.title == "Grüße vom  Meer, Teil 2/3! × The Great Wave off Kanagawa"
    assert record.settings == SETTINGS
    assert record.shape == (80, 96)
    assert record.unfinished and record.best_total is None
    assert run.metrics().empty and tuple(run.metrics().columns) == METRICS
    assert run.frames() == []
    assert not run.request().stop
    assert names(own_home / "runs") == [run.id]


def test_pictures_with_names_without_letters(own_home):
    run = new_run(content_name="富嶽", style_name="...")
    assert store.find(run.id) == run
    assert run.record().title == "富嶽 × ..."


def test_two_runs_of_the_same_pair_have_different_ids():
    assert new_run().id != new_run().id
    assert len(store.all_runs()) == 2


def test_pictures_are_saved_unchanged(tmp_path):
    content = picture(120, 70)
    run = new_run(content=content)
    assert codec.read_image(run.content).tobytes() == content.tobytes()
    assert codec.read_image(run.style(1)).tobytes() == picture(seed=2).tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_inputs_are_saved_without_their_metadata(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x010F] = "Secret Camera"
    exif[0x0112] = 6  # rotated
    exif.get_ifd(0x8825)[2] = (47.0, 22.0, 1.0)  # the location
    file = tmp_path / f"photo.{suffix}"
    extras = {"comment": "at home"} if suffix == "jpg" else {}
    picture(60, 40).save(file, exif=exif, **extras)
    assert b"Secret Camera" in file.read_bytes()
    run = new_run(content=codec.read_image(file))
    assert b"Secret Camera" not in run.content.read_bytes()
    with Image.open(run.content) as kept:
        kept.load()
        assert not kept.getexif() and kept.info == {}
        assert kept.size == (40, 60)  # upright


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        ((400, 100), (50, 50), r"^a photo would be only 96 × 24 pixels at size 96"),
        ((50, 50), (40, 320), r"^a painting would be only 12 × 96 pixels at size 96"),
    ],
)
def test_too_narrow_pictures_are_refused(own_home, content, style, message):
    with pytest.raises(InputError, match=message):
        store.create(RunSpec([Style("a painting", picture(*style))], SETTINGS, "draft"), picture(*content), "a photo")
    assert store.all_runs() == []


@pytest.mark.parametrize(
    ("changes", "content", "style", "message"),
    [
        (
            {"size": 256, "stages": 2},
            (500, 100),
            (50, 50),
            "a photo would be only 128 × 26 pixels at size 256 in the first of 2 stages, and the shorter side must "
            "have at least 32: choose a larger size or fewer stages.",
        ),
        (
            {"size": 128, "style_scale": 0.2},
            (50, 50),
            (50, 45),
            "a painting would be only 32 × 29 pixels at size 128 with style scale 0.2, and the shorter side must have "
            "at least 32: choose a larger size or a larger style scale.",
        ),
        (
            {"size": 256, "stages": 2, "style_scale": 0.5},
            (50, 50),
            (80, 30),
            "a painting would be only 64 × 24 pixels at size 256 with style scale 0.5 in the first of 2 stages, and "
            "the shorter side must have at least 32: choose a larger size or a larger style scale or fewer stages.",
        ),
        (
            {"memory": 1.0},
            (50, 50),
            (50, 50),
            "A run of 96 × 96 pixels needs about 1.2 GB of memory, and the setting memory allows 1.0 GB: allow more.",
        ),
    ],
)
def test_inputs_that_do_not_fit_the_settings_are_refused_before_a_run_is_created(
    own_home, changes, content, style, message
):
    spec = RunSpec([Style("a painting", picture(*style))], SETTINGS.changed(**changes), "draft")
    with pytest.raises(InputError) as caught:
        store.create(spec, picture(*content), "a photo")
    assert str(caught.value) == message
    assert store.all_runs() == []


def test_a_painting_is_checked_after_resizing(own_home):
    """A painting larger than the photo may be narrower."""
    narrow = picture(300, 60)
    spec = RunSpec([Style("a painting", narrow)], SETTINGS.changed(style_scale=2.0), "draft")
    store.create(spec, picture(), "a photo")
    with pytest.raises(InputError, match="a painting would be only 96 × 19 pixels"):
        inputs.check_styles([narrow.size], SETTINGS, ["a painting"])


def test_the_message_names_the_painting_that_is_too_small():
    with pytest.raises(InputError, match=r"^a \+ b would be only 96 × 19 pixels"):
        inputs.check_styles([(50, 50), (300, 60), (50, 50)], SETTINGS, ["one", "a + b", "three"])


def test_a_home_that_is_not_a_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NST_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StudioError, match=r"^The run cannot be written to .*runs: Not a directory\.$"):
        new_run()


# The record


def test_record_round_trip():
    run = new_run()
    record = run.record().model_copy(
        update={
            "status": "done",
            "timings": {"imports": 1.25, "total": 3.5},
            "environment": {"gpus": ["one"], "cores": 2},
            "iteration": 4,
            "best_total": 1.8465e7,
            "precision": "bfloat16",
            "start": "preview",
        }
    )
    (run.path / "run.json").write_text(record.model_dump_json())
    assert run.record() == record
    assert run.record().created.tzinfo is not None


@pytest.mark.parametrize(("field", "instead"), [("precision", ""), ("start", ""), ("queued", None), ("begun", None)])
def test_records_without_newer_fields_are_read(field, instead):
    run = new_run()
    said = json.loads((run.path / "run.json").read_text())
    del said[field]
    (run.path / "run.json").write_text(json.dumps(said))
    assert getattr(run.record(), field) == instead


def test_a_record_has_the_last_times_of_queueing_and_starting():
    run = new_run()
    first = run.record()
    assert (first.queued, first.begun) == (first.created, None)
    with Recorder(run):
        pass
    done = run.record()
    assert done.begun and done.queued == first.queued <= done.begun <= datetime.now(UTC)
    recovery.resume(run)
    again = run.record()
    assert again.queued and again.queued > done.begun and again.begun is None


@pytest.mark.parametrize("version", [0, 3, "1", True, None, "missing"])
def test_other_schema_versions_are_refused(version):
    run = new_run()
    if version == "missing":
        said = json.loads((run.path / "run.json").read_text())
        del said["schema_version"]
        (run.path / "run.json").write_text(json.dumps(said))
        version = None
    else:
        rewrite(run, schema_version=version)
    with pytest.raises(StudioError) as caught:
        run.record()
    assert str(caught.value) == f"The run {run.id} has the schema version {version!r}; this program reads 1 and 2."


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"null", b"[1]", b'{"schema_version": 2}', "status", "settings", "extra"],
)
def test_damaged_records_are_refused(content):
    run = new_run()
    if isinstance(content, bytes):
        (run.path / "run.json").write_bytes(content)
    else:
        rewrite(run, **{"status": {"status": "asleep"}, "settings": {"settings": {"size": 1}}}.get(content, {"new": 1}))
    with pytest.raises(
        StudioError, match=rf"^The (record of the )?run {run.id} (is damaged|has the schema version None)"
    ):
        run.record()
    assert list(store.readable_runs()) == []
    assert store.all_runs() == [run]


def test_a_missing_record_is_refused():
    run = new_run()
    (run.path / "run.json").unlink()
    with pytest.raises(StudioError, match=rf"^The run {run.id} cannot be read: No such file"):
        run.record()


@pytest.mark.parametrize("status", ["preparing", "running"])
def test_run_whose_writer_is_gone_is_interrupted(gone_writer, status):
    run = new_run()
    rewrite(run, status=status, writer=gone_writer.model_dump())
    assert run.record().status == "interrupted"
    assert not run.record().unfinished
    rewrite(run, writer=None)
    assert run.record().status == "interrupted"
    rewrite(run, writer=ProcessId.this_process().model_dump())
    assert run.record().status == status


def test_a_queued_run_needs_a_queue_entry_or_a_live_writer(gone_writer):
    run = new_run()
    assert run.record().status == "queued"
    rewrite(run, writer=gone_writer.model_dump())
    assert run.record().status == "interrupted"
    paths.queue().mkdir()
    (paths.queue() / run.id).touch()
    assert run.record().status == "queued"


def test_a_run_cannot_be_recorded_twice(steps):
    run = new_run()
    with reporting(run) as reporter:
        reporter.write(steps[0])
    before = (run.path / "metrics.csv").read_bytes()
    with pytest.raises(StudioError, match=rf"^The run {run.id} is already done"), Recorder(run):
        pass
    assert run.record().status == "done"
    assert (run.path / "metrics.csv").read_bytes() == before


def test_another_process_with_the_same_id_is_not_the_writer(gone_writer):
    writer = ProcessId.this_process()
    assert writer.is_alive() and writer.is_this_process() and writer.is_visible_here()
    gone = gone_writer.model_copy(update={"pid": writer.pid})
    assert not gone.is_alive() and not gone.is_this_process()


def test_the_writer_in_a_record_of_an_earlier_version():
    writer = ProcessId.this_process()
    earlier = {"pid": writer.pid, "started": 5.0, "boot": writer.boot, "namespace": writer.namespace}
    assert ProcessId.model_validate(earlier | {"sign": writer.lock}) == writer
    assert not ProcessId.model_validate(earlier).is_alive()


def test_a_writer_before_the_machine_s_restart():
    writer = ProcessId.this_process()
    assert not writer.is_of_an_earlier_boot()
    assert writer.model_copy(update={"boot": "another"}).is_of_an_earlier_boot()


def test_a_killed_writer_in_the_process_table_is_not_alive(own_home):
    """A killed child stays in the process table until its parent, such as the page's server, reads its status."""
    run = new_run()
    code = "import time; from core.runs import store; from core.runs.recorder import Recorder; "
    code += f"Recorder(store.find({run.id!r})).__enter__(); print('written', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "written\n"
        assert run.record().status == "preparing"
        process.kill()
        deadline = time.monotonic() + 5
        while run.record().status == "preparing" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert run.record().status == "interrupted"
    finally:
        process.kill()
        process.communicate()


def test_finished_runs_need_no_writer():
    run = new_run()
    for status in ("stopped", "done", "failed"):
        rewrite(run, writer=None)
        run.change(status=status)
        assert run.record().status == status


# Finding


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../runs", "./{id}", "{id}/", "{id}/frames", "../runs/{id}", "/{id}", "{id}x", "none"]
)
def test_invalid_names_find_no_run(name):
    run = new_run()
    (run.path / "frames").mkdir()
    assert store.find(run.id) == run
    with pytest.raises(InputError, match=r"^There is no run .*; nst runs lists them\.$"):
        store.find(name.format(id=run.id))


def test_a_run_is_found_by_the_start_of_its_name_or_by_last(own_home):
    for name in ("20240301-120000-b-b-0000", "20240301-115959-c-c-ffff", "20250101-000000-a-a-0000"):
        (own_home / "runs" / name).mkdir(parents=True)
    assert store.find("2025").id == store.find("last").id == "20250101-000000-a-a-0000"
    assert store.find("20240301-12").id == "20240301-120000-b-b-0000"
    with pytest.raises(InputError, match=r"^2 runs start with '20240301'; nst runs lists them\.$"):
        store.find("20240301")


def test_all_runs_are_newest_first_without_drafts(own_home):
    assert store.all_runs() == []
    for name in ("20240301-120000-b-b-0000", "20250101-000000-a-a-0000", "20240301-115959-c-c-ffff", ".20260101-a-a-0"):
        (own_home / "runs" / name).mkdir(parents=True)
    (own_home / "runs" / "20270101-000000-file").touch()
    run = new_run()
    expected = [run.id, "20250101-000000-a-a-0000", "20240301-120000-b-b-0000", "20240301-115959-c-c-ffff"]
    assert [run.id for run in store.all_runs()] == expected
    assert [run.id for run, _ in store.readable_runs()] == [run.id]


def test_newest_first_also_within_a_second():
    made = [new_run(content_name=name) for name in ("zebra", "mole", "ant")]
    assert store.all_runs() == made[::-1]


# Metrics, pictures and requests


def test_an_unfinished_line_is_not_read(steps):
    run = new_run()
    with reporting(run) as reporter:
        for step in steps[:3]:
            reporter.write(step)
    whole = run.metrics()
    lines = (run.path / "metrics.csv").read_text().splitlines(keepends=True)
    with (run.path / "metrics.csv").open("a") as file:
        for piece in ("3", ",4", ",1.0,1234", ".5,12,3,4"):
            file.write(piece)
            file.flush()
            assert run.metrics().equals(whole)
        file.write(lines[-1][1:].partition(",")[2].partition("\n")[0])
        assert run.metrics().equals(whole)
    (run.path / "metrics.csv").write_text(lines[0])
    assert run.metrics().empty and list(run.metrics().columns) == list(whole.columns)
    (run.path / "metrics.csv").write_text(lines[0][:30])
    assert run.metrics().empty


def test_the_last_rows_can_be_read_alone(steps):
    run = new_run()
    with reporting(run) as reporter:
        reporter.write(steps[0])
        for last in (1, 2):
            assert run.metrics(last=last).equals(run.metrics())
        for step in steps[1:4]:
            reporter.write(step)
    whole = run.metrics()
    for last in (1, 2, 3, 4, 5, 9):
        expected = whole.tail(last).reset_index(drop=True)
        pd.testing.assert_frame_equal(run.metrics(last=last), expected, check_dtype=False)
    with (run.path / "metrics.csv").open("a") as file:
        file.write("4,5,1.0,12")
    assert list(run.metrics(last=2)["iteration"]) == [2, 3]


def test_the_last_rows_of_a_long_run_are_read_without_the_earlier_rows(steps):
    run = new_run()
    with reporting(run) as reporter:
        reporter.write(steps[0])
    file = run.path / "metrics.csv"
    heading, line = file.read_text().splitlines()
    rows = [line.replace("0", str(iteration), 1) for iteration in range(2000)]
    file.write_text("\n".join([heading, *rows]) + "\n")
    expected = run.metrics().tail(3).reset_index(drop=True)
    rows[20] = "what is not read can have no fault"
    file.write_text("\n".join([heading, *rows]) + "\n")
    pd.testing.assert_frame_equal(run.metrics(last=3), expected, check_dtype=False)
    with pytest.raises(StudioError, match="damaged"):
        run.metrics()


def test_metrics_hold_every_step(steps):
    run = new_run()
    with reporting(run) as reporter:
        for step in steps:
            reporter.write(step)
    metrics = run.metrics()
    assert list(metrics.columns) == [*METRICS, *steps[0].losses.style_layers]
    assert list(metrics["iteration"]) == [0, 1, 2, 3, 4]
    assert list(metrics["evaluations"]) == [1, 2, 3, 4, 5]
    for column in ("total", "style", "content", "total_variation"):
        assert metrics[column].to_numpy() == pytest.approx([getattr(step.losses, column) for step in steps], rel=1e-8)
    for layer in steps[0].losses.style_layers:
        expected = [step.losses.style_layers[layer] for step in steps]
        assert metrics[layer].to_numpy() == pytest.approx(expected, rel=1e-8)
    assert metrics["seconds"].to_numpy() == pytest.approx([step.seconds for step in steps], abs=1e-4)


def test_frames_and_the_live_picture_are_written_at_their_intervals(steps):
    run = new_run(content=picture(96, 64))
    with reporting(run) as reporter:
        for step in steps:
            reporter.write(step)
            live = codec.read_image(run.live)
            assert live.size == (96, 64)
            if step.iteration % 2 == 0:
                assert run.live.read_bytes() == run.frames()[-1][1].read_bytes()
    assert [iteration for iteration, _ in run.frames()] == [0, 2, 4]
    assert [path.name for _, path in run.frames()] == ["000000.jpg", "000002.jpg", "000004.jpg"]
    for (_, path), step in zip(run.frames(), steps[::2], strict=True):
        shown = np.asarray(codec.read_image(path), float)
        assert np.abs(shown - step.image()).mean() < 8  # a JPEG of this step


def test_the_live_picture_is_written_at_intervals(steps, monkeypatch):
    run = new_run(SETTINGS.model_copy(update={"frame_every": 100}))
    monkeypatch.setattr("core.jobs.execution.LIVE_SECONDS", 0.5)
    with reporting(run) as reporter:
        reporter.write(steps[0])
        first = run.live.stat().st_mtime_ns
        reporter._live_written = time.perf_counter()
        reporter.write(steps[1])
        assert run.live.stat().st_mtime_ns == first
        time.sleep(0.5)
        reporter.write(steps[2])
        assert run.live.stat().st_mtime_ns > first
    assert [iteration for iteration, _ in run.frames()] == [0]


def test_the_initial_image_is_shown_before_the_first_step(steps):
    run = new_run()
    start = np.asarray(picture(96, 64))
    with reporting(run) as reporter:
        assert not run.live.exists()
        reporter.sink.write_live_picture(codec.encode_jpeg(start))
        shown = np.asarray(codec.read_image(run.live), float)
        assert np.abs(shown - start).mean() < 40 and shown.shape == (64, 96, 3)  # JPEG changes noise
        assert run.metrics().empty and run.frames() == []
        assert run.record().status == "preparing"
        before = run.live.read_bytes()
        reporter.write(steps[0])
        assert run.live.read_bytes() == run.frames()[0][1].read_bytes() != before


def test_stop_requests():
    run = new_run()
    assert not run.request().stop
    for damage in ("", "{", "[]", "null", '{"stop": false}', '{"go": true}'):
        (run.path / "request.json").write_text(damage)
        assert not run.request().stop
    run.ask(stop=True)
    assert run.request().stop
    run.ask(stop=True)
    asked = {"stop": True, "at_once": False, "iterations": None, "weights": {}}
    assert json.loads((run.path / "request.json").read_text()) == asked


def test_requests_add_up():
    run = new_run()
    run.ask(weights={"style_weight": 0.5, "content_weight": 10})
    run.ask(iterations=9)
    run.ask(weights={"style_weight": 2})
    assert run.request() == Request(iterations=9, weights={"style_weight": 2, "content_weight": 10})
    run.ask(stop=True)
    assert run.request() == Request(stop=True, iterations=9, weights={"style_weight": 2, "content_weight": 10})
    run.ask(iterations=5)
    assert run.request().iterations == 5 and run.request().stop


@pytest.mark.parametrize(
    "wish",
    [
        {"iterations": 0},
        {"iterations": 20_001},
        {"iterations": "many"},
        {"weights": {"style_weight": -1}},
        {"weights": {"style_weight": "much"}},
        {"weights": {"colour": 1}},
        {"weights": {"size": 128}},
        {"weights": {"learning_rate": 1.0}},
        {"weights": {"style_layer_weights": [1, 2]}},
        {"weights": {"style_weight": 0, "content_weight": 0}},
        {"weights": {"content_weight": 5.0, "total_variation_weight": 1e13}},
    ],
    ids=str,
)
def test_invalid_requests_are_refused_and_do_not_change_earlier_ones(wish):
    run = new_run()
    run.ask(iterations=9, weights={"style_weight": 0.5})
    before = (run.path / "request.json").read_bytes()
    with pytest.raises(InputError) as caught:
        run.ask(**wish)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert (run.path / "request.json").read_bytes() == before


def test_requests_that_contradict_each_other_are_refused():
    run = new_run()
    run.ask(weights={"style_weight": 0})
    with pytest.raises(InputError, match="cannot both be 0"):
        run.ask(weights={"content_weight": 0})
    assert run.request().weights == {"style_weight": 0}


@pytest.mark.parametrize(
    "damage",
    ['{"stop": "perhaps"}', '{"iterations": 1.5}', '{"weights": [1]}', b"\xff\xfe", '{"stop": true', "[" * 10_000],
)
def test_a_damaged_request_counts_as_empty(damage):
    run = new_run()
    (run.path / "request.json").write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert run.request() == Request()
    run.ask(iterations=7)
    assert run.request() == Request(iterations=7)


def test_a_run_can_be_stopped_despite_an_invalid_request():
    """An invalid request by another program does not prevent the stop."""
    run = new_run()
    (run.path / "request.json").write_text('{"weights": {"size": 1}, "iterations": -3}')
    run.ask(stop=True)
    assert run.request().stop


# Steering


def steering(*changes):
    return [Steering(iteration=iteration, changes=weights) for iteration, weights in changes]


@pytest.mark.parametrize(
    ("text", "iteration", "changes"),
    [
        ("40:style_weight=0.1", 40, {"style_weight": 0.1}),
        (" 0 : content-weight =1e3", 0, {"content_weight": 1000.0}),
        ("7:total_variation_weight=0", 7, {"total_variation_weight": 0.0}),
        ("7:style-layer-weights=1, 0,2,0.5,1", 7, {"style_layer_weights": (1.0, 0.0, 2.0, 0.5, 1.0)}),
        ("7:style_layer_weights=", 7, {"style_layer_weights": ()}),
        ("20000:style_weight=0.30000000000000004", 20_000, {"style_weight": 0.1 + 0.2}),
    ],
)
def test_steering_survives_parsing_and_formatting(text, iteration, changes):
    parsed = Steering.parse(text, SETTINGS)
    assert parsed == Steering(iteration=iteration, changes=changes)
    (told,) = parsed.options()
    assert Steering.parse(told, SETTINGS) == parsed
    recorded = Steering.model_validate_json(parsed.model_dump_json())  # JSON turns a tuple into a list
    assert recorded.options() == [told]


def test_steering_of_several_weights_gives_an_option_for_each():
    (change,) = steering((12, {"style_weight": 0.5, "style_layer_weights": [1.0, 2.0, 1.0, 1.0, 1.0]}))
    assert change.options() == ["12:style_weight=0.5", "12:style_layer_weights=1.0,2.0,1.0,1.0,1.0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'' is not a change of a weight: give one such as 40:style_weight=0\.1\."),
        ("style_weight=3", "'style_weight=3' is not a change of a weight"),
        ("40:style_weight", "'40:style_weight' is not a change of a weight"),
        ("-1:style_weight=3", "'-1:style_weight=3' is not a change of a weight"),
        ("4.5:style_weight=3", r"'4\.5:style_weight=3' is not a change of a weight"),
        (":style_weight=3", "':style_weight=3' is not a change of a weight"),
        ("4:style_weight=", "style_weight = '': "),
        ("4:style_weight=much", "style_weight = 'much': "),
        ("4:style_weight=-1", r"style_weight = '-1': should be greater than or equal to 0\."),
        ("4:style_weight=nan", "style_weight = 'nan': "),
        ("4:colour=3", "colour cannot be changed during a run"),
        ("4:=3", " cannot be changed during a run"),
        ("4:size=128", "size cannot be changed during a run; style_weight, .* can"),
        ("4:style_layers=block1_conv1", "style_layers cannot be changed during a run"),
        ("4:style_layer_weights=1,2", "style_layer_weights has 2 numbers for 5 style layers"),
    ],
)
def test_invalid_steering_is_refused(text, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        Steering.parse(text, SETTINGS)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_steering_is_recorded_in_order():
    changes = steering((9, {"style_weight": 1.0}), (2, {"content_weight": 5.0}), (9, {"style_weight": 2.0}))
    run = store.create(RunSpec([Style("b", picture(seed=2))], SETTINGS, "draft", steering=changes), picture(), "a")
    assert [change.iteration for change in run.record().steering] == [2, 9, 9]
    recorder = Recorder(run)
    assert recorder.settings_at(2) == SETTINGS
    assert recorder.settings_at(3) == recorder.settings_at(9) == SETTINGS.changed(content_weight=5.0)
    assert recorder.settings_at(10) == SETTINGS.changed(content_weight=5.0, style_weight=2.0)  # the later change counts


def test_steering_to_zero_weights_is_refused(own_home):
    """Each change alone is valid, but both together are not."""
    changes = steering((9, {"style_weight": 0.0}), (2, {"content_weight": 0.0}))
    with pytest.raises(InputError, match=r"^style_weight and content_weight cannot both be 0"):
        store.create(RunSpec([Style("b", picture(seed=2))], SETTINGS, "draft", steering=changes), picture(), "a")
    assert not (own_home / "runs").exists()


def test_requests_are_applied_once(steps):
    """A request is applied once, and recorded with its first iteration."""
    run = new_run()
    with reporting(run) as reporter:
        reporter.write(steps[0])
        reporter.write(steps[1])
        wanted = Request(weights={"style_weight": 3, "content_weight": 1e3}, iterations=90)
        reporter.sink.apply_request(wanted, 1)
        record = run.record()
        assert record.settings == SETTINGS.changed(iterations=90)
        assert record.steering == steering((1, {"style_weight": 3.0}))  # the content weight did not change
        assert (reporter.sink.settings_at(1), reporter.sink.settings_at(2)) == (
            record.settings,
            record.settings.changed(style_weight=3.0),
        )
        reporter.write(steps[2])
        reporter.sink.apply_request(wanted, 2)
        reporter.sink.apply_request(wanted.model_copy(update={"iterations": 80}), 2)
        assert run.record().steering == record.steering and run.record().settings.iterations == 80
        reporter.sink.apply_request(Request(weights={"style_weight": 0.01, "style_layer_weights": [1, 1, 1, 1, 5]}), 2)
        assert run.record().steering[1:] == steering(
            (2, {"style_weight": 0.01, "style_layer_weights": [1.0, 1.0, 1.0, 1.0, 5.0]})
        )
        assert reporter.sink.settings_at(3).loss_weights().style_layers == (1.0, 1.0, 1.0, 1.0, 5.0)
    assert (run.record().status, run.record().message) == ("done", "")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(iterations=0), r"iterations = 0: should be greater than or equal to 1\."),
        (Request(iterations=30_000), r"iterations = 30000: should be less than or equal to 20000\."),
        (Request(weights={"style_weight": -1}), r"style_weight = -1: should be greater than or equal to 0\."),
        (Request(weights={"content_weight": 0.0, "style_weight": 0.0}), "style_weight and content_weight cannot both"),
        (Request(weights={"size": 128}), r"size cannot be changed during a run; [a-z_, ]* can\."),
        (Request(weights={"colour": "red"}), r"colour cannot be changed during a run; .*"),
    ],
)
def test_an_impossible_request_is_ignored_and_reported(steps, request_, said):
    run = new_run()
    with reporting(run) as reporter:
        reporter.write(steps[0])
        reporter.sink.apply_request(request_, 0)
        record = run.record()
        assert (record.steering, record.settings, record.status) == ([], SETTINGS, "running")
        reporter.write(steps[1])
        reporter.sink.apply_request(Request(weights={"style_weight": 3.0}), 1)
        assert run.record().steering == steering((1, {"style_weight": 3.0}))
    assert re.match(f"The run continues unchanged: {said}", record.message), record.message
    assert "\n" not in record.message


def test_progress_after_steering_uses_losses_with_the_new_weights(steps):
    """Losses with other weights do not compare, so the best is the best since the last change."""
    run = new_run()
    with reporting(run) as reporter:
        for step in steps:
            reporter.write(step)
    lines = (run.path / "metrics.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines]
    for row, total in zip(cells[1:], (5.0, 1.0, 90.0, 70.0, 80.0), strict=True):
        row[3] = str(total)
    (run.path / "metrics.csv").write_text("\n".join(map(",".join, cells)) + "\n")
    nowhere = {"iteration": None, "best_iteration": None, "best_total": None, "status": "interrupted"}
    for changed, best in (((), (1, 1.0)), ((1,), (3, 70.0)), ((0, 3), (4, 80.0)), ((4,), (1, 1.0))):
        told = [change.model_dump() for change in steering(*((at, {"style_weight": 1.0 + at}) for at in changed))]
        rewrite(run, **nowhere, steering=told)
        record = run.with_progress(run.record())
        assert (record.iteration, record.evaluations) == (4, 5)
        assert (record.best_iteration, record.best_total) == best


# How a run ends


STOP = Request(stop=True)


def recorded(steps, ending=None):
    """Record a run of these steps that ends with `ending`, an exception or a request."""
    run = new_run()
    if isinstance(ending, BaseException):
        with pytest.raises(type(ending)), reporting(run) as reporter:
            for step in steps:
                reporter.write(step)
            raise ending
    else:
        with reporting(run) as reporter:
            assert run.record().status == "preparing"
            assert run.record().writer == ProcessId.this_process()
            for step in steps:
                reporter.write(step)
                assert run.record().status == "running"
            if ending:
                reporter.sink.apply_request(ending, steps[-1].iteration)
    record = run.record()
    assert record.writer is None
    assert record.timings["total"] > 0
    return run, record


def holds_the_best(run, record, last):
    result = np.load(run.path / "result.npy")
    np.testing.assert_array_equal(result, last.best_image())
    assert (record.iteration, record.evaluations) == (last.iteration, last.evaluations)
    assert (record.best_iteration, record.best_total) == (last.best_iteration, last.best.losses.total)
    assert codec.read_image(run.result).size == (96, 64)


def test_a_run_that_ends_normally_is_done(steps):
    run, record = recorded(steps)
    assert (record.status, record.message) == ("done", "")
    holds_the_best(run, record, steps[-1])
    assert record.timings["first step"] == steps[0].seconds
    durations = np.diff([step.seconds for step in steps])
    assert record.timings["median step"] == pytest.approx(np.median(durations))
    assert "error.txt" not in names(run.path)
    assert not [name for name in names(run.path) if name.startswith(".")]


def test_a_run_that_was_asked_to_stop_is_stopped(steps):
    run, record = recorded(steps[:3], STOP)
    assert (record.status, record.message) == ("stopped", "")
    holds_the_best(run, record, steps[2])


@pytest.mark.parametrize("error", [GeneratorExit(), KeyboardInterrupt()])
def test_a_run_ended_by_ctrl_c_or_its_consumer_is_stopped(steps, error):
    run, record = recorded(steps[:3], error)
    assert (record.status, record.message) == ("stopped", "")
    holds_the_best(run, record, steps[2])


def test_a_run_that_fails_has_the_error_message(steps):
    run, record = recorded(steps[:3], StudioError("The weights are gone."))
    assert (record.status, record.message) == ("failed", "The weights are gone.")
    holds_the_best(run, record, steps[2])
    assert "error.txt" not in names(run.path)


def test_a_run_that_fails_for_an_unknown_reason_has_a_traceback(steps):
    run, record = recorded(steps[:3], RuntimeError("OOM when allocating\n\n[[{{node conv}}]]"))
    assert record.status == "failed"
    assert record.message == "The engine failed: RuntimeError: OOM when allocating"
    holds_the_best(run, record, steps[2])
    told = (run.path / "error.txt").read_text()
    assert told.startswith("Traceback") and "[[{{node conv}}]]" in told


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM")])
def test_a_run_that_runs_out_of_memory_fails_with_advice(steps, error):
    """The best picture so far is still saved."""
    run = new_run()
    said = "Memory ran out at 96 × 80 pixels: choose a smaller size or close other programs."
    with pytest.raises(StudioError) as caught, reporting(run) as reporter:
        for step in steps[:3]:
            reporter.write(step)
        raise error
    assert str(caught.value) == said
    record = run.record()
    assert (record.status, record.message, record.writer) == ("failed", said, None)
    holds_the_best(run, record, steps[2])
    assert "error.txt" not in names(run.path)


def test_a_run_that_fails_before_the_first_step():
    run, record = recorded([], ValueError())
    assert record.status == "failed"
    assert record.message.startswith("The engine failed: ValueError")
    assert record.best_total is None and record.iteration is None
    assert not run.result.exists()


def test_final_losses_are_in_the_record_and_the_picture(steps):
    """The metrics keep the losses of each step."""
    run, asked = new_run(), []

    class Exact(Plain):
        @staticmethod
        def final_losses(best):
            asked.append(best)
            return dataclasses.replace(best.losses, total=best.losses.total + 1000.0)

    with reporting(run, Exact) as reporter:
        for step in steps:
            reporter.write(step)
        assert asked == []
    assert asked == [steps[-1].best]  # only once, at the end
    expected = steps[-1].best.losses.total + 1000.0
    assert run.record().best_total == expected
    assert float(codec.read_metadata(run.result)["Total loss"]) == pytest.approx(expected, rel=1e-5)
    assert run.metrics()["total"].min() == pytest.approx(expected - 1000.0, rel=1e-8)


def test_the_last_step_is_freed_before_the_final_losses(engine, photo, painting):
    """The float32 network may need the memory of the step's gradients, moments and targets."""
    from core.transfer.stylize import stylize

    settings = PRESETS["reference"].settings().model_copy(update={"iterations": 0})
    (step,) = stylize(engine.objective(photo, painting, settings, Timings())[0], photo, settings)
    held, asked = weakref.ref(step), []

    class Exact(Plain):
        @staticmethod
        def final_losses(best):
            asked.append(held())
            return best.losses

    with reporting(new_run(), Exact) as reporter:
        reporter.write(step)
        del step
    assert asked == [None]


@pytest.mark.parametrize("error", [StudioError("The weights are gone."), MemoryError("no room"), KeyboardInterrupt()])
def test_a_run_ends_even_if_its_final_losses_cannot_be_computed(steps, error):
    """They need a second network, for which memory may be too small; the run must still end."""

    class Failing(Plain):
        @staticmethod
        def final_losses(best):
            raise error

    run = new_run()
    with contextlib.suppress(type(error), StudioError), reporting(run, Failing) as reporter:
        for step in steps:
            reporter.write(step)
    record = run.record()
    assert not record.unfinished and record.writer is None
    np.testing.assert_array_equal(np.load(run.path / "result.npy"), steps[-1].best_image())
    assert run.result.exists()


def test_result_in_both_forms_with_its_settings(steps):
    run, record = recorded(steps)
    result = np.load(run.path / "result.npy")
    assert (result.dtype, result.shape) == (np.float32, (64, 96, 3))
    assert result.min() >= 0 and 1 < result.max() <= 255
    np.testing.assert_array_equal(np.asarray(codec.read_image(run.result)), preprocessing.to_uint8(result))
    said = codec.read_metadata(run.result)
    assert said == metadata(record)
    assert TransferSettings.model_validate_json(said["Settings"]) == SETTINGS
    assert said["Title"] == "photo × painting"
    assert float(said["Total loss"]) == pytest.approx(record.best_total, rel=1e-5)


# Checkpoints and resuming


def held(run):
    return Checkpoint.load(run.checkpoint)


def test_a_run_that_ended_has_a_checkpoint_of_its_last_step(steps):
    run, _ = recorded(steps[:3], STOP)
    found = held(run)
    assert (found.iteration, found.best_iteration, found.evaluations) == (2, steps[2].best_iteration, 3)
    np.testing.assert_array_equal(found.image, steps[2].evaluated.image)
    np.testing.assert_array_equal(found.best_image, steps[2].best.image)
    assert found.seconds == steps[2].seconds
    assert found.optimizer.keys() == steps[2].checkpoint().optimizer.keys()


@pytest.mark.parametrize("error", [StudioError("Gone."), RuntimeError("OOM"), KeyboardInterrupt()])
def test_a_failed_run_has_a_checkpoint_too(steps, error):
    run, _ = recorded(steps[:2], error)
    assert held(run).iteration == 1


def test_a_run_without_a_step_has_no_checkpoint():
    run, _ = recorded([], StudioError("Gone."))
    assert not run.checkpoint.exists()


def test_checkpoints_are_written_at_intervals(steps, monkeypatch):
    run = new_run()
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "1000")
    with reporting(run) as reporter:
        reporter.write(steps[0])
        assert not run.checkpoint.exists()
        reporter._checkpoint_written -= 1000.0  # pretend that the last one is old
        reporter.write(steps[1])
        assert held(run).iteration == 1
        reporter.write(steps[2])
        assert held(run).iteration == 1
        monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "0")
        reporter.write(steps[3])
        assert held(run).iteration == 3
        assert [name for name in names(run.path) if name.startswith(".")] == [".draft-reserve"]
    assert not [name for name in names(run.path) if name.startswith(".")]
    assert held(run).iteration == 3


def stopped_run(steps):
    return recorded(steps, STOP)[0]


def test_resuming_queues_the_run_again(steps):
    run = stopped_run(steps[:3])
    run.ask(stop=True)
    recovery.resume(run)
    record = run.record()
    assert (record.status, record.message, record.settings) == ("queued", "", SETTINGS)
    assert record.writer == ProcessId.this_process()
    assert run.request() == Request()  # the old request would stop the run at once
    assert (record.iteration, record.best_total) == (2, steps[2].best.losses.total)


def test_resuming_with_more_iterations(steps):
    run, _ = recorded(steps)
    recovery.resume(run, 3)
    assert run.record().settings == SETTINGS.changed(iterations=7)
    assert run.record().status == "queued"


def test_an_unfinished_run_cannot_be_resumed(steps):
    run = new_run()
    with pytest.raises(InputError, match=rf"^The run {run.id} is queued; you can resume it when it has ended\.$"):
        recovery.resume(run, 5)
    with reporting(run) as reporter:
        for status in ("preparing", "running"):
            with pytest.raises(InputError, match=rf"^The run {run.id} is {status}; "):
                recovery.resume(run, 5)
            reporter.write(steps[0])
    recovery.resume(run)
    with pytest.raises(InputError, match=rf"^The run {run.id} is queued; "):
        recovery.resume(run)


def test_a_run_without_iterations_left_cannot_be_resumed(steps):
    run, before = recorded(steps)
    with pytest.raises(InputError, match=rf"^The run {run.id} has done all its 4 iterations; add more\.$"):
        recovery.resume(run)
    with pytest.raises(InputError, match=r"^iterations = 20001: should be less than or equal to 20000\.$"):
        recovery.resume(run, 19_997)
    assert run.record() == before


def test_a_run_without_a_checkpoint_cannot_be_resumed(steps):
    run, before = recorded(steps)
    whole = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudioError, match=rf"^The checkpoint of {run.id} is damaged\.$"):
        recovery.resume(run, 5)
    run.checkpoint.unlink()
    with pytest.raises(StudioError, match=rf"^{run.id} has no checkpoint to resume from\.$"):
        recovery.resume(run, 5)
    assert run.record() == before


def broken_off(run, writer, **changes):
    """Leave a run as if its writer had been killed."""
    rewrite(run, status="running", writer=writer.model_dump(), **changes)


def test_a_run_that_ended_before_its_first_checkpoint_starts_over(steps, gone_writer):
    run = new_run()
    with reporting(run) as reporter:
        reporter.write(steps[0])
        reporter.write(steps[1])
        broken = reporter.sink.record.model_dump(mode="json")
    run.checkpoint.unlink()
    broken_off(run, gone_writer, iteration=None, timings=broken["timings"])
    assert recovery.starts_over(run, run.record())
    recovery.resume(run)
    assert run.record().status == "queued"
    with reporting(run) as reporter:
        for step in steps[:3]:
            reporter.write(step)
    assert list(run.metrics()["iteration"]) == [0, 1, 2]


def test_an_interrupted_run_has_the_best_picture_of_its_last_checkpoint(steps, gone_writer):
    run = new_run(content=picture(96, 64))
    with reporting(run) as reporter:
        for step in steps:
            reporter.write(step)
    steps[2].checkpoint().save(run.checkpoint)
    for made in ("result.npy", "result.png"):
        (run.path / made).unlink()
    (run.path / ".draft-0123").write_bytes(b"half")
    broken_off(run, gone_writer, iteration=None, best_iteration=None, best_total=None)
    asked = []
    record = recovery.record_ending(run, lambda writer: asked.append(writer) or "The cat sat on the keys.")
    assert asked == [gone_writer]
    assert (record.status, record.message, record.writer) == ("interrupted", "The cat sat on the keys.", None)
    assert record == run.record() and not list(run.path.glob(".*"))
    np.testing.assert_array_equal(np.load(run.path / "result.npy"), steps[2].best_image())
    assert codec.read_image(run.result).tobytes() == preprocessing.to_uint8(steps[2].best_image()).tobytes()
    assert record.best_iteration == steps[2].best_iteration
    assert record.best_total == pytest.approx(steps[2].best.losses.total, rel=1e-8)
    assert recovery.record_ending(run, lambda writer: "Another cause.") == record  # the cause is recorded only once
    recovery.resume(run)
    assert recovery.record_ending(run, lambda writer: "It goes on.").status == "queued"


def test_the_end_of_an_interrupted_run_without_a_checkpoint_is_recorded(gone_writer):
    run = new_run()
    broken_off(run, gone_writer)
    assert recovery.record_ending(run, lambda writer: "Gone.").message == "Gone." and not run.result.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"best_image": np.zeros(3, np.float32)},
        {"best_image": np.array("words")},
        {"best_image": np.zeros((1, 0, 0, 3), np.float32)},
        {"best_image": np.zeros((1, 8, 8, 3), np.float32)},
        {"best_image": np.full((1, 64, 96, 3), np.nan, np.float32)},
        {"best_iteration": -1},
        {"best_iteration": 99},
    ],
    ids=["1-d", "words", "empty", "another picture", "no numbers", "no iteration", "an iteration without metrics"],
)
def test_a_manipulated_checkpoint_gives_an_interrupted_run_no_picture(steps, gone_writer, changes):
    run, _ = recorded(steps)
    for made in ("result.npy", "result.png"):
        (run.path / made).unlink()
    dataclasses.replace(steps[2].checkpoint(), **changes).save(run.checkpoint)
    broken_off(run, gone_writer, shape=[64, 96], best_total=None)
    record = recovery.record_ending(run, lambda writer: "Gone.")
    assert (record.status, record.message, record.best_total) == ("interrupted", "Gone.", None)
    assert not run.result.exists()


def test_an_interrupted_run_has_the_picture_of_its_stage(steps, gone_writer):
    """The sides of this photo round differently when halved."""
    run, _ = recorded(steps)
    (run.path / "result.png").unlink()
    settings = TransferSettings(size=192, iterations=4, stages=2).model_dump(mode="json")
    broken_off(run, gone_writer, shape=[129, 192], settings=settings)
    assert recovery.record_ending(run, lambda writer: "Gone.").best_total is not None
    assert codec.read_image(run.result).size == (96, 64)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
@pytest.mark.parametrize("name", ["content.png", "result.png", "result.npy", "checkpoint.npz", "metrics.csv"])
def test_a_pipe_instead_of_a_file_does_not_block(steps, gone_writer, name):
    """No process writes to the pipe, so that opening it would block forever."""
    run, _ = recorded(steps)
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    opened = {
        "content.png": lambda: codec.read_image(run.content),
        "result.png": lambda: codec.shrunk(run.result, 64),
        "result.npy": lambda: codec.read_exact(run.path / "result.npy"),
        "checkpoint.npz": lambda: Checkpoint.load(run.checkpoint),
        "metrics.csv": run.metrics,
    }
    with pytest.raises(StudioError, match=r"^[^\n]*\.$"):
        opened[name]()
    broken_off(run, gone_writer, shape=[64, 96])
    assert recovery.record_ending(run, lambda writer: "Gone.").message == "Gone."
    if not (run.path / name).is_file():  # the result was written again
        with pytest.raises(InputError, match=rf"cannot resume: {name} is not a file\.$"):
            recovery.resume(run)


def test_waiting_for_the_lock_of_ended_runs_has_a_limit(steps, gone_writer, monkeypatch):
    run, _ = recorded(steps)
    broken_off(run, gone_writer)
    monkeypatch.setattr(recovery, "ENDINGS_SECONDS", 0.1)
    with FileLock(paths.home() / "endings.lock"), pytest.raises(StudioError, match=r"endings\.lock for too long: "):
        recovery.record_ending(run, lambda writer: "Gone.")
    assert recovery.record_ending(run, lambda writer: "Gone.").message == "Gone."


def test_an_iteration_that_is_twice_in_the_metrics(steps, gone_writer):
    run, _ = recorded(steps)
    (run.path / "result.png").unlink()
    lines = (run.path / "metrics.csv").read_text().splitlines()
    (run.path / "metrics.csv").write_text("\n".join([*lines, lines[-1], ""]))
    broken_off(run, gone_writer, shape=[64, 96])
    assert recovery.record_ending(run, lambda writer: "Gone.").best_iteration == held(run).best_iteration
    assert run.result.exists()


def test_an_interrupted_run_with_all_iterations_only_writes_its_result(steps, gone_writer):
    """The run was killed after its last checkpoint and before its record was written."""
    run, _ = recorded(steps)
    broken_off(run, gone_writer)
    recovery.resume(run)
    assert run.record().status == "queued"


def test_checkpoints_take_a_small_share_of_the_time(monkeypatch):
    monkeypatch.delenv("NST_CHECKPOINT_SECONDS", raising=False)
    assert [_checkpoint_interval(cost) for cost in (0.0, 0.01, 0.2, 1.0, 1.4, 30.0)] == [5, 5, 10, 50, 60, 60]
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "0.5")
    assert _checkpoint_interval(30.0) == 0.5


@pytest.mark.parametrize("rubbish", [b"\0" * 64 + b"\n3,\0\n" + b"\0" * 512, b"\xff\xfe\x80,\n1,\xff\n\x9f"])
def test_damaged_lines_after_the_checkpoint_are_removed(steps, gone_writer, rubbish):
    """After a power loss, a file may be longer than the data that reached the disk."""
    run = stopped_run(steps[:3])
    whole = run.metrics()
    (run.path / "result.png").unlink()
    with (run.path / "metrics.csv").open("ab") as file:
        file.write(rubbish)
    broken_off(run, gone_writer, shape=[64, 96], best_total=None)
    record = recovery.record_ending(run, lambda writer: "The power went off.")
    assert record.best_total == pytest.approx(steps[2].best.losses.total, rel=1e-8)
    assert codec.read_image(run.result).tobytes() == preprocessing.to_uint8(steps[2].best_image()).tobytes()
    recovery.resume(run)
    with reporting(run) as reporter:
        reporter.write(steps[2])
    assert run.metrics().equals(whole)


def test_metrics_and_frames_after_the_checkpoint_are_removed(steps, gone_writer):
    """The writer died at iteration 4 in the middle of a line; the checkpoint is at iteration 2."""
    run = new_run()
    with reporting(run) as reporter:
        for step in steps:
            reporter.write(step)
    whole = run.metrics()
    for torn in ("", "1", "4", "4,5,0.3"):
        *_, line = (run.path / "metrics.csv").read_text().splitlines()
        with (run.path / "metrics.csv").open("a") as file:
            file.write(torn)
        rewrite(run, status="running", writer=gone_writer.model_dump())
        dataclasses.replace(held(run), iteration=2).save(run.checkpoint)
        recovery.resume(run)
        with reporting(run) as reporter:
            reporter.write(steps[2])
            assert run.metrics().equals(whole.iloc[:3])
            assert [iteration for iteration, _ in run.frames()] == [0, 2]  # no frame of the repeated iterations
            reporter.write(steps[3])
            reporter.write(steps[4])
        assert run.metrics().equals(whole), torn
        assert (run.path / "metrics.csv").read_text().splitlines()[-1] == line


def test_the_progress_of_a_resumed_run_comes_from_its_metrics(steps, gone_writer):
    run = stopped_run(steps[:2])
    recovery.resume(run)
    with reporting(run) as reporter:
        assert run.with_progress(run.record()).iteration == 1
        for step in steps[1:4]:
            reporter.write(step)
        record = run.with_progress(run.record())
        assert (record.status, record.iteration, record.evaluations) == ("running", 3, 4)
        assert record.best_total == pytest.approx(steps[3].best.losses.total, rel=1e-8)
        broken = run.record()
    rewrite(run, **json.loads(broken.model_dump_json()) | {"writer": gone_writer.model_dump()})
    assert run.with_progress(run.record()).iteration == 3


def test_a_resumed_run_has_no_first_step_time(steps, gone_writer):
    """The timings of an interrupted run are lost, and a resumed run has no first step."""
    run = stopped_run(steps[:2])
    before = run.record().timings
    rewrite(run, timings={}, status="interrupted")
    recovery.resume(run)
    with reporting(run) as reporter:
        reporter.write(steps[1])
    assert "first step" in before and "first step" not in run.record().timings


def test_timings_of_both_parts_add_up(steps):
    run = stopped_run(steps[:2])
    before = run.record().timings
    recovery.resume(run)
    with reporting(run) as reporter:
        with reporter.sink.timings.phase("pictures"):
            pass
        reporter.write(steps[1])
        reporter.write(steps[2])
    after = run.record().timings
    assert after["first step"] == before["first step"]
    assert after["total"] > before["total"]
    assert list(after)[-2:] == ["median step", "total"]


def test_readers_never_see_a_half_written_record():
    run = new_run()
    recorder = Recorder(run)
    seen, problems, finished = [], [], threading.Event()

    def read():
        while not finished.is_set():
            try:
                seen.append(run.record().evaluations)
            except StudioError as error:
                problems.append(str(error))

    reader = threading.Thread(target=read)
    with recorder:
        reader.start()
        for number in range(1, 201):
            recorder.update(evaluations=number, message="x" * (number * 37 % 5000))
        finished.set()
        reader.join()
    assert problems == []
    assert len(set(seen)) > 5
    assert seen == sorted(seen)


def test_the_fields_of_the_record():
    """The file has exactly these fields, so that a later version knows what to migrate."""
    run = new_run()
    assert set(json.loads((run.path / "run.json").read_text())) == set(RunRecord.model_fields)
    assert Run(paths.runs() / run.id) == run
