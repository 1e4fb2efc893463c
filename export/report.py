"""Runs as a report: one HTML page that needs nothing else, or a ZIP of it with pictures and numbers in full."""

from __future__ import annotations

import base64
import csv
import io
import json
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from core import images, library, paths, roles
from core.errors import InputError, StudioError
from core.library import Marks
from core.names import legible
from core.runs import METRICS, RUN_ID, SUMS, Run, RunRecord, Steering
from core.settings import KNOBS, PRESETS, TransferSettings
from core.yardstick import Reading, comparable
from export import charts, sheet, words

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".html", ".zip")
TITLE = "Style transfer report"

PICTURE_SIDE = 1024  # px, at most
PICTURE_QUALITY = 85
FRAME_SIDE = 192  # px
FRAME_QUALITY = 80
FRAMES = 8  # on a strip
FEW = 6  # runs whose pictures are shown large beside what they were made of; of more there is a contact sheet
SHEET_SIDE = 360  # px, of a picture on it
LARGE_SIDE = 640  # px, of the same beside all that is told of its run
MOST_LARGE = 60  # runs that have one: with more, the page would take long to open
MOST_CURVES = len(charts.COLOURS) * len(charts.DASHES)  # more lines nobody tells apart
LEGEND_CHARACTERS = 42  # so much of a name fits beside a curve

Timings = Mapping[str, Sequence[Mapping[str, Any]]]
NO_TIMINGS: Timings = MappingProxyType({})
NO_READINGS: Mapping[str, Reading] = MappingProxyType({})
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # of a ZIP's members: the same runs give the same bytes

ABBREVIATIONS = {"cpu": "CPU", "cuda": "CUDA", "gpu": "GPU", "gpus": "GPUs", "onnx": "ONNX"}


@dataclass(frozen=True)
class Picture:
    """A picture as the page holds it."""

    source: str  # a data URI
    width: int
    height: int
    caption: str
    alternative: str
    kind: Literal["input", "mask", "painted"] = "input"


@dataclass(frozen=True)
class Shown:
    """A run as the report tells of it."""

    number: int
    run: Run
    record: RunRecord
    marks: Marks
    metrics: pd.DataFrame
    reading: Reading | None

    @property
    def title(self) -> str:
        return legible(self.marks.name or self.record.title)

    @property
    def short(self) -> str:
        return f"Run {self.number}"

    @property
    def label(self) -> str:
        whole = f"{self.short} · {self.title}"
        return whole if len(whole) <= LEGEND_CHARACTERS else whole[: LEGEND_CHARACTERS - 1] + "…"

    @property
    def seconds(self) -> float | None:
        """From the first picture read to the end; a run that did not end by itself says none."""
        return self.record.timings.get("total")

    @property
    def phases(self) -> dict[str, float]:
        return phase_seconds(self.record.timings)


def html(
    found: Sequence[Run],
    readings: Mapping[str, Reading] = NO_READINGS,
    title: str = TITLE,
    yardstick: str = "",
    frames: bool = True,
    timings: Timings = NO_TIMINGS,
) -> str:
    """A page about the runs, without scripts or references to anything outside itself.

    `readings` are by the runs' names, and `yardstick` says whose losses they are, such as "the preset reference".
    `frames` shows how the pictures came about, where the runs are few. `timings` are tables of `bench.timings`, by
    their titles. Raises `InputError` for no runs, or for one that cannot be read.
    """
    return _page(_shown(found, readings), title, yardstick, frames, timings)


def write_zip(
    target: IO[bytes],
    found: Sequence[Run],
    readings: Mapping[str, Reading] = NO_READINGS,
    title: str = TITLE,
    yardstick: str = "",
    frames: bool = True,
    timings: Timings = NO_TIMINGS,
) -> None:
    """Write the page as report.html, tables of all runs as runs.csv and runs.json, and for each run a folder: its
    pictures in full size, metrics.csv, run.json, and repeat.sh, which paints it again. Raises as `html` does."""
    shown = _shown(found, readings)
    page = _page(shown, title, yardstick, frames, timings)
    with zipfile.ZipFile(target, "w") as archive:
        _add(archive, "report.html", page.encode())
        _add(archive, "runs.csv", _csv([_row(each) for each in shown]).encode())
        _add(archive, "runs.json", _json([_summary(each) for each in shown]))
        for each in shown:
            folder = each.run.id if RUN_ID.fullmatch(each.run.id) else f"run-{each.number}"
            for path in (*_inputs(each.run), each.run.result):
                if path.is_file():
                    _add(archive, f"{folder}/{path.name}", _bytes_of(path, each.run))
            if (metrics := each.run.path / "metrics.csv").is_file():
                _add(archive, f"{folder}/metrics.csv", _bytes_of(metrics, each.run))
            _add(archive, f"{folder}/run.json", _json(_recorded(each.record)))
            _add(archive, f"{folder}/repeat.sh", _script(each).encode(), executable=True)


def differences(record: RunRecord) -> list[tuple[str, str, str]]:
    """What a run was told otherwise than its preset says: the setting's label, its value and the preset's, in words.
    Nothing for a preset that is none here, as of an imported run."""
    if record.preset not in PRESETS:
        return []
    usual = PRESETS[record.preset].settings()
    return [
        (KNOBS[name].label, words.setting(KNOBS[name], record.settings), words.setting(KNOBS[name], usual))
        for name in words.differing(record.settings, usual)
    ]


def differing(found: Sequence[tuple[Run, RunRecord]]) -> list[tuple[str, list[str]]]:
    """In what several runs differ: what it is called, and how it is for each of them, in words."""
    lines = [(knob.label, [words.setting(knob, record.settings) for _, record in found]) for knob in KNOBS.values()]
    beside = {
        "Photo": lambda record: record.content,
        "Painting": lambda record: record.style,
        "Preset": lambda record: record.preset,
        "Started from": lambda record: record.start or "–",
        "Changed while painting": lambda record: (
            "; ".join(f"after {iteration}: {change}" for iteration, change in _steered(record)) or "–"
        ),
        "Precision used": lambda record: record.precision or "–",
        "Weights of VGG19": lambda record: record.weights or "–",
    }
    lines += [(name, [tell(record) for _, record in found]) for name, tell in beside.items()]
    lines.append(("Where", [roles.whereabouts(run, record) for run, record in found]))
    return [(name, values) for name, values in lines if len(set(values)) > 1]


def check(found: Sequence[Run]) -> None:
    """Raise `InputError` where `html` would for what the runs say of themselves, before a long measurement."""
    _shown(found, NO_READINGS)


def check_writable(path: Path) -> None:
    """Raise `InputError` if a report is bound to fail there: for the suffix, the folder or the permissions."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} cannot be written: the name of a report must end in {' or '.join(SUFFIXES)}.")
    paths.check_writable(path)


def command(run: Run, record: RunRecord, output: str = "result.png") -> str:
    """The line for a shell, in a folder with the run's pictures, that paints the run once more: the preset, and only
    those settings that are not the preset's."""
    return " ".join(_command_parts(run, record, output))


def phase_seconds(timings: Mapping[str, float]) -> dict[str, float]:
    """The seconds of each phase, and in "further steps" what is left of the total; nothing of a run that has none."""
    if "total" not in timings:
        return {}
    seconds = {name: value for name, value in timings.items() if name not in SUMS}
    if "median step" in timings:
        seconds["further steps"] = max(0.0, timings["total"] - sum(seconds.values()))
    return seconds


# --- reading the runs -----------------------------------------------------------------------------------------------


def _shown(found: Sequence[Run], readings: Mapping[str, Reading]) -> list[Shown]:
    if not found:
        raise InputError("A report needs at least one run.")
    return [_read(number, run, readings.get(run.id)) for number, run in enumerate(found, 1)]


def _read(number: int, run: Run, reading: Reading | None) -> Shown:
    try:
        record = run.record()
        metrics = _metrics(run)
    except InputError:
        raise
    except StudioError as error:
        raise InputError(str(error)) from error
    return Shown(number, run, run.with_progress(record), library.marks(run), metrics, reading)


def _metrics(run: Run) -> pd.DataFrame:
    import pandas as pd

    try:
        metrics = run.metrics()
        numeric = all(pd.api.types.is_numeric_dtype(kind) for kind in metrics.dtypes) or metrics.empty
    except Exception as error:  # pandas raises nearly anything
        raise InputError(f"The metrics of the run {run.id} are damaged.") from error
    if not numeric or tuple(metrics.columns[: len(METRICS)]) != METRICS:
        raise InputError(f"The metrics of the run {run.id} are damaged.")
    return metrics


def _inputs(run: Run) -> list[Path]:
    """What the run was painted from, as far as it was given."""
    masks = [run.mask(number) for number in range(1, len(run.styles) + 1)]
    return [run.content, *run.styles, *masks, run.kept, run.start]


def _bytes_of(path: Path, run: Run) -> bytes:
    try:
        return paths.read(path, 4 * images.MAX_PIXELS)
    except OSError as error:
        raise InputError(f"{path.name} of the run {run.id} cannot be read: {error.strerror or error}.") from error


def _picture(
    run: Run, path: Path, caption: str, alternative: str, side: int = PICTURE_SIDE, quality: int = PICTURE_QUALITY
) -> Picture:
    """The picture as JPEG, its longer side at most `side` px."""
    own_copy = images.read_image(path, f"{path.name} of the run {run.id}", max_bytes=4 * images.MAX_PIXELS)
    own_copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = base64.b64encode(images.encode_jpeg(np.asarray(own_copy), quality)).decode()
    return Picture(f"data:image/jpeg;base64,{data}", *own_copy.size, legible(caption), legible(alternative))


def _pictures(each: Shown) -> list[Picture]:
    """What went in and what came out; where nothing did, how far it had come."""
    run, record = each.run, each.record
    side = min(PICTURE_SIDE, max(record.shape))  # as large as the result beside them
    pictures = [_picture(run, run.content, f"Photo: {record.content}", f"The photo {record.content}", side)]
    if run.kept.is_file():
        pictures.append(_mask(run, run.kept, "Left as it is where white", "Where the photo is left as it is: white"))
    for painting in roles.of(run, record):
        caption = f"{painting.label}: {', '.join(filter(None, (painting.name, painting.role)))}"
        pictures.append(_picture(run, painting.path, caption, f"The painting {painting.name}", side))
        if painting.mask:
            where = f"{painting.label} is where white"
            pictures.append(_mask(run, painting.mask, where, f"Where {painting.name} is: white"))
    manner = f"{record.content} in the manner of {record.style}"
    if run.result.is_file():
        caption = f"Result: best picture, iteration {record.best_iteration}"
        pictures.append(replace(_picture(run, run.result, caption, f"The result: {manner}"), kind="painted"))
    elif run.live.is_file():
        caption = "Painted so far" if record.unfinished else "No result; the last picture that was seen"
        unfinished = _picture(run, run.live, caption, f"Not finished: {manner}", side)
        pictures.append(replace(unfinished, kind="painted"))
    return pictures


def _mask(run: Run, path: Path, caption: str, alternative: str) -> Picture:
    return replace(_picture(run, path, caption, alternative, FRAME_SIDE), kind="mask")


def _frames(each: Shown) -> list[Picture]:
    frames = each.run.frames()
    if len(frames) < 2:
        return []
    chosen = sorted({round(place) for place in np.linspace(0, len(frames) - 1, FRAMES)})
    return [
        _picture(each.run, path, str(iteration), f"The picture at iteration {iteration}", FRAME_SIDE, FRAME_QUALITY)
        for iteration, path in (frames[place] for place in chosen)
    ]


# --- the page -------------------------------------------------------------------------------------------------------


def _page(shown: list[Shown], title: str, yardstick: str, frames: bool, timings: Timings) -> str:
    from markupsafe import Markup

    created = sorted(each.record.created for each in shown)
    drawn = {name: Markup(drawing) for name, drawing in _drawings(shown).items()}
    many = len(shown) > FEW
    return _template().render(
        title=title,
        first=f"{created[0]:%Y-%m-%d}",
        last=f"{created[-1]:%Y-%m-%d}",
        runs=_described_briefly(shown) if many else [_described(each, frames) for each in shown],
        sheet=_contact_sheet(shown) if many else None,
        most_curves=MOST_CURVES,
        measured=any(each.reading for each in shown),
        lowest=min((each.reading.total for each in shown if each.reading), default=None),
        yardstick=yardstick,
        comparable=comparable(each.record for each in shown),
        drawn=drawn,
        staged=any(len(_stages(each)) > 1 for each in shown),
        differences=_differences(shown),
        timings=_timings(shown),
        measured_here=[each for name, rows in timings.items() for each in _durations(name, rows)],
    )


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: legible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _described(each: Shown, frames: bool, pictures: bool = True, drawn: bool = True) -> dict[str, Any]:
    """What the page says of one run; with its pictures, and with its own curves."""
    from markupsafe import Markup

    record = each.record
    own = {}
    if drawn and len(each.metrics) > 1:
        what = f"of {each.short}, {each.title}, over {len(each.metrics)} iterations"
        stages = _stages(each)
        losses = charts.loss_curves(each.metrics, record.steering, stages)
        own["losses"] = Markup(charts.svg(losses, f"The losses {what}"))
        layers = charts.layer_curves(each.metrics, stages)
        own["layers"] = Markup(charts.svg(layers, f"The style layers' shares {what}"))
    return {
        "number": each.number,
        "short": each.short,
        "title": each.title,
        "id": each.run.id,
        "note": each.marks.note,
        "status": record.status.capitalize(),
        "ended_well": record.status == "done",
        "unfinished": record.unfinished,
        "reason": _reason(record),
        "preset": record.preset,
        "size": f"{record.shape[1]} × {record.shape[0]}",
        "iterations": f"{record.iteration or 0} of {record.settings.iterations}",
        "loss": _number(record.best_total),
        "seconds": "–" if each.seconds is None else f"{each.seconds:.1f}",
        "reading": each.reading,
        "pictures": _pictures(each) if pictures else [],
        "large": None,
        "frames": _frames(each) if frames else [],
        "drawn": own,
        "stages": record.settings.stages,
        "steering": _steered(record),
        "settings": [(knob.label, words.setting(knob, record.settings)) for knob in KNOBS.values()],
        "provenance": _provenance(record),
        "environment": [(_fact(name), _words(value)) for name, value in record.environment.items()],
        "command": _command_parts(each.run, record),
    }


def _stages(each: Shown) -> Mapping[int, str]:
    from export import charts

    return {} if each.metrics.empty else charts.stage_marks(each.record.settings, each.metrics["iteration"].iloc[-1])


def _described_briefly(shown: list[Shown]) -> list[dict[str, Any]]:
    """What the page says of each of many runs, whose pictures are on a contact sheet: there, a run is called by what it
    has for itself."""
    told = sheet.captions([each.record for each in shown])
    large, drawn = len(shown) <= MOST_LARGE, len(shown) <= MOST_CURVES
    return [
        _described(each, frames=False, pictures=False, drawn=drawn)
        | {"title": legible(each.marks.name) or caption, "large": _painted(each, LARGE_SIDE) if large else None}
        for each, caption in zip(shown, told, strict=True)
    ]


def _contact_sheet(shown: list[Shown]) -> dict[str, Any]:
    """The pictures of many runs in tables, or one after another where no table fits them; and what all have in
    common."""
    records = [each.record for each in shown]
    pictures = [
        {"number": each.number, "short": each.short, "words": caption, "status": each.record.status.capitalize(),
         "picture": _painted(each, SHEET_SIDE)}
        for each, caption in zip(shown, sheet.captions(records), strict=True)
    ]  # fmt: skip
    tables = [
        {
            "title": table.title,
            "corner": f"{table.row} ↓  {table.column} →",
            "columns": [
                {"words": each, "picture": _of_heading(table.column, shown[table.first_of_column(each)])}
                for each in table.columns
            ],
            "rows": [
                {
                    "words": row,
                    "picture": _of_heading(table.row, shown[table.first_of_row(row)]),
                    "cells": [[pictures[number] for number in table.at(row, column)] for column in table.columns],
                }
                for row in table.rows
            ],
        }
        for table in sheet.sheets(records)
    ]
    alike = [name for name in (sheet.PHOTO, sheet.PAINTING) if name not in sheet.varying(records)]
    common = [picture for name in alike if (picture := _of_heading(name, shown[0]))]
    return {"tables": tables, "pictures": pictures, "common": common}


def _painted(each: Shown, side: int) -> Picture | None:
    """What the run came to; `None` where that is nothing."""
    record = each.record
    for path in (each.run.result, each.run.live):
        if path.is_file():
            what = "" if path == each.run.result else "Not finished: "
            alternative = f"{what}{record.content} in the manner of {record.style}"
            return replace(_picture(each.run, path, "", alternative, side), kind="painted")
    return None


def _of_heading(what: str, each: Shown) -> Picture | None:
    """The photo or the painting that a row or a column is about; the first of several."""
    if what == sheet.PHOTO:
        return _picture(each.run, each.run.content, f"Photo: {each.record.content}", "", FRAME_SIDE)
    if what == sheet.PAINTING:
        return _picture(each.run, each.run.style, f"Painting: {each.record.style}", "", FRAME_SIDE)
    return None


def _drawings(shown: list[Shown]) -> dict[str, str]:
    """The drawings that show the runs together, as SVG."""
    drawn: dict[str, str] = {}
    many = len(shown) > FEW
    if len(shown) > MOST_CURVES:
        return drawn
    curves = {each.short if many else each.label: each.metrics for each in shown if len(each.metrics) > 1}
    if curves:
        what = f"Total loss of {len(curves)} run{'s'[: len(curves) > 1]} over the"
        stages = {each.short if many else each.label: _stages(each) for each in shown}
        columns = 4 if many else 1  # of the legend
        comparison = partial(charts.comparison, curves, stages=stages, columns=columns)
        drawn["iterations"] = charts.svg(comparison(), f"{what} iterations")
        drawn["seconds"] = charts.svg(comparison(over="seconds"), f"{what} seconds")
    if bars := {each.short: each.phases for each in shown if any(each.phases.values())}:
        drawn["phases"] = charts.svg(charts.phases_of_runs(bars), "Seconds of each phase; the table has the numbers")
    return drawn


def _durations(title: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A drawing and a table for each size that was measured."""
    import pandas as pd
    from markupsafe import Markup

    shown = []
    for size in dict.fromkeys(row["size"] for row in rows):
        of_size = [row for row in rows if row["size"] == size]
        name = f"{title}, {size} px" if size else title
        alone = len({row["machine"] for row in of_size}) == 1
        slowest = max(row["median"] for row in of_size)
        drawing = charts.durations(pd.DataFrame(of_size))
        shown.append(
            {
                "title": name,
                "machine": ", ".join(dict.fromkeys(str(row["machine"]) for row in of_size)),
                "drawn": Markup(charts.svg(drawing, f"{name}: seconds; the table has the numbers")),
                "rows": [
                    (
                        row["way"] if alone else f"{row['way']} · {row['machine']}",
                        f"{row['median']:.3g}",
                        f"{row['low']:.3g} to {row['high']:.3g}",
                        f"{slowest / row['median']:.3g} ×",
                    )
                    for row in of_size
                ],
            }
        )
    return shown


def _reason(record: RunRecord) -> str:
    """Why a run is not simply done, in a sentence; a run that is may have something to say too."""
    done = f"{record.iteration or 0} of {record.settings.iterations} iterations"
    if record.status == "stopped":
        picture = "the best picture so far was kept" if record.best_total is not None else "there is no picture"
        return f"It was stopped after {done}; {picture}. {record.message}".strip()
    if record.status == "interrupted":
        return f"The process that painted it is gone: of {done} the record tells, and there was no orderly end."
    if record.unfinished:
        return f"It was not over when this report was written: {done}. {record.message}".strip()
    return record.message


def _steered(record: RunRecord) -> list[tuple[int, str]]:
    """The changes by iteration, in the order in which the drawing numbers them."""
    changes: dict[int, list[str]] = {}
    for change in record.steering:
        changes.setdefault(change.iteration, []).append(charts.steering_words(change))
    return [(iteration, "; ".join(told)) for iteration, told in changes.items()]


def _differences(shown: list[Shown]) -> list[tuple[str, list[str]]]:
    """What the runs were told otherwise: a line for each such thing. One run alone is held against its preset."""
    if len(shown) == 1:
        return [(label, [value, usual]) for label, value, usual in differences(shown[0].record)]
    return differing([(each.run, each.record) for each in shown])


def _timings(shown: list[Shown]) -> list[tuple[str, list[str]]]:
    """Seconds, a line for each phase and then for the sums."""
    names = list(dict.fromkeys(name for each in shown for name in each.phases))
    lines = [(name.capitalize(), [each.phases.get(name) for each in shown]) for name in names]
    lines += [(name.capitalize(), [each.record.timings.get(name) for each in shown]) for name in SUMS if names]
    return [(name, ["–" if value is None else f"{value:.2f}" for value in values]) for name, values in lines]


def _provenance(record: RunRecord) -> list[tuple[str, str]]:
    told = {
        "Painted": f"{record.created:%Y-%m-%d %H:%M:%S} UTC",
        "Weights of VGG19": record.weights,
        "Their SHA-256": record.weights_sha256,
        "Started from": record.start,
        "Style targets": record.style_targets,
        "Precision": record.precision,
        "Evaluations": str(record.evaluations or ""),
        "Best iteration": "" if record.best_iteration is None else str(record.best_iteration),
    }
    return [(name, value) for name, value in told.items() if value]


# --- values in words ------------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _fact(name: str) -> str:
    """The name of a fact of the environment, as people write it."""
    written = " ".join(ABBREVIATIONS.get(word, word) for word in name.split("_"))
    return written[:1].upper() + written[1:]


def _words(value: Any) -> str:
    """A value of the environment, which may be nested."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return words.plainly(value) if value not in (None, "") else "none"


def _command_parts(run: Run, record: RunRecord, output: str = "result.png") -> list[str]:
    """The command, each option together with its value."""
    preset = record.preset if record.preset in PRESETS else "reference"  # whose settings are the defaults
    parts = [["nst", "stylize", run.content.name, *(style.name for style in run.styles)], ["--preset", preset]]
    for name in words.differing(record.settings, PRESETS[preset].settings()):
        parts.append([f"--{name.replace('_', '-')}", _option(getattr(record.settings, name))])
    for number in range(1, len(run.styles) + 1):
        if run.mask(number).is_file():
            parts.append(["--mask", f"{number}:{run.mask(number).name}"])
    if run.kept.is_file():
        parts.append(["--keep", run.kept.name])
    if run.start.is_file():
        parts.append(["--start-from", run.start.name])
    for change in record.steering:
        parts += [["--steer", option] for option in _spelt_out(change, record.settings).options()]
    return [shlex.join(part) for part in [*parts, ["-o", output]]]


def _option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _spelt_out(change: Steering, settings: TransferSettings) -> Steering:
    """The same change without an empty list, which a command line cannot say: a 1 for each of the layers."""
    changes = {name: value if value not in ((), []) else (1.0,) * len(getattr(settings, KNOBS[name].each_of))
               for name, value in change.changes.items()}  # fmt: skip
    return Steering(iteration=change.iteration, changes=changes)


# --- the ZIP --------------------------------------------------------------------------------------------------------


def _add(archive: zipfile.ZipFile, name: str, data: bytes, executable: bool = False) -> None:
    member = zipfile.ZipInfo(name, FIXED_TIME)
    member.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    member.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(member, data)


def _script(each: Shown) -> str:
    line = command(each.run, each.record, output="repeated.png")
    return f"""#!/bin/sh
# Paints this run once more, beside its own result. nst is the command of Style Transfer Studio.
cd "$(dirname "$0")" || exit 1
exec {line}
"""


def _recorded(record: RunRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"writer", "owner"})


def _summary(each: Shown) -> dict[str, Any]:
    """A run without what only its own folder needs."""
    reading = each.reading.model_dump(exclude={"run"}) if each.reading else None
    beside = {"name": each.marks.name, "note": each.marks.note, "reading": reading}
    return _recorded(each.record) | beside | {"command": command(each.run, each.record)}


def _row(each: Shown) -> dict[str, Any]:
    """A run as one line of a table."""
    summary = _summary(each)
    nested = ("settings", "timings", "reading", "environment", "steering", "shape", "schema_version")
    row = {name: value for name, value in summary.items() if name not in nested}
    row |= {"height": each.record.shape[0], "width": each.record.shape[1]}
    row["steering"] = " ".join(option for change in each.record.steering for option in change.options())
    for group, prefix in (("settings", "setting: "), ("timings", "seconds: "), ("reading", "yardstick: ")):
        for name, value in (summary[group] or {}).items():
            row[prefix + name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is marked as a text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()
