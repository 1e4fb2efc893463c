"""Contact sheets: a photo and a painting with each control, and `fine` beside `reference`."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from bench import reference
from bench.comparisons import own_home
from bench.measurements import Report
from bench.quality import SAMPLE_PAIRS
from core import presets
from core.images import codec, geometry, preprocessing
from core.jobs import control, execution
from core.runs import evaluation, store
from core.runs.spec import RunSpec, Style
from core.samples.gallery import find
from core.transfer.engine import Engine

WIDTH, COLUMNS, MARGIN, LETTERS = 240, 4, 10, 14  # px, except the columns; pictures are 3 : 2
LARGE, FEW = 480, 2  # width and columns of a sheet with large pictures
LARGEST = 300_000  # bytes of a sheet
SIZE, ITERATIONS = 320, 120
PHOTO, PAINTING, ANOTHER = "coffee", "waves", "mosaic"
PUBLISHED = ("published photo", "published painting")


@dataclass(frozen=True)
class Cell:
    """A picture on a sheet: its caption, and how it is painted."""

    caption: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    styles: tuple[str, ...] = (PAINTING,)
    masks: tuple[Callable[[int, int], np.ndarray] | None, ...] = ()
    kept: Callable[[int, int], np.ndarray] | None = None


def left(height: int, width: int) -> np.ndarray:
    """Return a mask that is white on the left and black on the right, with a soft edge of a seventh of the width."""
    return np.tile(np.clip(0.5 - 7 * (np.arange(width) / width - 0.5), 0, 1), (height, 1))


def disc(height: int, width: int) -> np.ndarray:
    """Return the mask of a soft disc in the middle."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2) / min(height, width)
    return np.clip((0.36 - distance) / 0.08 + 0.5, 0, 1)


CELLS = (
    Cell("defaults"),
    Cell("two paintings, 1 : 1", styles=(PAINTING, ANOTHER)),
    Cell("two paintings, 4 : 1", {"style_blend": (4, 1)}, (PAINTING, ANOTHER)),
    Cell("two paintings with a mask", {}, (PAINTING, ANOTHER), (left, None)),
    Cell("the middle unchanged", kept=disc),
    Cell("colours: luminance", {"colours": "luminance"}),
    Cell("colours: matched", {"colours": "matched"}),
    Cell("style scale 0.5", {"style_scale": 0.5}),
    Cell("style scale 2", {"style_scale": 2}),
    Cell("coarse to fine, 2 stages", {"stages": 2}),
    Cell("early layers alone", {"style_layers": "relu1_1,relu2_1"}),
    Cell("early layers 10,000 times", {"style_layer_weights": (1e4, 1e4, 1, 1, 1)}),
    Cell("the layers before their ReLU", {"style_layers": ",".join(f"conv{n}_1" for n in range(1, 6))}),
    Cell("content in relu4_2, five times", {"content_layers": "relu4_2", "content_weight": 5e3}),
    Cell("average pooling", {"pooling": "average"}),
    Cell("replicated edges", {"padding": "replicate"}),
    Cell("style loss: Wasserstein-2", {"style_loss": "wasserstein"}),
    Cell("smoothness 30,000", {"total_variation_weight": 3e4}),
    Cell("style alone, from noise", {"content_weight": 0, "init": "noise"}),
    Cell("content alone, from noise", {"style_weight": 0, "init": "noise"}),
    Cell("from the painting", {"init": "style"}),
    Cell("Adam", {"optimizer": "adam"}),
    Cell("Adam, averaged", {"optimizer": "adam", "averaging": 0.95}),
    Cell("in tiles of 256 px", {"memory": 1.58, "size": 512, "optimizer": "adam"}),
)


@dataclass(frozen=True)
class Painted:
    """A painted picture, its time and its style loss."""

    picture: np.ndarray  # uint8 `(H, W, 3)`
    seconds: float  # of the iterations
    style: float  # its style loss by the preset reference, in float32


@dataclass(frozen=True)
class CellPainter:
    """Paints cells as `nst stylize` does, with a single engine."""

    engine: Engine
    pictures: Mapping[str, Path] = field(default_factory=dict)  # in addition to the samples

    def path(self, name: str) -> Path:
        """Return the file of a picture: one of `pictures`, otherwise a sample."""
        return self.pictures.get(name) or find(name).path()

    def paint(
        self, cell: Cell, photo_name: str = PHOTO, preset: str = "fast", seconds: float = math.inf, **more: Any
    ) -> Painted:
        """Paint a photo with a preset and the changes of a cell, and stop at the first step after `seconds`."""
        photo, *pictures = (codec.read_image(self.path(name)) for name in (photo_name, *cell.styles))
        chosen = presets.choose(preset, **{"frame_every": 10_000, **more, **cell.changes})
        shape = geometry.resized_shape(photo.width, photo.height, chosen.size)
        masks = [mask and _white(mask(*shape)) for mask in cell.masks] or [None] * len(pictures)
        styles = [Style(*style) for style in zip(cell.styles, pictures, masks, strict=True)]
        spec = RunSpec(styles, chosen, preset, cell.kept and _white(cell.kept(*shape)))
        run = store.create(spec, photo, photo_name)
        for step in execution.perform(run, lambda report, timings: self.engine):
            if step.seconds >= seconds:
                control.stop(run)
        evaluated = evaluation.evaluate(self.engine, run, run.record(), presets.choose("reference"))
        return Painted(preprocessing.to_uint8(np.load(run.path / "result.npy")), step.seconds, evaluated.style)


def _white(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(preprocessing.to_uint8(255 * mask))


def sheet(pictures: Sequence[tuple[np.ndarray, str]], columns: int = COLUMNS, width: int = WIDTH) -> Image.Image:
    """Return the pictures with captions in rows of `columns`, each `width` px wide."""
    rows, height = -(-len(pictures) // columns), width * 2 // 3
    tall = height + 2 * LETTERS
    whole = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (tall + MARGIN) + MARGIN), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(LETTERS)
    for number, (picture, caption) in enumerate(pictures):
        left_edge = MARGIN + number % columns * (width + MARGIN)
        top = MARGIN + number // columns * (tall + MARGIN)
        small = ImageOps.contain(Image.fromarray(picture), (width, height), Image.Resampling.LANCZOS)
        whole.paste(small, (left_edge + (width - small.width) // 2, top + (height - small.height) // 2))
        draw.text((left_edge + width / 2, top + height + 4), caption, fill="#14100c", font=font, anchor="ma")
    return whole


def save(whole: Image.Image, path: Path) -> None:
    """Save the sheet as a JPEG of at most `LARGEST` bytes."""
    for quality in range(90, 20, -5):
        whole.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST:
            break


def controls(painter: CellPainter, report: Report) -> Image.Image:
    """Return the contact sheet of all controls."""
    photo, painting = (np.asarray(codec.shrunk(painter.path(name), WIDTH)) for name in (PHOTO, PAINTING))
    pictures = [(photo, "the photo"), (painting, "the painting")]
    for number, cell in enumerate(CELLS, 1):
        report(f"{number} of {len(CELLS)}: {cell.caption} …")
        pictures.append((painter.paint(cell, size=SIZE, iterations=ITERATIONS).picture, cell.caption))
    return sheet(pictures)


def fine(painter: CellPainter, report: Report, pairs: Sequence[tuple[str, str]] = SAMPLE_PAIRS) -> Image.Image:
    """Return a sheet of `fine` beside `reference` at the same wall time, with their style losses in float32."""
    pictures = []
    for photo, painting in pairs:
        report(f"{photo} × {painting}: fine …")
        best = painter.paint(Cell("", styles=(painting,)), photo, "fine")
        report(f"{photo} × {painting}: reference, for {best.seconds:.0f} s …")
        published = painter.paint(Cell("", styles=(painting,)), photo, "reference", best.seconds)
        for name, painted in (("fine", best), ("reference", published)):
            caption = f"{name}: {painted.seconds:.0f} s, style loss {painted.style:.3g}"
            report(f"{photo} × {painting}: {caption}")
            pictures.append((painted.picture, caption))
    return sheet(pictures, FEW, LARGE)


def paint(engine: Engine, folder: Path, sheets: Sequence[str], report: Report) -> None:
    """Write the named sheets into the folder, such as `controls.jpg`, without keeping the runs.

    Raises:
        StudioError: If the sheet "published" is wanted and its pair cannot be downloaded.
    """
    pictures = dict(zip(PUBLISHED, reference.fetch_pair(), strict=True)) if "published" in sheets else {}
    folder.mkdir(parents=True, exist_ok=True)
    with own_home(engine):
        for name in sheets:
            save(SHEETS[name](CellPainter(engine, pictures), report), folder / f"{name}.jpg")


SHEETS: Mapping[str, Callable[[CellPainter, Report], Image.Image]] = {
    "controls": controls,
    "fine": fine,
    "published": functools.partial(fine, pairs=[PUBLISHED]),  # we may not publish these pictures
}
