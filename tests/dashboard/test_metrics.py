"""The metrics for Prometheus: from a real server, and from the collector alone."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from core import paths
from core.errors import InputError
from core.jobs import control, execution, queue, workers
from core.machine.processes import ProcessId
from core.runs import archive, library, recovery
from core.runs.recorder import Recorder
from core.runs.run import Run
from dashboard import metrics

CHECKOUT = Path(__file__).resolve().parent.parent.parent
OWNER = "https://login.example.org 248289761001"
PATIENCE = 60.0  # seconds; a server reads the store only every few seconds


def parsed(text):
    """Return the values by name, or by name and label values in the order of the labels' names."""
    found = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            found[(name, *(labels[label] for label in sorted(labels))) if labels else name] = value
    return found


def text_of(store):
    registry = CollectorRegistry()
    registry.register(store)
    return generate_latest(registry).decode()


def look(store):
    return parsed(text_of(store))


@pytest.fixture
def store(own_home, monkeypatch):
    """Return a collector that reads the store at every request."""
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 0.0)
    return metrics.Store()


def ended(run, status="done", **changes):
    """Mark a run as begun now and ended."""
    run.change(status=status, writer=None, **{"begun": datetime.now(UTC), **changes})
    return run


# The server


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.read().decode()


def scraped_when(port, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition(parsed(scraped(port))):
        assert time.monotonic() < deadline, scraped(port)
        time.sleep(0.5)
    return scraped(port)


def listening(process):
    """Return the addresses on which a process listens, by port."""
    found = {}
    for place in psutil.Process(process.pid).net_connections():
        if place.status == "LISTEN":
            found.setdefault(place.laddr.port, set()).add(place.laddr.ip)
    return found


def test_a_server_serves_totals_of_all_runs(own_home, engine, new_run, serve, free_port):
    def perform(run):
        for _ in execution.perform(run, lambda *_: engine):
            pass

    perform(new_run("coffee", "glass"))  # before the server starts
    (paths.runs() / "20260101-000000-000000-no-run-abcd").mkdir()
    place = free_port()
    with serve(own_home, free_port(), NST_METRICS_PORT=str(place)) as (_, process):
        before = parsed(scraped(place))
        assert before["nst_runs", "done"] == before["nst_runs", "damaged"] == before["nst_store_readable"] == 1
        assert before["nst_runs", "failed"] == before["nst_workers"] == before["nst_queue_length"] == 0
        assert {before["nst_runs_ended_total", state] for state in ("done", "stopped", "failed", "interrupted")} == {0}
        assert before["nst_slots"] == before["nst_easels"] == 1

        told = ProcessId.this_process()  # as a worker does
        said = workers.Readiness(writer=told, message="Ready.", ready=True)
        (own_home / "worker.json").write_text(said.model_dump_json())
        perform(new_run("coffee", "glass"))
        shutil.rmtree(paths.cache() / "targets")
        perform(missed := new_run("coffee", "glass"))
        missed.change(owner=OWNER)
        (waits := new_run("chelsea", "waves")).change(owner=OWNER)
        queue.enqueue([waits], None)

        text = scraped_when(place, lambda now: now["nst_queue_length"] and now["nst_runs_ended_total", "done"] == 2)
        now = parsed(text)
        assert (now["nst_runs", "done"], now["nst_runs", "queued"]) == (3, 1)
        assert now["nst_style_targets_total", "hit"] == now["nst_style_targets_total", "miss"] == 1
        assert now["nst_run_wait_seconds_count"] == 2 and now["nst_run_wait_seconds_sum"] >= 0
        steps = {sample[1:]: value for sample, value in now.items() if sample[0] == "nst_run_step_seconds_count"}
        assert steps == {(missed.record().precision, "256"): 2}
        assert now["nst_queue_longest_wait_seconds"] > 0
        assert now["nst_workers"] == 1
        assert now["nst_resident_memory_bytes", "workers"] > 2**24 < now["nst_resident_memory_bytes", "server"]
        assert 0 < now["nst_home_disk_free_bytes"] < now["nst_home_disk_size_bytes"]

        for name in (missed.id, "coffee", "glass", "chelsea", "waves", "248289761001", str(own_home)):
            assert name not in text
        if sys.platform == "linux":
            assert "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_metrics_are_served_to_this_machine_unless_an_address_is_set(serve, free_port, tmp_path):
    place = free_port()
    with serve(tmp_path / "home", free_port(), NST_METRICS_PORT=str(place)) as (_, process):
        assert listening(process)[place] == {"127.0.0.1"}
    with serve(tmp_path / "home", free_port(), NST_METRICS_PORT=str(place), NST_METRICS_ADDRESS="0.0.0.0") as (
        _,
        process,
    ):
        assert listening(process)[place] == {"0.0.0.0"}


def test_without_a_port_no_metrics_are_served(serve, free_port, tmp_path):
    with serve(tmp_path / "home", free_port(), NST_METRICS_PORT="") as (page, process):
        assert set(listening(process)) == {page}


def dashboard(**environment):
    """Return the exit status and error output of a server that cannot start."""
    command = [sys.executable, "-m", "nst", "dashboard", "--server.headless", "true"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


def test_an_invalid_port_is_refused(own_home):
    said = "NST_METRICS_PORT is 'http': it must be a whole number from 1 to 65535, or not be set."
    assert dashboard(NST_METRICS_PORT="http") == (2, f"nst: {said}\n")


def test_an_occupied_port_is_refused(own_home):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = f"NST_METRICS_PORT is {port}, but another program listens there: choose another port."
        assert dashboard(NST_METRICS_PORT=str(port)) == (2, f"nst: {said}\n")


@pytest.mark.parametrize("address", ["192.0.2.1", "no such machine", "x" * 70 + ".example"])
def test_an_address_of_another_machine_is_refused(own_home, free_port, monkeypatch, address):
    monkeypatch.setenv("NST_METRICS_PORT", str(port := free_port()))
    monkeypatch.setenv("NST_METRICS_ADDRESS", address)
    with pytest.raises(InputError) as caught:
        metrics.serve_where_asked()
    said = str(caught.value)
    assert said.startswith(f"The metrics cannot be served at {address!r}, port {port}: ") and said.endswith(".")


# What is counted


def test_each_end_of_a_run_is_counted_once(store, new_run):
    run = ended(new_run())
    assert look(store)["nst_runs_ended_total", "done"] == 1
    library.delete(run)
    found = look(store)
    assert (found["nst_runs", "done"], found["nst_runs_ended_total", "done"]) == (0, 1)
    library.restore(run)
    run.change(message="Seen again.")
    found = look(store)
    assert (found["nst_runs", "done"], found["nst_runs_ended_total", "done"]) == (1, 1)
    recovery.resume(run)
    assert look(store)["nst_runs", "queued"] == 1
    ended(run, "failed")
    found = look(store)
    assert (found["nst_runs_ended_total", "done"], found["nst_runs_ended_total", "failed"]) == (1, 1)


def test_a_cluster_has_no_metric_for_slots(store, monkeypatch):
    assert "nst_slots" in look(store)
    monkeypatch.setenv("NST_RAY_ADDRESS", "10.0.0.1:6379")
    found = look(store)
    assert "nst_slots" not in found and "nst_easels" not in found and found["nst_store_readable"] == 1


def test_a_new_server_counts_from_zero(store, new_run):
    ended(new_run())
    assert look(store)["nst_runs_ended_total", "done"] == 1
    found = look(metrics.Store())
    assert (found["nst_runs", "done"], found["nst_runs_ended_total", "done"]) == (1, 0)
    assert found["nst_run_wait_seconds_count"] == 0


def test_an_imported_run_was_not_painted_here(store, new_run, tmp_path):
    with (tmp_path / "run.zip").open("wb") as file:
        archive.export_run(ended(new_run(), timings={"median step": 0.1}), file)
    assert look(store)["nst_runs_ended_total", "done"] == 1
    archive.import_run(tmp_path / "run.zip")
    found = look(store)
    assert (found["nst_runs", "done"], found["nst_runs_ended_total", "done"]) == (2, 1)
    assert found["nst_run_wait_seconds_count"] == 1


def test_the_wait_lasts_from_queueing_to_the_beginning(store, new_run):
    run, now = new_run(), datetime.now(UTC)
    run.change(queued=now - timedelta(seconds=20))
    queue.enqueue([run], None)
    found = look(store)
    assert 20 <= found["nst_queue_longest_wait_seconds"] < 3600
    assert (found["nst_queue_length"], found["nst_run_wait_seconds_count"]) == (1, 0)
    queue.dequeue(run)
    run.change(status="running", begun=now, writer=ProcessId.this_process())
    found = look(store)
    assert (found["nst_queue_length"], found["nst_queue_longest_wait_seconds"]) == (0, 0)
    assert found["nst_runs", "running"] == 1
    assert found["nst_run_wait_seconds_sum"] == pytest.approx(20)
    assert (found["nst_run_wait_seconds_bucket", "15.0"], found["nst_run_wait_seconds_bucket", "60.0"]) == (0, 1)


def test_a_requeued_run_starts_a_new_wait(store, new_run):
    """Put a run back, as after the loss of its worker on a cluster: the time painted before is no wait."""
    run = new_run()
    run.change(queued=datetime.now(UTC) - timedelta(seconds=1000))
    with Recorder(run) as recorder:
        assert look(store)["nst_run_wait_seconds_sum"] == pytest.approx(1000, abs=100)
        recorder.put_back("It goes on elsewhere.")
    with Recorder(run):
        found = look(store)
    assert found["nst_run_wait_seconds_count"] == 2 and found["nst_run_wait_seconds_sum"] < 1200
    assert look(store)["nst_runs_ended_total", "done"] == 1


def test_a_withdrawn_run_adds_no_step_time(store, new_run):
    run = ended(new_run(), precision="float32", style_targets="cache", timings={"median step": 0.3})
    recovery.resume(run)
    queue.enqueue([run], None)
    control.cancel(run)
    found = look(store)
    assert found["nst_runs_ended_total", "stopped"] == 1
    assert found["nst_style_targets_total", "hit"] == 0
    assert not [sample for sample in found if sample[0].startswith("nst_run_step")]


def test_step_times_have_labels_for_precision_and_size_only(store, new_run):
    for precision, side, seconds in [
        ("float32", 64, 0.3),
        ("bfloat16", 512, 0.04),
        ("bfloat16", 513, 0.4),
        ('float16"} 1\nnst_evil 1', 8000, 500.0),
    ]:
        changes = {"precision": precision, "shape": (32, side), "style_targets": "cache, CPUExecutionProvider"}
        ended(new_run(), **changes, timings={"median step": seconds})
    ended(new_run(size=128, stages=2), precision="float32", timings={"median step": 9.0})  # of two sizes
    found = look(store)
    counts = {sample[1:]: value for sample, value in found.items() if sample[0] == "nst_run_step_seconds_count"}
    expected = [("float32", "256"), ("bfloat16", "512"), ("bfloat16", "1024"), ("other", "larger")]
    assert counts == dict.fromkeys(expected, 1)
    buckets = {sample[1]: value for sample, value in found.items() if sample[2:] == ("bfloat16", "512")}
    assert (buckets["0.02"], buckets["0.05"]) == (0, 1)
    assert found["nst_style_targets_total", "miss"] == 4


def test_a_dead_process_is_noticed_without_a_change_of_its_record(store, new_run, other_process):
    new_run().change(status="running", writer=other_process.id)
    assert look(store)["nst_runs", "running"] == 1
    other_process.kill()
    other_process.communicate()
    found = look(store)
    assert (found["nst_runs", "running"], found["nst_runs", "interrupted"]) == (0, 1)
    assert found["nst_runs_ended_total", "interrupted"] == 1


# Cost


@pytest.fixture
def read(monkeypatch):
    """Return a list that collects the files read."""
    files, really = [], paths.read

    def reading(path, *more):
        files.append(path)
        return really(path, *more)

    monkeypatch.setattr(paths, "read", reading)
    return files


def many(run, number):
    """Make this many finished runs that consist only of their records."""
    said = json.loads((ended(run).path / "run.json").read_text())
    for count in range(number - 1):
        folder = paths.runs() / f"20260101-000000-{count:06d}-photo-painting-abcd"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(said | {"id": folder.name}))
    return Run(folder)


def test_only_changed_records_of_500_runs_are_read(store, new_run, read):
    one = many(new_run(), 500)
    read.clear()
    assert look(store)["nst_runs", "done"] == len(read) == 500
    read.clear()
    assert look(store)["nst_runs", "done"] == 500
    assert read == []
    ended(one, "failed")
    read.clear()
    assert look(store)["nst_runs", "failed"] == 1
    assert read == [one.path / "run.json"]


def test_many_requests_read_the_store_once(own_home, new_run, read, monkeypatch):
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 3600.0)
    many(new_run(), 50)
    read.clear()
    store, told = metrics.Store(), []
    asking = [threading.Thread(target=lambda: told.append(look(store))) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    shutil.rmtree(paths.runs())
    told.append(look(store))
    assert len(read) == 50 and len(told) == 9
    assert all(each == told[0] for each in told)


# Damaged and hostile records


def hostile_records(run):
    """Return damaged or hostile contents of run.json, by name."""
    said = json.loads((run.path / "run.json").read_text())

    def but(**changes):
        return json.dumps(said | changes).encode()

    return {
        "nothing": b"",
        "half": b'{"schema_version": 1',
        "deep": b"[" * 500_000,
        "large": b" " * (2**20 + 1),
        "no number": but(timings={"median step": float("nan")}),
        "endless": but(timings={"median step": 1e300}),
        "long ago": but(queued="0001-01-01T00:00:00Z"),
        "at no time": but(begun="yesterday"),
        "unknown state": but(status='done"} 1\nnst_runs{state="evil'),
        "half characters": but(precision="\ud800"),
    }


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
def test_damaged_runs_are_counted_and_break_nothing(store, new_run):
    run = ended(new_run())
    records = hostile_records(run)
    for name, data in records.items():
        (paths.runs() / name).mkdir()
        (paths.runs() / name / "run.json").write_bytes(data)
    folders = [paths.runs() / name for name in ('a "quoted"} name', "two\nlines", b"\xff\xfe".decode(errors="replace"))]
    for folder in folders:
        folder.mkdir()
    Path(os.fsdecode(os.fsencode(paths.runs()) + b"/\xff\xfe")).mkdir()
    os.mkfifo(folders[0] / "run.json")
    (folders[1] / "run.json").mkdir()
    (folders[2] / "run.json").symlink_to(folders[2] / "run.json")
    (paths.runs() / "elsewhere").symlink_to("/")
    (paths.runs() / "nowhere").symlink_to("nowhere")
    (paths.runs() / "a file").write_bytes(b"")
    paths.queue().mkdir()
    (paths.queue() / "no such run").write_bytes(b"\xff")
    os.mkfifo(paths.queue() / "a pipe")
    (paths.queue() / "a folder").mkdir()

    text = text_of(store)
    found = parsed(text)
    states = {sample[1]: value for sample, value in found.items() if sample[0] == "nst_runs"}
    assert {state: count for state, count in states.items() if count} == {"done": 1, "damaged": len(records) + 5}
    assert found["nst_store_readable"] == 1
    assert not [family.name for family in text_string_to_metric_families(text) if not family.name.startswith("nst_")]


def test_implausible_times_are_not_counted(store, new_run):
    """Read records that were written by hand or on another machine."""
    far = datetime(8999, 1, 1, tzinfo=UTC)
    new_run().change(status="done", writer=None, queued=far, begun=far)
    new_run().change(status="running", writer=ProcessId.this_process(), begun=datetime(2001, 1, 1, tzinfo=UTC))
    found = look(store)
    assert found["nst_run_wait_seconds_count"] == found["nst_run_wait_seconds_sum"] == 0


def test_an_unreadable_store_is_reported_and_counters_stay(store, new_run, monkeypatch, tmp_path):
    ended(new_run())
    look(store)
    monkeypatch.setenv("NST_HOME", str(tmp_path / ("long" * 100)))
    found = look(store)
    assert (found["nst_store_readable"], found["nst_runs_ended_total", "done"]) == (0, 1)
    assert ("nst_runs", "done") not in found and "nst_workers" not in found


def test_a_missing_home_counts_as_empty(store):
    found = look(store)
    assert (found["nst_store_readable"], found["nst_runs", "done"]) == (1, 0)
    assert found["nst_home_disk_free_bytes"] > 0


def test_names_follow_the_rules_of_prometheus(store):
    """https://prometheus.io/docs/practices/naming"""
    for family in text_string_to_metric_families(text_of(store)):
        assert family.name.startswith("nst_") and family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        assert family.type != "histogram" or family.name.endswith("_seconds")
        assert {sample.name.endswith("_total") for sample in family.samples} <= {family.type == "counter"}
