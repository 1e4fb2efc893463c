"""Render a report of runs as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core import paths
from core.errors import InputError
from core.names import legible
from core.runs.evaluation import Evaluation, comparable
from core.runs.record import RunRecord
from core.runs.run import SUMS, Run
from core.settings import SETTINGS
from export import charts, contact_sheet, describe, settings_text
from export.report import content
from export.report.content import FRAME_SIDE, Picture, ReportRun, TimingRows

SUFFIXES = (".html", ".zip")
TITLE = "Style transfer report"

FEW = 6  # runs shown with their inputs in large pictures; more runs are shown on a contact sheet
SHEET_SIDE = 360  # px, of a picture on a contact sheet
LARGE_SIDE = 640  # px, of the same picture in the details of its run
MOST_LARGE = 60  # runs with such a picture; more would make the page slow
MOST_CURVES = len(charts.COLOURS) * len(charts.DASHES)  # more curves would look alike

ABBREVIATIONS = {"cpu": "CPU", "cuda": "CUDA", "gpu": "GPU", "gpus": "GPUs", "onnx": "ONNX"}


def html(
    found: Sequence[Run],
    evaluations: Mapping[str, Evaluation] = {},
    title: str = TITLE,
    measured_by: str = "",
    timings: Mapping[str, TimingRows] = {},
) -> str:
    """Return the HTML page about the runs, without scripts or references to other files.

    Args:
        found: The runs.
        evaluations: Evaluations by run ID.
        title: The title of the page.
        measured_by: The source of the evaluations' settings, such as "the preset reference".
        timings: Tables of `bench.measurements`, by their titles.

    Raises:
        InputError: If there is no run, or a run is unreadable.
    """
    return render(content.read_run(found, evaluations), title, measured_by, timings)


def check_writable(path: Path) -> None:
    """Check that a report can be written to `path`.

    Raises:
        InputError: If the suffix, the folder or the permissions do not allow it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} cannot be written: the name of a report must end in {' or '.join(SUFFIXES)}.")
    paths.check_writable(path)


def render(shown: list[ReportRun], title: str, measured_by: str, timings: Mapping[str, TimingRows]) -> str:
    """Return the HTML page about runs that `content.read_run` has read; see `html`."""
    created = sorted(each.record.created for each in shown)
    many = len(shown) > FEW
    return _template().render(
        title=title,
        first=f"{created[0]:%Y-%m-%d}",
        last=f"{created[-1]:%Y-%m-%d}",
        runs=_described_briefly(shown) if many else [_described(each) for each in shown],
        sheet=_contact_sheet(shown) if many else None,
        most_curves=MOST_CURVES,
        measured=any(each.evaluation for each in shown),
        lowest=min((each.evaluation.total for each in shown if each.evaluation), default=None),
        measured_by=measured_by,
        comparable=comparable(each.record for each in shown),
        drawn=_drawings(shown),
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


def _described(each: ReportRun, pictures: bool = True, drawn: bool = True) -> dict[str, Any]:
    """Return what the page says about a run, with its pictures and its own charts if asked for."""
    record, seconds = each.record, each.record.timings.get("total")
    own = {}
    if drawn and len(each.metrics) > 1:
        what = f"of {each.short}, {each.title}, over {len(each.metrics)} iterations"
        stages = _stages(each)
        losses = charts.loss_curves(each.metrics, record.steering, stages)
        own["losses"] = charts.svg(losses, f"The losses {what}")
        layers = charts.layer_curves(each.metrics, stages)
        own["layers"] = charts.svg(layers, f"The style layers' shares {what}")
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
        "loss": "–" if record.best_total is None else f"{record.best_total:.4g}",
        "seconds": "–" if seconds is None else f"{seconds:.1f}",
        "evaluation": each.evaluation,
        "pictures": content.pictures(each) if pictures else [],
        "large": None,
        "frames": content.frames(each) if pictures else [],
        "drawn": own,
        "stages": record.settings.stages,
        "steering": charts.steering_marks(record.steering),
        "settings": [
            (setting.label, settings_text.describe_setting(setting, record.settings)) for setting in SETTINGS.values()
        ],
        "provenance": _provenance(record),
        "environment": [(_fact(name), _words(value)) for name, value in record.environment.items()],
        "command": describe.command_parts(each.run, record),
    }


def _stages(each: ReportRun) -> Mapping[int, str]:
    return {} if each.metrics.empty else charts.stage_marks(each.record.settings, each.metrics["iteration"].iloc[-1])


def _described_briefly(shown: list[ReportRun]) -> list[dict[str, Any]]:
    """Return what the page says about each of many runs. Without a name, its title is its differences."""
    captions = contact_sheet.captions([each.record for each in shown])
    large, drawn = len(shown) <= MOST_LARGE, len(shown) <= MOST_CURVES
    return [
        _described(each, pictures=False, drawn=drawn)
        | {"title": legible(each.marks.name) or caption, "large": content.painted(each, LARGE_SIDE) if large else None}
        for each, caption in zip(shown, captions, strict=True)
    ]


def _contact_sheet(shown: list[ReportRun]) -> dict[str, Any]:
    """Return the pictures of many runs, in tables if possible, and the photo or painting that all runs share."""
    records = [each.record for each in shown]
    pictures = [
        {"number": each.number, "short": each.short, "words": caption, "status": each.record.status.capitalize(),
         "picture": content.painted(each, SHEET_SIDE)}
        for each, caption in zip(shown, contact_sheet.captions(records), strict=True)
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
        for table in contact_sheet.sheets(records)
    ]
    different = contact_sheet.varying(records)
    alike = [name for name in (contact_sheet.PHOTO, contact_sheet.PAINTING) if name not in different]
    common = [_of_heading(name, shown[0]) for name in alike]
    return {"tables": tables, "pictures": pictures, "common": common}


def _of_heading(what: str, each: ReportRun) -> Picture | None:
    """Return the photo or the first painting of a row or column, or `None` for other headings."""
    if what == contact_sheet.PHOTO:
        return content.picture(each.run, each.run.content, f"Photo: {each.record.content}", "", FRAME_SIDE)
    if what == contact_sheet.PAINTING:
        return content.picture(each.run, each.run.style(1), f"Painting: {each.record.style}", "", FRAME_SIDE)
    return None


def _drawings(shown: list[ReportRun]) -> dict[str, str]:
    """Return the charts that compare the runs, as SVG."""
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


def _durations(title: str, rows: TimingRows) -> list[dict[str, Any]]:
    """Return a chart and a table for each measured size."""
    import pandas as pd

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
                "drawn": charts.svg(drawing, f"{name}: seconds; the table has the numbers"),
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
    """Return a sentence about how a run ended; for a finished run, its message."""
    done = f"{record.iteration or 0} of {record.settings.iterations} iterations"
    if record.status == "stopped":
        picture = "the best picture so far was kept" if record.best_total is not None else "there is no picture"
        return f"The run was stopped after {done}; {picture}. {record.message}".strip()
    if record.status == "interrupted":
        return f"The process that painted the run ended unexpectedly; {done} are recorded."
    if record.unfinished:
        return f"The run had not ended when this report was written: {done}. {record.message}".strip()
    return record.message


def _differences(shown: list[ReportRun]) -> list[tuple[str, list[str]]]:
    """Return the differences between the runs, or between a single run and its preset."""
    if len(shown) == 1:
        return [(label, [value, usual]) for label, value, usual in describe.differences(shown[0].record)]
    return describe.differing([(each.run, each.record) for each in shown])


def _timings(shown: list[ReportRun]) -> list[tuple[str, list[str]]]:
    """Return the seconds of each phase, then of the sums."""
    names = list(dict.fromkeys(name for each in shown for name in each.phases))
    lines = [(name.capitalize(), [each.phases.get(name) for each in shown]) for name in names]
    lines += [(name.capitalize(), [each.record.timings.get(name) for each in shown]) for name in SUMS if names]
    return [(name, ["–" if value is None else f"{value:.2f}" for value in values]) for name, values in lines]


def _provenance(record: RunRecord) -> list[tuple[str, str]]:
    facts = {
        "Painted": f"{record.created:%Y-%m-%d %H:%M:%S} UTC",
        "Weights of VGG19": record.weights,
        "SHA-256 of the weights": record.weights_sha256,
        "Started from": record.start,
        "Style targets": record.style_targets,
        "Precision": record.precision,
        "Loss evaluations": str(record.evaluations or ""),
        "Best iteration": "" if record.best_iteration is None else str(record.best_iteration),
    }
    return [(name, value) for name, value in facts.items() if value]


def _fact(name: str) -> str:
    """Return the name of an environment fact for people."""
    written = " ".join(ABBREVIATIONS.get(word, word) for word in name.split("_"))
    return written[:1].upper() + written[1:]


def _words(value: Any) -> str:
    """Return an environment value as text; it may be nested."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return settings_text.plainly(value) if value not in (None, "") else "none"
