"""Commands about runs: runs, queue, compare, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import StudioError
from core.presets import PRESETS
from nst import console
from nst.app import app
from nst.engine import load_engine
from nst.options import By, Json, Weights

if TYPE_CHECKING:
    from core.runs.evaluation import Evaluation
    from core.runs.run import Run


@app.command()
def runs(as_json: Json = False) -> None:
    """List the runs, newest first."""
    from core import paths
    from core.jobs import control
    from core.runs.store import readable_runs

    records = [run.with_progress(record) for run, record in readable_runs()]
    for record in records:
        if record.status == "interrupted":
            record.message = control.why_interrupted(record)
    if as_json:
        console.print_json([record.summary() for record in records])
        return
    if not records:
        console.tell(f"There are no runs yet in {paths.runs()}")
        return
    columns = ["run", "status", "preset", "size", "iterations", "best loss", "seconds"]
    lines, longest = [], max(len(record.id) for record in records)
    for record in records:
        lines.append(
            [
                record.id,
                record.status,
                record.preset,
                f"{record.shape[1]} × {record.shape[0]}",
                f"{record.iteration or 0} of {record.settings.iterations}",
                f"{record.best_total:.4g}" if record.best_total is not None else "–",
                f"{record.timings['total']:.1f}" if "total" in record.timings else "–",
            ]
        )
        if record.status == "interrupted":  # the reason goes below the ID, to keep the table narrow
            lines.append([console.shorten(f"  {record.message}", longest), *[""] * (len(columns) - 1)])
    console.print_table(columns, lines)


@app.command()
def queue(
    front: Annotated[str | None, typer.Option(metavar="RUN", help="Move this run to the front of the queue.")] = None,
    up: Annotated[str | None, typer.Option(metavar="RUN", help="Move this run up by one place.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="RUN", help="Remove this run from the queue.")] = None,
    as_json: Json = False,
) -> None:
    """List the waiting runs, the next run first, with their estimated start; or change their order."""
    from core.jobs import control, schedule
    from core.jobs.queue import move
    from core.runs.store import find

    if front:
        move(find(front), to_front=True)
    if up:
        move(find(up))
    if cancel:
        control.cancel(find(cancel))
    waiting = schedule.queue_positions()
    under_way = schedule.running()
    if as_json:
        listed = [{"run": run.id, "place": found.place, "seconds": found.seconds} for run, found in waiting]
        painted = [run.id for run in under_way]
        console.print_json({"painting": painted[0] if painted else None, "all_painting": painted, "waiting": listed})
        return
    for run in under_way:
        console.tell(f"{run.id} is running.")
    if not waiting:
        console.tell("No run is waiting.")
        return
    lines = [
        [str(found.place), run.id, "–" if found.seconds is None else f"{found.seconds / 60:.1f}"]
        for run, found in waiting
    ]
    console.print_table(["", "run", "estimated start in, minutes"], lines)


@app.command()
def compare(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="Runs with a result: IDs or their first parts, or last. nst runs lists IDs."
        ),
    ],
    by: By = "reference",
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Evaluate results of runs with the same settings: the losses in float32, and the likeness to the photo."""
    from core.runs.store import find

    found = [find(run_id) for run_id in run_ids]
    evaluations = _evaluations(found, by, weights)
    if as_json:
        console.print_json([each.model_dump() for each in evaluations])
        return
    console.print_table(
        ["run", "total loss", "style", "content", "likeness to the photo"],
        [
            [r.run, f"{r.total:.4g}", f"{r.style:.4g}", f"{r.content:.4g}", f"{r.similarity:.3f}"]
            for r in sorted(evaluations, key=lambda each: each.total)
        ],
    )


def _evaluations(found: list[Run], by: str, weights: Path | None) -> list[Evaluation]:
    """Return the evaluation of every run; compute the missing ones."""
    from core.machine import hardware
    from core.runs import evaluation
    from core.timings import Timings

    settings = evaluation.settings_of(by)
    kept = evaluation.evaluations(found, settings)
    if missing := [run for run in found if run.id not in kept]:
        with console.working() as report:
            records = {run.id: run.record() for run in missing}
            report("Loading TensorFlow …")
            hardware.import_tensorflow()
            engine = load_engine(weights, report, Timings())
            for run in missing:
                kept[run.id] = evaluation.evaluate(engine, run, records[run.id], settings, report)
    return [kept[run.id] for run in found]


@app.command()
def report(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="Runs for the report: IDs or their first parts, or last. nst runs lists IDs."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="The file to write: .html, or .zip with all pictures."),
    ],
    by: By = "reference",
    title: Annotated[str, typer.Option(metavar="TEXT", help="The title of the report.")] = "",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Evaluate results that have no evaluation yet.")
    ] = True,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--timings", metavar="FILE", help="Add a measurement by nst bench. Can be repeated."),
    ] = None,
    weights: Weights = None,
) -> None:
    """Write a report of runs as one self-contained page: pictures, losses, settings, times, commands."""
    from bench import measurements
    from core.runs import evaluation, store
    from export.report import content, page

    page.check_writable(output)
    found = [store.find(run_id) for run_id in dict.fromkeys(run_ids)]
    content.check(found)
    tables = measurements.tables({each.label: each for each in map(measurements.read, measured or ())})
    evaluation.settings_of(by)
    write_report(found, output, by, title or page.TITLE, measure, weights, tables)


def write_report(
    found: list[Run],
    output: Path,
    by: str,
    title: str,
    measure: bool,
    weights: Path | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = {},
) -> None:
    """Write the report of runs, and print its path; with `measure`, compute missing evaluations first.

    Raises:
        StudioError: If the report cannot be written.
    """
    from core import paths
    from core.runs import evaluation
    from export.report import bundle, page

    if measure:
        _evaluations([run for run in found if (run.path / "result.npy").is_file()], by, weights)
    words = f"the {'preset' if by in PRESETS else 'run'} {by}"
    contents = found, evaluation.evaluations(found, evaluation.settings_of(by)), title, words
    try:
        with paths.replacing(output) as file:
            if output.suffix.lower() == ".zip":
                bundle.write_zip(file, *contents, timings=tables)
            else:
                file.write(page.html(*contents, timings=tables).encode())
    except OSError as error:
        raise StudioError(f"{output} could not be written: {error.strerror or error}.") from error
    console.tell(f"The report of {len(found)} run{'s'[: len(found) > 1]} is in {output}")
