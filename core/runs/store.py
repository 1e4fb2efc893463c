"""Create and find runs."""

import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import geometry
from core.machine import memory
from core.machine.processes import ProcessId
from core.names import as_name
from core.runs.record import RecordedStyle, RunRecord
from core.runs.run import Run, write_record
from core.runs.spec import RunSpec
from core.transfer import inputs


def create(spec: RunSpec, photo: Image.Image, photo_name: str, owner: str = "", batch: str = "", job: str = "") -> Run:
    """Create a run of `spec` on a photo, with the status "queued"; `RunRecord` describes the last three arguments.

    Raises:
        InputError: If a picture is too small, the steering does not fit the settings, or the run needs more memory
            than they allow.
        StudioError: If the run cannot be written.
    """
    photo_name, style_name = as_name(photo_name), as_name(spec.style_name)
    shape = _check(spec, photo, photo_name)
    created = datetime.now(UTC)
    slug = "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:20] for name in (photo_name, style_name))
    run = Run(paths.runs() / f"{created:%Y%m%d-%H%M%S-%f}-{slug}-{secrets.token_hex(2)}")
    record = RunRecord(
        id=run.id,
        created=created,
        queued=created,
        preset=spec.preset,
        settings=spec.settings,
        content=photo_name,
        styles=[RecordedStyle(name=style.name, mask=style.mask is not None) for style in spec.styles],
        owner=owner,
        batch=batch,
        job=job,
        shape=shape,
        start=spec.start_name,
        steering=sorted(spec.steering, key=lambda change: change.iteration),
        writer=ProcessId.this_process(),  # until the run starts or enters the queue
    )
    draft = Run(run.path.with_name(f".{run.id}"))  # so that readers never see a run without its inputs
    try:
        draft.path.mkdir(parents=True)
        _write_pictures(draft, spec, photo)
        write_record(draft, record)
        paths.put_in_place(draft.path, run.path)
    except OSError as error:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise StudioError(f"The run cannot be written to {run.path.parent}: {error.strerror or error}.") from error
    return run


def _check(spec: RunSpec, photo: Image.Image, photo_name: str) -> tuple[int, int]:
    """Check a run, and return the height and width of its result."""
    steered = spec.settings
    for change in sorted(spec.steering, key=lambda change: change.iteration):
        steered = steered.changed(**change.changes)  # a change may be valid alone but not after the earlier ones
    shape = geometry.shape_at(photo.size, spec.settings.size, photo_name)
    inputs.check_side(photo.size, spec.settings, photo_name)
    names = [as_name(style.name) for style in spec.styles]
    inputs.check_styles([style.picture.size for style in spec.styles], spec.settings, names)
    memory.check_limit(spec.settings, shape, sum(style.mask is not None for style in spec.styles))
    return shape


def _write_pictures(run: Run, spec: RunSpec, photo: Image.Image) -> None:
    photo.save(run.content, compress_level=1)
    for number, style in enumerate(spec.styles, 1):
        style.picture.save(run.style(number), compress_level=1)
        if style.mask:
            style.mask.convert("L").save(run.mask(number))
    if spec.kept:
        spec.kept.convert("L").save(run.kept)
    if spec.start:
        spec.start.save(run.start, compress_level=1)


def find(run_id: str, owner: str | None = None) -> Run:
    """Return a run of an owner, or of any owner.

    Args:
        run_id: The run's id, the start of a single run's id, or "last".
        owner: The owner; `None` for any.

    Raises:
        InputError: If there is no such run, or several.
    """
    mine = [run for run in all_runs() if owner is None or is_of(run, owner)]
    exact = [run for run in mine if run.id == run_id]
    alike = exact or (mine[:1] if run_id == "last" else [run for run in mine if run_id and run.id.startswith(run_id)])
    if len(alike) > 1:
        raise InputError(f"{len(alike)} runs start with {run_id!r}; nst runs lists them.")
    if not alike:
        raise InputError(f"There is no run {run_id!r}; nst runs lists them.")
    return alike[0]


def all_runs() -> list[Run]:
    """Return every run, the newest first."""
    folder = paths.runs()
    names = sorted((path.name for path in folder.iterdir() if path.is_dir()), reverse=True) if folder.is_dir() else []
    return [Run(folder / name) for name in names if not name.startswith(".")]


def readable_runs(owner: str | None = None) -> Iterator[tuple[Run, RunRecord]]:
    """Yield every run of an owner, or of all owners, whose record can be read; the newest first."""
    for run in all_runs():
        try:
            record = run.record()
        except StudioError:
            continue
        if owner is None or record.owner == owner:
            yield run, record


def is_of(run: Run, owner: str) -> bool:
    """Tell whether a run belongs to an owner; a run whose record cannot be read belongs to no one."""
    try:
        return run.record().owner == owner
    except StudioError:
        return False
