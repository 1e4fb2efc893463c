"""Commands that paint one picture or a folder: stylize, resume, preview."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InputError, StudioError
from core.presets import DEFAULT_PRESET, PRESETS
from core.settings import MOST_STYLES
from nst import console, options
from nst.app import app
from nst.console import PaintingProgress
from nst.engine import load_engine, once
from nst.options import Content, Json, Now, Output, Style, Weights

if TYPE_CHECKING:
    from PIL import Image

    from core.batches.folder import FolderBatch
    from core.jobs.execution import EngineMaker
    from core.runs.record import Steering
    from core.runs.run import Run
    from core.runs.spec import RunSpec
    from core.settings import TransferSettings
    from core.transfer.stylize import Step

OF_A_FOLDER = "For a folder of photos"


@app.command()
@options.takes_settings
def stylize(
    content: Annotated[
        str,
        typer.Argument(metavar="PHOTO", help="A file, a folder of photos, or the name of a sample such as chelsea."),
    ],
    styles: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE", help=f"1 to {MOST_STYLES} paintings: files, or names of samples such as waves."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The file to write: .png .jpg .webp .tif; for a folder of photos, another folder."
        ),
    ],
    preset: Annotated[
        str, typer.Option(help=" ".join(f"[b]{n}[/b]: {p.purpose}" for n, p in PRESETS.items()))
    ] = DEFAULT_PRESET,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N:PICTURE",
            help="Use style N where this picture is white. Can be repeated, once per style. Styles without a mask are "
            "blended outside the masks.",
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Keep the photo unchanged where this picture is white.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Start from this picture instead of --init.")
    ] = None,
    steer: Annotated[
        list[str] | None,
        typer.Option(metavar="N:NAME=X", help="Change a weight after iteration N. Can be repeated."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Paint finished photos again.", rich_help_panel=OF_A_FOLDER)
    ] = False,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence",
            help="Treat the photos as frames of a film: each starts from the previous result.",
            rich_help_panel=OF_A_FOLDER,
        ),
    ] = False,
    iterations_after_first: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=20_000,
            help="Iterations of each later frame of a sequence. Default: as many as for the first frame.",
            rich_help_panel=OF_A_FOLDER,
        ),
    ] = None,
    weights: Weights = None,
    now: Now = False,
    as_json: Json = False,
    **choices: Any,
) -> None:
    """Paint PHOTO in the style of one or more paintings. Ctrl-C stops the run and keeps the best picture so far.

    If PHOTO is a folder, paint every photo in it; repeat the command to continue after an interruption.
    """
    from core.batches.folder import FolderBatch
    from core.images import codec
    from core.presets import choose
    from core.runs.record import Steering
    from core.runs.store import create

    wanted = choose(preset, **choices)
    steering = [Steering.parse(text, wanted) for text in steer or ()]
    if late := [
        text for text, change in zip(steer or (), steering, strict=True) if change.iteration >= wanted.iterations
    ]:
        raise InputError(
            f"--steer {late[0]}: the run ends after {wanted.iterations} iterations. Give an earlier iteration."
        )
    if iterations_after_first and not sequence:
        raise InputError("--iterations-after-first needs --sequence.")
    folder = Path(content)
    if folder.is_dir():
        later = wanted.changed(iterations=iterations_after_first or wanted.iterations) if sequence else None
        spec = read_spec(styles, wanted, preset, mask, keep, start_from, steering)
        _paint_folder(FolderBatch.of(folder, output, spec, later), weights, now, again, as_json)
        return
    if sequence or again:
        raise InputError(f"{'--sequence' if sequence else '--again'} needs a folder, and {content} is not a folder.")
    codec.check_writable(output)
    photo, name = read_picture(content)
    spec = read_spec(styles, wanted, preset, mask, keep, start_from, steering)
    run = create(spec, photo, name)
    _tell_what_is_stretched(spec, photo.height, photo.width)
    perform(run, weights, now=now)
    _deliver(run, output, as_json)


@app.command()
def resume(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run that has ended: its ID or the first part of it, or last. nst runs lists IDs."
        ),
    ],
    output: Output,
    more: Annotated[int, typer.Option(metavar="N", min=0, max=20_000, help="Add this many iterations.")] = 0,
    weights: Weights = None,
    now: Now = False,
    as_json: Json = False,
) -> None:
    """Continue a stopped or interrupted run, or add iterations to any run that has ended."""
    from core.images import codec
    from core.runs import recovery, store

    codec.check_writable(output)
    run = store.find(run_id)
    recovery.resume(run, more)
    perform(run, weights, now=now)
    _deliver(run, output, as_json)


def _deliver(run: Run, output: Path, as_json: bool) -> None:
    """Write the result of a run that has ended, and print a summary."""
    record = run.record()
    if record.best_total is None:
        raise StudioError("The run stopped before its first picture.")
    try:
        run.write_result(output)
    except StudioError as error:
        raise StudioError(f"{error} The picture is saved as {run.result}") from error
    if as_json:
        console.print_json(record.summary() | {"output": str(output), "run": str(run.path)})
    else:
        kept = "Stopped; the best picture so far" if record.status == "stopped" else "The picture"
        console.tell(f"{kept} (iteration {record.best_iteration}, loss {record.best_total:.4g}) is in {output}")


@app.command()
def preview(
    content: Content,
    style: Style,
    output: Output,
    size: Annotated[int, typer.Option(metavar="PX", min=64, max=4096, help="Length of the longer side.")] = 512,
    as_json: Json = False,
) -> None:
    """Paint a preview of CONTENT in the style of STYLE with another network, in a fraction of a second."""
    import time

    from core.images import codec, geometry
    from core.transfer.preview import obtain

    codec.check_writable(output)
    (photo, photo_name), (painting, painting_name) = read_picture(content), read_picture(style)
    pair = geometry.resize(photo, size, photo_name), geometry.resize(painting, size, painting_name)
    network = obtain(console.tell)
    began = time.perf_counter()
    painted = network.paint(*pair)
    seconds = time.perf_counter() - began
    title = f"{photo_name} × {painting_name}, preview"
    codec.write_image(output, painted, {"Software": "Style Transfer Studio", "Title": title})
    if as_json:
        console.print_json({"output": str(output), "seconds": seconds, "shape": painted.shape[:2]})
    else:
        console.tell(f"The preview is in {output} ({seconds:.2f} s)")


def read_spec(
    styles: Sequence[str],
    settings: TransferSettings,
    preset: str,
    masks: Sequence[str] | None = None,
    keep: str | None = None,
    start: str | None = None,
    steering: Sequence[Steering] = (),
) -> RunSpec:
    """Read the pictures of a run, and return its spec; `masks` are texts such as "2:mask.png".

    Raises:
        InputError: If a picture is unreadable, or the pictures and settings do not fit together.
    """
    from core.runs.spec import RunSpec, Style
    from core.transfer.inputs import check_styles

    read_masks = _masks(masks or (), len(styles))
    pictures, names = zip(*map(read_picture, styles), strict=True)
    check_styles([picture.size for picture in pictures], settings, names)
    kept = _kept(keep) if keep else None
    start_image, start_name = read_picture(start) if start else (None, "")
    given = [Style(*style) for style in zip(names, pictures, read_masks, strict=True)]
    return RunSpec(given, settings, preset, kept, start_image, start_name, steering)


def _masks(given: Sequence[str], styles: int) -> list[Image.Image | None]:
    """Read masks such as "2:mask.png", and return a mask or `None` for each style."""
    from core.images import sandbox

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
            raise InputError(f"--mask {text}: style {int(number)} already has a mask.")
        masks[place] = mask = sandbox.read_mask(Path(file))
        if not mask.getbbox():
            raise InputError(f"--mask {text}: it is all black, so the style would not be used. Make some of it white.")
    return masks


def _kept(given: str) -> Image.Image:
    """Read the mask of the unchanged area, and refuse an all black or all white mask."""
    from core.images import sandbox

    mask = sandbox.read_mask(Path(given))
    if not mask.getbbox():
        raise InputError(f"--keep {given}: it is all black, so nothing would stay unchanged. Make some of it white.")
    if mask.getextrema() == (255, 255):
        raise InputError(f"--keep {given}: it is all white, so nothing would be painted. Make some of it black.")
    return mask


def _tell_what_is_stretched(spec: RunSpec, height: int, width: int, photo: str = "the photo") -> None:
    """Print which masks and starting picture are stretched, because their aspect ratio is not the photo's."""
    from core.images import geometry

    given = {f"--mask {number}": style.mask for number, style in enumerate(spec.styles, 1)}
    given |= {"--keep": spec.kept, "--start-from": spec.start}
    for option, picture in given.items():
        if picture and not geometry.have_same_shape(picture.size, (width, height)):
            console.tell(f"{option} has another aspect ratio than {photo}, so it is stretched.")


def read_picture(given: str) -> tuple[Image.Image, str]:
    """Return the picture of a file or a sample, and its name.

    Raises:
        InputError: If there is no such picture, or it is unreadable.
    """
    from core.samples.gallery import PictureSource

    found = PictureSource.from_text(given)
    return found.read(), found.name


def _let_pass(steps: Iterator[Step]) -> None:
    for _ in steps:  # keep no step: each holds pictures
        pass


def perform(
    run: Run, weights: Path | None, consume: Callable[[Iterator[Step]], None] = _let_pass, now: bool = False
) -> None:
    """Perform a run in this process with a progress bar; `consume` reads its steps, `now` skips the queue.

    Raises:
        StudioError: If the run fails.
    """
    with PaintingProgress(run.record().settings.iterations) as progress:
        _paint(run, progress, lambda tell, timings: load_engine(weights, tell, timings), consume, now)


def _paint(
    run: Run, progress: PaintingProgress, make_engine: EngineMaker, consume: Callable[[Iterator[Step]], None], now: bool
) -> None:
    from core.jobs import execution, schedule

    with console.interrupt_stops(run), nullcontext() if now else schedule.acquire_slot(run, progress.report):
        steps = execution.perform(run, make_engine, progress.report)
        try:
            consume(progress.watch(steps, run.record().settings.iterations))
        except StudioError as error:
            if run.result.is_file():
                raise type(error)(f"{error} The best picture so far is {run.result}") from error
            raise


def _paint_folder(batch: FolderBatch, weights: Path | None, now: bool, again: bool, as_json: bool) -> None:
    """Paint the unpainted photos with one progress bar, and print the failures at the end."""
    with console.working() as report:
        items = batch.items(report)
        due = {number: item for number, item in enumerate(items, 1) if again or not item.is_painted}
    make_engine = once(lambda tell, timings: load_engine(weights, tell, timings))
    painted: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    stopped = False
    shapes: set[tuple[int, int]] = set()
    with PaintingProgress(sum(item.settings.iterations for item in due.values())) as progress:
        for number, item in due.items():
            progress.turn_to(f"{number} of {len(items)}, {item.photo.name}: ")
            run = None
            try:
                run = batch.begin(item)
                if (shape := run.record().shape) not in shapes:  # say it once, not for every frame
                    shapes.add(shape)
                    _tell_what_is_stretched(batch.spec, *shape, item.photo.name)
                _paint(run, progress, make_engine, _let_pass, now)
                record = run.record()
                if record.status == "stopped":
                    raise KeyboardInterrupt
                batch.keep(item, run)
                painted.append(record.summary() | {"output": str(item.output)})
            except KeyboardInterrupt:
                stopped = True
                if run:
                    batch.forget(item, run)
                break
            except StudioError as error:
                message = str(error) if item.photo.stem in str(error) else f"{item.photo.name}: {error}"
                of_this_photo = isinstance(error, InputError) or (run and run.result.is_file())
                if batch.later or not of_this_photo:  # the other photos would fail too
                    raise type(error)(message) from error
                failed[item.photo.name] = message
    there = [str(item.output) for number, item in enumerate(items, 1) if number not in due]
    if as_json:
        console.print_json({"painted": painted, "there already": there, "failed": failed})
    else:
        before = f", {len(there)} were already painted" if there else ""
        console.tell(f"Painted {len(painted)} of {len(items)}{before}: {batch.target}")
    for message in failed.values():
        console.tell(message)
    if stopped:
        console.tell("Finished photos are kept: repeat the command to continue.")
        raise typer.Exit(130)
    if failed:
        raise StudioError(f"{len(failed)} of {len(items)} photos could not be painted.")
