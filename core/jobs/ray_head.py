"""Compute runs on a Ray cluster: workers on its nodes compute them, and this process records them.

Ray retries nothing. A run that lost its worker moves to the front of our own queue and resumes from the last recorded
checkpoint. Only this module and `core.jobs.ray_worker` import Ray.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import paths
from core.environment import MOST_SLOTS, environment
from core.errors import InputError, StudioError
from core.jobs import slots
from core.jobs.execution import EngineMaker, Report
from core.jobs.ray_worker import AHEAD, CALLS, EngineAssets, FileBlob, RayWorker, program_version
from core.runs import recovery
from core.runs.record import Request
from core.runs.recorder import EXECUTION_FIELDS, Recorder
from core.runs.run import Run
from core.timings import Timings
from core.transfer import preview
from core.vgg import weights
from core.vgg.onnx import find_model

REACH_SECONDS = 5.0  # how long the cluster's head may take to answer
ROUND_SECONDS = 0.2  # the longest wait for messages, and the interval between forwarded requests
COUNT_SECONDS = 5.0  # the interval between counts of the workers that the cluster can hold
WAITING_SECONDS = 15.0  # report the wait for a worker after this time
FETCH_SECONDS = 120.0  # how long a step's pictures may take from a node
MAX_LOST_WORKERS = 3  # a run fails when it loses more workers than this


def paint_all(
    runs: Sequence[Run], address: str, report: Report = lambda line: None, make_engine: EngineMaker | None = None
) -> None:
    """Compute queued runs on a cluster, as many at once as it can hold, and record them here.

    The first Ctrl-C stops all running runs; the second one ends at once.

    Args:
        runs: The runs, in their order.
        address: "host:port", or "auto" on a node of the cluster.
        report: Receives a line when a run starts and when it ends.
        make_engine: Exports the network if it was never exported on this machine.

    Raises:
        StudioError: If no run can be computed, for example because the cluster does not answer.
        KeyboardInterrupt: After Ctrl-C, when all runs have ended.
    """
    waiting = deque(runs)
    with RayScheduler(address, report, make_engine) as scheduler, _first_interrupt(scheduler.stop_all):
        while scheduler.schedule_once(len(waiting), lambda: waiting.popleft() if waiting else None):
            pass
        if scheduler.closing:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _first_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on the first Ctrl-C; raise `KeyboardInterrupt` on the second."""

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(eq=False)
class _Worker:
    """A worker on the cluster, and the run that it computes."""

    actor: Any  # ActorHandle
    greeting: Any  # ObjectRef
    node: str = ""  # the node's id; empty until the worker has answered
    run: Run | None = None
    calls: Any = None  # ObjectRefGenerator: the worker's calls for the recorder
    asked: Request | None = None  # the last request that was sent
    recording: Generator[None] | None = None  # records one call at a time
    has_painted: bool = False  # an earlier run; the worker may have been lost since then
    has_other_version: bool = False  # such a worker computes nothing, but it prevents another worker on that node


class RayScheduler:
    """The workers on a cluster, and the runs that they compute. The end of the context ends all workers."""

    def __init__(self, address: str, report: Report, make_engine: EngineMaker | None = None) -> None:
        """Join the cluster.

        Raises:
            StudioError: If there is no such cluster, or no node can hold a worker.
        """
        self._cpus = environment().ray_cpus
        program_version()  # cached now, because the files may change later
        self._address, self._report = address, report
        self._workers: list[_Worker] = []
        self._lost_runs: deque[Run] = deque()  # runs whose worker was lost
        self._lost_workers: Counter[Run] = Counter()
        self._failed_starts = 0  # workers in a row
        self._waiting_since: float | None = None  # for a worker; `time.monotonic()`
        self._has_reported_waiting = False
        self.closing = False
        self._ray = _join(address)
        try:
            self._count_room()
            if not self._room:
                raise StudioError(
                    f"The cluster at {address} has no node with {self._of_all}, which a run needs: add one, or set "
                    "NST_RAY_CPUS."
                )
            self._assets = self._pack_assets(make_engine)
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> "RayScheduler":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            for worker in list(self._workers):
                self._end_worker(worker, error or KeyboardInterrupt())
        finally:
            self._ray.shutdown()

    def stop_all(self) -> None:
        """Start no further run, and stop the running ones."""
        self.closing = True

    def schedule_once(self, waiting: int, take: Callable[[], Run | None]) -> bool:
        """Start runs on free workers, forward users' requests, and record what the workers send.

        Args:
            waiting: How many runs wait.
            take: Returns the next of them.

        Returns:
            Whether anything is left to do.
        """
        if self.closing:
            waiting = 0
            self._lost_runs.clear()
        self._start_workers(waiting + len(self._lost_runs))
        for worker in list(self._workers):
            if worker.node and not worker.run and not worker.has_other_version and not self.closing:
                if not (found := slots.first_free(slots.cluster_slots(), slots.Slot.turn_lock)):
                    break
                if not (run := self._lost_runs.popleft() if self._lost_runs else take()):
                    found[1].lock.release()
                    break
                worker.run, worker.recording = run, self._record_run(worker, run, *found)
                self._record_next(worker)
        self._report_waiting(waiting + len(self._lost_runs))
        self._forward_requests()
        self._receive()
        return bool(waiting or self._lost_runs or any(worker.run for worker in self._workers))

    # The workers

    def _start_workers(self, waiting: int) -> None:
        """Start a worker for each waiting run, as many as the cluster can hold."""
        if waiting and time.monotonic() - self._looked > COUNT_SECONDS:
            self._count_room()
        free = sum(not each.run and not each.has_other_version for each in self._workers)  # includes starting ones
        environment = {"TF_NUM_INTRAOP_THREADS": str(self._cpus)}  # as many threads as Ray reserves
        if (seconds := os.environ.get("NST_CHECKPOINT_SECONDS")) is not None:
            environment["NST_CHECKPOINT_SECONDS"] = seconds
        for _ in range(min(waiting - free, self._room - len(self._workers))):
            own = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"asking": 1}}
            actor_class = self._ray.remote(**self._needs, **own)(RayWorker)
            actor = actor_class.options(scheduling_strategy="SPREAD").remote(environment)
            self._workers.append(_Worker(actor, actor.greet.remote()))

    def _report_waiting(self, waiting: int) -> None:
        """Report once if no worker starts for a while: the nodes may be busy or gone."""
        if not waiting or any(worker.node and not worker.has_other_version for worker in self._workers):
            self._waiting_since, self._has_reported_waiting = None, False
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        if not self._has_reported_waiting and time.monotonic() - self._waiting_since > WAITING_SECONDS:
            self._has_reported_waiting = True
            why = "other work may have all of it" if self._room else "no node is left"
            self._report(f"Waiting for room on the cluster at {self._address}: {why} …")

    def _count_room(self) -> None:
        """Find out how many workers the cluster can hold now, and what each worker needs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._looked = time.monotonic()
        self._needs = {"num_cpus": self._cpus, "num_gpus": int(any(node.get("GPU", 0) >= 1 for node in nodes))}
        wanted = {"CPU": self._cpus, "GPU": self._needs["num_gpus"]}
        counts = [min(int(node.get(kind, 0) // count) for kind, count in wanted.items() if count) for node in nodes]
        self._room = min(sum(counts), MOST_SLOTS)
        self._of_all = f"{self._cpus} CPU{'s' if self._cpus > 1 else ''}{' and a GPU' if wanted['GPU'] else ''}"

    def _pack_assets(self, make_engine: EngineMaker | None) -> EngineAssets:
        """Put the files that workers need into the object store."""
        loaded = weights.obtain(report=self._report)
        model = find_model(loaded.sha256)
        if not model and make_engine:
            model = make_engine(self._report, Timings()).model
        if not model:
            raise StudioError("The network was never exported on this machine: run nst prepare, then try again.")

        def blob(path: Path, name: str = "") -> FileBlob:
            content = path.read_bytes()
            return FileBlob(name or path.name, hashlib.sha256(content).hexdigest(), self._ray.put(content))

        fetched = loaded.provenance == "imagenet, 8-bit"  # other weights may have any file name
        name = loaded.path.name if fetched else f"vgg19-weights-{loaded.sha256[:12]}{loaded.path.suffix}"
        return EngineAssets(
            blob(loaded.path, name),
            loaded.provenance,
            [blob(model.path), blob(model.path.with_suffix(".json"))],
            [blob(path) for file in preview.SHA256 if (path := paths.find_model(file))],
        )

    def _accept_worker(self, worker: _Worker) -> None:
        from ray.exceptions import RayError

        try:
            worker.node, theirs = self._ray.get(worker.greeting)
        except RayError as error:
            self._end_worker(worker)
            self._failed_starts += 1
            if self._failed_starts > MAX_LOST_WORKERS:
                raise StudioError(f"No worker starts on the nodes of {self._address}: {_reason(error)}") from error
            return
        self._failed_starts = 0
        if theirs != (ours := program_version()):
            worker.has_other_version = True
            said = (
                f"The node {worker.node[:8]} has another version of this program ({theirs}) than this machine "
                f"({ours}): install the same version on both."
            )
            if len(self._workers) >= self._room and all(each.has_other_version for each in self._workers):
                raise StudioError(said)
            self._report(said)

    def _end_worker(self, worker: _Worker, error: BaseException | None = None) -> None:
        """End a worker, and raise the error in the recording of its run."""
        if worker in self._workers:
            self._workers.remove(worker)
        self._ray.kill(worker.actor)
        if worker.recording and error:
            with contextlib.suppress(type(error), StudioError):
                worker.recording.throw(error)

    # The runs

    def _record_run(self, worker: _Worker, run: Run, slot: slots.Slot, lock: slots.AcquiredLock) -> Generator[None]:
        """Start a run on a worker, record one of its calls at a time, and release the slot at the end.

        Raises:
            StudioError: If the run fails, after this is recorded.
        """
        from ray.exceptions import RayError, RayTaskError

        with lock, slot.occupied_by(run), Recorder(run) as recorder:
            self._ask(worker, run, run.request())
            paint = worker.actor.paint.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
            worker.calls = paint.remote(run.id, _files(run), self._assets)
            self._report(f"{run.id} begins on the node {worker.node[:8]}.")
            heard = False
            try:
                while True:
                    yield
                    if (call := next(worker.calls, None)) is None:
                        break
                    told = self._ray.get(call, timeout=FETCH_SECONDS)
                    heard = True
                    _record(recorder, told)
            except RayTaskError as error:
                raise StudioError(f"The node {worker.node[:8]} failed: {_reason(error)}") from error
            except RayError as error:
                self._end_worker(worker)
                if not recorder.ended:
                    # Without a message from it, a worker that served another run may have been lost before this one.
                    self._lost_workers[run] += heard or not worker.has_painted
                    gone = f"The run's worker on the node {worker.node[:8]} ended, with the node or for lack of memory"
                    if self._lost_workers[run] > MAX_LOST_WORKERS:
                        count = MAX_LOST_WORKERS + 1
                        raise StudioError(f"{gone}, the {count}th worker: resume the run on other nodes.") from error
                    goes_on = "resumes from its last checkpoint" if run.checkpoint.exists() else "starts over"
                    recorder.put_back(f"{gone}. The run {goes_on}.")
                    self._lost_runs.append(run)
            if not recorder.ended:
                raise StudioError("The run's worker ended without reporting how the run ended.")

    def _record_next(self, worker: _Worker) -> None:
        """Record a worker's next call."""
        assert worker.run and worker.recording
        run = worker.run
        try:
            next(worker.recording)
            return
        except StopIteration:
            worker.run = worker.recording = None
            worker.has_painted = True
        except StudioError as error:
            worker.run = worker.recording = None
            self._end_worker(worker)  # it may still be computing
            with contextlib.suppress(StudioError):
                if run.record().status == "queued":  # the run could not start
                    recovery.fail(run, str(error))
        with contextlib.suppress(StudioError):
            record = run.record()
            self._report(f"{run.id} is {record.status}{f': {record.message}' if record.message else '.'}")

    def _ask(self, worker: _Worker, run: Run, request: Request) -> None:
        worker.asked = request
        worker.actor.ask.options(concurrency_group="asking").remote(run.id, request)

    def _forward_requests(self) -> None:
        for worker in list(self._workers):
            if worker.run and worker.asked:
                if self.closing and not worker.asked.stop:
                    worker.run.ask(stop=True)
                request = worker.run.request()
                if request.at_once:
                    self._end_worker(worker, KeyboardInterrupt())
                elif request != worker.asked:
                    self._ask(worker, worker.run, request)

    def _receive(self) -> None:
        """Record the workers' calls, and accept new workers."""
        working = {worker.calls: worker for worker in self._workers if worker.run}
        awaited = [*working, *(starting := {worker.greeting: worker for worker in self._workers if not worker.node})]
        if not awaited:
            time.sleep(ROUND_SECONDS)
            return
        told, _ = self._ray.wait(awaited, num_returns=len(awaited), timeout=0)
        if not told:
            told, _ = self._ray.wait(awaited, num_returns=1, timeout=ROUND_SECONDS)
        for each in told:
            if each in working:
                self._record_next(working[each])
            else:
                self._accept_worker(starting[each])


def _record(recorder: Recorder, told: Any) -> None:
    """Record a worker's call; raise `StudioError` if it is not a valid call."""
    try:
        method, given, named = told
        fields = set(named).union(*given[:1]) if method == "write_end" else set(named)
        if method not in CALLS or not fields <= EXECUTION_FIELDS:
            raise ValueError(f"{method} of {', '.join(map(str, fields))}")
        getattr(recorder, method)(*given, **named)
    except (TypeError, ValueError, AttributeError) as error:
        raise StudioError(f"The run's worker sent an invalid message ({error}), so it was ended."[:500]) from error


def _files(run: Run) -> dict[str, bytes]:
    """Return a run's files that a node needs, by name; the record without the run's owner."""
    record = run.record().model_copy(update={"owner": ""})
    try:
        files = {path.name: path.read_bytes() for path in (*run.input_files(), run.checkpoint) if path.exists()}
        return {"run.json": record.model_dump_json().encode(), **files}
    except OSError as error:
        raise StudioError(f"The run {run.id} cannot be read: {error.strerror or error}.") from error


def _join(address: str) -> Any:
    """Return the module `ray`, connected to a cluster; raise `StudioError` if that is impossible."""
    endpoint = check_reach(address)
    import ray

    try:
        ray.init(address=endpoint, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types: another version, no node on this machine, no cluster
        raise StudioError(f"This machine cannot join the Ray cluster at {address}: {_reason(error)}") from error
    return ray


def check_reach(address: str) -> str:
    """Return the host and port of a cluster.

    Raises:
        InputError: If `address` is not an address of a Ray cluster.
        StudioError: If Ray is not installed, or no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise StudioError(
            f"Runs on a cluster need Ray, which is not installed here: in {paths.CHECKOUT}, "
            ".venv/bin/python -m pip install --editable '.[ray]'."
        )
    if address != "auto":
        _check_form(address)
    endpoint = _resolve_address(address)
    _check_form(endpoint)  # it may come from RAY_ADDRESS
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise StudioError(
            f"No Ray cluster answers at {address} ({error.strerror or error}): start one with ray start --head, or "
            "give the address that it prints."
        ) from error
    _check_is_ray(address, endpoint)
    return endpoint


def _check_form(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not (port.isdecimal() and len(port) <= 5 and int(port) < 2**16):
        raise InputError(f"{address[:80]!r} is not a Ray address: give one such as 10.0.0.1:6379.")


def _resolve_address(address: str) -> str:
    """Return an address's host and port; for "auto", those in RAY_ADDRESS or of the cluster on this machine."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # otherwise Ray prints lost nodes on the standard output
    from ray._private import services

    try:
        return str(services.canonicalize_bootstrap_address(address))
    except Exception as error:  # Ray raises many types
        raise StudioError(f"There is no Ray cluster at {address}: {_reason(error)}") from error


def _check_is_ray(address: str, endpoint: str) -> None:
    """Check that the head of a Ray cluster listens at `endpoint`, because Ray itself would retry for minutes."""
    import grpc

    no_proxy = [("grpc.enable_http_proxy", 0)]  # Ray's own setting
    with grpc.insecure_channel(endpoint, no_proxy) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=REACH_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:  # a Ray head; Ray itself sends the token
                return
            raise StudioError(
                f"The server at {address} is not a Ray cluster: give the address that ray start --head prints."
            ) from error


def _reason(error: BaseException) -> str:
    """Return the last line of Ray's long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
