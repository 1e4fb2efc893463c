"""Many runs asked for at once: by the rows of a file, or as every combination of pictures, presets and settings.

All of it is read and checked before the first run is made. Each run keeps the digest of what was asked for, so that a
batch that is asked for again goes on where it was.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import functools
import hashlib
import io
import itertools
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core import images, jobs, paths, room, runs, series, settings
from core.decoding import Decoder
from core.errors import InputError, StudioError
from core.roles import JOINT
from core.runs import Run, RunRecord
from core.samples import Given, given
from core.series import Manner
from core.settings import DEFAULT_PRESET, KNOBS, PRESETS, TransferSettings
from core.timings import duration

if TYPE_CHECKING:
    from yaml import Node

MOST_RUNS = 500
MOST_BYTES = 2**20  # of a file of runs
MOST_LINES_TOLD = 10
SUFFIXES = (".csv", ".yaml", ".yml")
COLUMNS = ("content", "style", "preset", *KNOBS)
OTHER_NAMES = {"contents": "content", "styles": "style", "photo": "content", "painting": "style"}
SEVERAL = ";"  # between the styles of a run, and between the values of a setting that is a list itself
TOLD_EVERY = 20  # runs that are made ready
LOOK_SECONDS = 0.3
WORKER_SECONDS = 10.0  # how often it is seen to that someone paints: a worker that starts is not seen at once
ESTIMATE_SECONDS = 2.0  # how often the time left is told anew, at most: that reads the record of every run that waits
ESTIMATE_SHARE = 0.05  # of the time

Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A run that is asked for."""

    content: Given
    styles: tuple[Given, ...]
    preset: str
    settings: TransferSettings
    digest: str  # of all that the run depends on, and of what it is called

    @property
    def style_name(self) -> str:
        return JOINT.join(style.name for style in self.styles)

    @property
    def title(self) -> str:
        return f"{self.content.name} × {self.style_name}"

    def is_what(self, record: RunRecord) -> bool:
        """Whether a run still paints what was asked for: it may have been steered, or gone on with for longer."""
        same = record.settings.shaping_result() == self.settings.shaping_result()
        return record.job == self.digest and same and not record.steering


# --- what is asked for ----------------------------------------------------------------------------------------------


def of_file(
    file: Path, preset: str = DEFAULT_PRESET, common: Mapping[str, Any] = {}, report: Report = lambda line: None
) -> list[Job]:
    """The runs of a CSV or YAML file, in their order. Rows that name no preset have that one, and the `common` settings
    hold where a row says nothing else.

    Raises `InputError`, which names the line and the column, for what cannot be read or painted.
    """
    settings.choose(preset)
    for name, value in common.items():
        _as_its_type(name, value)  # how they go together depends on the row
    rows = _rows(file)
    report(f"Looking at the pictures of {_count(len(rows), 'run')} …")
    found: dict[str, tuple[Job, str]] = {}
    wrong: dict[str, str] = {}  # what is wrong, by the place of its row
    with _Checker() as checker:
        for row in rows:
            try:
                job = row.job(checker, file.parent, preset, common)
                if job.digest in found:
                    raise InputError(f"{row.where}: it asks for the same run as {found[job.digest][1]}.")
                found[job.digest] = (job, row.line)
            except InputError as error:
                wrong.setdefault(row.line, str(error))
    if wrong:
        first, *others = wrong.items()
        lines = [line.removeprefix("line ") for line, _ in others]
        more = f", and {len(lines) - MOST_LINES_TOLD} more" if len(lines) > MOST_LINES_TOLD else ""
        also = f" Also wrong: line{'s'[: len(lines) > 1]} {', '.join(lines[:MOST_LINES_TOLD])}{more}." if lines else ""
        raise InputError(first[1] + also)
    return [job for job, _ in found.values()]


def of_product(
    contents: Sequence[str],
    styles: Sequence[str],
    presets: Sequence[str] = (DEFAULT_PRESET,),
    sweeps: Mapping[str, Sequence[Any]] = {},
    common: Mapping[str, Any] = {},
    report: Report = lambda line: None,
) -> list[Job]:
    """Every photo with every painting by every preset and every combination of swept values. Photos and paintings are
    folders, files and samples.

    Raises `InputError` for what cannot be read or painted, or is asked for twice.
    """
    photos, paintings = _pictures(contents), _pictures(styles)
    sizes = [len(photos), len(paintings), len(presets), *(len(values) for values in sweeps.values())]
    check_count(math.prod(sizes))
    named = (("photo", [each.path for each in photos]), ("painting", [each.path for each in paintings]))
    for what, values in (*named, ("preset", presets)):
        if twice := [value for number, value in enumerate(values) if value in values[:number]]:
            raise InputError(f"The {what} {twice[0]} is given twice.")
    if both := [name for name in sweeps if name in common]:
        raise InputError(f"{both[0]} is to be swept, and is given one value beside: leave one of the two out.")
    chosen = [
        (preset, settings.choose(preset, **common, **changes)) for preset in presets for changes in combinations(sweeps)
    ]
    report(f"Looking at {_count(len(photos), 'photo')} and {_count(len(paintings), 'painting')} …")
    with _Checker() as checker:
        found = [
            checker.job(photo, (painting,), preset, wanted)
            for photo in photos
            for painting in paintings
            for preset, wanted in chosen
        ]
    told = set[str]()
    for job in found:
        if job.digest in told:
            raise InputError(f"{job.title} ({job.preset}) is asked for twice: by pictures or values that are the same.")
        told.add(job.digest)
    return found


def check_count(count: int) -> None:
    """Raise `InputError` for more runs than a batch may have."""
    if count > MOST_RUNS:
        raise InputError(f"These are {count:,} runs; a batch has at most {MOST_RUNS:,}: ask for fewer at a time.")


def sweeps(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The settings and their values, from a text like "style_weight=1e4,1e5" each. Raises `InputError` as `swept` does,
    and for a setting that comes twice."""
    found: dict[str, list[Any]] = {}
    for name, values in map(swept, texts):
        if name in found:
            raise InputError(f"{name} is to be swept twice: give all its values at once.")
        found[name] = values
    return found


def swept(text: str) -> tuple[str, list[Any]]:
    """From "style_weight=1e4,1e5" the setting and its values. Those of a setting that is a list itself are parted by
    semicolons.

    Raises `InputError` for another text, an unknown setting, and values that it cannot have or that come twice.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    if not (equals and name):
        raise InputError(f"{text!r} is no sweep such as style_weight=1e4,1e5.")
    if name not in KNOBS:
        raise InputError(f"There is no setting {name!r} to sweep{_guess(name, KNOBS)}.")
    if not KNOBS[name].shapes_result:
        raise InputError(f"The picture is the same for every {name}: there is nothing to sweep.")
    return name, values_of(name, rest.split(SEVERAL if KNOBS[name].type is tuple else ","))


def values_of(name: str, texts: Sequence[str]) -> list[Any]:
    """The values of a setting as its own type. Raises `InputError` when there is none, or one that it cannot have or
    that comes twice."""
    values: list[Any] = []
    for text in map(str.strip, texts):
        if not text:
            raise InputError(f"{name} has an empty value among those to sweep.")
        value = _as_its_type(name, text)
        if value in values:
            raise InputError(f"{name} = {text[:80]} is given twice.")
        values.append(value)
    return values


def combinations(sweeps: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values, the last setting's changing first."""
    for values in itertools.product(*sweeps.values()):
        yield dict(zip(sweeps, values, strict=True))


def _as_its_type(name: str, value: Any) -> Any:
    """One setting's value, as far as it can be checked without the others."""
    if KNOBS[name].each_of:  # as many as there are layers or paintings
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
    choices: dict[str, Any] = {"size": KNOBS["size"].maximum, name: value}  # so large that there is room for any stages
    return getattr(settings.choose(**choices), name)


def _pictures(named: Sequence[str]) -> list[Given]:
    found = []
    for text in named:
        folder = Path(text)
        found += [*map(Given.of, series.pictures_in(folder))] if folder.is_dir() else [given(text)]
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s'[: number != 1]}"


def _guess(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (is {near[0]} meant?)" if near else "; nst stylize --help lists the settings"


class _Checker:
    """Looks at every picture once, and keeps of it only what tells whether its runs can be painted. Used as a context,
    at whose end the process that decodes is gone."""

    def __init__(self) -> None:
        self._photos: dict[Given, tuple[tuple[int, int], bytes] | InputError] = {}
        self._manners: dict[tuple[Given, ...], tuple[list[tuple[int, int]], bytes] | InputError] = {}
        self._decoder = Decoder()

    def __enter__(self) -> _Checker:
        return self

    def __exit__(self, *error: object) -> None:
        self._decoder.__exit__(None, None, None)

    def job(self, content: Given, styles: tuple[Given, ...], preset: str, wanted: TransferSettings) -> Job:
        """Raises `InputError` where a picture cannot be read, or is too small at that size."""
        (width, height), photo = _kept(self._photos, content, self._look_at_photo)
        sizes, manner = _kept(self._manners, styles, self._look_at_styles)
        runs.check_side((width, height), wanted, content.name)
        room.check_limit(wanted, images.resized_shape(width, height, wanted.size))
        runs.check_styles(sizes, wanted, JOINT.join(style.name for style in styles))
        named = json.dumps([content.name, preset, series.made_of(manner, wanted, photo)])
        return Job(content, styles, preset, wanted, hashlib.sha256(named.encode()).hexdigest())

    def _look_at_photo(self, photo: Given) -> tuple[tuple[int, int], bytes]:
        size = self._read(photo).size
        data = images.bytes_of(photo.path, photo.name, images.MAX_BYTES)
        return size, hashlib.sha256(data).digest()

    def _look_at_styles(self, styles: tuple[Given, ...]) -> tuple[list[tuple[int, int]], bytes]:
        if len(styles) > settings.MOST_STYLES:
            raise InputError(f"{len(styles)} paintings were given; {settings.MOST_STYLES} can be blended at most.")
        pictures = [self._read(style) for style in styles]
        names = JOINT.join(style.name for style in styles)
        return [picture.size for picture in pictures], Manner(TransferSettings(), "", pictures, names).digest()

    def _read(self, picture: Given) -> Any:
        try:
            return picture.read(self._decoder)
        except InputError:
            self._decoder.__exit__(None, None, None)  # after an error it may be of no more use
            self._decoder = Decoder()
            raise


def _kept(known: dict[Any, Any], key: Any, look: Callable[[Any], Any]) -> Any:
    """What was found out of it, an error too."""
    if key not in known:
        try:
            known[key] = look(key)
        except InputError as error:
            known[key] = error
    if isinstance(known[key], InputError):
        raise InputError(str(known[key]))
    return known[key]


# --- files of runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """What a row says of one column: a text, or a list of them."""

    words: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class _Row:
    """A run as a file asks for it."""

    file: str
    number: int  # its line
    cells: Mapping[str, _Cell]

    @property
    def line(self) -> str:
        return f"line {self.number}"

    @property
    def where(self) -> str:
        return f"{self.file}, {self.line}"

    def job(self, checker: _Checker, folder: Path, preset: str, common: Mapping[str, Any]) -> Job:
        """Raises `InputError`, which says where."""
        for name in ("content", "style"):
            if name not in self.cells:
                raise InputError(f"{self.where}: it names no {name}.")
        content = self._told("content", lambda: given(self._one("content"), folder))
        styles = self._told("style", lambda: tuple(given(word, folder) for word in self._styles()))
        preset = self._one("preset") if "preset" in self.cells else preset
        if preset not in PRESETS:
            raise self._error("preset", f"there is no preset {preset!r}; there are {', '.join(PRESETS)}.")
        chosen = {name: ",".join(cell.words) for name, cell in self.cells.items() if name in KNOBS}
        try:
            wanted = settings.choose(preset, **{**common, **chosen})
        except InputError as error:
            raise self._error(str(error).partition(" = ")[0], str(error)) from error
        try:
            return checker.job(content, styles, preset, wanted)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error

    def _styles(self) -> list[str]:
        words = [part.strip() for word in self.cells["style"].words for part in word.split(SEVERAL)]
        if "" in words:
            raise InputError(f"between two {SEVERAL} there is no painting.")
        return words

    def _one(self, name: str) -> str:
        words = self.cells[name].words
        if len(words) != 1:
            raise self._error(name, f"{len(words)} were given, and a run has one.")
        return words[0]

    def _told(self, name: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except InputError as error:
            raise self._error(name, str(error)) from error

    def _error(self, name: str, message: str) -> InputError:
        """What is wrong with a column; with the row where it is none of this row's."""
        if message.startswith(f"{self.file}, line"):
            return InputError(message)
        if name not in self.cells:
            return InputError(f"{self.where}: {message}")
        return InputError(f"{self.file}, line {self.cells[name].line}, column {name}: {message}")


def _rows(file: Path) -> list[_Row]:
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"{file} is no file of runs: its name must end in {', '.join(SUFFIXES)}.")
    try:
        data = paths.read(file, MOST_BYTES)
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text in UTF-8.") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{file.name}, line {line}: there is a NUL character, which no name and no number has.")
    rows = list(_csv_rows(text, file.name) if file.suffix.lower() == ".csv" else _yaml_rows(text, file.name))
    if not rows:
        raise InputError(f"{file} asks for no run.")
    check_count(len(rows))
    return rows


def _column(name: str, where: str) -> str:
    column = name.strip().lower().replace("-", "_").replace(" ", "_")
    column = OTHER_NAMES.get(column, column)
    if column not in COLUMNS:
        raise InputError(f"{where}: there is no column {name[:80]!r}{_guess(column, COLUMNS)}.")
    return column


def _csv_rows(text: str, file: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                if len(cells) == 1 and (mark := re.search("[;\t]", cells[0])):
                    marked = "semicolons" if mark[0] == ";" else "tabs"
                    raise InputError(
                        f"{file}, line {line}: its cells are parted by {marked}, and have to be by commas."
                    )
                for name in cells:
                    columns.append(_column(name, f"{file}, line {line}"))
                    if columns[-1] in columns[:-1]:
                        raise InputError(f"{file}, line {line}: the column {columns[-1]} is there twice.")
                continue
            if len(cells) > len(columns):
                raise InputError(
                    f"{file}, line {line}: it has {len(cells)} cells, and there are {len(columns)} columns."
                )
            filled = zip(columns, map(str.strip, cells), strict=False)  # a row may end early
            yield _Row(file, line, {name: _Cell((cell,), line) for name, cell in filled if cell})
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: it is not CSV ({error}).") from error


def _yaml_rows(text: str, file: str) -> Iterator[_Row]:
    """Every value as the text that it is written as: the settings know their types themselves."""
    import yaml

    root = _composed(text, file)
    if root is None:
        return
    if not isinstance(root, yaml.SequenceNode):
        raise InputError(f"{file}, line {_line(root)}: a list of runs is wanted, each beginning with “- content:”.")
    for entry in root.value:
        where = f"{file}, line {_line(entry)}"
        _check_tag(entry, where)
        if not isinstance(entry, yaml.MappingNode):
            raise InputError(f"{where}: a run is wanted, such as “content: photo.jpg” and “style: waves”.")
        cells: dict[str, _Cell] = {}
        for key, value in entry.value:
            where = f"{file}, line {_line(key)}"
            name = _column(_text(key, where), where)
            if name in cells:
                raise InputError(f"{where}: {name} is there twice.")
            _check_tag(value, f"{where}, column {name}")
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            words = [_text(item, f"{file}, line {_line(item)}, column {name}") for item in items]
            if words and not value.tag.endswith(":null"):
                cells[name] = _Cell(tuple(words), _line(key))
        yield _Row(file, _line(entry), cells)


def _composed(text: str, file: str) -> Node | None:
    """The nodes that a YAML text consists of, of which no object is ever made."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Node | None, index: int) -> Node | None:
            if self.check_event(yaml.AliasEvent):  # a few of them can stand for billions of values
                raise InputError(f"{file}, line {self.peek_event().start_mark.line + 1}: aliases (*) are not read.")
            node: Node | None = super().compose_node(parent, index)
            return node

    try:
        root: Node | None = Loader(text).get_single_node()
    except RecursionError as error:
        raise InputError(f"{file}: lists lie within lists too deep.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{file}{line}: it is not YAML ({error.problem or error.context}).") from error
    except yaml.YAMLError as error:  # such as a character that YAML does not allow
        raise InputError(f"{file}: it is not YAML ({' '.join(str(error).split())}).") from error
    return root


def _check_tag(node: Node, where: str) -> None:
    """What YAML itself gives every value, and no other: a value says nothing of what is to be made of it."""
    if not re.fullmatch("tag:yaml.org,2002:[a-z]+", node.tag):
        raise InputError(f"{where}: the tag {node.tag[:80]} is not read.")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _text(node: Node, where: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{where}: a word or a number is wanted.")
    _check_tag(node, where)
    return "" if node.tag.endswith(":null") else str(node.value).strip()


# --- the runs -------------------------------------------------------------------------------------------------------


State = Literal["painted", "under way", "broken off", "new"]
_RANKS: tuple[State, ...] = ("painted", "under way", "broken off")


@dataclass
class Part:
    """A job of a batch, the run that stands for it, and how that was when the batch was looked at."""

    job: Job
    run: Run | None = None
    state: State = "new"
    varied: Sequence[str] = ()  # the settings that tell it from others of the same pictures and preset

    @property
    def title(self) -> str:
        values = (f"{name}={_plainly(getattr(self.job.settings, name))}" for name in self.varied)
        return f"{self.job.title} ({', '.join([self.job.preset, *values])})"


def _plainly(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_plainly, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def parts(wanted: Sequence[Job], again: bool = False) -> list[Part]:
    """The jobs, each with the run that was begun for it before and is still what is asked for: rather one that is
    painted, then one that waits or is being painted. None where all is to be painted `again`. Runs of people who logged
    in are theirs, and stand for nothing here."""
    asked = {job.digest: job for job in wanted}
    found: dict[str, Part] = {}
    for run, record in runs.readable_runs(owner="") if not again else ():
        if (job := asked.get(record.job)) and job.is_what(record):
            painted: State = "painted" if record.status == "done" and run.result.is_file() else "broken off"
            part = Part(job, run, "under way" if record.unfinished else painted)
            if job.digest not in found or _RANKS.index(part.state) < _RANKS.index(found[job.digest].state):
                found[job.digest] = part
    made = [found.get(job.digest) or Part(job) for job in wanted]
    alike: dict[str, list[Part]] = {}
    for part in made:
        alike.setdefault(part.title, []).append(part)
    for group in alike.values():
        varied = [name for name in KNOBS if len({getattr(part.job.settings, name) for part in group}) > 1]
        for part in group:
            part.varied = varied
    return made


def begin(due: Sequence[Part], batch: str, report: Report = lambda line: None) -> list[Run]:
    """Queue a run for each part, and have it stand for that: one that was broken off goes on, and where it cannot there
    is a new one.

    Raises `StudioError` when a run cannot be written, or a picture can no longer be read.
    """
    read = functools.lru_cache(maxsize=4)(Given.read)  # jobs that follow one another share their pictures
    begun = []
    for number, part in enumerate(due, 1):
        job = part.job
        if number % TOLD_EVERY == 1:
            report(f"Getting the runs ready: {number} of {len(due)} …")
        if not (part.run and _goes_on(part.run, job.settings)):
            manner = Manner(job.settings, job.preset, [read(style) for style in job.styles], job.style_name)
            part.run = manner.new_run(read(job.content), job.content.name, batch=batch, job=job.digest)
        begun.append(part.run)
    return begun


def _goes_on(run: Run, wanted: TransferSettings) -> bool:
    """With what is asked for now: the memory that it failed for want of may be another."""
    try:
        runs.resume(run)
        runs.change(run, settings=wanted)
        return True
    except StudioError:  # such as a damaged checkpoint
        return False


@dataclass(frozen=True)
class Sight:
    """How far a batch is."""

    over: int  # runs
    runs: int
    iterations: int  # of all its runs together
    under_way: str  # what is being painted, or prepared, in words
    seconds_left: float | None

    @property
    def words(self) -> str:
        return f"{self.over} of {self.runs} over{f', {self.under_way}' if self.under_way else ''}"

    @property
    def left(self) -> str:
        return "" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"


@dataclass
class Watch:
    """Looks at the runs of a batch until all are over."""

    parts: Sequence[Part]
    over: dict[Run, RunRecord | str] = field(default_factory=dict)  # in the order in which they ended; or why not seen
    _seconds_left: float | None = None  # as it was estimated
    _estimated_again: float = -math.inf  # when it is next

    def look(self) -> Sight:
        """What there is to see now."""
        waiting, iterations, under_way = set(jobs.queue()), 0, []
        for part in self.parts:
            run = part.run
            if not run or run in self.over or run in waiting:
                continue
            try:
                if self.is_over(run):
                    continue
                record, steps = run.record(), run.metrics(last=1)
            except StudioError as error:
                self.over[run] = str(error)
                continue
            done = 0 if steps.empty else int(steps["iteration"].iloc[-1])
            iterations += done
            how = record.message if steps.empty else f"{done}/{record.settings.iterations}"
            under_way.append(f"{part.title}: {how}")
        if not under_way and not waiting.isdisjoint(self.unfinished()):
            under_way.append(_why_nothing_is_painted())
        iterations += sum(part.job.settings.iterations for part in self.parts if part.run in self.over)
        return Sight(len(self.over), len(self.parts), iterations, "; ".join(under_way), self._estimate())

    def is_over(self, run: Run) -> bool:
        """Whether a run has ended, which is noted then. Raises `StudioError` for a record that cannot be read."""
        if run not in self.over and not run.record().unfinished:
            self.over[run] = jobs.settle(run)
        return run in self.over

    def until_over(self) -> Iterator[Sight]:
        """What there is to see, now and then, the last time when all are over. Sees to it that someone paints."""
        looked = time.monotonic()
        while True:
            yield self.look()
            if len(self.over) == len(self.parts):
                return
            if time.monotonic() - looked > WORKER_SECONDS:
                looked = time.monotonic()
                jobs.see_to_queue()
            time.sleep(LOOK_SECONDS)

    def unfinished_of_ours(self) -> list[Run]:
        """Without the runs that another command has begun."""
        return [part.run for part in self.parts if part.run in self.unfinished() and part.state != "under way"]

    def unfinished(self) -> list[Run]:
        return [part.run for part in self.parts if part.run and part.run not in self.over]

    def painted(self) -> list[Part]:
        return [part for part in self.parts if part.run and _ended_well(self.over.get(part.run))]

    def endings(self) -> list[str]:
        """How each run ended, in a line, in the order in which they did."""
        titles = self.titles()
        return [
            f"{number} of {len(self.parts)}, {titles[run]}: {_ending(record)}"
            for number, (run, record) in enumerate(self.over.items(), 1)
        ]

    def titles(self) -> dict[Run, str]:
        return {part.run: part.title for part in self.parts if part.run}

    def failed(self) -> dict[str, list[str]]:
        """Of the runs that ended otherwise than well, what is told of them, each with whom it is told of."""
        found: dict[str, list[str]] = {}
        for part in self.parts:
            if part.run in self.over and not _ended_well(self.over[part.run]):
                found.setdefault(_ending(self.over[part.run]), []).append(part.title)
        return found

    def _estimate(self) -> float | None:
        began = time.monotonic()
        if began >= self._estimated_again:
            self._seconds_left = jobs.seconds_until_over(self.unfinished())
            ended = time.monotonic()
            self._estimated_again = ended + max(ESTIMATE_SECONDS, (ended - began) / ESTIMATE_SHARE)
        return self._seconds_left


def _why_nothing_is_painted() -> str:
    said = jobs.readiness()
    if said and not said.ready:
        return said.message
    return "another run is being painted" if jobs.painting() else "waiting for a painter"


def _ended_well(record: RunRecord | str | None) -> bool:
    return isinstance(record, RunRecord) and record.status == "done"


def _ending(record: RunRecord | str) -> str:
    if isinstance(record, str):
        return record
    if record.status == "done":
        return f"loss {record.best_total:.4g}, {record.timings.get('total', 0):.1f} s"
    return record.message or f"It was {record.status}."


def leave_off(unfinished: Sequence[Run]) -> list[Run]:
    """Have runs stop: those that wait leave the queue, and the library where nothing was painted yet; those that are
    being painted are asked to stop, and given back."""
    asked = []
    for run in unfinished:
        with contextlib.suppress(StudioError):  # it is gone
            if not run.record().unfinished:  # what it came to stays
                continue
            with contextlib.suppress(InputError):  # it does not wait
                jobs.cancel(run)
            record = run.record()
            of_nobody = record.status == "queued" and record.writer and record.writer.is_this_process()
            if record.unfinished and not of_nobody:
                jobs.stop(run)
                asked.append(run)
            elif runs.begins_anew(run, record) and not record.timings:  # it was never begun, on an earlier day either
                shutil.rmtree(run.path, ignore_errors=True)
            elif of_nobody:
                runs.change(run, status="stopped")
    return asked
