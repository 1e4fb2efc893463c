"""Stylize many photos with the same settings: the pictures in a folder, or the frames of a film.

Each result's metadata holds a digest of its inputs and settings, so that an interrupted batch can continue.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, sandbox
from core.runs.record import SOFTWARE
from core.runs.run import Run
from core.runs.spec import RunSpec, made_of
from core.runs.store import create
from core.settings import TransferSettings

MADE_OF = "Made of"  # the metadata entry of a result with its `FolderItem.made_of`
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
RESULT_BYTES = 4 * codec.MAX_PIXELS  # a result may be larger than an input file


@dataclass(frozen=True)
class FolderItem:
    """A photo in a folder, and the file of its result."""

    photo: Path
    output: Path
    settings: TransferSettings
    made_of: str  # the digest of everything that the result depends on
    before: Path | None  # in a film: the result of the frame before, where this frame starts
    is_painted: bool  # whether the result already existed


@dataclass(frozen=True)
class FolderBatch:
    """Photos, and the folder for their results."""

    photos: Sequence[Path]
    target: Path
    spec: RunSpec
    later: TransferSettings | None = None  # in a film: the settings after the first frame; otherwise `None`

    @staticmethod
    def of(folder: Path, target: Path, spec: RunSpec, later: TransferSettings | None = None) -> "FolderBatch":
        """Return the batch of a folder.

        Raises:
            InputError: If the folder has no picture, or `target` cannot hold the results.
        """
        photos = pictures_in(folder)
        _check_target(folder, target)
        batch = FolderBatch(photos, target, spec, later)
        outputs: dict[Path, Path] = {}
        for photo in photos:
            output = batch.output(photo)
            if output in outputs:
                both = f"{outputs[output].name} and {photo.name}"
                raise InputError(f"{both} would both become {output.name}: rename one.")
            outputs[output] = photo
        paths.check_writable(next(iter(outputs)) if target.is_dir() else target)
        return batch

    def output(self, photo: Path) -> Path:
        """Return the path of a photo's result. A film's frames are PNGs, because the next frame starts from them."""
        keeps_suffix = self.later is None and photo.suffix.lower() in codec.WRITE_FORMATS
        return self.target / (photo.name if keeps_suffix else f"{photo.stem}.png")

    def items(self, report: Callable[[str], None] = lambda line: None) -> list[FolderItem]:
        """Return an item for each photo, in order.

        Raises:
            InputError: If a result would overwrite a file that this program has not made; or if a film's frame cannot
                be read or differs in size from the first. Other photos are checked only when their run starts.
        """
        if self.later:
            report(f"Looking at {len(self.photos)} frames …")
            _check_frames(self.photos)
        spec, items = self.spec.digest(), list[FolderItem]()
        for photo in self.photos:
            before = items[-1] if self.later and items else None
            settings = self.later if self.later and before else self.spec.settings
            output = self.output(photo)
            digest = made_of(spec, settings, _bytes(photo), before.made_of if before else "")
            is_painted = output.exists() and _made_of(output) == digest
            items.append(FolderItem(photo, output, settings, digest, before.output if before else None, is_painted))
        return items

    def begin(self, item: FolderItem) -> Run:
        """Create the queued run of a photo.

        Raises:
            InputError: If the photo cannot be read or used with these settings.
        """
        photo = sandbox.read(item.photo)
        spec = self.spec
        if item.before:
            result = codec.read_image(item.before, max_bytes=RESULT_BYTES)
            spec = replace(spec, settings=item.settings, start=result, start_name=item.before.stem)
        return create(spec, photo, item.photo.stem)

    def keep(self, item: FolderItem, run: Run) -> None:
        """Write the result of a finished run to the target folder.

        Raises:
            StudioError: If it cannot be written.
        """
        try:
            self.target.mkdir(exist_ok=True)
        except OSError as error:
            raise StudioError(f"The folder {self.target} cannot be created: {error.strerror or error}.") from error
        run.write_result(item.output, {MADE_OF: item.made_of})
        self.forget(item, run)

    def forget(self, item: FolderItem, run: Run) -> None:
        """Remove the run of a film's later frame: hundreds of similar runs would fill the library."""
        if item.before:
            shutil.rmtree(run.path, ignore_errors=True)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted so that frame2 comes before frame10.

    Raises:
        InputError: If the folder has no picture or cannot be read.
    """
    try:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}.") from error
    found = sorted((path for path in files if path.suffix.lower() in SUFFIXES), key=_natural)
    if not found:
        raise InputError(f"There is no picture in {folder}: no file name ends in {', '.join(SUFFIXES)}.")
    return found


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key that compares the numbers in a name as numbers."""
    words = re.split("([0-9]+)", path.name.casefold())  # every second part is a number
    return [int(word) if number % 2 else word for number, word in enumerate(words)], path.name


def _check_target(folder: Path, target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: give a folder for the results of a folder of pictures.")
    if not target.exists() and target.suffix.lower() in SUFFIXES:
        raise InputError(f"{target} is the name of a picture: give a folder for the results of a folder of pictures.")
    if target.exists() and target.samefile(folder):
        raise InputError(f"{target} is the folder of the photos: give another folder for the results.")


def _check_frames(photos: Sequence[Path]) -> None:
    with sandbox.Decoder() as decoder:
        first = decoder.read(photos[0]).size
        for photo in photos[1:]:
            if (size := decoder.read(photo).size) != first:
                raise InputError(
                    f"{photo.name} has {size[0]} × {size[1]} pixels, but the first frame, {photos[0].name}, has "
                    f"{first[0]} × {first[1]}: all frames of a film must have the same size."
                )


def _bytes(photo: Path) -> bytes:
    try:
        return codec.bytes_of(photo, photo.name, codec.MAX_BYTES)
    except InputError:  # reported when the photo's run starts
        return b""


def _made_of(output: Path) -> str | None:
    """Return the digest in a result's metadata; `None` for the result of a single run.

    Raises:
        InputError: If this program has not made the file.
    """
    try:
        entries = codec.read_metadata(output, RESULT_BYTES)
    except InputError:
        entries = {}
    if entries.get("Software") != SOFTWARE:
        raise InputError(f"{output} exists, but this program has not made it: give another folder.")
    return entries.get(MADE_OF)
