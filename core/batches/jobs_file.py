"""Read the jobs of a batch from a CSV or YAML file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import paths
from core.batches import plan
from core.batches.plan import SEVERAL, Checker, Job, Report
from core.errors import InputError
from core.presets import DEFAULT_PRESET, PRESETS, choose
from core.samples.gallery import PictureSource
from core.settings import SETTINGS

if TYPE_CHECKING:
    from yaml import Node

MOST_BYTES = 2**20  # of a file of runs
MOST_LINES_TOLD = 10
SUFFIXES = (".csv", ".yaml", ".yml")
COLUMNS = ("content", "style", "preset", *SETTINGS)
OTHER_NAMES = {"contents": "content", "styles": "style", "photo": "content", "painting": "style"}


def from_file(
    file: Path, preset: str = DEFAULT_PRESET, common: Mapping[str, Any] = {}, report: Report = lambda line: None
) -> list[Job]:
    """Return the jobs of a CSV or YAML file in order; `preset` and `common` are the defaults of its rows.

    Raises:
        InputError: If a row or a picture is invalid. The message names the line and the column.
    """
    choose(preset)
    for name, value in common.items():
        plan.as_its_type(name, value)  # each alone; how they combine depends on the row
    rows = _rows(file)
    report(f"Looking at the pictures of {plan.count(len(rows), 'run')} …")
    found: dict[str, tuple[Job, int]] = {}  # each job with its line, by digest
    wrong: dict[int, str] = {}  # error messages by line
    with Checker() as checker:
        for row in rows:
            try:
                job = row.job(checker, file.parent, preset, common)
                if job.digest in found:
                    raise InputError(f"{row.where}: this is the same run as in line {found[job.digest][1]}.")
                found[job.digest] = (job, row.line)
            except InputError as error:
                wrong.setdefault(row.line, str(error))
    if wrong:
        first, *others = wrong
        lines = list(map(str, others))
        more = f", and {len(lines) - MOST_LINES_TOLD} more" if len(lines) > MOST_LINES_TOLD else ""
        also = f" Also wrong: line{'s'[: len(lines) > 1]} {', '.join(lines[:MOST_LINES_TOLD])}{more}." if lines else ""
        raise InputError(wrong[first] + also)
    return [job for job, _ in found.values()]


@dataclass(frozen=True)
class _Cell:
    """A row's value in one column: a text, or a list of texts."""

    words: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class _Row:
    """A row of the file, which describes a run."""

    file: str
    line: int
    cells: Mapping[str, _Cell]

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"

    def job(self, checker: Checker, folder: Path, preset: str, common: Mapping[str, Any]) -> Job:
        """Return the row's job.

        Raises:
            InputError: If the row is invalid. The message names the line and the column.
        """
        for name in ("content", "style"):
            if name not in self.cells:
                raise InputError(f"{self.where}: {name} is missing.")
        content = self._told("content", lambda: PictureSource.from_text(self._one("content"), folder))
        styles = self._told("style", lambda: tuple(PictureSource.from_text(word, folder) for word in self._styles()))
        if "preset" in self.cells:
            preset = self._told("preset", lambda: self._one("preset"))
        if preset not in PRESETS:
            raise self._error("preset", f"there is no preset {preset!r}; there are {', '.join(PRESETS)}.")
        chosen = {name: ",".join(cell.words) for name, cell in self.cells.items() if name in SETTINGS}
        try:
            wanted = choose(preset, **{**common, **chosen})
        except InputError as error:
            raise self._error(str(error).partition(" = ")[0], str(error)) from error
        try:
            return checker.job(content, styles, preset, wanted)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error

    def _styles(self) -> list[str]:
        words = [part.strip() for word in self.cells["style"].words for part in word.split(SEVERAL)]
        if "" in words:
            raise InputError(f"a painting is missing before or after a {SEVERAL}.")
        return words

    def _one(self, name: str) -> str:
        words = self.cells[name].words
        if len(words) != 1:
            raise InputError(f"there are {len(words)} values, but a run has one.")
        return words[0]

    def _told(self, name: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except InputError as error:
            raise self._error(name, str(error)) from error

    def _error(self, name: str, message: str) -> InputError:
        """Return an error about a column, or about the row if the row does not set the column."""
        if name not in self.cells:
            return InputError(f"{self.where}: {message}")
        return InputError(f"{self.file}, line {self.cells[name].line}, column {name}: {message}")


def _rows(file: Path) -> list[_Row]:
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"{file} is not a file of runs: its name must end in {', '.join(SUFFIXES)}.")
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
        raise InputError(f"{file.name}, line {line}: there is a NUL character. Remove it.")
    rows = list(_csv_rows(text, file.name) if file.suffix.lower() == ".csv" else _yaml_rows(text, file.name))
    if not rows:
        raise InputError(f"{file} contains no run.")
    plan.check_count(len(rows))
    return rows


def _column(name: str, where: str) -> str:
    column = name.strip().lower().replace("-", "_").replace(" ", "_")
    column = OTHER_NAMES.get(column, column)
    if column not in COLUMNS:
        raise InputError(f"{where}: there is no column {name[:80]!r}{plan.guess(column, COLUMNS)}.")
    return column


def _csv_rows(text: str, file: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            line = reader.line_num
            where = f"{file}, line {line}"
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _csv_columns(cells, where)
                continue
            if len(cells) > len(columns):
                raise InputError(f"{where}: it has {len(cells)} cells, but there are only {len(columns)} columns.")
            filled = zip(columns, map(str.strip, cells), strict=False)  # a row may have fewer cells
            yield _Row(file, line, {name: _Cell((cell,), line) for name, cell in filled if cell})
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: this is not valid CSV ({error}).") from error


def _csv_columns(cells: Sequence[str], where: str) -> list[str]:
    if len(cells) == 1 and (mark := re.search("[;\t]", cells[0])):
        separators = "semicolons" if mark[0] == ";" else "tabs"
        raise InputError(f"{where}: the cells are separated by {separators}: use commas.")
    columns = [_column(name, where) for name in cells]
    if twice := [name for number, name in enumerate(columns) if name in columns[:number]]:
        raise InputError(f"{where}: there are two columns {twice[0]}.")
    return columns


def _yaml_rows(text: str, file: str) -> Iterator[_Row]:
    """Yield the rows of a YAML text, with all values as text: the settings convert them."""
    import yaml

    root = _composed(text, file)
    if root is None:
        return
    if not isinstance(root, yaml.SequenceNode):
        raise InputError(f"{file}, line {_line(root)}: write a list of runs, each starting with “- content:”.")
    for entry in root.value:
        where = f"{file}, line {_line(entry)}"
        _check_tag(entry, where)
        if not isinstance(entry, yaml.MappingNode):
            raise InputError(f"{where}: this is not a run. Write “content: photo.jpg” and “style: waves”, for example.")
        cells: dict[str, _Cell] = {}
        for key, value in entry.value:
            where = f"{file}, line {_line(key)}"
            name = _column(_text(key, where), where)
            if name in cells:
                raise InputError(f"{where}: {name} is given twice.")
            _check_tag(value, f"{where}, column {name}")
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            words = [_text(item, f"{file}, line {_line(item)}, column {name}") for item in items]
            if words and not value.tag.endswith(":null"):
                cells[name] = _Cell(tuple(words), _line(key))
        yield _Row(file, _line(entry), cells)


def _composed(text: str, file: str) -> Node | None:
    """Return the root node of a YAML text. No node is converted into an object, which could be unsafe."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Node | None, index: int) -> Node | None:
            if self.check_event(yaml.AliasEvent):  # a few aliases can expand to billions of values
                raise InputError(f"{file}, line {self.peek_event().start_mark.line + 1}: aliases (*) are not allowed.")
            node: Node | None = super().compose_node(parent, index)
            return node

    try:
        root: Node | None = Loader(text).get_single_node()
    except RecursionError as error:
        raise InputError(f"{file}: the lists are nested too deeply.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{file}{line}: this is not valid YAML ({error.problem or error.context}).") from error
    except yaml.YAMLError as error:  # such as a character that YAML does not allow
        raise InputError(f"{file}: this is not valid YAML ({' '.join(str(error).split())}).") from error
    return root


def _check_tag(node: Node, where: str) -> None:
    """Raise `InputError` for a tag other than YAML's standard ones."""
    if not re.fullmatch("tag:yaml.org,2002:[a-z]+", node.tag):
        raise InputError(f"{where}: the tag {node.tag[:80]} is not allowed.")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _text(node: Node, where: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{where}: give a word or a number.")
    _check_tag(node, where)
    return "" if node.tag.endswith(":null") else str(node.value).strip()
