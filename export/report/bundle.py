"""Write a report as a ZIP: the page, and the pictures, metrics and a repeat script of each run."""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from core.runs.evaluation import Evaluation
from core.runs.record import RUN_ID, RunRecord
from core.runs.run import Run
from export import describe
from export.report import content
from export.report.content import ReportRun, TimingRows
from export.report.page import TITLE, render

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # of all members, so that the same runs give the same bytes


def write_zip(
    target: IO[bytes],
    found: Sequence[Run],
    evaluations: Mapping[str, Evaluation] = {},
    title: str = TITLE,
    measured_by: str = "",
    timings: Mapping[str, TimingRows] = {},
) -> None:
    """Write a report as a ZIP: report.html, tables of all runs (runs.csv, runs.json), and a folder for each run.

    The folder has the run's pictures in full size, metrics.csv, run.json, and repeat.sh, which paints the run again.
    The arguments after `target` are those of `page.html`.

    Raises:
        InputError: If there is no run, or a run is unreadable.
    """
    shown = content.read_run(found, evaluations)
    page = render(shown, title, measured_by, timings)
    with zipfile.ZipFile(target, "w") as archive:
        _add(archive, "report.html", page.encode())
        _add(archive, "runs.csv", _csv([_row(each) for each in shown]).encode())
        _add(archive, "runs.json", _json([_summary(each) for each in shown]))
        for each in shown:
            folder = each.run.id if RUN_ID.fullmatch(each.run.id) else f"run-{each.number}"
            outputs = [path for path in (each.run.result, each.run.path / "metrics.csv") if path.is_file()]
            for path in (*each.run.input_files(), *outputs):
                _add(archive, f"{folder}/{path.name}", content.bytes_of(path, each.run))
            _add(archive, f"{folder}/run.json", _json(_recorded(each.record)))
            _add(archive, f"{folder}/repeat.sh", _script(each).encode(), executable=True)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, executable: bool = False) -> None:
    member = zipfile.ZipInfo(name, FIXED_TIME)
    member.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    member.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(member, data)


def _script(each: ReportRun) -> str:
    line = describe.command(each.run, each.record, output="repeated.png")
    return f"""#!/bin/sh
# Paints this run again, beside its result. nst is the command of Style Transfer Studio.
cd "$(dirname "$0")" || exit 1
exec {line}
"""


def _recorded(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in record.summary().items() if name != "owner"}


def _summary(each: ReportRun) -> dict[str, Any]:
    """Return a run's entry in runs.json."""
    evaluation = each.evaluation.model_dump(exclude={"run"}) if each.evaluation else None
    beside = {"name": each.marks.name, "note": each.marks.note, "reading": evaluation}
    return _recorded(each.record) | beside | {"command": describe.command(each.run, each.record)}


def _row(each: ReportRun) -> dict[str, Any]:
    """Return a run's row in runs.csv."""
    summary = _summary(each)
    nested = ("settings", "timings", "reading", "environment", "steering", "shape", "styles", "schema_version")
    row = {name: value for name, value in summary.items() if name not in nested}
    row |= {"height": each.record.shape[0], "width": each.record.shape[1]}
    row["steering"] = " ".join(option for change in each.record.steering for option in change.options())
    for group, prefix in (("settings", "setting: "), ("timings", "seconds: "), ("reading", "yardstick: ")):
        for name, value in (summary[group] or {}).items():
            row[prefix + name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    """Mark text as text if a spreadsheet would read it as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()
