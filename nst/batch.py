"""The command that paints many pictures and compares them: batch."""

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

OF_FOLDERS = "Instead of JOBS: every photo with every painting by every preset"


@app.command()
@options.takes_settings
def batch(
    jobs_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[JOBS]",
            help="A CSV or YAML file: a row for each run, with its content, style, preset and any setting by its name.",
            show_default=False,
        ),
    ] = None,
    contents: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="The photos: a folder, a file or a sample's name; may be given repeatedly.",
            rich_help_panel=OF_FOLDERS,
        ),
    ] = None,
    styles: Annotated[
        list[str] | None, typer.Option(metavar="FOLDER", help="The paintings, likewise.", rich_help_panel=OF_FOLDERS)
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B,…",
            help="A setting, and the values to try; may be given for several. Lists are parted by semicolons.",
            rich_help_panel=OF_FOLDERS,
        ),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRESET",
            help=f"One, or with folders several; in a file it is for rows that name none ({DEFAULT_PRESET}).",
            show_default=False,
        ),
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Where the report goes, .html or .zip; beside JOBS or in the current folder otherwise.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure the results by a common yardstick, for the report.")
    ] = True,
    by: By = "reference",
    again: Annotated[bool, typer.Option("--again", help="Paint also what has been painted already.")] = False,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Paint on the Ray cluster at this address, not here.")
    ] = None,
    as_json: Json = False,
    **choices: Any,
) -> None:
    """Paint many pictures and compare them: the runs of a file, or all combinations of folders, presets and settings.

    All is checked before the first run begins. The same command, given again, goes on where it was."""
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
            raise InputError(
                "The runs are those of a file: leave out --contents, --styles, --sweep and a second --preset."
            )
        target = report_to or jobs_file.parent / f"{jobs_file.name}-report.html"
        name = jobs_file.name
    else:
        if not (contents and styles):
            raise InputError("Name a file of runs, or photos and paintings by --contents and --styles.")
        target = report_to or Path("batch-report.html")
        name = " × ".join(" + ".join(Path(each).name or each for each in named) for named in (contents, styles))
    check_writable(target)
    with console.working() as told:
        if jobs_file:
            wanted = from_file(jobs_file, (preset or [DEFAULT_PRESET])[0], common, told)
        else:
            presets, sweeps = preset or [DEFAULT_PRESET], plan.sweeps(sweep or ())
            wanted = plan.from_product(contents or (), styles or (), presets, sweeps, common, told)
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
    """Have the runs painted that have not been yet, and compare all of them in a report."""
    from core.batches.progress import BatchProgress, batch_items, cancel_waiting

    items = batch_items(wanted, again)
    there = [item for item in items if item.state == "painted"]
    said = f", {len(there)} of them painted already" if there else ""
    console.tell(f"{len(items)} run{'s'[: len(items) > 1]}{said}")
    progress = BatchProgress([item for item in items if item.state != "painted"])
    stopped, report = False, None
    same = f"the same command{' without --again' if again else ''}"
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
        console.tell(f"{waiting} {verb} not painted yet. What is done stays; {same} goes on from there.")
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
        raise StudioError(f"{count} of {len(items)} runs could not be painted; {same} tries them once more.")


def _run_batch(progress: BatchProgress, name: str, address: str | None) -> None:
    """Begin the runs that are not painted, and show their progress until all are over."""
    from core.batches.progress import begin
    from core.jobs import ray_head, schedule

    with console.working() as told:
        begun = begin([item for item in progress.items if item.state != "under way"], name, told)
    if address and begun:
        ray_head.paint_all(begun, address, partial(_report_cluster, progress), partial(load_engine, None))
    else:
        schedule.submit(*begun)
    on_terminal = console.screen.is_terminal
    words = TextColumn("{task.description}", markup=False)  # of pictures' names, too
    columns = (words, BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[left]}"))
    with (
        Progress(*columns, console=console.screen, disable=not on_terminal) as bar,
        console.interrupt_noticed() as interrupted,
    ):
        iterations = sum(item.job.settings.iterations for item in progress.items)
        task = bar.add_task("", total=iterations, left="", visible=iterations > 0)
        told_of = len(progress.over)
        for seen in progress.until_over():
            if interrupted:
                raise KeyboardInterrupt
            bar.update(task, completed=seen.iterations, description=legible(seen.words), left=seen.left)
            if not on_terminal:
                for line in progress.endings()[told_of:]:
                    console.tell(line)
                told_of = seen.over


def _report_cluster(progress: BatchProgress, line: str) -> None:
    """Of a run, by its title, and how it ended as of any run of a batch; of all else as it is said."""
    run_id, _, rest = line.partition(" ")
    for run, title in progress.titles().items():
        if run.id == run_id:
            with suppress(StudioError):  # why it cannot be read is told at the end
                line = progress.endings()[-1] if progress.is_over(run) else f"{title} {rest}"
    console.tell(line)


def _stop_batch(progress: BatchProgress) -> None:
    """Take what waits out of the queue, and have what is being painted stop."""
    from core.batches.progress import BatchProgress, cancel_waiting

    progress.snapshot()  # on a cluster nobody has, yet
    if asked := cancel_waiting(progress.unfinished_of_ours()):
        console.tell("What is being painted stops after its step, and keeps its best picture …")
        with suppress(KeyboardInterrupt):  # a second time: it ends by itself
            for _ in BatchProgress([item for item in progress.items if item.run in asked]).until_over():
                pass
