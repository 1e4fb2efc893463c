"""Plan the jobs of a batch: all combinations of photos, paintings, presets and settings.

All pictures and settings are checked before the first run is created. Each run records its job's digest, so that a
batch requested again continues with its earlier runs.
"""

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.batches.folder import pictures_in
from core.errors import InputError
from core.images import codec, geometry, sandbox
from core.machine import memory
from core.names import SEPARATOR
from core.presets import DEFAULT_PRESET, choose
from core.runs.record import RunRecord
from core.runs.spec import made_of, pictures_digest
from core.samples.gallery import PictureSource
from core.settings import MOST_STYLES, SETTINGS, TransferSettings
from core.transfer import inputs

MOST_RUNS = 500
SEVERAL = ";"  # separates the styles of a run, and the values of a setting whose values are lists

Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A requested run."""

    content: PictureSource
    styles: tuple[PictureSource, ...]
    preset: str
    settings: TransferSettings
    digest: str  # of everything that the run depends on, and its name

    @property
    def title(self) -> str:
        """Return the photo and the paintings as text, such as "chelsea × waves"."""
        return f"{self.content.name} × {SEPARATOR.join(style.name for style in self.styles)}"

    def is_what(self, record: RunRecord) -> bool:
        """Tell whether a run still matches the job: it may have been steered or extended."""
        same = record.settings.shaping_result() == self.settings.shaping_result()
        return record.job == self.digest and same and not record.steering


def from_product(
    contents: Sequence[str],
    styles: Sequence[str],
    presets: Sequence[str] = (DEFAULT_PRESET,),
    sweeps: Mapping[str, Sequence[Any]] = {},
    common: Mapping[str, Any] = {},
    report: Report = lambda line: None,
) -> list[Job]:
    """Return a job for each combination of photo, painting, preset and swept values.

    Args:
        contents: Folders, files and samples: the photos.
        styles: Folders, files and samples: the paintings.
        presets: Names of presets.
        sweeps: The values of each swept setting.
        common: Settings of all jobs.
        report: Receives a line about the progress.

    Raises:
        InputError: If a picture or a setting is invalid, or a job is given twice.
    """
    photos, paintings = _pictures(contents), _pictures(styles)
    sizes = [len(photos), len(paintings), len(presets), *(len(values) for values in sweeps.values())]
    check_count(math.prod(sizes))
    named = (("photo", [each.path for each in photos]), ("painting", [each.path for each in paintings]))
    for what, values in (*named, ("preset", presets)):
        if twice := [value for number, value in enumerate(values) if value in values[:number]]:
            raise InputError(f"The {what} {twice[0]} is given twice.")
    if both := [name for name in sweeps if name in common]:
        raise InputError(f"{both[0]} has both values to sweep and a single value: leave out one of them.")
    chosen = [(preset, choose(preset, **common, **changes)) for preset in presets for changes in combinations(sweeps)]
    report(f"Looking at {count(len(photos), 'photo')} and {count(len(paintings), 'painting')} …")
    with Checker() as checker:
        found = [
            checker.job(photo, (painting,), preset, wanted)
            for photo in photos
            for painting in paintings
            for preset, wanted in chosen
        ]
    seen = set[str]()
    for job in found:
        if job.digest in seen:
            raise InputError(f"{job.title} ({job.preset}) is given twice: two pictures or values are the same.")
        seen.add(job.digest)
    return found


def check_count(count: int) -> None:
    """Check the number of runs in a batch.

    Raises:
        InputError: If a batch may not have so many runs.
    """
    if count > MOST_RUNS:
        raise InputError(f"These are {count:,} runs, but a batch has at most {MOST_RUNS:,}: split it.")


def sweeps(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each setting to sweep, from texts like "style_weight=1e4,1e5".

    Raises:
        InputError: If a text is invalid (see `swept`), or a setting is given twice.
    """
    found: dict[str, list[Any]] = {}
    for name, values in map(swept, texts):
        if name in found:
            raise InputError(f"{name} is given twice: give all its values in one sweep.")
        found[name] = values
    return found


def swept(text: str) -> tuple[str, list[Any]]:
    """Return the setting and the values in a text like "style_weight=1e4,1e5".

    If the values are lists, semicolons separate them.

    Raises:
        InputError: If the text has another form, the setting is unknown or does not change the picture, or a value is
            not allowed or given twice.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    if not (equals and name):
        raise InputError(f"{text!r} is not a sweep: give one such as style_weight=1e4,1e5.")
    if name not in SETTINGS:
        raise InputError(f"There is no setting {name!r} to sweep{guess(name, SETTINGS)}.")
    if not SETTINGS[name].shapes_result:
        raise InputError(f"{name} does not change the picture: sweep another setting.")
    return name, values_of(name, rest.split(SEVERAL if SETTINGS[name].type is tuple else ","))


def values_of(name: str, texts: Sequence[str]) -> list[Any]:
    """Convert texts to values of the setting's type.

    Raises:
        InputError: If a value is empty, not allowed or given twice.
    """
    values: list[Any] = []
    for text in map(str.strip, texts):
        if not text:
            raise InputError(f"One of the values of {name} to sweep is empty.")
        value = as_its_type(name, text)
        if value in values:
            raise InputError(f"{name} = {text[:80]} is given twice.")
        values.append(value)
    return values


def combinations(sweeps: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values; the value of the last setting changes fastest."""
    for values in itertools.product(*sweeps.values()):
        yield dict(zip(sweeps, values, strict=True))


def as_its_type(name: str, value: Any) -> Any:
    """Convert a setting's value to its type, and check it as far as possible without the other settings."""
    if SETTINGS[name].each_of:  # the number of values depends on the layers or paintings
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
    largest = SETTINGS["size"].maximum  # the largest size allows any number of stages
    return getattr(choose(**{"size": largest, name: value}), name)


def _pictures(named: Sequence[str]) -> list[PictureSource]:
    found = list[PictureSource]()
    for text in named:
        if Path(text).is_dir():
            found += map(PictureSource.from_file, pictures_in(Path(text)))
        else:
            found.append(PictureSource.from_text(text))
    return found


def count(number: int, what: str) -> str:
    """Return a number with its noun, such as "1 run" or "1,200 runs"."""
    return f"{number:,} {what}{'s'[: number != 1]}"


def guess(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """Return the end of an error message about an unknown name: a similar known name, or where to look."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else "; nst stylize --help lists the settings"


class Checker:
    """Check jobs: read every picture once, and keep only what the checks need. The context's end ends the decoder."""

    def __init__(self) -> None:
        self._photos: dict[PictureSource, tuple[tuple[int, int], bytes] | InputError] = {}
        self._styles: dict[tuple[PictureSource, ...], tuple[list[tuple[int, int]], bytes] | InputError] = {}
        self._decoder = sandbox.Decoder()

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, *error: object) -> None:
        self._decoder.__exit__()

    def job(
        self, content: PictureSource, styles: tuple[PictureSource, ...], preset: str, wanted: TransferSettings
    ) -> Job:
        """Check a job's pictures and settings, and return the job.

        Raises:
            InputError: If a picture cannot be read or is too small, or the job needs more memory than allowed.
        """
        (width, height), photo = _remembered(self._photos, content, self._read_photo)
        sizes, spec = _remembered(self._styles, styles, self._read_styles)
        inputs.check_side((width, height), wanted, content.name)
        memory.check_limit(wanted, geometry.resized_shape(width, height, wanted.size))
        inputs.check_styles(sizes, wanted, [style.name for style in styles])
        named = json.dumps([content.name, preset, made_of(spec, wanted, photo)])
        return Job(content, styles, preset, wanted, hashlib.sha256(named.encode()).hexdigest())

    def _read_photo(self, photo: PictureSource) -> tuple[tuple[int, int], bytes]:
        size = self._read(photo).size
        data = codec.bytes_of(photo.path, photo.name, codec.MAX_BYTES)
        return size, hashlib.sha256(data).digest()

    def _read_styles(self, styles: tuple[PictureSource, ...]) -> tuple[list[tuple[int, int]], bytes]:
        if len(styles) > MOST_STYLES:
            raise InputError(f"There are {len(styles)} paintings, but at most {MOST_STYLES} can be blended.")
        pictures = [self._read(style) for style in styles]
        names = SEPARATOR.join(style.name for style in styles)
        # Unlike `RunSpec.digest`, this has no entry for each mask, so that digests from before masks stay valid.
        return [picture.size for picture in pictures], pictures_digest(names, (*pictures, *[None] * 4))

    def _read(self, picture: PictureSource) -> Any:
        try:
            return picture.read(self._decoder)
        except InputError:
            self._decoder.__exit__()  # it may be unusable after an error
            self._decoder = sandbox.Decoder()
            raise


def _remembered(known: dict[Any, Any], key: Any, look: Callable[[Any], Any]) -> Any:
    """Return or raise the cached outcome of `look`."""
    if key not in known:
        try:
            known[key] = look(key)
        except InputError as error:
            known[key] = error
    if isinstance(known[key], InputError):
        raise InputError(str(known[key]))
    return known[key]
