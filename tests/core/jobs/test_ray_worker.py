"""The messages between a node and the recorder of a run, without a cluster."""

import dataclasses
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core import paths
from core.errors import StudioError
from core.jobs import execution, ray_head, ray_worker
from core.runs import store
from core.runs.record import Request
from core.runs.recorder import Recorder
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings
from core.transfer.stylize import Diverged
from core.transfer.stylize import stylize as real_stylize


def new_run(**changes):
    random = np.random.default_rng(5)
    content, style = (
        Image.fromarray(random.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize((80, 64)) for _ in range(2)
    )
    settings = TransferSettings(**{"size": 64, "iterations": 4, "frame_every": 2, "precision": "float32", **changes})
    return store.create(RunSpec([Style("painting", style)], settings, "draft"), content, "photo")


@pytest.fixture
def paint(engine, monkeypatch):
    """Return a function that yields a worker's calls for a run, as the recorder receives them."""
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "0")
    there = ray_worker.RayWorker({})
    there._engine = engine

    def calls(run, wish=None):
        there.ask(run.id, wish or Request())
        for call in there.paint(run.id, ray_head._files(run), None):
            yield pickle.loads(pickle.dumps(call))

    return calls


def record(run, calls):
    with Recorder(run) as recorder:
        for call in calls:
            ray_head._record(recorder, call)
    return run.record()


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_calls_are_recorded_as_for_a_local_run(own_home, engine, paint, optimizer):
    run, here = (new_run(optimizer=optimizer, style_layers=("block1_conv1",)) for _ in range(2))
    told = record(run, paint(run))
    for _ in execution.perform(here, lambda *_: engine):
        pass
    expected = here.record()
    apart = {"id", "created", "queued", "begun", "timings", "environment", "style_targets", "best_total"}
    assert told.model_dump(exclude=apart) == expected.model_dump(exclude=apart)
    assert told.best_total == pytest.approx(expected.best_total, rel=1e-4)
    assert told.environment.pop("node") and told.environment == expected.environment
    assert set(told.timings) | {"session"} == set(expected.timings) | {"session"}
    assert list(told.timings)[-2:] == ["median step", "total"]
    files = [{path.relative_to(each.path) for path in each.path.rglob("*")} for each in (run, here)]
    assert files[0] == files[1]
    for column in ("iteration", "evaluations"):
        assert list(run.metrics()[column]) == list(here.metrics()[column])
    np.testing.assert_allclose(run.metrics()["total"], here.metrics()["total"], rtol=1e-3)
    assert np.abs(np.load(run.path / "result.npy") - np.load(here.path / "result.npy")).max() < 1


def test_a_run_resumes_from_its_last_recorded_checkpoint(own_home, paint):
    """The first worker is lost in the middle; no step is recorded twice."""
    run = new_run()
    recorder = Recorder(run)
    with recorder:
        began = run.record()
        for method, given, named in paint(run):
            getattr(recorder, method)(*given, **named)
            if method == "write_step" and given[0].iteration == 2:
                break
        recorder.put_back("It goes on.")
    waits = run.record()
    assert (waits.status, waits.message, recorder.ended) == ("queued", "It goes on.", True)
    assert waits.queued > began.begun and waits.begun is None  # the time of the first worker does not count as waiting
    told = record(run, paint(run))
    assert (told.status, told.message, told.iteration) == ("done", "", 4)
    assert list(run.metrics()["iteration"]) == [0, 1, 2, 3, 4]
    assert told.timings["total"] > waits.timings["total"]


def test_a_run_whose_workers_are_lost_keeps_the_best_picture_of_its_checkpoint(own_home, paint):
    run = new_run()
    with pytest.raises(StudioError), Recorder(run) as recorder:
        for method, given, named in paint(run):
            getattr(recorder, method)(*given, **named)
            if method == "write_step" and given[0].iteration == 2:
                raise StudioError("Its worker is gone.")
    told = run.record()
    assert (told.status, told.message, told.best_iteration) == ("failed", "Its worker is gone.", 2)
    assert run.result.is_file() and told.best_total == pytest.approx(run.metrics()["total"].min())


def test_a_run_that_ends_before_its_next_worker_starts_keeps_the_best_picture_of_its_checkpoint(own_home, paint):
    run = new_run()
    with Recorder(run) as recorder:
        for method, given, named in paint(run):
            getattr(recorder, method)(*given, **named)
            if method == "write_step" and given[0].iteration == 2:
                break
        recorder.put_back("It goes on.")
    with pytest.raises(KeyboardInterrupt), Recorder(run):
        raise KeyboardInterrupt
    told = run.record()
    assert (told.status, told.best_iteration) == ("stopped", 2) and run.result.is_file()


def test_pictures_and_checkpoints_are_sent_only_when_due(own_home, paint, monkeypatch):
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "1000")
    monkeypatch.setattr("core.jobs.execution.LIVE_SECONDS", 1000.0)
    told = [given[0] for method, given, _ in paint(new_run()) if method == "write_step"]
    assert [note.iteration for note in told] == [0, 1, 2, 3, 4]
    assert [note.picture is not None for note in told] == [True, False, True, False, True]
    assert not any(note.checkpoint for note in told)
    assert all(note.losses["total"] > 0 for note in told)
    assert len(pickle.dumps(dataclasses.replace(told[0], picture=None))) < 2000


def test_a_request_is_applied_at_the_next_step(own_home, paint):
    run = new_run(iterations=1000)
    told = record(run, paint(run, Request(stop=True)))
    assert (told.status, told.iteration) == ("stopped", 0) and run.result.is_file()
    run = new_run(iterations=1000)
    told = record(run, paint(run, Request(iterations=2, weights={"style_weight": 0.5})))
    assert (told.status, told.iteration, told.settings.iterations) == ("done", 2, 2)
    assert [(change.iteration, change.changes) for change in told.steering] == [(0, {"style_weight": 0.5})]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Diverged("Lower the learning rate."), "Lower the learning rate."),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), "Memory ran out at 64 × 51 pixels"),
        (ValueError("a\nb"), "The engine failed: ValueError: a"),
    ],
)
def test_a_failure_is_reported_without_sending_the_exception(own_home, paint, monkeypatch, error, said):
    """Unpickling an exception may need TensorFlow."""
    real = real_stylize

    def stylize(*given, **callables):
        for step in real(*given, **callables):
            yield step
            if step.iteration == 2:
                raise error

    monkeypatch.setattr("core.transfer.stylize.stylize", stylize)
    run = new_run()
    told = record(run, paint(run))
    assert (told.status, told.iteration) == ("failed", 2) and told.message.startswith(said)
    assert run.result.is_file()
    assert (run.path / "error.txt").exists() == isinstance(error, ValueError)


def test_messages_can_be_unpickled_without_tensorflow(own_home, paint, tmp_path):
    calls = list(paint(new_run()))
    assert {method for method, _, _ in calls} == ray_worker.CALLS
    (tmp_path / "calls").write_bytes(pickle.dumps(calls))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "calls"], cwd=paths.CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "call",
    [
        ("put_back", ("why",), {}),
        ("_save", (None,), {}),
        ("ended", (), {}),
        ("no such thing", (), {}),
        (["update"], (), {}),
        "update",
        None,
        ("update", (), {"owner": "someone"}),
        ("update", (), {"writer": None}),
        ("write_summary", (), {"job": "0"}),
        ("write_end", ({"status": "done", "owner": "someone"}, {}), {}),
        ("write_end", ([["status"]], {}), {}),
        ("write_live_picture", (), {}),
    ],
)
def test_an_invalid_call_ends_the_run_and_changes_nothing_else(own_home, call):
    run = new_run()
    before = run.record()
    with pytest.raises(StudioError, match=r"^The run's worker sent an invalid message \(") as caught:
        record(run, [call])
    told = run.record()
    assert (told.status, told.message, told.owner, told.job) == ("failed", str(caught.value), before.owner, before.job)


def test_the_files_of_a_killed_worker_are_removed_by_the_next_run(own_home):
    code = "from core.jobs import ray_worker\nwith ray_worker._folder() as folder: print(folder, flush=True); input()"
    painting, killed = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=paths.CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    )
    try:
        theirs, left = (Path(process.stdout.readline().strip()) for process in (painting, killed))
        (left / "content.png").touch()
        killed.kill()
        killed.wait()
        with ray_worker._folder() as own:
            assert theirs.is_dir() and own.is_dir() and not left.exists()
        painting.communicate("\n", timeout=60)
    finally:
        for process in (painting, killed):
            process.kill()
            process.communicate()
    assert list((own_home / "ray-workers").iterdir()) == []


# Files for a node


def test_the_owner_of_a_run_is_not_sent(own_home):
    run = new_run()
    run.change(owner="https://login.example.org 248289761001")
    sent = ray_head._files(run)
    assert {"run.json", "content.png", "style-1.png"} == set(sent)
    assert b"248289761001" not in sent["run.json"] and run.record().owner


@pytest.fixture
def parcel(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "code")
    monkeypatch.setenv("NST_HOME", str(tmp_path / "node"))
    content = b"weights"
    return ray_worker.FileBlob("weights.bin", hashlib.sha256(content).hexdigest(), content)


def test_a_file_is_sent_to_a_node_once(parcel, tmp_path):
    fetched = []

    def fetch(content):
        fetched.append(content)
        return content

    for _ in range(2):
        path = parcel.unpack(fetch)
        assert path == tmp_path / "node" / "models" / "weights.bin" and path.read_bytes() == b"weights"
    assert len(fetched) == 1
    path.write_bytes(b"damaged")
    assert parcel.unpack(fetch).read_bytes() == b"weights"


def test_a_file_that_arrives_damaged_is_not_kept(parcel):
    with pytest.raises(StudioError, match=r"^weights\.bin arrived damaged at "):
        parcel.unpack(lambda content: b"other")
    assert not paths.find_model("weights.bin")
