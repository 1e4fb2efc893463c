"""Paint a large picture in little memory, and measure what tiles cost.

    python tests/soak/tiles.py [--size PX] [--memory GB] [--limit GiB] [--iterations N] [--keep FILE]
                               [--steps-alone | --picture-alone]

Paints an enlarged sample photo of 4 : 3 from coarse to fine with Adam, prints the peak memory of all processes, and
saves the picture if --keep is given. Then compares, per megapixel, the time of a step in tiles of 1024 px with the time
of a step without tiles. Exits with 1 if painting failed or took more memory than the limit, or if steps in tiles take
more than 2.2 times as long.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core.images import codec, geometry, preprocessing
from core.machine import hardware
from core.samples.gallery import PHOTOS, STYLES

PHOTO, STYLE = "coffee", "waves"
STAGES = 4
SIDE = 1024  # px, of the timed tiles
PIECE = (1536, 2048)  # px, height and width of the picture without tiles
STEPS = 3  # of each kind; the median counts
BOUND = 2.2


def sample(name: str) -> Image.Image:
    (found,) = (each for each in (*PHOTOS, *STYLES) if each.name == name)
    return codec.read_image(found.path())


def enlarged(picture: Image.Image, height: int, width: int) -> Image.Image:
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def picture(size: int, memory: float, limit: float, iterations: int, keep: Path | None) -> bool:
    """Return whether the picture is painted within `limit` GiB."""
    with tempfile.TemporaryDirectory() as folder:
        photo, result = Path(folder) / "photo.jpg", keep or Path(folder) / "result.jpg"
        enlarged(sample(PHOTO), size * 3 // 4, size).save(photo, quality=95)
        command = [sys.executable, "-m", "nst", "stylize", str(photo), STYLE, "-o", str(result), "--preset", "fine"]
        options = {"size": size, "memory": memory, "stages": STAGES, "iterations": iterations, "optimizer": "adam"}
        command += [f"--{name}={value}" for name, value in options.items()]
        began = time.monotonic()
        environment = {**os.environ, "NST_HOME": str(Path(folder) / "home")}
        code = subprocess.run([*command, "--now"], cwd=ROOT, env=environment).returncode
        seconds = time.monotonic() - began
        held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
        shape = Image.open(result).size if result.exists() else None
    print(f"{size} px, --memory {memory:g}, {iterations} iterations in {STAGES} stages: exit status {code}, {shape}")
    print(f"{held:.2f} GiB at most (limit {limit:g}), {seconds / 60:.1f} min", flush=True)
    return code == 0 and shape == (size, size * 3 // 4) and held < limit


def steps(size: int) -> bool:
    """Return whether a step in tiles takes at most `BOUND` times as long per megapixel as a step without tiles."""
    hardware.import_tensorflow()
    import tensorflow as tf

    from core.presets import choose
    from core.timings import Timings
    from core.transfer.tiled_objective import TiledObjective
    from core.transfer.tiles import tiles
    from core.vgg.layers import reach
    from nst.engine import load_engine

    engine, settings = load_engine(None, lambda line: print(line, file=sys.stderr), Timings()), choose("fine")
    style = preprocessing.to_network(geometry.resize(sample(STYLE), 512, STYLE))
    shape = size * 3 // 4, size
    seconds: dict[int | None, list[float]] = {SIDE: [], None: []}
    for side, (height, width) in {SIDE: shape, None: PIECE}.items():
        photo = preprocessing.to_network(np.asarray(enlarged(sample(PHOTO), height, width)))
        objective, _ = engine.objective(photo, style, settings, side=side)
        assert isinstance(objective, TiledObjective) == (side is not None)
        image = tf.constant(photo)
        objective(image)  # traced and warm
        for _ in range(STEPS):
            began = time.perf_counter()
            objective(image).gradient.numpy()
            seconds[side].append((time.perf_counter() - began) / (height * width / 1e6))
    border = reach((*settings.style_layers, *settings.content_layers))
    seen = sum((tile.seen[2] - tile.seen[0]) * (tile.seen[3] - tile.seen[1]) for tile in tiles(*shape, SIDE, border))
    tiled, whole = (statistics.median(seconds[side]) for side in (SIDE, None))
    print(f"in tiles of {SIDE} px, {shape[1]} × {shape[0]}: {tiled:.2f} s per megapixel, {engine.choice(settings)}")
    print(f"in one piece, {PIECE[1]} × {PIECE[0]}: {whole:.2f} s per megapixel")
    print(f"ratio {tiled / whole:.2f} (bound {BOUND}; by the borders {1.5 * seen / (shape[0] * shape[1]):.2f})")
    return tiled / whole <= BOUND


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--memory", type=float, default=4.2)
    parser.add_argument("--limit", type=float, default=4.0)
    parser.add_argument("--iterations", type=int, default=45)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--steps-alone", action="store_true")
    parser.add_argument("--picture-alone", action="store_true")
    asked = parser.parse_args()
    print(f"{date.today()}, {hardware.processor()}, {os.cpu_count()} cores", flush=True)
    good = asked.steps_alone or picture(asked.size, asked.memory, asked.limit, asked.iterations, asked.keep)
    good = (asked.picture_alone or steps(asked.size)) and good
    sys.exit(not good)


if __name__ == "__main__":
    main()
