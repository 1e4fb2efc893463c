"""Runs on a Ray cluster: nodes are processes on this machine, each with a real engine."""

import contextlib
import http.server
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from core import paths
from core.environment import MOST_SLOTS
from core.errors import InputError, StudioError
from core.images import codec
from core.jobs import control, execution, queue, ray_head, ray_worker, schedule, slots, workers
from core.jobs.worker import work
from core.runs import store
from core.runs.recorder import Recorder
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nodes are started and killed as on Linux")

CPUS = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1  # a run uses all CPUs, as without Ray
ITERATIONS = 30
WAIT = 240  # seconds for a worker on a slow, busy machine
LEAN = {"include_log_monitor": False}  # starts one process less on a node


def new_run(seed=0, **changes):
    random = np.random.default_rng(seed)
    content, style = (
        Image.fromarray(random.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize((80, 64)) for _ in range(2)
    )
    settings = {"size": 64, "iterations": ITERATIONS, "frame_every": 10, "precision": "float32", **changes}
    spec = RunSpec([Style("painting", style)], TransferSettings(**settings), "draft")
    return store.create(spec, content, f"photo {seed}")


def patiently(start):
    """Retry the start of a node: Ray allows 30 s, which may be too short on a busy machine."""
    for _ in range(4):
        with contextlib.suppress(Exception):
            return start()
    return start()


class Nodes:
    """A cluster with a head without room for a run, and two nodes with room for one run each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, **LEAN}
        self._cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.nodes = [patiently(self._add) for _ in range(2)]
        self.address = self._cluster.address

    def kill(self, node_id):
        """Kill a node, as if its machine went down."""
        (node,) = [node for node in self.nodes if node.node_id == node_id]
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def add(self):
        self.nodes.append(patiently(self._add))

    def _add(self):
        return self._cluster.add_node(num_cpus=CPUS, **LEAN)

    def shutdown(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, weights, model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_HOME", str(tmp_path_factory.mktemp("nodes")))
        patch.setenv("NST_RAY_CPUS", str(CPUS))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # the default of 15 would let other tests run first
        patch.setenv("NST_CHECKPOINT_SECONDS", "0.2")
        started = Nodes()
        yield started
        started.shutdown()


def grey_levels_apart(one, other):
    pictures = (np.asarray(codec.read_image(run.result), int) for run in (one, other))
    return np.abs(np.subtract(*pictures)).max()


@pytest.mark.timeout(600)
def test_runs_of_a_lost_node_resume_on_another_node_and_end_as_without_ray(nodes, engine, monkeypatch):
    """A node is killed in the middle of one of four runs."""
    painted = [new_run(seed, optimizer=("adam", "l-bfgs")[seed % 2]) for seed in range(4)]
    alone = [new_run(seed, optimizer=("adam", "l-bfgs")[seed % 2]) for seed in range(4)]
    lines, lost = [], []
    write_step = Recorder.write_step

    def noted(recorder, told):
        write_step(recorder, told)
        if not lost and recorder.run.checkpoint.exists() and told.iteration > 5:
            lost.append((recorder.run, told.iteration))
            (line,) = [line for line in lines if line.startswith(f"{recorder.run.id} begins")]
            nodes.kill(next(node.node_id for node in nodes.nodes if node.node_id[:8] in line))

    monkeypatch.setattr(Recorder, "write_step", noted)
    ray_head.paint_all(painted, nodes.address, lines.append)
    nodes.add()
    ((run, iteration),) = lost
    begun = [line for line in lines if " begins on the node " in line]
    assert len(begun) == 5 and sum(run.id in line for line in begun) == 2  # only that run started twice
    assert iteration < ITERATIONS

    for run, expected in zip(painted, alone, strict=True):
        for _ in execution.perform(expected, lambda *_: engine):
            pass
        record, other = run.record(), expected.record()
        assert (record.status, record.message, record.writer) == ("done", "", None)
        metrics = run.metrics()
        assert list(metrics["iteration"]) == list(range(ITERATIONS + 1))  # no iteration is repeated or missing
        assert list(metrics["evaluations"]) == list(expected.metrics()["evaluations"])
        assert [iteration for iteration, _ in run.frames()] == [0, 10, 20, 30]
        assert grey_levels_apart(run, expected) <= 1
        assert record.best_total == pytest.approx(other.best_total, rel=1e-3)
        assert (record.weights, record.weights_sha256) == (other.weights, other.weights_sha256)
        assert record.precision == "float32" and record.style_targets in (
            "cache",
            "CPUExecutionProvider",
            "CUDAExecutionProvider",
        )
        assert record.environment["versions"] == other.environment["versions"] and record.environment["node"]
        assert {"imports", "pictures", "network", "first step", "median step", "total"} <= set(record.timings)
        assert run.checkpoint.exists() and run.live.exists()
    assert schedule.running() == [] and not list((paths.home() / "runs").rglob(f"{paths.DRAFT}*"))


PAINT = (
    "import sys; from core.jobs import ray_head; from core.runs import store; "
    "ray_head.paint_all([*map(store.find, sys.argv[2:])], sys.argv[1], print)"
)


def until(condition, seconds=WAIT):
    """Wait until the condition is true; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(met)


def worker_processes():
    """Return the worker processes on this test's nodes."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayWorker" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


@pytest.mark.timeout(600)
def test_a_run_can_be_steered_and_ctrl_c_stops_running_runs(nodes):
    """Requests come as the page writes them; runs on nodes end with the process that started them."""
    steered, endless, waits = new_run(1, iterations=20_000), new_run(2, iterations=20_000), new_run(3)
    command = [sys.executable, "-c", PAINT, nodes.address, steered.id, endless.id, waits.id]
    starter = subprocess.Popen(command, cwd=paths.CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        both = (steered, endless)
        assert until(lambda: starter.poll() is not None or all(len(run.metrics()) > 5 for run in both))
        assert set(schedule.running()) == set(both) and worker_processes()
        steered.ask(weights={"style_weight": 0.1})
        assert until(lambda: steered.record().steering)
        (change,) = steered.record().steering
        steered.ask(iterations=(asked := change.iteration + 5000))
        assert until(lambda: steered.record().settings.iterations == asked)
        starter.send_signal(signal.SIGINT)
        _, said = starter.communicate(timeout=WAIT)
        assert starter.returncode != 0 and said.decode().splitlines()[-1] == "KeyboardInterrupt"
    finally:
        starter.kill()
        starter.communicate()
    for run in both:
        record = run.record()
        assert (record.status, record.writer) == ("stopped", None) and run.result.is_file()
        assert list(run.metrics()["iteration"]) == list(range(record.iteration + 1))
    assert change.changes == {"style_weight": 0.1}
    style = steered.metrics()["style"]
    assert style[change.iteration + 1] > 5 * style[change.iteration]  # the weight was 0.01 before
    assert waits.record().status in ("queued", "interrupted")  # this run never started
    assert until(lambda: not worker_processes(), 60)


@pytest.mark.timeout(600)
def test_a_worker_with_nst_ray_address_computes_the_queue_on_the_cluster(nodes, monkeypatch):
    """Two runs run at the same time, each on a node; the page sees them, and the worker exits at the end."""
    monkeypatch.setattr(workers, "start_worker", lambda: None)
    both = [new_run(seed, iterations=20_000) for seed in (4, 5)]
    for run in both:
        schedule.submit(run)
    environment = os.environ | {"NST_RAY_ADDRESS": nodes.address, "NST_WORKER_IDLE": "0.5"}
    log = (paths.home() / "worker.log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", "nst", "worker"], cwd=paths.CHECKOUT, env=environment, stdout=log, stderr=log
    )
    try:
        assert until(lambda: all(len(run.metrics()) > 2 for run in both)), workers.worker_log().read_text()
        assert set(schedule.running()) == set(both) and queue.queued_runs() == []
        assert {run.record().writer.pid for run in both} == {worker.pid}
        assert workers.readiness().ready
        for run in both:
            control.stop(run)
        assert worker.wait(timeout=WAIT) == 0
    finally:
        worker.kill()
        worker.wait()
        log.close()
    assert [run.record().status for run in both] == ["stopped"] * 2
    assert schedule.running() == [] and slots.try_acquire(slots.cluster_slots()[0].turn_lock())


def test_a_worker_says_why_it_cannot_use_the_cluster(own_home, monkeypatch):
    monkeypatch.setattr(workers, "start_worker", lambda: None)
    monkeypatch.setenv("NST_RAY_ADDRESS", "127.0.0.1:1")
    schedule.submit(run := new_run())
    work(lambda report, timings: pytest.fail("nothing is painted here"))
    said = workers.readiness()
    assert said.failed and said.message.startswith("No Ray cluster answers at 127.0.0.1:1 (")
    assert run.record().status == "queued" and queue.queued_runs() == [run]  # the next worker tries again


@pytest.mark.timeout(600)
def test_a_run_whose_workers_all_die_at_the_start_fails(nodes, monkeypatch):
    class Doomed(ray_worker.RayWorker):
        def paint(self, *given):
            os._exit(1)
            yield

    monkeypatch.setattr(ray_head, "RayWorker", Doomed)
    run, lines = new_run(), []
    ray_head.paint_all([run], nodes.address, lines.append)
    record = run.record()
    assert record.status == "failed" and " ended, with the node " in record.message
    assert ", the 4th worker: resume the run on other nodes" in record.message
    assert sum(" begins on the node " in line for line in lines) == 4


HOLD = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)

@ray.remote
class Holder:
    def here(self): pass

holders = [Holder.options(num_cpus=int(sys.argv[2])).remote() for _ in range(2)]
ray.get([holder.here.remote() for holder in holders])
print("all taken", flush=True)
input()
"""


@pytest.mark.timeout(600)
def test_a_cluster_full_of_other_work_is_reported_once(nodes, monkeypatch):
    monkeypatch.setattr(ray_head, "WAITING_SECONDS", 0.5)
    command = [sys.executable, "-c", HOLD, nodes.address, str(CPUS)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    run, lines = new_run(iterations=2), []

    def hear(line):
        lines.append(line)
        if line.startswith("Waiting for room on the cluster"):
            holder.kill()

    try:
        assert holder.stdout.readline() == b"all taken\n"
        ray_head.paint_all([run], nodes.address, hear)
    finally:
        holder.kill()
        holder.communicate()
    assert run.record().status == "done"
    assert sum(line.startswith(f"Waiting for room on the cluster at {nodes.address}: ") for line in lines) == 1


@pytest.mark.timeout(600)
def test_a_run_waits_for_a_free_cluster_slot(nodes, monkeypatch):
    """Other processes occupy all cluster slots; local slots do not count."""
    monkeypatch.setenv("NST_WORKERS", str(MOST_SLOTS))
    held = [slot.turn_lock() for slot in slots.cluster_slots()]
    assert all(map(slots.try_acquire, held))
    with ray_head.RayScheduler(nodes.address, lambda line: None) as scheduler:
        run, rounds = new_run(iterations=2), []

        def take():
            assert not held[0].is_locked
            return None if run in rounds else rounds.append(run) or run

        deadline = time.monotonic() + WAIT
        while not any(worker.node for worker in scheduler._workers) and time.monotonic() < deadline:
            scheduler.schedule_once(1, take)
        for _ in range(3):
            assert scheduler.schedule_once(1, take)
        assert run.record().status == "queued"
        held[0].release()
        while scheduler.schedule_once(not rounds, take) and time.monotonic() < deadline:
            pass
    assert run.record().status == "done"


# Errors, each in one sentence


def refused(address):
    with pytest.raises(StudioError) as caught:
        ray_head.paint_all([], address)
    assert "\n" not in str(caught.value) and not ray.is_initialized()
    return caught


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = str(refused("auto").value)
    assert "need Ray, which is not installed here" in said
    _, _, command = said.removesuffix(".").partition(", .venv")
    assert command and f".venv{command}\n" in (paths.CHECKOUT / "docs" / "cluster.md").read_text()


@pytest.mark.parametrize("address", ["", "head", ":6379", "head:", "head:99999", "ray://head:10001", "head:six"])
def test_an_invalid_address_is_refused(address):
    assert refused(address).type is InputError


def test_an_address_without_a_server_is_refused():
    assert str(refused("127.0.0.1:1").value).startswith("No Ray cluster answers at 127.0.0.1:1 (")


class Silent(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(2**16)
        time.sleep(60)


class Http(http.server.BaseHTTPRequestHandler):
    def log_message(self, *said):
        pass


@pytest.fixture(params=[Silent, Http])
def no_cluster(request):
    """Return the port of another kind of server, which listens at all of this machine's addresses."""
    with socketserver.ThreadingTCPServer(("", 0), request.param) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.timeout(60)
def test_another_kind_of_server_at_the_address_is_refused(no_cluster, capfd):
    """Ray itself would retry for minutes and print many lines."""
    address = f"localhost:{no_cluster}"
    assert str(refused(address).value).startswith(f"The server at {address} is not a Ray cluster: ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.timeout(60)
def test_auto_uses_the_address_that_ray_would_use(no_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{no_cluster}")
    assert str(refused("auto").value).startswith("The server at auto is not a Ray cluster: ")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert str(refused("auto").value).startswith("There is no Ray cluster at auto: ")
    monkeypatch.setenv("RAY_ADDRESS", "head:six")
    assert refused("auto").type is InputError


def test_an_invalid_number_of_cpus_is_refused(monkeypatch):
    monkeypatch.setenv("NST_RAY_CPUS", "0")
    assert refused("127.0.0.1:1").type is InputError


def test_a_cluster_without_room_for_a_run_is_refused(nodes, monkeypatch):
    monkeypatch.setenv("NST_RAY_CPUS", "9999")
    assert "has no node with 9999 CPUs, which a run needs" in str(refused(nodes.address).value)


@pytest.mark.timeout(600)
def test_a_node_with_another_version_gets_no_run(nodes, monkeypatch):
    odd = nodes.nodes[0].node_id

    class OfAnotherDay(ray_worker.RayWorker):
        def greet(self):
            node, program = super().greet()
            return node, f"{program} of another day" if node == odd else program

    monkeypatch.setattr(ray_head, "RayWorker", OfAnotherDay)
    wanted, lines = [new_run(seed) for seed in range(2)], []
    ray_head.paint_all(wanted, nodes.address, lines.append)
    assert [run.record().status for run in wanted] == ["done", "done"]
    assert sum(f"The node {odd[:8]} has another version of this program" in line for line in lines) == 1
    assert not any(f"begins on the node {odd[:8]}" in line for line in lines)


@pytest.mark.timeout(600)
def test_a_cluster_with_only_another_version_is_refused(nodes, monkeypatch):
    monkeypatch.setattr(ray_head, "program_version", lambda: "9.9.9, code 00000000")
    run = new_run()
    with pytest.raises(
        StudioError, match=r"^The node \w+ has another version of this program \(.*\) than this machine"
    ):
        ray_head.paint_all([run], nodes.address)
    assert run.record().status == "queued" and not ray.is_initialized()
