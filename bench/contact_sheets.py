"""Contact sheets: the same photo and painting with one control after another, and `fine` beside `reference`."""

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

WIDTH, COLUMNS, MARGIN, LETTERS = 240, 4, 10, 14  # px of the sheet, all but the columns; pictures are of 3 : 2
LARGE, FEW = 480, 2  # width and columns where pictures are looked at closely
LARGEST = 300_000  # bytes of a sheet
SIZE, ITERATIONS = 320, 120
PHOTO, PAINTING, ANOTHER = "coffee", "waves", "mosaic"
PUBLISHED = ("published photo", "published painting")


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet: what is told under it, and how it is painted."""

    caption: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    styles: tuple[str, ...] = (PAINTING,)
    masks: tuple[Callable[[int, int], np.ndarray] | None, ...] = ()
    kept: Callable[[int, int], np.ndarray] | None = None


def left(height: int, width: int) -> np.ndarray:
    """White on the left and black on the right, over a seventh of the picture soft."""
    return np.tile(np.clip(0.5 - 7 * (np.arange(width) / width - 0.5), 0, 1), (height, 1))


def disc(height: int, width: int) -> np.ndarray:
    """A soft disc in the middle."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2) / min(height, width)
    return np.clip((0.36 - distance) / 0.08 + 0.5, 0, 1)


CELLS = (
    Cell("as it is by itself"),
    Cell("two paintings, alike", styles=(PAINTING, ANOTHER)),
    Cell("two paintings, 4 : 1", {"style_blend": (4, 1)}, (PAINTING, ANOTHER)),
    Cell("each where its mask is", {}, (PAINTING, ANOTHER), (left, None)),
    Cell("the middle left as it is", kept=disc),
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
    picture: np.ndarray  # uint8 `(H, W, 3)`
    seconds: float  # of the iterations
    style: float  # its style loss by the preset reference, in float32


@dataclass(frozen=True)
class CellPainter:
    """Paints with one engine, as `nst stylize` does."""

    engine: Engine
    pictures: Mapping[str, Path] = field(default_factory=dict)  # beside the samples

    def path(self, name: str) -> Path:
        return self.pictures.get(name) or find(name).path()

    def paint(
        self, cell: Cell, photo_name: str = PHOTO, preset: str = "fast", seconds: float = math.inf, **more: Any
    ) -> Painted:
        """What the preset and the cell make of a photo within so many seconds."""
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
    """The pictures in rows, so many px wide, each with its caption."""
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
    """As a JPEG of at most `LARGEST` bytes."""
    for quality in range(90, 20, -5):
        whole.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST:
            break


def controls(painter: CellPainter, told: Report) -> Image.Image:
    """The contact sheet of all controls."""
    photo, painting = (np.asarray(codec.shrunk(painter.path(name), WIDTH)) for name in (PHOTO, PAINTING))
    pictures = [(photo, "the photo"), (painting, "the painting")]
    for number, cell in enumerate(CELLS, 1):
        told(f"{number} of {len(CELLS)}: {cell.caption} …")
        pictures.append((painter.paint(cell, size=SIZE, iterations=ITERATIONS).picture, cell.caption))
    return sheet(pictures)


def fine(painter: CellPainter, told: Report, pairs: Sequence[tuple[str, str]] = SAMPLE_PAIRS) -> Image.Image:
    """`fine` beside `reference` at the same wall time, with the style losses of both in float32."""
    pictures = []
    for photo, painting in pairs:
        told(f"{photo} × {painting}: fine …")
        best = painter.paint(Cell("", styles=(painting,)), photo, "fine")
        told(f"{photo} × {painting}: reference, for {best.seconds:.0f} s …")
        published = painter.paint(Cell("", styles=(painting,)), photo, "reference", best.seconds)
        for name, painted in (("fine", best), ("reference", published)):
            caption = f"{name}: {painted.seconds:.0f} s, style loss {painted.style:.3g}"
            told(f"{photo} × {painting}: {caption}")
            pictures.append((painted.picture, caption))
    return sheet(pictures, FEW, LARGE)


def paint(engine: Engine, folder: Path, sheets: Sequence[str], told: Report) -> None:
    """Write the named sheets into the folder, `controls.jpg` for one; the runs are nobody's.

    Raises `StudioError` where the published pair is wanted and cannot be had.
    """
    pictures = dict(zip(PUBLISHED, reference.fetch_pair(), strict=True)) if "published" in sheets else {}
    folder.mkdir(parents=True, exist_ok=True)
    with own_home(engine):
        for name in sheets:
            save(SHEETS[name](CellPainter(engine, pictures), told), folder / f"{name}.jpg")


SHEETS: Mapping[str, Callable[[CellPainter, Report], Image.Image]] = {
    "controls": controls,
    "fine": fine,
    "published": functools.partial(fine, pairs=[PUBLISHED]),  # whose pictures are not ours to publish
}
