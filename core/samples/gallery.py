"""The sample gallery: three photos and eight paintings, free to use and available offline."""

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

EDITION = 1  # part of the paintings' file names; increase it when a painting changes
OWN = "painted by this project"


@dataclass(frozen=True)
class Sample:
    """A sample; `name` is for options and files, `title` for display."""

    name: str
    title: str
    credit: str
    paint: Callable[[], Image.Image] | None = None  # creates a painting; `None` for a photo, part of scikit-image

    def path(self) -> Path:
        """Return the file; create a painting that is missing or damaged.

        Raises:
            StudioError: If the photo is not installed.
            OSError: If the painting cannot be written.
        """
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
    """Return the sample with this name.

    Raises:
        InputError: If there is no such sample; the message lists the names.
    """
    for sample in PHOTOS + STYLES:
        if sample.name == name:
            return sample
    photos, styles = (", ".join(sample.name for sample in group) for group in (PHOTOS, STYLES))
    raise InputError(f"There is no sample named “{name}”: the photos are {photos}, and the styles are {styles}.")


@dataclass(frozen=True)
class PictureSource:
    """An image to read, from a file or a sample; `name` is its name in a run."""

    path: Path
    name: str
    is_sample: bool = False

    @staticmethod
    def from_file(path: Path) -> "PictureSource":
        """Return the source for a file, named after it."""
        return PictureSource(path, as_name(path.stem))

    @staticmethod
    def from_text(text: str, folder: Path = Path()) -> "PictureSource":
        """Return the file with this path, relative to `folder`, or the sample with this name.

        Raises:
            InputError: If the text is a plain word, but no file or sample has this name. Other missing files raise an
                error when they are read.
        """
        path = folder / text
        is_word = Path(text).name == text and not Path(text).suffix
        if is_word and not paths.is_file(path) and not os.path.islink(path):  # noqa: PTH114 — Path.is_symlink raises for a long name
            return PictureSource(find(text).path(), text, is_sample=True)
        return PictureSource.from_file(path)

    def read(self, decoder: sandbox.Decoder | None = None) -> Image.Image:
        """Return the image; a file that is not a sample is decoded in a separate process.

        Raises:
            InputError: If the image cannot be used.
            StudioError: If the process cannot be started.
        """
        if self.is_sample:
            return codec.read_image(self.path, self.name)
        return decoder.read(self.path) if decoder else sandbox.read(self.path)


def thumbnail(sample: Sample, side: int = 240) -> np.ndarray:
    """Return the central square of the sample, uint8 (side, side, 3), sRGB.

    Raises:
        StudioError: If the photo is not installed.
        OSError: If the painting cannot be written.
    """
    with Image.open(sample.path()) as image:
        width, height = image.size
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        square = (left, top, left + edge, top + edge)
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=square))


def _photo(name: str) -> Path:
    # Find the folder without importing scikit-image, which would delay a page by a second.
    found = importlib.util.find_spec("skimage")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / "data" / f"{name}.png"
        if file.is_file():
            return file
    raise StudioError(f"The sample photo “{name}” is missing: reinstall scikit-image, which contains it.")


def _painting(name: str, paint: Callable[[], Image.Image]) -> Path:
    file = paths.cache() / "samples" / f"{name}-{EDITION}.png"
    if not _whole(file):
        picture = paint()
        with paths.replacing(file) as sink:
            picture.save(sink, format="PNG")
    return file


def _whole(file: Path) -> bool:
    """Return whether the file is an undamaged PNG of a painting's size; check its checksums without decoding it."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.verify()
            return image.size == (synthetic.WIDTH, synthetic.HEIGHT)
    except (OSError, SyntaxError):  # Pillow raises these for missing, damaged or other files
        return False
