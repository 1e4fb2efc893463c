"""Contact sheets of many runs: tables whose rows and columns are the differences between the runs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.names import legible
from core.runs.record import RunRecord
from core.settings import SETTINGS
from export import settings_text

PHOTO, PAINTING, PRESET = "Photo", "Painting", "Preset"
WIDEST = 6  # columns; a wider table with fewer rows is transposed
FILLED = 0.5  # the least share of filled cells; with fewer, the runs are listed without a table


@dataclass(frozen=True)
class Sheet:
    """A table of runs, which are numbered from 0."""

    title: str  # what its runs have in common; empty if there is only one table
    row: str  # the difference between the rows, such as "Photo"
    column: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Sequence[int]]  # by row and column

    def at(self, row: str, column: str) -> Sequence[int]:
        """Return the numbers of the runs in a cell; none for an empty cell."""
        return self.cells.get((row, column), ())

    def first_of_row(self, row: str) -> int:
        """Return the first run of a row."""
        return next(runs[0] for (where, _), runs in self.cells.items() if where == row)

    def first_of_column(self, column: str) -> int:
        """Return the first run of a column."""
        return next(runs[0] for (_, where), runs in self.cells.items() if where == column)


def sheets(records: Sequence[RunRecord]) -> list[Sheet]:
    """Return the tables; none if fewer than two properties differ or too few cells would be filled."""
    found = _telling_apart(varying(records))
    if len(found) < 2:
        return []
    row, column, *others = found
    if len(set(found[column])) > max(WIDEST, len(set(found[row]))):
        row, column = column, row
    tables = []
    for common in itertools.product(*(dict.fromkeys(found[name]) for name in others)):
        cells: dict[tuple[str, str], list[int]] = {}
        for number in range(len(records)):
            if all(found[name][number] == value for name, value in zip(others, common, strict=True)):
                cells.setdefault((found[row][number], found[column][number]), []).append(number)
        if cells:
            title = ", ".join(_named(name, value) for name, value in zip(others, common, strict=True))
            rows, columns = (tuple(dict.fromkeys(found[name])) for name in (row, column))
            rows = tuple(each for each in rows if any(where == each for where, _ in cells))
            columns = tuple(each for each in columns if any(where == each for _, where in cells))
            tables.append(Sheet(title, row, column, rows, columns, cells))
    places = sum(len(table.rows) * len(table.columns) for table in tables)
    return tables if sum(len(table.cells) for table in tables) >= FILLED * places else []


def captions(records: Sequence[RunRecord]) -> list[str]:
    """Return a caption for each run: what differs between the runs, or its title if nothing differs."""
    found = varying(records)
    return [
        ", ".join(_named(name, values[number]) for name, values in found.items()) or legible(record.title)
        for number, record in enumerate(records)
    ]


def varying(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return what differs between the runs, with each run's value: pictures, preset, changed settings."""
    values = {
        PHOTO: [legible(record.content) for record in records],
        PAINTING: [legible(record.style) for record in records],
        PRESET: [legible(record.preset) for record in records],
    }
    own = {name for record in records for name in settings_text.own(record.preset, record.settings)}
    values |= {
        setting.label: [settings_text.describe_setting(setting, record.settings) for record in records]
        for name, setting in SETTINGS.items()
        if name in own
    }
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def _telling_apart(found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Drop differences that follow from earlier differences, such as a different size for each preset."""
    kept: dict[str, list[str]] = {}
    for name, values in found.items():
        more = [*kept.values(), values]
        if len(set(zip(*more, strict=True))) > len(set(zip(*kept.values(), strict=True))):
            kept[name] = values
    return kept


def _named(name: str, value: str) -> str:
    """Return the value with its name, except for photos and paintings."""
    return value if name in (PHOTO, PAINTING) else f"{name} {value}"
