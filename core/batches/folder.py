"""Paint many photos in the same way: the pictures of a folder, or the frames of a film.

Each result's metadata holds a digest of what it was made of, so that an interrupted batch goes on where it was.
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

MADE_OF = "Made of"  # the entry of a result that holds its `FolderItem.made_of`
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
RESULT_BYTES = 4 * codec.MAX_PIXELS  # a result may be larger than a file that is given


@dataclass(frozen=True)
class FolderItem:
    """A photo of a folder, and where its result goes."""

    photo: Path
    output: Path
    settings: TransferSettings
    made_of: str  # the digest of all that the result depends on
    before: Path | None  # of a film's frame: the last one's result, which it starts from
    is_painted: bool  # whether the result was there already


@dataclass(frozen=True)
class FolderBatch:
    """Photos, and the folder that their results go to."""

    photos: Sequence[Path]
    target: Path
    spec: RunSpec
    later: TransferSettings | None = None  # of a film: of the frames after the first; `None` where it is no film

    @staticmethod
    def of(folder: Path, target: Path, spec: RunSpec, later: TransferSettings | None = None) -> "FolderBatch":
        """Return the batch of a folder. Raises `InputError` if it has no picture, or `target` cannot take results."""
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
        """A result is named like its photo; the frames of a film are PNGs, since the next starts from what is kept."""
        keeps_suffix = self.later is None and photo.suffix.lower() in codec.WRITE_FORMATS
        return self.target / (photo.name if keeps_suffix else f"{photo.stem}.png")

    def items(self, report: Callable[[str], None] = lambda line: None) -> list[FolderItem]:
        """In their order. Raises `InputError` where a result would take the place of a file that this program has not
        painted; and for a film's frame that cannot be read or has not the first one's size. Of other photos that is
        found out when they are painted."""
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
        """Create the run of a photo, queued. Raises `InputError` for a photo that cannot be read or painted."""
        photo = sandbox.read(item.photo)
        spec = self.spec
        if item.before:
            result = codec.read_image(item.before, max_bytes=RESULT_BYTES)
            spec = replace(spec, settings=item.settings, start=result, start_name=item.before.stem)
        return create(spec, photo, item.photo.stem)

    def keep(self, item: FolderItem, run: Run) -> None:
        """Write the result of a run that is done. Raises `StudioError` if that is impossible."""
        try:
            self.target.mkdir(exist_ok=True)
        except OSError as error:
            raise StudioError(f"{self.target} cannot be made: {error.strerror or error}.") from error
        run.write_result(item.output, {MADE_OF: item.made_of})
        self.forget(item, run)

    def forget(self, item: FolderItem, run: Run) -> None:
        """Remove the run of a film's later frame: hundreds of similar runs would bury the others in the library."""
        if item.before:
            shutil.rmtree(run.path, ignore_errors=True)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, frame2 before frame10. Raises `InputError` if there is none."""
    try:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}.") from error
    found = sorted((path for path in files if path.suffix.lower() in SUFFIXES), key=_natural)
    if not found:
        raise InputError(f"There is no picture in {folder}: none ends in {', '.join(SUFFIXES)}.")
    return found


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Numbers in a name count as numbers."""
    words = re.split("([0-9]+)", path.name.casefold())  # every second one is a number
    return [int(word) if number % 2 else word for number, word in enumerate(words)], path.name


def _check_target(folder: Path, target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: of a folder of pictures, the results go to a folder.")
    if not target.exists() and target.suffix.lower() in SUFFIXES:
        raise InputError(f"{target} would be a picture: of a folder of pictures, the results go to a folder.")
    if target.exists() and target.samefile(folder):
        raise InputError(f"{target} holds the photos themselves: give another folder for the results.")


def _check_frames(photos: Sequence[Path]) -> None:
    with sandbox.Decoder() as decoder:
        first = decoder.read(photos[0]).size
        for photo in photos[1:]:
            if (size := decoder.read(photo).size) != first:
                raise InputError(
                    f"{photo.name} has {size[0]} × {size[1]} pixels, and the first frame, {photos[0].name}, has "
                    f"{first[0]} × {first[1]}: the frames of a film are of one size."
                )


def _bytes(photo: Path) -> bytes:
    try:
        return codec.bytes_of(photo, photo.name, codec.MAX_BYTES)
    except InputError:  # told when it is to be painted
        return b""


def _made_of(output: Path) -> str | None:
    """What a result says of what it was made of; nothing where it is of a single run. Raises `InputError` for another
    program's file."""
    try:
        entries = codec.read_metadata(output, RESULT_BYTES)
    except InputError:
        entries = {}
    if entries.get("Software") != SOFTWARE:
        raise InputError(f"{output} is in the way, and this program has not painted it: give another folder.")
    return entries.get(MADE_OF)
