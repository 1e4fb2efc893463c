"""Create runs, and find them."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import geometry
from core.machine import memory
from core.machine.processes import ProcessId
from core.names import as_name
from core.runs.record import RunRecord, Steering
from core.runs.run import Run, write_record
from core.settings import TransferSettings
from core.transfer import inputs


def create(
    content: Image.Image,
    style: Image.Image,
    settings: TransferSettings,
    preset: str,
    content_name: str,
    style_name: str,
    start: Image.Image | None = None,
    start_name: str = "",
    steering: Sequence[Steering] = (),
    owner: str = "",
    more_styles: Sequence[Image.Image] = (),
    masks: Sequence[Image.Image | None] = (),
    kept: Image.Image | None = None,
    batch: str = "",
    job: str = "",
) -> Run:
    """A new run, queued. The pictures are RGB and upright, as `images.read_image` gives them; `start` is painted from
    in place of what the settings say, and `steering` repeats what was done to an earlier run. `style_name` names all
    the styles; `masks` say where each is, and `kept` where the photo stays, white on black; `batch` and `job` are
    what the record says of them.

    Raises `InputError` when a picture is too small at this size, the steering would leave nothing to paint or the
    settings do not allow the memory that it needs, and `StudioError` when it cannot be written.
    """
    steering, steered = sorted(steering, key=lambda change: change.iteration), settings
    for weights in steering:  # each may fit, and not what was steered before
        steered = steered.changed(**weights.changes)
    content_name, style_name, start_name = map(as_name, (content_name, style_name, start_name))
    shape = geometry.shape_at(content.size, settings.size, content_name)
    inputs.check_side(content.size, settings, content_name)
    inputs.check_styles([each.size for each in (style, *more_styles)], settings, style_name)
    memory.check_limit(settings, shape, sum(mask is not None for mask in masks))
    created = datetime.now(UTC)
    slug = "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:20] for name in (content_name, style_name))
    run = Run(paths.runs() / f"{created:%Y%m%d-%H%M%S-%f}-{slug}-{secrets.token_hex(2)}")
    record = RunRecord(
        id=run.id,
        created=created,
        queued=created,
        preset=preset,
        settings=settings,
        content=content_name,
        style=style_name,
        owner=owner,
        batch=as_name(batch),
        job=job,
        shape=shape,
        start=start_name,
        steering=steering,
        writer=ProcessId.this_process(),  # until it is performed, or handed to the queue
    )
    draft = Run(run.path.with_name(f".{run.id}"))  # a reader never meets a run without its inputs
    try:
        draft.path.mkdir(parents=True)
        content.save(draft.content, compress_level=1)
        style.save(draft.style, compress_level=1)
        for number, another in enumerate(more_styles, 2):
            another.save(draft.path / f"style-{number}.png", compress_level=1)
        for number, mask in enumerate(masks, 1):
            if mask:
                mask.convert("L").save(draft.mask(number))
        if kept:
            kept.convert("L").save(draft.kept)
        if start:
            start.save(draft.start, compress_level=1)
        write_record(draft, record)
        paths.put_in_place(draft.path, run.path)
    except OSError as error:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise StudioError(f"The run cannot be written to {run.path.parent}: {error.strerror or error}.") from error
    return run


def find(run_id: str, owner: str | None = None) -> Run:
    """The run of that id, of the only id that begins so, or the "last"; of anyone's runs or of that owner's.

    Raises `InputError` when there is none.
    """
    mine = [run for run in all_runs() if owner is None or is_of(run, owner)]
    exact = [run for run in mine if run.id == run_id]
    alike = exact or (mine[:1] if run_id == "last" else [run for run in mine if run_id and run.id.startswith(run_id)])
    if len(alike) > 1:
        raise InputError(f"{len(alike)} runs begin with {run_id!r}; nst runs lists them.")
    if not alike:
        raise InputError(f"There is no run {run_id!r}; nst runs lists them.")
    return alike[0]


def all_runs() -> list[Run]:
    """Every run, the newest first."""
    folder = paths.runs()
    names = sorted((path.name for path in folder.iterdir() if path.is_dir()), reverse=True) if folder.is_dir() else []
    return [Run(folder / name) for name in names if not name.startswith(".")]


def readable_runs(owner: str | None = None) -> Iterator[tuple[Run, RunRecord]]:
    """Every run whose record can be read, the newest first; of an owner's only theirs."""
    for run in all_runs():
        try:
            record = run.record()
        except StudioError:
            continue
        if owner is None or record.owner == owner:
            yield run, record


def is_of(run: Run, owner: str) -> bool:
    """Whether the run is that owner's; one whose record cannot be read is nobody's."""
    try:
        return run.record().owner == owner
    except StudioError:
        return False
