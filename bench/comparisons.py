"""Timing comparisons: Gram targets, one step, and the time from Start to the first painted picture."""

import contextlib
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from bench import baselines
from bench.measurements import LEAST, SIZES, Comparison, Report, Timing, interleaved
from core import paths
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.jobs import execution, schedule, workers
from core.jobs.slots import Slot
from core.losses.style_losses import gram_matrix
from core.presets import DEFAULT_PRESET, PRESETS
from core.runs import store
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.transfer import preview
from core.transfer.engine import Engine
from core.transfer.objective import LossFunction, Objective
from core.transfer.style_targets import style_targets
from core.vgg.layers import Precision
from core.vgg.network import feature_network
from core.vgg.onnx import IMAGE_INPUT, gram_output

PAIR = PHOTOS[1], STYLES[1]
REFERENCE = PRESETS["reference"].settings()


def gram_targets(engine: Engine, report: Report, size: int = REFERENCE.size) -> Comparison:
    """Compare ways to get the Gram matrices of a style: Keras, compiled TensorFlow, ONNX Runtime and the cache."""
    style = _network_picture(PAIR[1].path(), size)
    layers = REFERENCE.style_layers
    network = feature_network(engine.weights, layers)

    def keras() -> None:
        features = network(style)
        [gram_matrix(features[layer]).numpy() for layer in layers]

    @tf.function
    def compiled(image: tf.Tensor) -> list[tf.Tensor]:
        features = network(image)
        return [gram_matrix(features[layer]) for layer in layers]

    ways: dict[str, Callable[[], object]] = {
        "Keras, eager": keras,
        "TensorFlow, compiled": lambda: [gram.numpy() for gram in compiled(tf.constant(style))],
    }
    outputs = [gram_output(layer) for layer in layers]
    for provider in engine.hardware.onnx_providers:
        if provider in ("CPUExecutionProvider", *engine.choice(REFERENCE).onnx_providers):
            session = engine.model.session([provider], outputs)
            if provider in session.get_providers():
                name = f"ONNX Runtime, {provider.removesuffix('ExecutionProvider')}"
                ways[name] = functools.partial(session.run, outputs, {IMAGE_INPUT: style})
    with own_home(engine):
        providers = engine.choice(REFERENCE).onnx_providers
        ways["cache"] = lambda: style_targets(style, layers, engine.model, providers)
        return Comparison(title="Style Gram targets", timings=list(interleaved(ways, size, report)))


def step(engine: Engine, report: Report, sizes: tuple[int, ...] = SIZES) -> Comparison:
    """Compare a loss with its gradient at each size: eager, compiled, XLA and convolutions alone, by precision."""
    precisions: list[Precision] = ["float32"]
    if engine.choice(PRESETS[DEFAULT_PRESET].settings()).precision == "bfloat16":
        precisions.append("bfloat16")
    timings: list[Timing] = []
    for size in sizes:
        ways: dict[str, Callable[[], object]] = {}
        for precision in precisions:
            ways |= _steps(engine, size, precision)
        timings += interleaved(ways, size, report)
    return Comparison(title="One step", timings=timings)


def _steps(engine: Engine, size: int, precision: Precision) -> dict[str, Callable[[], object]]:
    content, style = (_network_picture(sample.path(), size) for sample in PAIR)
    image = tf.constant(content)
    network = feature_network(engine.weights, [*REFERENCE.style_layers, *REFERENCE.content_layers], precision)
    function = LossFunction(network, REFERENCE.style_layers, REFERENCE.content_layers)
    providers = engine.choice(REFERENCE).onnx_providers
    grams = style_targets(style, REFERENCE.style_layers, engine.model, providers).grams
    variants = {"compiled": function, "XLA": baselines.xla(function)}
    if precision == "float32":
        variants = {"eager": baselines.eager(function), **variants}

    def evaluation(variant: LossFunction) -> Callable[[], object]:
        objective = Objective(variant, grams, image, REFERENCE.loss_weights())
        return lambda: objective(image).gradient.numpy()

    ways = {f"{name}, {precision}": evaluation(variant) for name, variant in variants.items()}
    height, width = content.shape[1:3]
    floor = baselines.convolutions(engine.weights, height, width, precision)
    return {**ways, f"convolutions alone, {precision}": floor}


def start(engine: Engine, report: Report) -> Comparison:
    """Measure the time from Start to the first pictures of the default preset, in a warm and in a new worker."""
    engine.warm_up(PRESETS[DEFAULT_PRESET].settings())
    photo, painting = (geometry.resize(codec.read_image(sample.path()), REFERENCE.size) for sample in PAIR)
    timings: list[Timing] = []
    with contextlib.suppress(StudioError):  # skip the preview if its network is missing
        network = preview.obtain(report)
        timings += interleaved(
            {"preview, warm session": lambda: network.paint(photo, painting)}, REFERENCE.size, report
        )
    for kind, begin in (("warm", _in_this_process), ("cold", _in_a_new_process)):
        found: dict[str, list[float]] = {}
        for turn in range(LEAST):
            report(f"{kind} start, {turn + 1} of {LEAST} …")
            for event, seconds in _first_pictures(engine, begin).items():
                found.setdefault(event, []).append(seconds)
        timings += [
            Timing(way=f"{event}, {kind}", size=REFERENCE.size, seconds=seconds) for event, seconds in found.items()
        ]
    return Comparison(title="From Start to the first pictures", timings=timings)


def _first_pictures(engine: Engine, begin: Callable[[Engine, Run], None]) -> dict[str, float]:
    """Return the seconds until the run shows a painted picture, and until its first iteration is painted."""
    settings = PRESETS[DEFAULT_PRESET].settings().model_copy(update={"iterations": 1, "frame_every": 1})
    with own_home(engine):
        photo, painting = (codec.read_image(sample.path()) for sample in PAIR)
        run = store.create(RunSpec([Style(PAIR[1].name, painting)], settings, DEFAULT_PRESET), photo, PAIR[0].name)
        events = {"first painted picture": run.live, "first iteration": run.path / "frames" / "000001.jpg"}
        seen: dict[str, float] = {}
        began = time.perf_counter()
        ended = threading.Event()

        def look() -> None:
            while len(seen) < len(events) and not ended.wait(0.005):
                for event, path in events.items():
                    if event not in seen and path.exists():
                        seen[event] = time.perf_counter() - began

        watching = threading.Thread(target=look)
        watching.start()
        try:
            begin(engine, run)
        finally:
            time.sleep(0.02)  # to see a picture that appears at the very end
            ended.set()
            watching.join()
        record = run.record()
        if record.status != "done":
            raise StudioError(f"The timed run is {record.status}: {record.message}")
    return seen


def _in_this_process(engine: Engine, run: Run) -> None:
    for _ in execution.perform(run, lambda *_: engine):
        pass


def _in_a_new_process(engine: Engine, run: Run) -> None:
    workers.announce(Slot(0), "Ready.", ready=True)  # as if the machine had painted before
    schedule.submit(run)
    deadline = time.monotonic() + 300
    while run.record().unfinished and time.monotonic() < deadline:
        time.sleep(0.05)


@contextlib.contextmanager
def own_home(engine: Engine) -> Iterator[None]:
    """Use a temporary home for the runs and caches of a measurement, with the user's models, weights and pace."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a worker may still be ending
        for kept in (paths.home() / "models", paths.home() / "pace.json"):
            if kept.exists():
                (Path(folder) / kept.name).symlink_to(kept)
        before = dict(os.environ)
        os.environ.update(NST_HOME=folder, NST_WORKER_IDLE="0.5")
        if engine.weights.provenance == "user":
            os.environ["NST_WEIGHTS"] = str(engine.weights.path)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _network_picture(path: Path, size: int) -> np.ndarray:
    return preprocessing.to_network(geometry.resize(codec.read_image(path), size))
