"""The worker process on a cluster's node: it computes one run after another for `core.jobs.ray_head`.

It receives copies of a run's files and yields a stream of calls. The head makes these calls on the run's recorder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from core import paths
from core.errors import StudioError
from core.jobs import execution, slots
from core.machine import hardware
from core.runs.record import Request
from core.runs.recorder import ProgressSink, StepUpdate
from core.runs.run import Run
from core.timings import Timings
from core.transfer.checkpoint import Checkpoint
from core.transfer.preview import find
from core.vgg.onnx import FeatureModel, find_model
from core.vgg.weights import Provenance, WeightsFile, read

if TYPE_CHECKING:
    from core.transfer.engine import Engine

AHEAD = 8  # how many unrecorded calls a worker may have made

CALLS = ProgressSink.__abstractmethods__ | {"update"}
Call = tuple[str, tuple[Any, ...], dict[str, Any]]  # the name and arguments of a method of `ProgressSink`


@dataclass(frozen=True)
class FileBlob:
    """A file in Ray's object store, for nodes that do not have it."""

    name: str
    sha256: str
    content: Any  # ObjectRef of its bytes

    def unpack(self, fetch: Callable[[Any], bytes]) -> Path:
        """Return the path of the file on this node; fetch the file if necessary.

        Raises:
            StudioError: If the file arrives damaged or cannot be written.
        """
        if (found := paths.find_model(self.name)) and self._is(found.read_bytes()):
            return found
        path = paths.models() / self.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{self.name}.lock")):  # only one of a node's workers fetches the file
                if not (path.is_file() and self._is(path.read_bytes())):
                    content = fetch(self.content)
                    if not self._is(content):
                        raise StudioError(f"{self.name} arrived damaged at {platform.node()} (its hash is wrong).")
                    paths.write(path, content)
        except OSError as error:
            raise StudioError(f"{path} cannot be written on {platform.node()}: {error.strerror or error}.") from error
        return path

    def _is(self, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == self.sha256


@dataclass(frozen=True)
class EngineAssets:
    """The files that a worker needs to create an engine."""

    weights: FileBlob
    provenance: Provenance
    model: Sequence[FileBlob]  # the exported network, then its manifest
    preview: Sequence[FileBlob]


class RemoteSink(ProgressSink):
    """Send a run's progress and result to the recorder in another process."""

    def __init__(self, run: Run, send: Callable[[Call], None], wish: Callable[[], Request]) -> None:
        super().__init__(run)
        self._send, self._wish = send, wish

    def request(self) -> Request:
        """Return the request that the head last passed on."""
        return self._wish()

    def update(self, **changes: Any) -> None:
        """Change fields of the record, here and in the recorder; add the node's name to `environment`."""
        if "environment" in changes:
            changes["environment"] = {**changes["environment"], "node": platform.node()}
        super().update(**changes)
        self._send(("update", (), changes))

    def write_live_picture(self, picture: bytes) -> None:
        """Send the current picture, a JPEG."""
        self._send(("write_live_picture", (picture,), {}))

    def write_step(self, step: StepUpdate) -> None:
        """Send a step's losses, and its picture and checkpoint if they are due."""
        self._send(("write_step", (step,), {}))

    def write_result(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        """Send the best image, `(H, W, 3)` float32 RGB in 0 … 255, and the checkpoint."""
        self._send(("write_result", (best, checkpoint), {}))

    def write_summary(self, **fields: Any) -> None:
        """Send the record's fields about the result."""
        self._send(("write_summary", (), fields))

    def write_end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        """Send the record's fields about the end, the timings in seconds, and a traceback."""
        self._send(("write_end", (dict(ending), dict(timings), trace), {}))


class RayWorker:
    """The worker process on a node, a Ray actor."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        program_version()
        self._engine: Engine | None = None
        self._wish = "", Request()  # the run's id, and the request

    def greet(self) -> tuple[str, str]:
        """Return the node's id and the program's version."""
        import ray

        return ray.get_runtime_context().get_node_id(), program_version()

    def ask(self, run_id: str, request: Request) -> None:
        """Set the user's request for a run; called in another thread than `paint`."""
        self._wish = run_id, request

    def paint(self, run_id: str, files: Mapping[str, bytes], assets: EngineAssets) -> Iterator[Call]:
        """Compute a run from copies of its files; yield the calls for its recorder."""
        calls: queue.Queue[Call | None] = queue.Queue(AHEAD)
        with _folder() as folder:
            run = Run(folder / run_id)
            run.path.mkdir()
            for name, content in files.items():
                (run.path / name).write_bytes(content)
            threading.Thread(target=self._paint, args=(run, assets, calls.put), daemon=True).start()
            while (call := calls.get()) is not None:
                yield call

    def _paint(self, run: Run, assets: EngineAssets, send: Callable[[Call | None], None]) -> None:
        def wish() -> Request:
            of, request = self._wish
            return request if of == run.id else Request()

        def make_engine(report: execution.Report, timings: Timings) -> Engine:
            self._engine = self._engine or _make_engine(assets, timings)
            return self._engine

        try:
            # The sink reports errors too. They are not sent as objects, because unpickling them may need TensorFlow.
            with contextlib.suppress(Exception), RemoteSink(run, send, wish) as sink:
                if not find():
                    for blob in assets.preview:
                        blob.unpack(_fetch)
                for _ in execution.paint(sink, make_engine):
                    pass
        finally:
            send(None)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Provide a folder for the copy of a run, and remove the folders of killed workers."""
    parent = paths.home() / "ray-workers"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("*.lock"):
        if lock := slots.try_acquire(FileLock(left)):
            with lock:
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
    path = parent / secrets.token_hex(8)
    own_lock = path.with_suffix(".lock")
    with FileLock(own_lock):
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            own_lock.unlink(missing_ok=True)


def _make_engine(assets: EngineAssets, timings: Timings) -> Engine:
    from core.transfer.engine import Engine

    with timings.phase("weights"):
        loaded = read(WeightsFile(assets.weights.unpack(_fetch), assets.provenance))
    with timings.phase("model"):
        if not (model := find_model(loaded.sha256)):
            path, _ = (blob.unpack(_fetch) for blob in assets.model)
            model = FeatureModel.load(path)
    return Engine(loaded, model, hardware.survey())


def _fetch(content: Any) -> bytes:
    import ray

    return bytes(ray.get(content))


@functools.cache  # the files may change after they were loaded
def program_version() -> str:
    """Return the version of this program with a hash of its code, because checkouts of one version may differ."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(str(file.relative_to(Path(__file__).parents[1])).encode() + file.read_bytes())
    return f"{hardware.versions().get('style-transfer-studio', 'unknown')}, code {code.hexdigest()[:8]}"
