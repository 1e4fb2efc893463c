"""Runs painted on a Ray cluster: who computes is on a node, who records is here, and what is written is any run's.

A `Painter` is a process on a node that paints one run after another and keeps its engine. It gets a run's files, paints
from a copy of them, and gives account of the run by a stream of calls, which are made here on the run's `Recorder`. Ray
tries nothing again by itself: a run whose node is lost comes first in our own queue, and goes on from the last
checkpoint that was recorded. Nothing else in this program knows of Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import queue
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from core import hardware, jobs, log, paths, preview, targets, weights
from core.checkpoint import Checkpoint
from core.easels import MOST, Easel, easels, first_free
from core.errors import InputError, StudioError
from core.jobs import EngineMaker, Report
from core.runs import Account, Recorder, Request, Run, Told
from core.timings import Timings
from core.weights import Provenance, WeightsFile

if TYPE_CHECKING:
    from core.transfer import Engine

REACH_SECONDS = 5.0  # how long the cluster's head may take to answer
ROUND_SECONDS = 0.2  # how long is waited for news at most: wishes are passed on as often
LOOK_SECONDS = 5.0  # how often the cluster is asked how many painters it has room for
FETCH_SECONDS = 120.0  # how long a step's pictures may take from a node
AHEAD = 8  # calls that a painter may be ahead of who records them
LOSSES = 3  # of its painter, that a run survives
PASSED_ON = ("NST_CHECKPOINT_SECONDS",)  # what the environment here says of the painting there

Call = tuple[str, tuple[Any, ...], dict[str, Any]]  # of a method of `Account`


# --- on a node ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """A file that lies in the object store, for nodes that do not have it."""

    name: str
    sha256: str
    content: Any  # ObjectRef of its bytes

    def unpack(self, fetch: Callable[[Any], bytes]) -> Path:
        """The file in this node's folder of models, fetched where it is not there. Raises `StudioError` when it comes
        damaged or cannot be written."""
        if (found := paths.find_model(self.name)) and self._is(found.read_bytes()):
            return found
        path = paths.models() / self.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{self.name}.lock")):  # of a node's painters, one fetches
                if not (path.is_file() and self._is(path.read_bytes())):
                    content = fetch(self.content)
                    if not self._is(content):
                        raise StudioError(f"{self.name} came damaged to {platform.node()} (its hash is wrong).")
                    with paths.replacing(path) as file:
                        file.write(content)
        except OSError as error:
            raise StudioError(f"{path} cannot be written on {platform.node()}: {error.strerror or error}.") from error
        return path

    def _is(self, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == self.sha256


@dataclass(frozen=True)
class Outfit:
    """What an engine is made of, as it travels."""

    weights: Parcel
    provenance: Provenance
    model: Sequence[Parcel]  # the exported network, then its manifest
    preview: Sequence[Parcel]


class Sender(Account):
    """Gives account of a run to who records it elsewhere."""

    def __init__(self, run: Run, send: Callable[[Call], None], wish: Callable[[], Request]) -> None:
        super().__init__(run)
        self._send, self._wish = send, wish

    def request(self) -> Request:
        return self._wish()

    def update(self, **changes: Any) -> None:
        if "environment" in changes:
            changes["environment"] = {**changes["environment"], "node": platform.node()}
        super().update(**changes)
        self._send(("update", (), changes))

    def live(self, picture: bytes) -> None:
        self._send(("live", (picture,), {}))

    def note(self, told: Told) -> None:
        self._send(("note", (told,), {}))

    def keep(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        self._send(("keep", (best, checkpoint), {}))

    def conclude(self, **said: Any) -> None:
        self._send(("conclude", (), said))

    def end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        self._send(("end", (dict(ending), dict(timings), trace), {}))


class Painter:
    """A process on a node, as a Ray actor."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        self._engine: Engine | None = None
        self._wish = "", Request()  # of which run

    def greet(self) -> tuple[str, str]:
        """On which node it is, and which program it runs."""
        import ray

        return ray.get_runtime_context().get_node_id(), program()

    def ask(self, run_id: str, request: Request) -> None:
        """Say what is wanted of a run; beside the painting, in a thread of its own."""
        self._wish = run_id, request

    def paint(self, run_id: str, files: Mapping[str, bytes], outfit: Outfit) -> Iterator[Call]:
        """Paint a run from copies of its files: yields what its recorder is to be told, as it comes."""
        calls: queue.Queue[Call | None] = queue.Queue(AHEAD)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / run_id)
            run.path.mkdir()
            for name, content in files.items():
                (run.path / name).write_bytes(content)
            threading.Thread(target=self._paint, args=(run, outfit, calls.put), daemon=True).start()
            while (call := calls.get()) is not None:
                yield call

    def _paint(self, run: Run, outfit: Outfit, send: Callable[[Call | None], None]) -> None:
        def wish() -> Request:
            of, request = self._wish
            return request if of == run.id else Request()

        def make_engine(report: Report, timings: Timings) -> Engine:
            self._engine = self._engine or _engine(outfit, timings)
            return self._engine

        try:
            # It tells of errors too; they do not travel themselves, as their classes may need TensorFlow to be read.
            with contextlib.suppress(Exception), Sender(run, send, wish) as account:
                if not preview.find():
                    for parcel in outfit.preview:
                        parcel.unpack(_fetch)
                for _ in jobs.paint(account, make_engine):
                    pass
        finally:
            send(None)


def _engine(outfit: Outfit, timings: Timings) -> Engine:
    from core.transfer import Engine

    with timings.phase("weights"):
        loaded = weights.read(WeightsFile(outfit.weights.unpack(_fetch), outfit.provenance))
    with timings.phase("model"):
        model = targets.find_model(loaded.sha256)
        if not model:
            files = [parcel.unpack(_fetch) for parcel in outfit.model]
            model = targets.FeatureModel.load(files[0])
    return Engine(loaded, model, hardware.survey())


def _fetch(content: Any) -> bytes:
    import ray

    return bytes(ray.get(content))


def program() -> str:
    """Which program this is: its version, and what its code is, since a checkout may be of any day."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        code.update(file.name.encode() + file.read_bytes())
    return f"{hardware.versions().get('style-transfer-studio', 'unknown')}, code {code.hexdigest()[:8]}"


# --- where the runs are ---------------------------------------------------------------------------------------------


def paint_all(
    runs: Sequence[Run], address: str, report: Report = lambda line: None, make_engine: EngineMaker | None = None
) -> None:
    """Paint queued runs on the cluster at `address` ("host:port", or "auto" on one of its nodes), as many at a time as
    it has room for, in their order. Each is recorded here: what became of it stands in its record, and `report` hears
    a line when one begins and when it ends. `make_engine` is asked where the network was never exported on this
    machine.

    Ctrl-C has the runs that are being painted stop, each with its best picture, and raises `KeyboardInterrupt` when
    they have; those that have not begun stay queued. A second one ends at once. Raises `StudioError` for what concerns
    all runs: no Ray, no such cluster, no node with what a run needs, a node with another version of this program.
    """
    waiting = deque(runs)
    with Studio(address, report, make_engine) as studio, _first_interrupt(studio.close_down):
        while studio.go_round(len(waiting), lambda: waiting.popleft() if waiting else None):
            pass
        if studio.closing:
            raise KeyboardInterrupt


@contextmanager
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
class _Sitting:
    """A run that is being painted, and who records it."""

    run: Run
    recorder: Recorder
    calls: Any  # ObjectRefGenerator
    asked: Request  # the last that the painter was told
    held: ExitStack  # the recording, and the place that the run has here
    heard: bool = False

    def over(self, error: BaseException | None = None) -> None:
        """End the recording, by that error where there is one."""
        try:
            self.held.__exit__(type(error) if error else None, error, None)
        except StudioError as problem:  # nothing more can be written of the run
            log.failed("run failed", problem, run=self.run.id)


@dataclass(eq=False)
class _Place:
    """A painter, and what it does."""

    painter: Any  # ActorHandle
    greeting: Any  # ObjectRef
    node: str = ""  # where it is, once it has greeted
    sitting: _Sitting | None = None


class Studio:
    """The painters on a cluster, and the runs that they paint. Used as a context: at its end all of them are gone."""

    def __init__(self, address: str, report: Report, make_engine: EngineMaker | None = None) -> None:
        """Raises `StudioError` where there is no such cluster, or no room for a single painter on it."""
        self._cpus = _cpus()
        self._address, self._report = address, report
        self._places: list[_Place] = []
        self._again: deque[Run] = deque()  # runs whose painter was lost
        self._losses: Counter[Run] = Counter()
        self._stillborn = 0  # painters on end
        self.closing = False
        self._ray = _join(address)
        try:
            self._look_for_room()
            self._outfit = self._packed(make_engine)
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            for place in list(self._places):
                self._dismiss(place)
                if place.sitting:
                    place.sitting.over(error or KeyboardInterrupt())
        finally:
            self._ray.shutdown()

    def close_down(self) -> None:
        """Have no further run begin, and those that are being painted stop."""
        self.closing = True

    def go_round(self, waiting: int, take: Callable[[], Run | None]) -> bool:
        """Look after all once: give free painters a run, of which `waiting` are to be had by `take`, pass on what is
        wanted, and record what is told, for which it waits a moment. Whether anything is left to do."""
        if self.closing:
            waiting = 0
            self._again.clear()
        self._hire(waiting + len(self._again))
        for place in self._places:
            if place.node and not place.sitting and not self.closing:
                if not (run := self._again.popleft() if self._again else take()):
                    break
                self._begin(place, run)
        self._pass_on_wishes()
        self._listen()
        return bool(waiting or self._again or any(place.sitting for place in self._places))

    # The painters

    def _hire(self, waiting: int) -> None:
        """Have as many free painters as runs wait, as far as there is room for them."""
        if waiting and time.monotonic() - self._looked > LOOK_SECONDS:
            self._look_for_room()
        free = sum(not place.sitting for place in self._places)
        for _ in range(min(waiting - free, self._room - len(self._places))):
            actor = self._ray.remote(
                **self._needs, max_restarts=0, max_task_retries=0, concurrency_groups={"asking": 1}
            )
            painter = actor(Painter).options(scheduling_strategy="SPREAD").remote(self._environment())
            self._places.append(_Place(painter, painter.greet.remote()))

    def _environment(self) -> dict[str, str]:
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {"TF_NUM_INTRAOP_THREADS": str(self._cpus), **passed_on}  # as many as Ray counts, and no more

    def _look_for_room(self) -> None:
        """How many painters the cluster's nodes can hold, and what each needs. Raises `StudioError` where that is
        none."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._looked = time.monotonic()
        self._needs = {"num_cpus": self._cpus, "num_gpus": int(any(node.get("GPU", 0) >= 1 for node in nodes))}
        wanted = {"CPU": self._cpus, "GPU": self._needs["num_gpus"]}
        counts = [min(int(node.get(kind, 0) // count) for kind, count in wanted.items() if count) for node in nodes]
        self._room = min(sum(counts), MOST - len(easels()))
        if not self._room:
            of_all = f"{self._cpus} CPU{'s' if self._cpus > 1 else ''}{' and a GPU' if wanted['GPU'] else ''}"
            raise StudioError(
                f"The cluster at {self._address} has no node with {of_all}, which a run needs: add one, or set "
                "NST_RAY_CPUS."
            )

    def _packed(self, make_engine: EngineMaker | None) -> Outfit:
        """What painters need, laid into the object store."""
        loaded = weights.obtain(report=self._report)
        model = targets.find_model(loaded.sha256)
        if not model and make_engine:
            model = make_engine(self._report, Timings()).model
        if not model:
            raise StudioError("The network was never exported on this machine: run nst prepare, and then this again.")

        def parcel(path: Path, name: str = "") -> Parcel:
            content = path.read_bytes()
            return Parcel(name or path.name, hashlib.sha256(content).hexdigest(), self._ray.put(content))

        fetched = loaded.provenance == "imagenet, 8-bit"  # the others may have any name
        name = loaded.path.name if fetched else f"vgg19-weights-{loaded.sha256[:12]}{loaded.path.suffix}"
        return Outfit(
            parcel(loaded.path, name),
            loaded.provenance,
            [parcel(model.path), parcel(model.path.with_suffix(".json"))],
            [parcel(path) for file in preview.SHA256 if (path := paths.find_model(file))],
        )

    def _welcome(self, place: _Place) -> None:
        from ray.exceptions import RayError

        try:
            place.node, theirs = self._ray.get(place.greeting)
        except RayError as error:
            self._dismiss(place)
            self._stillborn += 1
            if self._stillborn > LOSSES:
                raise StudioError(f"No painter starts on the nodes of {self._address}: {_reason(error)}") from error
            return
        self._stillborn = 0
        if theirs != (ours := program()):
            raise StudioError(
                f"The node {place.node[:8]} has another version of this program ({theirs}) than this machine ({ours}): "
                "install the same on both."
            )

    def _dismiss(self, place: _Place) -> None:
        self._places.remove(place)
        self._ray.kill(place.painter)

    # The runs

    def _begin(self, place: _Place, run: Run) -> None:
        try:
            with ExitStack() as held:
                found = first_free(map(Easel, range(len(easels()), MOST)), Easel.turn_lock)
                if not found:  # others paint here too
                    self._again.append(run)
                    return
                easel, lock = found
                held.callback(lock.release)
                held.enter_context(easel.bearing(run))
                recorder = held.enter_context(Recorder(run))
                asked = run.request()
                self._ask(place, run, asked)
                paint = place.painter.paint.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
                calls = paint.remote(run.id, _files(run), self._outfit)
                place.sitting = _Sitting(run, recorder, calls, asked, held.pop_all())
        except StudioError as error:  # its recorder has noted it, unless someone else has the run by now
            self._report(f"{run.id}: {error}")
            return
        self._report(f"{run.id} begins on the node {place.node[:8]}.")

    def _ask(self, place: _Place, run: Run, request: Request) -> None:
        place.painter.ask.options(concurrency_group="asking").remote(run.id, request)

    def _pass_on_wishes(self) -> None:
        for place in list(self._places):
            if sitting := place.sitting:
                if self.closing and not sitting.asked.stop:
                    sitting.run.ask(stop=True)
                if (request := sitting.run.request()) == sitting.asked:
                    continue
                sitting.asked = request
                if request.at_once:
                    self._dismiss(place)
                    self._leave(place, sitting, KeyboardInterrupt())
                else:
                    self._ask(place, sitting.run, request)

    def _listen(self) -> None:
        """Take what the painters tell, and welcome those that have come."""
        awaited: dict[Any, _Place] = {}
        for place in self._places:
            if place.sitting or not place.node:
                awaited[place.sitting.calls if place.sitting else place.greeting] = place
        if not awaited:
            time.sleep(ROUND_SECONDS)
            return
        told, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        if not told:
            told, _ = self._ray.wait(list(awaited), num_returns=1, timeout=ROUND_SECONDS)
        for place in (awaited[each] for each in told):
            if place.sitting:
                self._hear(place, place.sitting)
            else:
                self._welcome(place)

    def _hear(self, place: _Place, sitting: _Sitting) -> None:
        from ray.exceptions import RayError, RayTaskError

        try:
            method, given, named = self._ray.get(next(sitting.calls), timeout=FETCH_SECONDS)
            sitting.heard = True
            getattr(sitting.recorder, method)(*given, **named)
        except StopIteration:
            self._leave(place, sitting, StudioError("Its painter ended without saying how the run did."))
        except RayTaskError as error:
            self._leave(place, sitting, StudioError(f"The node {place.node[:8]} failed: {_reason(error)}"))
        except RayError:
            self._dismiss(place)
            self._lose(place, sitting)
        except StudioError as error:  # it cannot be recorded, and so is not to be painted
            self._dismiss(place)
            self._leave(place, sitting, error)

    def _leave(self, place: _Place, sitting: _Sitting, error: BaseException) -> None:
        """A painter has done with a run; the error counts where the run has not ended."""
        place.sitting = None
        sitting.over(error)
        with contextlib.suppress(StudioError):
            record = sitting.run.record()
            self._report(f"{sitting.run.id} is {record.status}{f': {record.message}' if record.message else '.'}")

    def _lose(self, place: _Place, sitting: _Sitting) -> None:
        """A painter is gone: its run comes first now, unless it has ended, or was lost too often."""
        gone = f"Its painter on the node {place.node[:8]} is gone, with the node or for want of memory"
        self._losses[sitting.run] += sitting.heard  # one that never began had a painter that was gone before
        if sitting.recorder.ended or self._losses[sitting.run] > LOSSES:
            self._leave(place, sitting, StudioError(f"{gone}, the {LOSSES + 1}th one: let it go on when they last."))
            return
        try:
            sitting.recorder.put_back(f"{gone}: it goes on elsewhere from its last checkpoint.")
        except StudioError as error:
            self._leave(place, sitting, error)
            return
        place.sitting = None
        sitting.over()
        self._again.append(sitting.run)
        self._report(f"{sitting.run.id}: {gone}: it goes on elsewhere.")


def _files(run: Run) -> dict[str, bytes]:
    """What a run is painted from, and where it stands, by name."""
    masks = [run.mask(number) for number in range(1, len(run.styles) + 1)]
    wanted = [run.path / "run.json", run.content, *run.styles, *masks, run.kept, run.start, run.checkpoint]
    try:
        return {path.name: path.read_bytes() for path in wanted if path.exists()}
    except OSError as error:
        raise StudioError(f"The run {run.id} cannot be read: {error.strerror or error}.") from error


def _cpus() -> int:
    """That a run asks for. Raises `InputError` where NST_RAY_CPUS is no number of them."""
    asked = os.environ.get("NST_RAY_CPUS", "") or "1"
    if not (asked.isdecimal() and 1 <= len(asked) <= 4 and int(asked)):
        raise InputError(f"NST_RAY_CPUS is {asked[:80]!r}: it must be a whole number from 1 on, or not be set.")
    return int(asked)


def _join(address: str) -> Any:
    """Ray, with this process on that cluster. Raises `InputError` for what is no address, and `StudioError` where there
    is no Ray, or no cluster that takes this process."""
    try:
        import ray
    except ImportError as error:
        raise StudioError(
            "Runs on a cluster need Ray, which is not installed here: pip install 'style-transfer-studio[ray]'."
        ) from error
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or "/" in address or not (port.isdecimal() and len(port) <= 5 and int(port) < 2**16):
            raise InputError(f"{address[:80]!r} is no address of a Ray cluster such as 10.0.0.1:6379.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise StudioError(
                f"No Ray cluster answers at {address} ({error.strerror or error}): start one with ray start --head, or "
                "give the address that it says."
            ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: another version, no node on this machine, no cluster
        raise StudioError(f"This machine cannot join the Ray cluster at {address}: {_reason(error)}") from error
    return ray


def _reason(error: BaseException) -> str:
    """The last line of what Ray says at length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
