"""The command batch: paint many pictures and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from core.errors import InputError, StudioError
from core.names import legible
from core.presets import DEFAULT_PRESET
from nst import console, options
from nst.app import app
from nst.engine import load_engine
from nst.options import By, Json
from nst.runs import write_report

if TYPE_CHECKING:
    from core.batches.plan import Job
    from core.batches.progress import BatchProgress

OF_FOLDERS = "Instead of JOBS: combine every photo, painting and preset"


@app.command()
@options.takes_settings
def batch(
    jobs_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[JOBS]",
            help="A CSV or YAML file with one row per run: content, style, preset and any setting.",
            show_default=False,
        ),
    ] = None,
    contents: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Photos: a folder, a file or the name of a sample. Can be repeated.",
            rich_help_panel=OF_FOLDERS,
        ),
    ] = None,
    styles: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Paintings: a folder, a file or the name of a sample. Can be repeated.",
            rich_help_panel=OF_FOLDERS,
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B,…",
            help="A setting and its values to try. Can be repeated. Separate values that are lists by semicolons.",
            rich_help_panel=OF_FOLDERS,
        ),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRESET",
            help=f"The preset ({DEFAULT_PRESET}). JOBS: of rows that name none. Without JOBS, it can be repeated.",
            show_default=False,
        ),
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the report to this .html or .zip file. Default: beside JOBS, or in the current folder.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Evaluate all results with the same settings.")
    ] = True,
    by: By = "reference",
    again: Annotated[bool, typer.Option("--again", help="Paint finished runs again.")] = False,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Paint on the Ray cluster at this address, not here.")
    ] = None,
    as_json: Json = False,
    **choices: Any,
) -> None:
    """Paint many pictures and compare them: the runs in a file, or all combinations of folders, presets and settings.

    Everything is checked before the first run starts. Repeat the command to continue an interrupted batch.
    """
    from core.batches import plan
    from core.batches.jobs_file import from_file
    from core.jobs import ray_head
    from core.runs import evaluation
    from export.report.page import check_writable

    if address is not None:
        ray_head.check_reach(address)
    common = {name: value for name, value in choices.items() if value is not None}
    evaluation.settings_of(by)
    if jobs_file:
        if contents or styles or sweep or len(preset or ()) > 1:
            raise InputError("With a file of runs, leave out --contents, --styles, --sweep and a second --preset.")
        target = report_to or jobs_file.parent / f"{jobs_file.name}-report.html"
        name = jobs_file.name
    else:
        if not (contents and styles):
            raise InputError("Give a file of runs, or photos and paintings with --contents and --styles.")
        target = report_to or Path("batch-report.html")
        name = " × ".join(" + ".join(Path(each).name or each for each in named) for named in (contents, styles))
    check_writable(target)
    with console.working() as report:
        if jobs_file:
            wanted = from_file(jobs_file, (preset or [DEFAULT_PRESET])[0], common, report)
        else:
            presets, sweeps = preset or [DEFAULT_PRESET], plan.sweeps(sweep or ())
            wanted = plan.from_product(contents or (), styles or (), presets, sweeps, common, report)
    _paint_batch(wanted, name, target, by, measure, again, address, as_json)


def _paint_batch(
    wanted: Sequence[Job],
    name: str,
    target: Path,
    by: str,
    measure: bool,
    again: bool,
    address: str | None,
    as_json: bool,
) -> None:
    """Paint the unfinished runs, then write a report about all runs."""
    from core.batches.progress import BatchProgress, batch_items, cancel_waiting

    items = batch_items(wanted, again)
    there = [item for item in items if item.state == "painted"]
    finished = f", {len(there)} of them already painted" if there else ""
    console.tell(f"{len(items)} run{'s'[: len(items) > 1]}{finished}")
    progress = BatchProgress([item for item in items if item.state != "painted"])
    stopped, report = False, None
    repeat = f"repeat the command{' without --again' if again else ''}"
    try:
        _run_batch(progress, name, address)
    except KeyboardInterrupt:
        stopped = True
        _stop_batch(progress)
    except StudioError:
        cancel_waiting(progress.unfinished_of_ours())
        raise
    painted, failed = progress.painted(), progress.failed()
    if progress.items:
        console.tell(f"Painted {len(painted)} of {len(progress.items)}")
    for message, titles in failed.items():
        console.tell(f"{', '.join(titles[:3])}{f' and {len(titles) - 3} more' if len(titles) > 3 else ''}: {message}")
    if stopped:
        waiting = len(progress.items) - len(painted)
        verb = "is" if waiting == 1 else "are"
        console.tell(f"{waiting} {verb} not painted yet. Finished runs are kept: {repeat} to continue.")
    elif found := [item.run for item in (*there, *painted) if item.run]:
        found.sort(key=[item.run for item in items].index)
        write_report(found, target, by, f"{name}: {len(found)} runs", measure)
        report = str(target)
    if as_json:
        records = [item.run.record().summary() for item in painted if item.run]
        known = [item.run.id for item in there if item.run]
        console.print_json({"painted": records, "there already": known, "failed": failed, "report": report})
    if stopped:
        raise typer.Exit(130)
    if failed:
        count = len(progress.items) - len(painted)
        raise StudioError(f"{count} of {len(items)} runs could not be painted: {repeat} to try them again.")


def _run_batch(progress: BatchProgress, name: str, address: str | None) -> None:
    """Start the unpainted runs, and show their progress until all have ended."""
    from core.batches.progress import begin
    from core.jobs import ray_head, schedule

    with console.working() as report:
        begun = begin([item for item in progress.items if item.state != "under way"], name, report)
    if address and begun:
        ray_head.paint_all(begun, address, partial(_report_cluster, progress), partial(load_engine, None))
    else:
        schedule.submit(*begun)
    on_terminal = console.screen.is_terminal
    words = TextColumn("{task.description}", markup=False)  # a picture's name is not markup
    columns = (words, BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[left]}"))
    with (
        Progress(*columns, console=console.screen, disable=not on_terminal) as bar,
        console.interrupt_noticed() as interrupted,
    ):
        iterations = sum(item.job.settings.iterations for item in progress.items)
        task = bar.add_task("", total=iterations, left="", visible=iterations > 0)
        shown = len(progress.over)
        for seen in progress.until_over():
            if interrupted:
                raise KeyboardInterrupt
            bar.update(task, completed=seen.iterations, description=legible(seen.words), left=seen.left)
            if not on_terminal:
                for line in progress.endings()[shown:]:
                    console.tell(line)
                shown = seen.over


def _report_cluster(progress: BatchProgress, line: str) -> None:
    """Print a line from the cluster, with the title of its run instead of the ID, or how the run ended."""
    run_id, _, rest = line.partition(" ")
    for run, title in progress.titles().items():
        if run.id == run_id:
            with suppress(StudioError):  # the batch prints at the end why the run is unreadable
                line = progress.endings()[-1] if progress.is_over(run) else f"{title} {rest}"
    console.tell(line)


def _stop_batch(progress: BatchProgress) -> None:
    """Cancel the waiting runs, and stop the active ones."""
    from core.batches.progress import BatchProgress, cancel_waiting

    progress.snapshot()  # on a cluster there is no snapshot yet
    if asked := cancel_waiting(progress.unfinished_of_ours()):
        console.tell("Active runs stop after the current step and keep their best picture …")
        with suppress(KeyboardInterrupt):  # a second Ctrl-C: stop waiting
            for _ in BatchProgress([item for item in progress.items if item.run in asked]).until_over():
                pass
