"""Runs painted on a Ray cluster: who computes is on a node, who records is here, and what is written is any run's.

Ray tries nothing again by itself: a run whose worker is lost comes first in our own queue, and goes on from the last
checkpoint that was recorded. Beside `core.jobs.worker`, nothing in this program knows of Ray.
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
ROUND_SECONDS = 0.2  # how long is waited for news at most: wishes are passed on as often
LOOK_SECONDS = 5.0  # how often the cluster is asked how many workers it has room for
PATIENCE_SECONDS = 15.0  # after which it is said that no worker has come yet
FETCH_SECONDS = 120.0  # how long a step's pictures may take from a node
LOSSES = 3  # of its worker, that a run survives


def paint_all(
    runs: Sequence[Run], address: str, report: Report = lambda line: None, make_engine: EngineMaker | None = None
) -> None:
    """Paint queued runs in their order on the cluster at `address` ("host:port", or "auto" on one of its nodes), as
    many at a time as it has room for, and record them here. `report` gets a line when one begins and when it ends.
    `make_engine` is called if the network was never exported on this machine.

    The first Ctrl-C stops the runs that are being painted, and raises `KeyboardInterrupt` when they have ended; the
    second ends at once. Raises `StudioError` for what concerns all runs, such as a cluster that does not answer.
    """
    waiting = deque(runs)
    with RayScheduler(address, report, make_engine) as studio, _first_interrupt(studio.close_down):
        while studio.go_round(len(waiting), lambda: waiting.popleft() if waiting else None):
            pass
        if studio.closing:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _first_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C acts; the second one interrupts."""

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(eq=False)
class _ClusterSlot:
    """A worker, and the run that it paints."""

    worker: Any  # ActorHandle
    greeting: Any  # ObjectRef
    node: str = ""  # where it is, once it has greeted
    run: Run | None = None
    calls: Any = None  # ObjectRefGenerator: its account of the run
    asked: Request | None = None  # the last that it was told
    recording: Generator[None] | None = None  # goes on by one call
    has_painted: bool = False  # another run, since when it may have been lost unnoticed
    is_unlike: bool = False  # of another version: it paints nothing, and keeps another from coming to that node


class RayScheduler:
    """The workers on a cluster, and the runs that they paint. Used as a context: at its end all of them are gone."""

    def __init__(self, address: str, report: Report, make_engine: EngineMaker | None = None) -> None:
        """Raises `StudioError` where there is no such cluster, or no room for a single worker on it."""
        self._cpus = environment().ray_cpus
        program_version()  # before its files may change
        self._address, self._report = address, report
        self._places: list[_ClusterSlot] = []
        self._again: deque[Run] = deque()  # runs whose worker was lost
        self._losses: Counter[Run] = Counter()
        self._stillborn = 0  # workers on end
        self._waits_since: float | None = None  # for a worker, by the monotonic clock
        self._told_of_waiting = False
        self.closing = False
        self._ray = _join(address)
        try:
            self._look_for_room()
            if not self._room:
                raise StudioError(
                    f"The cluster at {address} has no node with {self._of_all}, which a run needs: add one, or set "
                    "NST_RAY_CPUS."
                )
            self._outfit = self._packed(make_engine)
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> "RayScheduler":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            for place in list(self._places):
                self._dismiss(place, error or KeyboardInterrupt())
        finally:
            self._ray.shutdown()

    def close_down(self) -> None:
        """Have no further run begin, and those that are being painted stop."""
        self.closing = True

    def go_round(self, waiting: int, take: Callable[[], Run | None]) -> bool:
        """Give free workers a run from `take`, which has `waiting`, pass on requests, and record what workers send
        within a moment. Return whether anything is left to do."""
        if self.closing:
            waiting = 0
            self._again.clear()
        self._hire(waiting + len(self._again))
        for place in list(self._places):
            if place.node and not place.run and not place.is_unlike and not self.closing:
                if not (found := slots.first_free(slots.cluster_slots(), slots.Slot.turn_lock)):  # others have them all
                    break
                if not (run := self._again.popleft() if self._again else take()):
                    found[1].lock.release()
                    break
                place.run, place.recording = run, self._recording(place, run, *found)
                self._go_on(place)
        self._tell_of_waiting(waiting + len(self._again))
        self._pass_on_wishes()
        self._listen()
        return bool(waiting or self._again or any(place.run for place in self._places))

    # The workers

    def _hire(self, waiting: int) -> None:
        """Have as many free workers as runs wait, as far as there is room for them."""
        if waiting and time.monotonic() - self._looked > LOOK_SECONDS:
            self._look_for_room()
        free = sum(not place.run and not place.is_unlike for place in self._places)  # those that are to come too
        environment = {"TF_NUM_INTRAOP_THREADS": str(self._cpus)}  # as many as Ray counts, and no more
        if (seconds := os.environ.get("NST_CHECKPOINT_SECONDS")) is not None:
            environment["NST_CHECKPOINT_SECONDS"] = seconds
        for _ in range(min(waiting - free, self._room - len(self._places))):
            own = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"asking": 1}}
            actor = self._ray.remote(**self._needs, **own)(RayWorker)
            worker = actor.options(scheduling_strategy="SPREAD").remote(environment)
            self._places.append(_ClusterSlot(worker, worker.greet.remote()))

    def _tell_of_waiting(self, waiting: int) -> None:
        """Say once where no worker comes for a while: other work may have what the nodes have, or they are gone."""
        if not waiting or any(place.node and not place.is_unlike for place in self._places):
            self._waits_since, self._told_of_waiting = None, False
            return
        self._waits_since = self._waits_since or time.monotonic()
        if not self._told_of_waiting and time.monotonic() - self._waits_since > PATIENCE_SECONDS:
            self._told_of_waiting = True
            why = "other work may have all of it" if self._room else "no node is left"
            self._report(f"Waiting for room on the cluster at {self._address}: {why} …")

    def _look_for_room(self) -> None:
        """How many workers the cluster's nodes can hold now, and what each needs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._looked = time.monotonic()
        self._needs = {"num_cpus": self._cpus, "num_gpus": int(any(node.get("GPU", 0) >= 1 for node in nodes))}
        wanted = {"CPU": self._cpus, "GPU": self._needs["num_gpus"]}
        counts = [min(int(node.get(kind, 0) // count) for kind, count in wanted.items() if count) for node in nodes]
        self._room = min(sum(counts), MOST_SLOTS)
        self._of_all = f"{self._cpus} CPU{'s' if self._cpus > 1 else ''}{' and a GPU' if wanted['GPU'] else ''}"

    def _packed(self, make_engine: EngineMaker | None) -> EngineAssets:
        """What workers need, laid into the object store."""
        loaded = weights.obtain(report=self._report)
        model = find_model(loaded.sha256)
        if not model and make_engine:
            model = make_engine(self._report, Timings()).model
        if not model:
            raise StudioError("The network was never exported on this machine: run nst prepare, and then this again.")

        def parcel(path: Path, name: str = "") -> FileBlob:
            content = path.read_bytes()
            return FileBlob(name or path.name, hashlib.sha256(content).hexdigest(), self._ray.put(content))

        fetched = loaded.provenance == "imagenet, 8-bit"  # the others may have any name
        name = loaded.path.name if fetched else f"vgg19-weights-{loaded.sha256[:12]}{loaded.path.suffix}"
        return EngineAssets(
            parcel(loaded.path, name),
            loaded.provenance,
            [parcel(model.path), parcel(model.path.with_suffix(".json"))],
            [parcel(path) for file in preview.SHA256 if (path := paths.find_model(file))],
        )

    def _welcome(self, place: _ClusterSlot) -> None:
        from ray.exceptions import RayError

        try:
            place.node, theirs = self._ray.get(place.greeting)
        except RayError as error:
            self._dismiss(place)
            self._stillborn += 1
            if self._stillborn > LOSSES:
                raise StudioError(f"No worker starts on the nodes of {self._address}: {_reason(error)}") from error
            return
        self._stillborn = 0
        if theirs != (ours := program_version()):
            place.is_unlike = True
            said = (
                f"The node {place.node[:8]} has another version of this program ({theirs}) than this machine ({ours}): "
                "install the same on both."
            )
            if len(self._places) >= self._room and all(each.is_unlike for each in self._places):
                raise StudioError(said)
            self._report(said)

    def _dismiss(self, place: _ClusterSlot, error: BaseException | None = None) -> None:
        """End a worker, and by that error the recording of what it paints."""
        if place in self._places:
            self._places.remove(place)
        self._ray.kill(place.worker)
        if place.recording and error:
            with contextlib.suppress(type(error), StudioError):
                place.recording.throw(error)

    # The runs

    def _recording(self, place: _ClusterSlot, run: Run, slot: slots.Slot, turn: slots.AcquiredLock) -> Generator[None]:
        """Have a run painted, and record one call of its worker at a time; release the turn at the end. Raises why the
        run fails, once that is recorded."""
        from ray.exceptions import RayError, RayTaskError

        with turn, slot.occupied_by(run), Recorder(run) as recorder:
            self._ask(place, run, run.request())
            paint = place.worker.paint.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
            place.calls = paint.remote(run.id, _files(run), self._outfit)
            self._report(f"{run.id} begins on the node {place.node[:8]}.")
            heard = False
            try:
                while True:
                    yield
                    if (call := next(place.calls, None)) is None:
                        break
                    told = self._ray.get(call, timeout=FETCH_SECONDS)
                    heard = True
                    _record(recorder, told)
            except RayTaskError as error:
                raise StudioError(f"The node {place.node[:8]} failed: {_reason(error)}") from error
            except RayError as error:
                self._dismiss(place)
                if not recorder.ended:
                    self._losses[run] += heard or not place.has_painted  # otherwise it may have been gone before
                    gone = f"Its worker on the node {place.node[:8]} is gone, with the node or for want of memory"
                    if self._losses[run] > LOSSES:
                        raise StudioError(f"{gone}, the {LOSSES + 1}th one: let it go on where they last.") from error
                    goes_on = "goes on from its last checkpoint" if run.checkpoint.exists() else "begins anew"
                    recorder.put_back(f"{gone}: it {goes_on}.")
                    self._again.append(run)
            if not recorder.ended:
                raise StudioError("Its worker ended without saying how the run did.")

    def _go_on(self, place: _ClusterSlot) -> None:
        """Record the next that a worker tells."""
        assert place.run and place.recording
        run = place.run
        try:
            next(place.recording)
            return
        except StopIteration:
            place.run = place.recording = None
            place.has_painted = True
        except StudioError as error:
            place.run = place.recording = None
            self._dismiss(place)  # it may be painting yet
            with contextlib.suppress(StudioError):
                if run.record().status == "queued":  # it could not begin
                    recovery.fail(run, str(error))
        with contextlib.suppress(StudioError):
            record = run.record()
            self._report(f"{run.id} is {record.status}{f': {record.message}' if record.message else '.'}")

    def _ask(self, place: _ClusterSlot, run: Run, request: Request) -> None:
        place.asked = request
        place.worker.ask.options(concurrency_group="asking").remote(run.id, request)

    def _pass_on_wishes(self) -> None:
        for place in list(self._places):
            if place.run and place.asked:
                if self.closing and not place.asked.stop:
                    place.run.ask(stop=True)
                request = place.run.request()
                if request.at_once:
                    self._dismiss(place, KeyboardInterrupt())
                elif request != place.asked:
                    self._ask(place, place.run, request)

    def _listen(self) -> None:
        """Take what the workers tell, and welcome those that have come."""
        working = {place.calls: place for place in self._places if place.run}
        awaited = [*working, *(coming := {place.greeting: place for place in self._places if not place.node})]
        if not awaited:
            time.sleep(ROUND_SECONDS)
            return
        told, _ = self._ray.wait(awaited, num_returns=len(awaited), timeout=0)
        if not told:
            told, _ = self._ray.wait(awaited, num_returns=1, timeout=ROUND_SECONDS)
        for each in told:
            if each in working:
                self._go_on(working[each])
            else:
                self._welcome(coming[each])


def _record(recorder: Recorder, told: Any) -> None:
    """Record a call of a worker. Raises `StudioError` for one that painting does not make."""
    try:
        method, given, named = told
        fields = set(named).union(*given[:1]) if method == "write_end" else set(named)
        if method not in CALLS or not fields <= EXECUTION_FIELDS:
            raise ValueError(f"{method} of {', '.join(map(str, fields))}")
        getattr(recorder, method)(*given, **named)
    except (TypeError, ValueError, AttributeError) as error:
        raise StudioError(f"Its worker told what no worker tells ({error}), so it was ended."[:500]) from error


def _files(run: Run) -> dict[str, bytes]:
    """Return the files that a node needs of a run, by name; its owner concerns no node."""
    record = run.record().model_copy(update={"owner": ""})
    try:
        files = {path.name: path.read_bytes() for path in (*run.input_files(), run.checkpoint) if path.exists()}
        return {"run.json": record.model_dump_json().encode(), **files}
    except OSError as error:
        raise StudioError(f"The run {run.id} cannot be read: {error.strerror or error}.") from error


def _join(address: str) -> Any:
    """Return Ray, connected to that cluster. Raises as `check_reach` does, and if the cluster refuses this process."""
    door = check_reach(address)
    import ray

    try:
        ray.init(address=door, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: another version, no node on this machine, no cluster
        raise StudioError(f"This machine cannot join the Ray cluster at {address}: {_reason(error)}") from error
    return ray


def check_reach(address: str) -> str:
    """Return where Ray joins the cluster of that address. Raises `InputError` if it is no address, `StudioError` if Ray
    is not installed or no cluster answers."""
    if importlib.util.find_spec("ray") is None:
        raise StudioError(
            f"Runs on a cluster need Ray, which is not installed here: in {paths.CHECKOUT}, "
            ".venv/bin/python -m pip install --editable '.[ray]'."
        )
    if address != "auto":
        _check_form(address)
    door = _resolve_address(address)
    _check_form(door)  # of what RAY_ADDRESS says, too
    host, _, port = door.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise StudioError(
            f"No Ray cluster answers at {address} ({error.strerror or error}): start one with ray start --head, or "
            "give the address that it says."
        ) from error
    _check_is_ray(address, door)
    return door


def _check_form(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not (port.isdecimal() and len(port) <= 5 and int(port) < 2**16):
        raise InputError(f"{address[:80]!r} is no address of a Ray cluster such as 10.0.0.1:6379.")


def _resolve_address(address: str) -> str:
    """Return the host and port of an address; of "auto", those in RAY_ADDRESS or of the cluster started here."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it tells of lost nodes on the standard output
    from ray._private import services

    try:
        return str(services.canonicalize_bootstrap_address(address))
    except Exception as error:  # of many kinds
        raise StudioError(f"No Ray cluster is found by {address}: {_reason(error)}") from error


def _check_is_ray(address: str, door: str) -> None:
    """Ask what listens there as Ray asks a cluster's head: Ray itself would try for minutes."""
    import grpc

    no_proxy = [("grpc.enable_http_proxy", 0)]  # as Ray has it
    with grpc.insecure_channel(door, no_proxy) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=REACH_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:  # it is one: Ray has the token
                return
            raise StudioError(
                f"What answers at {address} is no Ray cluster: give the address that ray start --head says."
            ) from error


def _reason(error: BaseException) -> str:
    """The last line of what Ray says at length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
