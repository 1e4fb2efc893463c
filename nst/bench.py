"""Commands that measure: bench, reference, gallery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from core.errors import InputError, StudioError
from nst import console
from nst.app import app
from nst.engine import load_engine
from nst.options import Json, Weights
from nst.stylize import perform, read_picture, read_spec

if TYPE_CHECKING:
    from bench.measurements import Measurement


@app.command()
def reference(
    content: Annotated[str | None, typer.Argument(help="The published content image. Default: downloaded.")] = None,
    style: Annotated[str | None, typer.Argument(help="The published style image. Default: downloaded.")] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="0,100,…", help="Compare only these iterations, and stop after the last.")
    ] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Repeat the published run; print its losses, ours and the deviation in percent."""
    from bench import reference as published
    from core.presets import choose
    from core.runs.store import create

    wanted = published.parse_rows(rows) if rows is not None else tuple(published.PUBLISHED)
    if (content is None) != (style is None):
        raise InputError("Give both images of the pair, or neither to download them.")
    if content is None or style is None:
        try:
            content, style = map(str, published.fetch_pair())
        except StudioError as error:
            raise StudioError(f"{error} Give the pair as files: nst reference CONTENT STYLE.") from error
    elif not published.is_published(Path(content), Path(style)):
        console.tell("These are not the published images: the published losses belong to another pair.")
    photo, name = read_picture(content)
    settings = choose("reference", iterations=max(max(wanted), 1))
    run = create(read_spec([style], settings, "reference"), photo, name)
    found: list[published.Row] = []
    perform(run, weights, lambda steps: found.extend(published.rows(steps, wanted)))
    if as_json:
        console.print_json([row.as_json() for row in found])
        return
    lines = []
    for row in found:
        for name in reversed(published.LOSSES):
            deviation = row.deviation_percent[name]
            percent = "–" if deviation is None else f"{deviation:+.2f}"
            lines.append([str(row.iteration), name, f"{row.ours[name]:.4e}", f"{row.published[name]:.4e}", percent])
    console.print_table(["iteration", "loss", "ours", "published", "deviation %"], lines)


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="The folder for the contact sheets.")],
    only: Annotated[
        Literal["controls", "fine", "published"] | None,
        typer.Option(
            help="Paint only this sheet: controls (every setting), fine (fine beside reference, on the samples) or "
            "published (the same, on the published pair). Default: controls and fine."
        ),
    ] = None,
    weights: Weights = None,
) -> None:
    """Paint contact sheets of sample pictures: every setting, and fine beside reference. Takes tens of minutes."""
    from bench.contact_sheets import paint
    from core.timings import Timings

    engine = load_engine(weights, console.tell, Timings())
    paint(engine, folder, [only] if only else ["controls", "fine"], console.tell)


PARTS = ("targets", "step", "start", "quality")


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART]…",
            help="What to time: targets, step, start (some minutes in all) or quality, the time until a picture is as "
            "good as the published run's (tens of minutes without a GPU). Default: all but quality.",
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="PX,…", help="Picture sizes for the part step.")] = "",
    peers: Annotated[
        bool, typer.Option("--peers", help="Also measure pastiche and PyTorch, downloaded into their own environment.")
    ] = False,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Measure the targets of quality again: 900 slow iterations per pair.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Print the measurement in this file, of any machine, and stop.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the JSON to this file.")
    ] = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Time the engine and its alternatives on this machine, and save the times as JSON."""
    from bench import measurements
    from core import paths

    if show:
        if parts or output or peers:
            raise InputError("--show only prints a measurement: leave out parts, --peers and --output.")
        _print_measurement(measurements.read(show), as_json)
        return
    wanted = tuple(parts) if parts else PARTS[:-1]
    if unknown := [part for part in wanted if part not in PARTS]:
        raise InputError(f"There is no part {unknown[0]!r}: choose from {', '.join(PARTS)}.")
    if sizes and "step" not in wanted:
        raise InputError("--sizes is for the part step: add step, or leave out --sizes.")
    if output:
        paths.check_writable(output)
    found, kept = None, None
    try:
        for found in _measure(wanted, sizes, peers, remeasure, weights):  # saved after each part: some take long
            kept = measurements.folder() / f"{found.created:%Y%m%d-%H%M%S}.json"
            for path in filter(None, (kept, output)):
                found.save(path)
    finally:  # print the finished parts even if a later part fails or is interrupted
        if found and kept:
            _print_measurement(found, as_json)
            console.tell(f"The measurement is saved in {kept}")
    if "quality" in wanted and not (found and found.pairs):
        raise StudioError("The time to quality could not be measured for any pair.")


def _measure(
    parts: tuple[str, ...], sizes: str, peers: bool, remeasure: bool, weights: Path | None
) -> Iterator[Measurement]:
    """Yield the growing measurement after each part."""
    from bench.measurements import SIZES, Measurement, parse_sizes
    from core.machine import hardware
    from core.timings import Timings

    wanted_sizes = parse_sizes(sizes) if sizes else SIZES
    with console.working() as report:
        hardware.import_tensorflow()
        from bench import comparisons, quality
        from bench import peers as others

        engine = load_engine(weights, report, Timings())
        found = Measurement.begin(engine.weights.provenance)
        ways = {
            "targets": lambda: comparisons.gram_targets(engine, report),
            "step": lambda: comparisons.step(engine, report, wanted_sizes),
            "start": lambda: comparisons.start(engine, report),
            "peers": lambda: others.steps(engine, report, announce=console.tell),
        }
        for part in (*parts, *(["peers"] if peers else [])):
            if part in ways:
                found.comparisons.append(ways[part]())
                yield found
        for pair in quality.pairs(console.tell) if "quality" in parts else ():
            try:
                found.pairs.append(quality.time_to_quality(engine, pair, remeasure, report))
            except StudioError as error:
                console.tell(str(error))
            yield found


def _print_measurement(found: Measurement, as_json: bool) -> None:
    from bench.measurements import MARKS

    if as_json:
        print(console.printable(found.model_dump_json(indent=2)))
        return
    console.tell(f"{found.label} · VGG19 weights: {found.weights}")
    for comparison in found.comparisons:
        console.tell(f"\n{comparison.title}")
        lines = []
        for timing in comparison.timings:
            low, high = timing.range
            spread = f"{low:.4g} … {high:.4g}"
            lines.append([timing.way, str(timing.size or ""), f"{timing.median:.4g}", spread, str(len(timing.seconds))])
        console.print_table(["way", "px", "seconds, median", "10th … 90th percentile", "repetitions"], lines)
    for pair in found.pairs:
        console.tell(f"\n{pair.pair}, {pair.shape[1]} × {pair.shape[0]}: total loss {pair.target:.4g}")
        lines = []
        for course in pair.courses:
            reached = "not reached" if course.to_target is None else f"{course.to_target:.4g}"
            totals = [course.total_at(mark) for mark in MARKS]
            marks = ["–" if total is None else f"{total:.4g}" for total in totals]
            lines.append([course.way, f"{course.step:.3g}", f"{reached}{' *' if course.extrapolated else ''}", *marks])
        console.print_table(
            ["way", "s per iteration", "s to the target", *(f"loss at {mark} s" for mark in MARKS)], lines
        )
    if any(course.extrapolated for pair in found.pairs for course in pair.courses):
        console.tell("* extrapolated: the median iteration time, times the iterations of the published run")
