"""A run on disk: a directory that one process writes and any number read, each file whole at every moment.

runs/<id>/
  run.json          settings, status, provenance of the weights, timings per phase, environment, errors
  metrics.csv       a line per iteration
  content.png style-1.png    the inputs as given, without their metadata; more styles as style-2.png …
  mask-1.png kept.png        where a style is, and where the photo is left as it is, where that was given
  start.png         the picture to start from, where one was given
  live.jpg          the picture a moment ago, while the run is painted
  frames/000100.jpg intermediate pictures
  result.png result.npy      the best image, for people and in float32 (RGB, 0 … 255)
  checkpoint.npz    where the run stands, to go on from
  request.json      what someone wants of the run
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import statistics
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import psutil
from filelock import FileLock, Timeout
from PIL import Image
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core import images, log, paths, presence, room
from core.checkpoint import Checkpoint
from core.errors import InputError, StudioError
from core.names import Name, as_name
from core.roles import names_of
from core.settings import KNOBS, MOST_STYLES, TransferSettings
from core.timings import Timings, seconds_asked
from core.vgg import is_layer

if TYPE_CHECKING:
    import pandas as pd

    from core.objective import Evaluation, Losses
    from core.transfer import Step

SCHEMA_VERSION = 1
SOFTWARE = "Style Transfer Studio"  # as results say what made them
LIVE_SECONDS = 0.4  # the live picture is written anew at most this often
# A checkpoint may take this share of the time, but so much work, in seconds, is lost at most and need not be less;
# NST_CHECKPOINT_SECONDS sets the interval whatever a checkpoint costs.
CHECKPOINT_SHARE = 0.02
CHECKPOINT_SECONDS = (5.0, 60.0)
ENDINGS_SECONDS = 30.0  # that one who notes how a run ended waits for others who do
RESERVE_BYTES = 2**18  # set aside, so that a run that fills the disk can still say so

METRICS_BYTES = 64 * 2**20  # of metrics.csv: a line is some hundred bytes
LINE_BYTES = 2048  # of a line of metrics at most: as many layers as there are, and more

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-z-]{1,200}")

Count = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(ge=1, le=KNOBS["size"].maximum)]  # px
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]

Status = Literal["queued", "preparing", "running", "stopped", "done", "failed", "interrupted"]
UNFINISHED: tuple[Status, ...] = ("queued", "preparing", "running")


class Writer(BaseModel):
    """The process that writes a run; its start time tells it from a later one of the same number."""

    pid: int = Field(ge=0, lt=2**31)
    started: float  # seconds since the machine's start where that is known: a clock that is set changes nothing of it
    boot: str = ""  # which start of the machine that was
    namespace: str = ""  # where its number counts: a container has numbers of its own
    sign: str = Field(default="", pattern=r"^[0-9a-f]{0,32}$")  # of `presence`, for who cannot see the process

    @staticmethod
    def of(pid: int) -> Writer:
        """Raises `psutil.Error` when there is no such process."""
        since = psutil.boot_time() if sys.platform == "linux" else 0.0  # what psutil adds there
        started = psutil.Process(pid).create_time() - since
        return Writer(pid=pid, started=started, boot=_boot(), namespace=presence.namespace())

    @staticmethod
    def this_process() -> Writer:
        return Writer.of(os.getpid()).model_copy(update={"sign": presence.sign()})

    def is_seen_from_here(self) -> bool:
        """Whether its number means the same process here."""
        return not self.namespace or self.namespace == presence.namespace()

    def is_alive(self) -> bool:
        if not self.is_seen_from_here():
            return self.boot == _boot() and presence.is_given(self.sign)
        try:
            now = Writer.of(self.pid)
            same = abs(now.started - self.started) < 0.1 and now.boot == self.boot
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def is_this_process(self) -> bool:
        return self.pid == os.getpid() and self.is_seen_from_here() and self.is_alive()

    def is_suspended(self) -> bool:
        """Whether it is alive and does nothing until someone lets it go on, as after Ctrl-Z."""
        try:
            here = self.is_seen_from_here() and self.is_alive()
            return here and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def is_of_an_earlier_boot(self) -> bool:
        """Whether the machine was surely started anew since."""
        return bool(self.boot) and self.boot != _boot()


def _boot() -> str:
    """A name for this start of the machine; nothing where the system gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Place(BaseModel):
    """What the queue's file of a run holds."""

    order: float = 0.0  # the lower, the sooner
    waiter: Writer | None = None  # a process that waits to perform the run itself; otherwise a worker does

    @staticmethod
    def of(run_id: str) -> Place | None:
        """The run's place; `None` where it has none, or its own process is gone."""
        try:
            place = Place.model_validate_json(paths.read(paths.queue() / run_id))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            return Place()
        return place if place.waiter is None or place.waiter.is_alive() else None


class Steering(BaseModel):
    """Weights that were changed while the run painted: from the step after `iteration` on they are these."""

    iteration: Count
    changes: dict[str, Any]

    @field_validator("changes")
    @classmethod
    def _only_what_can_be_steered(cls, changes: dict[str, Any]) -> dict[str, Any]:
        if foreign := [name for name in changes if name not in KNOBS or not KNOBS[name].steered]:
            steered = ", ".join(name for name, knob in KNOBS.items() if knob.steered)
            raise ValueError(f"{foreign[0]} cannot be changed while a run paints; {steered} can")
        return changes

    @staticmethod
    def parse(text: str, settings: TransferSettings) -> Steering:
        """From "40:style_weight=0.1". Raises `InputError` when it is not like that, or does not fit the settings."""
        iteration, colon, change = text.partition(":")
        name, equals, value = change.partition("=")
        name = name.strip().replace("-", "_")
        if not (iteration.strip().isdecimal() and colon and equals):
            raise InputError(f"{text!r} is no change of a weight such as 40:style_weight=0.1.")
        return Steering.of(int(iteration), {name: value}, settings)

    @staticmethod
    def of(iteration: int, changes: Mapping[str, Any], settings: TransferSettings) -> Steering:
        """The changes as the settings' own types. Raises `InputError` when they do not fit, or cannot be steered."""
        try:
            Steering(iteration=iteration, changes=dict(changes))  # names that cannot be steered are told before values
            changed = settings.changed(**changes)
            return Steering(iteration=iteration, changes={name: getattr(changed, name) for name in changes})
        except ValidationError as error:
            raise InputError(error.errors()[0]["msg"].removeprefix("Value error, ") + ".") from error

    def options(self) -> list[str]:
        """The texts that `parse` would make this of, one for each weight."""
        words = {
            name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            for name, value in self.changes.items()
        }
        return [f"{self.iteration}:{name}={word}" for name, word in words.items()]


class Request(BaseModel):
    """What someone wants of a run that is being painted."""

    stop: bool = False
    at_once: bool = False  # and not after its current step: heeded where who paints it can be ended alone
    iterations: int | None = None  # in all
    weights: dict[str, Any] = Field(default_factory=dict)  # as they shall be from now on


class RunRecord(BaseModel):
    """What `run.json` holds."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1  # SCHEMA_VERSION, as a type
    id: str
    created: AwareDatetime
    queued: AwareDatetime | None = None  # the last time; an imported run never was, here
    begun: AwareDatetime | None = None  # when a process set about it, the last time
    status: Status = "queued"
    message: str = ""  # what is being prepared, or in one sentence what went wrong
    preset: Name
    settings: TransferSettings
    content: Name  # names of the pictures, as the user knows them
    style: Name
    owner: str = ""  # who started it, where people log in; empty elsewhere
    batch: Name = ""  # the batch or sweep that it was begun for
    job: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")  # of `core.batch`, the digest of what was asked for there
    shape: tuple[Side, Side]  # height and width of the result
    weights: str = ""  # provenance
    weights_sha256: str = ""
    precision: str = ""  # that the network computed in; the best loss is float32's in any case
    start: Name = ""  # the picture that painting started from
    style_targets: str = ""  # "cache", or the ONNX Runtime provider that computed them
    steering: list[Steering] = Field(default_factory=list, max_length=20_000)  # by iteration
    timings: dict[str, Seconds] = Field(default_factory=dict, max_length=100)  # seconds by phase
    environment: dict[str, Any] = Field(default_factory=dict)
    iteration: Count | None = None  # the last one
    evaluations: Count = 0
    best_iteration: Count | None = None
    best_total: float | None = None
    writer: Writer | None = None

    @field_validator("created", "queued", "begun")
    @classmethod
    def _in_any_time_zone(cls, when: datetime | None) -> datetime | None:
        if when and not 2000 <= when.year <= 9000:  # the calendar's first and last day have no other zones
            raise ValueError("a run was made in 2000 or later")
        return when

    @model_validator(mode="after")
    def _steering_that_fits(self) -> RunRecord:
        settings = self.settings
        for change in self.steering:
            settings = settings.changed(**change.changes)
        return self

    @property
    def title(self) -> str:
        return f"{self.content} × {self.style}"

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


@dataclass(frozen=True)
class Run:
    """A run's directory, as everyone but its writer sees it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def content(self) -> Path:
        return self.path / "content.png"

    @property
    def style(self) -> Path:
        return self.path / "style-1.png"

    @property
    def styles(self) -> list[Path]:
        """Its paintings, in their order; the first one in any case."""
        more = (self.path / f"style-{number}.png" for number in range(2, MOST_STYLES + 1))
        return [self.style, *(path for path in more if path.exists())]

    def mask(self, style: int) -> Path:
        """Where the painting of that number, from 1 on, is."""
        return self.path / f"mask-{style}.png"

    @property
    def masks(self) -> int:
        """How many of its paintings have a mask."""
        return sum(self.mask(number).exists() for number in range(1, MOST_STYLES + 1))

    @property
    def kept(self) -> Path:
        """Where the photo is left as it is."""
        return self.path / "kept.png"

    @property
    def start(self) -> Path:
        return self.path / "start.png"

    @property
    def live(self) -> Path:
        return self.path / "live.jpg"

    @property
    def result(self) -> Path:
        return self.path / "result.png"

    def record(self) -> RunRecord:
        """What the run's record says; a run whose writer is gone is "interrupted".

        Raises `StudioError` for a record that is missing, damaged or of another version.
        """
        try:
            data = paths.read(self.path / "run.json")
            raw = json.loads(data)
            version = raw.get("schema_version") if isinstance(raw, dict) else None
            if version != SCHEMA_VERSION:
                raise StudioError(
                    f"The run {self.id} has the schema version {version!r}; this program reads {SCHEMA_VERSION}."
                )
            record = RunRecord.model_validate_json(data)  # stricter than json: no half characters
        except OSError as error:
            raise StudioError(f"The run {self.id} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise StudioError(f"The record of the run {self.id} is damaged.") from error
        waits = record.status == "queued" and Place.of(self.id) is not None
        if record.unfinished and not waits and not (record.writer and record.writer.is_alive()):
            record.status = "interrupted"
        return record

    def metrics(self, last: int | None = None) -> pd.DataFrame:
        """A row per iteration so far; with `last`, so many of the last ones, which hardly takes longer for a longer
        run. Empty before the first. A line that is still being written is left out.

        Raises `StudioError` when the file is damaged.
        """
        import io

        import pandas as pd

        try:
            file = self.path / "metrics.csv"
            data = paths.read(file, METRICS_BYTES) if last is None else paths.read_ends(file, (last + 2) * LINE_BYTES)
            text = data.decode()
            whole = text[: text.rfind("\n") + 1]
            if not whole:
                return pd.DataFrame(columns=METRICS)
            heading, _, rows = whole.partition("\n")
            columns = heading.split(",")
            if tuple(columns[: len(METRICS)]) != METRICS or not all(map(is_layer, columns[len(METRICS) :])):
                raise ValueError(f"no columns of a run: {columns[:20]}")
            if last is not None:
                rows = "\n".join(rows.rsplit("\n", last + 1)[-last - 1 :])  # the text after the last \n is empty
            metrics = pd.read_csv(io.StringIO(f"{heading}\n{rows}"))
            metrics.to_numpy(float)
            if not np.isfinite(metrics[["iteration", "evaluations", "seconds"]].to_numpy(float)).all():
                raise ValueError("a step without a number")
        except FileNotFoundError:
            return pd.DataFrame(columns=METRICS)
        except Exception as error:  # pandas raises nearly anything
            raise StudioError(f"The metrics of the run {self.id} are damaged.") from error
        return metrics

    def with_progress(self, record: RunRecord) -> RunRecord:
        """The record with how far the run is: one that has not ended well says so only in its metrics."""
        told = record.iteration is not None and not record.unfinished and record.status != "interrupted"
        try:
            if told or (metrics := self.metrics()).empty:
                return record
        except StudioError:
            return record
        last = metrics["iteration"].iloc[-1]
        steered = max((change.iteration for change in record.steering if change.iteration < last), default=-1)
        smaller = max((end for _, end in record.settings.schedule()[:-1] if end < last), default=-1)
        # losses by other weights are no measure, nor are a smaller picture's
        metrics = metrics[metrics["iteration"] > max(steered, smaller)]
        best = int(metrics["total"].to_numpy().argmin())
        return record.model_copy(
            update={
                "iteration": int(metrics["iteration"].iloc[-1]),
                "evaluations": int(metrics["evaluations"].iloc[-1]),
                "best_iteration": int(metrics["iteration"].iloc[best]),
                "best_total": float(metrics["total"].iloc[best]),
            }
        )

    def frames(self) -> list[tuple[int, Path]]:
        """The intermediate pictures by iteration."""
        return sorted(
            (int(path.stem), path)
            for path in (self.path / "frames").glob("[0-9]*.jpg")
            if re.fullmatch("[0-9]{1,9}", path.stem)
        )

    def ask(self, **wishes: Any) -> None:
        """Ask the writer, beside what was asked before: to stop after its current step, keeping the best picture so
        far (`stop=True`), for so many `iterations` in all, or for other `weights` by the names of their settings.

        Raises `InputError` for iterations or weights that are out of range, and for what cannot be changed.
        """
        request, weights = self.request(), wishes.pop("weights", {})
        settings = self.record().settings
        if "iterations" in wishes:
            settings = settings.changed(iterations=wishes["iterations"])
        if weights:
            weights = {**request.weights, **weights}
            Steering.of(0, weights, settings)
        request = Request.model_validate({**request.model_dump(), **wishes, "weights": weights or request.weights})
        with paths.replacing(self.path / "request.json") as file:
            file.write(request.model_dump_json().encode())

    def request(self) -> Request:
        """What is wanted of the run; nothing where that cannot be read."""
        try:
            return Request.model_validate_json(paths.read(self.path / "request.json"))
        except (OSError, ValidationError):
            return Request()

    def write_result(self, path: Path, more: Mapping[str, str] = {}) -> None:
        """Write the result elsewhere too, with what it says of itself and `more`; the suffix decides the format.

        Raises `StudioError` when there is none yet, or it cannot be written.
        """
        picture = images.to_uint8(images.read_exact(self.path / "result.npy"))
        images.write_image(path, picture, {**metadata(self.record()), **more})

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.npz"


SUMS = ("total", "median step")  # among the timings, which are otherwise seconds by phase
METRICS = ("iteration", "evaluations", "seconds", "total", "style", "content", "total_variation")


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
    shape = images.shape_at(content.size, settings.size, content_name)
    check_side(content.size, settings, content_name)
    check_styles([each.size for each in (style, *more_styles)], settings, style_name)
    room.check_limit(settings, shape, sum(mask is not None for mask in masks))
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
        writer=Writer.this_process(),  # until it is performed, or handed to the queue
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


def check_styles(sizes: Sequence[tuple[int, int]], settings: TransferSettings, names: str) -> None:
    """Of paintings by their widths and heights: raise `InputError` when there are too many, one is too small, or the
    blend has not a weight for each."""
    if len(sizes) > MOST_STYLES:
        raise InputError(f"{len(sizes)} paintings were given; {MOST_STYLES} can be blended at most.")
    if settings.style_blend and len(settings.style_blend) != len(sizes):
        raise InputError(
            f"style_blend has {len(settings.style_blend)} numbers for {len(sizes)} paintings: give one for each, or "
            "none."
        )
    for size, name in zip(sizes, names_of(names, len(sizes)), strict=True):
        check_side(size, settings, name, is_style=True)


def style_size(settings: TransferSettings, size: int) -> int:
    """The length in px of a painting's longer side, beside a photo of `size`."""
    return max(images.MIN_SIDE, round(size * settings.style_scale))


def check_side(given: tuple[int, int], settings: TransferSettings, name: str, is_style: bool = False) -> None:
    """Raise `InputError` when a picture is too small at the size of the first stage, with all that would help."""
    coarsest, _ = settings.schedule()[0]
    at, remedies = f"size {settings.size}", ["a larger size"]
    if is_style and settings.style_scale < 1:
        at += f" with style scale {settings.style_scale:g}"
        remedies.append("a larger style scale")
    if coarsest < settings.size:
        at += f" in the first of {settings.stages} stages"
        remedies.append("fewer stages")
    size = style_size(settings, coarsest) if is_style else coarsest
    images.shape_at(given, size, name, at, "choose " + " or ".join(remedies))


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


def change(run: Run, **changes: Any) -> None:
    """Change the record of a run that no recorder writes."""
    write_record(run, run.record().model_copy(update=changes))


def fail(run: Run, message: str) -> None:
    """Note that a run which no recorder writes has failed: on a full disk in the place of the record that is there.

    Raises `StudioError` when not even that can be written.
    """
    record = run.record().model_copy(update={"status": "failed", "message": message, "writer": None})
    try:
        write_record(run, record)
    except OSError:
        with writing(run), (run.path / "run.json").open("r+b") as file:
            room = len(file.read())
            file.seek(0)
            file.write(record.model_dump_json().encode().ljust(room))


def resume(run: Run, more: int = 0) -> None:
    """Queue a run that has ended once more, to go on from its checkpoint, for `more` iterations than it was to have.
    One that ended before its first checkpoint begins anew.

    Raises `InputError` when it has not ended or would have nothing left to do, `StudioError` without a checkpoint.
    """
    with _endings():
        record = run.record()
        if record.unfinished:
            raise InputError(f"The run {run.id} is {record.status}; it can go on when it has ended.")
        inside = [*run.path.iterdir(), *run.path.glob("frames/*")]
        if links := [path.name for path in inside if path.is_symlink()]:
            raise InputError(f"The run {run.id} does not go on: {links[0]} is a link, and it writes nowhere but here.")
        if pipes := [path.name for path in inside if not (path.is_file() or path.is_dir())]:
            raise InputError(f"The run {run.id} does not go on: {pipes[0]} is not a file.")
        iterations = record.settings.iterations + more
        if not begins_anew(run, record):
            done = Checkpoint.load(run.checkpoint).iteration
            if done >= iterations and record.status != "interrupted":  # that one has its result still to write
                raise InputError(f"The run {run.id} has done its {iterations} iterations; ask for more.")
        settings = record.settings.changed(iterations=iterations)
        (run.path / "request.json").unlink(missing_ok=True)
        change(
            run,
            status="queued",
            queued=datetime.now(UTC),
            begun=None,
            message="",
            settings=settings,
            writer=Writer.this_process(),
        )


def begins_anew(run: Run, record: RunRecord) -> bool:
    """Whether a run that goes on does so from its beginning: no part of it was ever kept."""
    return record.iteration is None and not run.checkpoint.exists()


def settle(run: Run, cause: Callable[[Writer], str]) -> RunRecord:
    """Note of a run whose writer is gone that it is interrupted, and why, by what `cause` says of the writer; and make
    the best picture of its last checkpoint its result. Other runs stay as they are. Gives the record as it is then.

    Raises `StudioError` for a record that cannot be read.
    """
    record = run.record()
    if record.status != "interrupted" or not record.writer:
        return record
    with _endings():
        record = run.record()
        if record.status != "interrupted" or not record.writer:  # someone was faster
            return record
        paths.remove_drafts(run.path)
        record = record.model_copy(update={"message": cause(record.writer), "writer": None})
        record = _with_the_best_of_its_checkpoint(run, record)
        try:
            write_record(run, record)
        except OSError:  # it is told all the same, and noted another time
            return record
    log.event("run interrupted", run=run.id, message=record.message)
    return record


def _with_the_best_of_its_checkpoint(run: Run, record: RunRecord) -> RunRecord:
    """Make the best picture of its last checkpoint the run's result, where there is one and room for it; the record
    then says so."""
    try:
        best, iteration = Checkpoint.load_best(run.checkpoint)
        _check_is_of(record, best)
        line = _lines_before(run, iteration + 1)[iteration]
        total = float(line.split(",")[METRICS.index("total")])
        record = record.model_copy(update={"best_iteration": iteration, "best_total": total})
        _write_array(run, images.from_network(best))
        images.write_image(run.result, images.to_uint8(images.from_network(best)), metadata(record))
    except (StudioError, LookupError, ValueError, OSError):
        pass
    return record


def _lines_before(run: Run, iteration: int) -> dict[int, str]:
    """The metrics' lines of the iterations before that one. After a loss of power, what follows the checkpoint may be
    rubbish of any kind."""
    text = paths.read(run.path / "metrics.csv", METRICS_BYTES).decode(errors="replace")
    lines: dict[int, str] = {}
    for line in text[: text.rfind("\n") + 1].split("\n"):  # the last may be half a line
        number = line.partition(",")[0]
        if re.fullmatch("[0-9]{1,9}", number) and int(number) < iteration:
            lines.setdefault(int(number), line)  # the first: what comes again is of the rubbish
    return lines


def _check_is_of(record: RunRecord, image: np.ndarray) -> None:
    """Raise `StudioError` for an image of another shape than the run has at any of its stages."""
    height, width = record.shape
    for size, _ in record.settings.schedule():
        expected = images.resized_shape(width, height, size)
        if np.abs(np.subtract(image.shape[1:3], expected)).max() <= 1:  # the photo's own sides would round otherwise
            return
    raise StudioError(f"The checkpoint of {record.id} is of another picture than the run's.")


@contextmanager
def _endings() -> Iterator[None]:
    """Held by who changes the record of a run that has ended. Raises `StudioError` when another holds it for long."""
    paths.home().mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.home() / "endings.lock", timeout=ENDINGS_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise StudioError(f"Another process holds {lock.lock_file} for too long: end it, then try again.") from error
    try:
        yield
    finally:
        lock.release()


def write_record(run: Run, record: RunRecord) -> None:
    with paths.replacing(run.path / "run.json") as file:
        file.write(record.model_dump_json(indent=2).encode())


@dataclass(frozen=True)
class Told:
    """What is told of a step. It can be read where there is no TensorFlow."""

    iteration: int
    evaluations: int
    seconds: float
    losses: Mapping[str, float]  # by the metrics' columns
    picture: bytes | None  # a JPEG of the run's size, where one is due
    checkpoint: Checkpoint | None  # likewise


# What painting says in a record; the rest is said by who records it.
PAINTED = frozenset(
    {"status", "message", "settings", "start", "steering", "weights", "weights_sha256", "precision", "style_targets"}
    | {"environment", "iteration", "evaluations", "best_iteration", "best_total"}
)


class Account(ABC):
    """What is told of a run while it is painted; who writes it down, a `Recorder` or someone far away, says what
    becomes of it. Used as a context: how the block ends decides the run's status.

    Ends well: "done", or "stopped" when that was requested or nobody asked for further steps. An exception: "failed",
    with its message. Either way the best picture so far is kept.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.record = run.record()
        self.timings = Timings({name: self.record.timings[name] for name in self.record.timings if name not in SUMS})
        self._last: Step | None = None
        self._live_written = -LIVE_SECONDS
        self._checkpoint_written, self._checkpoint_cost = time.perf_counter(), 0.0  # seconds
        self._answered = Request()  # the last that was taken up
        self._stopped = False
        self.ended = False
        self.final_losses: Callable[[Evaluation], Losses] = lambda best: best.losses  # in float32, of the best image
        self.finished: Callable[[np.ndarray], np.ndarray] = lambda rgb: rgb  # in the colours that it is to have

    def __enter__(self) -> Self:
        return self

    def update(self, **changes: Any) -> None:
        """Change the record."""
        self.record = self.record.model_copy(update=changes)

    @abstractmethod
    def live(self, picture: bytes) -> None:
        """Take the picture of this moment, a JPEG."""

    @abstractmethod
    def note(self, told: Told) -> None:
        """Take down a step."""

    @abstractmethod
    def keep(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        """Keep the best picture, `(H, W, 3)` RGB, float32 in 0 … 255, and where the run stands at its end."""

    @abstractmethod
    def conclude(self, **said: Any) -> None:
        """Note what the record says of the picture that was kept."""

    @abstractmethod
    def end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        """Note how the run ended, what took how long, and where it failed unforeseen."""

    def show(self, start: np.ndarray) -> None:
        """The picture that painting starts from, uint8 `(H, W, 3)`: seen before its losses are computed."""
        self.live(images.encode_jpeg(start))

    def write(self, step: Step) -> None:
        """Tell of a step: its losses, and its picture and a checkpoint where one is due."""
        if not self._last:
            self.update(status="running", message="")
        self._last = step
        losses = step.losses
        values = {"total": losses.total, "style": losses.style, "content": losses.content}
        values |= {"total_variation": losses.total_variation, **losses.style_layers}
        picture = self._picture(step)
        began = time.perf_counter()
        due = began - self._checkpoint_written >= _checkpoint_interval(self._checkpoint_cost)
        checkpoint = step.checkpoint() if due else None
        self.note(Told(step.iteration, step.evaluations, step.seconds, values, picture, checkpoint))
        if due:
            self._checkpoint_written = time.perf_counter()
            self._checkpoint_cost = self._checkpoint_written - began

    def _picture(self, step: Step) -> bytes | None:
        live_due = time.perf_counter() - self._live_written >= LIVE_SECONDS
        if not live_due and step.iteration % self.record.settings.frame_every:
            return None
        picture = images.encode_jpeg(self._at_full_size(images.to_uint8(self.finished(step.image()))))
        self._live_written = time.perf_counter()
        return picture

    def answer(self, request: Request) -> None:
        """Take up what is wanted of the run, and record it; what cannot be is left aside, and said."""
        self._stopped = request.stop
        if request == self._answered or not self._last:
            return
        self._answered = request
        now = self.steered(self._last.iteration + 1)
        try:
            if request.iterations is not None:
                self.update(settings=self.record.settings.changed(iterations=request.iterations))
            wanted = Steering.of(self._last.iteration, request.weights, now)
            changes = {
                name: value
                for name, value in wanted.changes.items()
                if now.changed(**{name: value}).loss_weights() != now.loss_weights()
            }
            if changes:
                change = wanted.model_copy(update={"changes": changes})
                self.update(steering=sorted([*self.record.steering, change], key=lambda change: change.iteration))
        except InputError as error:
            self.update(message=f"It went on unchanged: {error}")

    def request(self) -> Request:
        """What is wanted of the run now."""
        return self.run.request()

    def steered(self, before: int) -> TransferSettings:
        """The settings with the weights as they were changed at iterations before this one."""
        settings = self.record.settings
        for change in self.record.steering:
            if change.iteration < before:
                settings = settings.changed(**change.changes)
        return settings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        instead = None  # of what ended the block
        if self._last:
            try:
                self._keep_result(self._last)
            except StudioError as problem:
                instead = StudioError(f"The result could not be written: {problem}")
                error = error or instead
            except BaseException as problem:  # such as a second Ctrl-C: the record must not say "running" for ever
                error = error or problem
        if error and _is_of_memory(error):
            height, width = self.record.shape
            told = f"Memory ran out at {width} × {height} pixels: choose a smaller size, or close other programs."
            error = instead = StudioError(told)
        where = ""
        if isinstance(error, StudioError):
            ending = {"status": "failed", "message": str(error)}
        elif isinstance(error, (GeneratorExit, KeyboardInterrupt)):
            ending = {"status": "stopped"}
        elif error:
            said = f"The engine failed: {type(error).__name__}: {error}".splitlines()[0]
            ending, where = {"status": "failed", "message": said}, "".join(traceback.format_exception(error))
        else:
            ending = {"status": "stopped" if self._stopped else "done"}
        self.end(ending, self.timings, where)
        if error and error is instead:
            raise instead

    def _at_full_size(self, rgb: np.ndarray) -> np.ndarray:
        """A picture on the way, which may be smaller: shown and filmed, they are all of one size."""
        height, width = self.record.shape
        return rgb if rgb.shape[:2] == (height, width) else np.asarray(Image.fromarray(rgb).resize((width, height)))

    def _keep_result(self, last: Step) -> None:
        last = last.settled()
        checkpoint = last.checkpoint()
        over = last.iteration >= self.record.settings.iterations
        self.keep(self.finished(last.best_image()), checkpoint.brief() if over else checkpoint)
        said = {"iteration": last.iteration, "evaluations": last.evaluations, "best_iteration": last.best_iteration}
        best, message = last.best, self.record.message
        self._last = None
        del last, checkpoint  # a second network may need their room
        best_total = best.losses.total
        try:
            best_total = self.final_losses(best).total
        except Exception as error:  # such as too little memory for a second network: the picture is good all the same
            message = f"Its loss is as the run computed it; in float32 it could not be had: {error}".splitlines()[0]
        self.conclude(**said, best_total=best_total, message=message)


class Recorder(Account):
    """Writes a run while it happens: what it is told, by who paints in this process or elsewhere, is on disk when the
    method returns.

    Methods raise `StudioError` when the disk is full, or the run's folder gone or read-only by now.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._began = time.perf_counter() - self.record.timings.get("total", 0.0)
        self._noted: float | None = None  # the seconds of the last step
        self._step_seconds: list[float] = []
        self._best: np.ndarray | None = None

    def __enter__(self) -> Self:
        if self.record.status != "queued":
            raise StudioError(f"The run {self.run.id} is {self.record.status} already; start a new one.")
        paths.remove_drafts(self.run.path)
        self.update(status="preparing", begun=datetime.now(UTC), writer=Writer.this_process())
        with writing(self.run):
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
        log.event("run started", run=self.run.id)
        return self

    def update(self, **changes: Any) -> None:
        """Change the record, on disk at once."""
        super().update(**changes)
        with writing(self.run):
            write_record(self.run, self.record)

    def live(self, picture: bytes) -> None:
        with writing(self.run):
            self._write_picture(self.run.live, picture)

    def note(self, told: Told) -> None:
        with writing(self.run):
            if self._noted is None:
                if told.iteration == 0:
                    self.timings.setdefault("first step", told.seconds)
                self._begin_metrics(told)
            else:
                self._step_seconds.append(told.seconds - self._noted)
            self._noted = told.seconds
            losses = (f"{value:.9g}" for value in told.losses.values())
            self._write_line([str(told.iteration), str(told.evaluations), f"{told.seconds:.4f}", *losses])
            if told.picture:
                if told.iteration % self.record.settings.frame_every == 0:
                    self._write_picture(self.run.path / "frames" / f"{told.iteration:06d}.jpg", told.picture)
                self._write_picture(self.run.live, told.picture)
            if told.checkpoint:
                self._save(told.checkpoint)

    def keep(self, best: np.ndarray, checkpoint: Checkpoint) -> None:
        with writing(self.run):
            _write_array(self.run, best)
            self._save(checkpoint)
        self._best = best

    def conclude(self, **said: Any) -> None:
        super().update(**said)  # on disk with how the run ended
        if self._best is not None:
            with writing(self.run):
                images.write_image(self.run.result, images.to_uint8(self._best), metadata(self.record))

    def end(self, ending: Mapping[str, Any], timings: Mapping[str, float], trace: str = "") -> None:
        self.timings = Timings({**timings, **self.timings, **timings})
        if self._step_seconds:
            self.timings["median step"] = statistics.median(self._step_seconds)
        self.timings["total"] = time.perf_counter() - self._began
        if trace:
            with contextlib.suppress(OSError):
                (self.run.path / "error.txt").write_text(trace)
        with contextlib.suppress(OSError):  # on a full disk this is the room for the record
            self._reserve.unlink(missing_ok=True)
        self.update(**{"timings": dict(self.timings), "writer": None, **ending})
        self.ended = True
        said = {name: ending[name] for name in ("status", "message") if name in ending}
        log.event("run ended", run=self.run.id, seconds=round(self.timings["total"], 1), **said)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended:  # as who painted it elsewhere has told
            return
        if not self.run.path.is_dir():  # nothing is written of a run that someone has taken away
            raise StudioError(_gone(self.run)) from error
        self._keep_what_was_told()
        super().__exit__(kind, error, trace)

    def put_back(self, why: str) -> None:
        """Have the run wait once more, as who painted it elsewhere is gone: it goes on from its last checkpoint, whose
        picture is its result if it does not."""
        self._keep_what_was_told()
        waits = {"queued": datetime.now(UTC), "begun": None, "writer": Writer.this_process()}
        self.end({"status": "queued", "message": why, **waits}, {})

    def _keep_what_was_told(self) -> None:
        if self._noted is not None and not self._last:  # who painted it was elsewhere, and is gone
            self.record = _with_the_best_of_its_checkpoint(self.run, self.record)

    @property
    def _reserve(self) -> Path:
        return self.run.path / f"{paths.DRAFT}reserve"

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the metrics up to it are on the disk before it is."""
        with (self.run.path / "metrics.csv").open("a") as file:
            os.fsync(file.fileno())
        checkpoint.save(self.run.checkpoint)

    def _begin_metrics(self, told: Told) -> None:
        """A header, or what an earlier part of the run has written up to its checkpoint; later frames are dropped."""
        kept = [",".join([*METRICS[:3], *told.losses])]
        if told.iteration:
            kept += _lines_before(self.run, told.iteration).values()
        for iteration, frame in self.run.frames():
            if iteration > told.iteration:
                frame.unlink()
        with paths.replacing(self.run.path / "metrics.csv") as file:
            file.write(("\n".join(kept) + "\n").encode())

    def _write_line(self, values: list[str]) -> None:
        with (self.run.path / "metrics.csv").open("a") as file:
            file.write(",".join(values) + "\n")

    def _write_picture(self, path: Path, picture: bytes) -> None:
        with paths.replacing(path) as file:
            file.write(picture)


@contextmanager
def writing(run: Run, folder: Path | None = None) -> Iterator[None]:
    """Say in a sentence why a run cannot be written, in its own folder's parent or in another one."""
    folder = folder or run.path.parent
    if not run.path.is_dir():  # and do not make it anew
        raise StudioError(_gone(run))
    try:
        yield
    except OSError as error:
        if not run.path.is_dir():
            raise StudioError(_gone(run)) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = f"The disk of {folder} is full: make room, then let the run {run.id} go on."
        else:
            why = f"The run {run.id} can no longer be written in {folder}: {error.strerror or error}."
        raise StudioError(why) from error


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the machine's or the GPU's: TensorFlow's own error is known by its name, as it must not
    be loaded to look at a run."""
    return isinstance(error, MemoryError) or any(
        kind.__name__ == "ResourceExhaustedError" for kind in type(error).mro()
    )


def _gone(run: Run) -> str:
    return f"The folder of the run {run.id} is gone: {run.path}."


def _checkpoint_interval(cost: float) -> float:
    """Seconds until the next checkpoint, where one takes `cost` seconds."""
    least, most = CHECKPOINT_SECONDS
    asked = seconds_asked("NST_CHECKPOINT_SECONDS")
    return min(max(least, cost / CHECKPOINT_SHARE), most) if asked is None else asked


def _write_array(run: Run, best: np.ndarray) -> None:
    """The best image, `(H, W, 3)` RGB, float32 in 0 … 255."""
    with paths.replacing(run.path / "result.npy") as file:
        np.save(file, best)


def metadata(record: RunRecord) -> dict[str, str]:
    """What a result picture says of itself."""
    return {
        "Software": SOFTWARE,
        "Title": record.title,
        "Settings": record.settings.model_dump_json(),
        "Weights": f"VGG19, {record.weights}",
        "Total loss": f"{record.best_total:.6g}",
    }
