"""The sample gallery: three photos to paint and eight pictures to paint them after, all free to use and offline."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, sandbox
from core.names import as_name
from core.samples import synthetic

EDITION = 1  # part of the file names of the painted samples: count up when a painting changes
OWN = "painted by this project"


@dataclass(frozen=True)
class Sample:
    """A picture of the gallery; `name` is what one types, `title` what one reads."""

    name: str
    title: str
    credit: str
    paint: Callable[[], Image.Image] | None = None  # paints it; a photo is installed with scikit-image

    def path(self) -> Path:
        """Return the picture's file; paint a style that is missing or damaged. Raises StudioError or OSError."""
        return _painting(self.name, self.paint) if self.paint else _photo(self.name)


PHOTOS = (
    Sample("astronaut", "Astronaut", "Eileen Collins, photo by NASA, public domain"),
    Sample("chelsea", "Chelsea", "photo by Stefan van der Walt, CC0"),
    Sample("coffee", "Cup of coffee", "photo by Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0"),
)
STYLES = (
    Sample("night", "Swirling night", OWN, synthetic.swirling_night),
    Sample("waves", "Indigo waves", OWN, synthetic.indigo_waves),
    Sample("glass", "Stained glass", OWN, synthetic.stained_glass),
    Sample("mosaic", "Roman mosaic", OWN, synthetic.mosaic_garden),
    Sample("mountains", "Misty mountains", OWN, synthetic.misty_mountains),
    Sample("summer", "Dotted summer", OWN, synthetic.dotted_summer),
    Sample("woodcut", "Woodcut valley", OWN, synthetic.woodcut_valley),
    Sample("circles", "Circles of colour", OWN, synthetic.circles_of_colour),
)


def find(name: str) -> Sample:
    """The sample of that name. Raises InputError, which lists the names, when there is none."""
    for sample in PHOTOS + STYLES:
        if sample.name == name:
            return sample
    photos, styles = (", ".join(sample.name for sample in group) for group in (PHOTOS, STYLES))
    raise InputError(f"There is no sample named “{name}”: the photos are {photos}, and the styles are {styles}.")


@dataclass(frozen=True)
class PictureSource:
    """A named picture to read, from a file or a sample; `name` is what a run calls it."""

    path: Path
    name: str
    is_sample: bool = False

    @staticmethod
    def from_file(path: Path) -> "PictureSource":
        return PictureSource(path, as_name(path.stem))

    @staticmethod
    def from_text(text: str, folder: Path = Path()) -> "PictureSource":
        """Find what a person named: a file, by a path that may start at `folder`, or by a plain word a sample.

        Raises InputError for a word that is neither; a missing file is reported when it is read.
        """
        path = folder / text
        is_word = Path(text).name == text and not Path(text).suffix
        if is_word and not paths.is_file(path) and not os.path.islink(path):  # noqa: PTH114 — Path's raises over too long a name
            return PictureSource(find(text).path(), text, is_sample=True)
        return PictureSource.from_file(path)

    def read(self, decoder: sandbox.Decoder | None = None) -> Image.Image:
        """Return the picture, decoded in another process if it is no sample. Raises as `sandbox.read` does."""
        if self.is_sample:
            return codec.read_image(self.path, self.name)
        return decoder.read(self.path) if decoder else sandbox.read(self.path)


def thumbnail(sample: Sample, side: int = 240) -> np.ndarray:
    """The middle square of the sample, uint8 (side, side, 3), sRGB. Raises as `Sample.path` does."""
    with Image.open(sample.path()) as image:
        width, height = image.size
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        square = (left, top, left + edge, top + edge)
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=square))


def _photo(name: str) -> Path:
    # The folder is found without importing scikit-image, which would take a page a second to open.
    found = importlib.util.find_spec("skimage")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / "data" / f"{name}.png"
        if file.is_file():
            return file
    raise StudioError(f"The sample photo “{name}” is missing: install scikit-image, which brings it, once more.")


def _painting(name: str, paint: Callable[[], Image.Image]) -> Path:
    file = paths.cache() / "samples" / f"{name}-{EDITION}.png"
    if not _whole(file):
        picture = paint()
        with paths.replacing(file) as sink:
            picture.save(sink, format="PNG")
    return file


def _whole(file: Path) -> bool:
    """Whether the file is an undamaged PNG of a painting's size, told by its checksums without decoding it."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.verify()
            return image.size == (synthetic.WIDTH, synthetic.HEIGHT)
    except (OSError, SyntaxError):  # what Pillow raises on files that are missing, foreign, cut short or altered
        return False
