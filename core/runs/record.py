"""What the small files of a run hold: its record `run.json`, its `request.json`, and its entry in the queue.

The entry stands here because a run counts as queued only while it has one (see `Run.record`).
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core import paths
from core.errors import InputError
from core.machine.processes import ProcessId
from core.names import SEPARATOR, Name, as_name
from core.settings import MOST_STYLES, SETTINGS, TransferSettings

VERSIONS = "1 and 2"  # of the schema, that are read; 2 is written
SOFTWARE = "Style Transfer Studio"  # as results say what made them
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-z-]{1,200}")
Count = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(ge=1, le=SETTINGS["size"].maximum)]  # px
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
Status = Literal["queued", "preparing", "running", "stopped", "done", "failed", "interrupted"]
UNFINISHED: tuple[Status, ...] = ("queued", "preparing", "running")


class QueueEntry(BaseModel):
    """What the queue's file of a run holds."""

    order: float = 0.0  # the lower, the sooner
    waiter: ProcessId | None = None  # a process that waits to perform the run itself; otherwise a worker does

    @staticmethod
    def of(run_id: str) -> "QueueEntry | None":
        """The run's place; `None` where it has none, or its own process is gone."""
        try:
            place = QueueEntry.model_validate_json(paths.read(paths.queue() / run_id))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            return QueueEntry()
        return place if place.waiter is None or place.waiter.is_alive() else None


class Steering(BaseModel):
    """Weights that were changed while the run painted: from the step after `iteration` on they are these."""

    iteration: Count
    changes: dict[str, Any]

    @field_validator("changes")
    @classmethod
    def _only_what_can_be_steered(cls, changes: dict[str, Any]) -> dict[str, Any]:
        if foreign := [name for name in changes if name not in SETTINGS or not SETTINGS[name].steered]:
            steered = ", ".join(name for name, setting in SETTINGS.items() if setting.steered)
            raise ValueError(f"{foreign[0]} cannot be changed while a run paints; {steered} can")
        return changes

    @staticmethod
    def parse(text: str, settings: TransferSettings) -> "Steering":
        """From "40:style_weight=0.1". Raises `InputError` when it is not like that, or does not fit the settings."""
        iteration, colon, change = text.partition(":")
        name, equals, value = change.partition("=")
        name = name.strip().replace("-", "_")
        if not (iteration.strip().isdecimal() and colon and equals):
            raise InputError(f"{text!r} is no change of a weight such as 40:style_weight=0.1.")
        return Steering.of(int(iteration), {name: value}, settings)

    @staticmethod
    def of(iteration: int, changes: Mapping[str, Any], settings: TransferSettings) -> "Steering":
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


class RecordedStyle(BaseModel):
    """A style of a run. Its weight is one of the settings, `style_blend`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    mask: bool = False  # whether it has one


class RunRecord(BaseModel):
    """What `run.json` holds."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2] = 2
    id: str
    created: AwareDatetime
    queued: AwareDatetime | None = None  # the last time; an imported run never was, here
    begun: AwareDatetime | None = None  # when a process set about it, the last time
    status: Status = "queued"
    message: str = ""  # what is being prepared, or in one sentence what went wrong
    preset: Name
    settings: TransferSettings
    content: Name  # the photo's name, as the user knows it
    styles: list[RecordedStyle] = Field(min_length=1, max_length=MOST_STYLES)
    owner: str = ""  # who started it, where people log in; empty elsewhere
    batch: Name = ""  # the batch or sweep that it was begun for
    job: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")  # `Job.digest` of `core.batches.plan`
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
    writer: ProcessId | None = None

    @field_validator("created", "queued", "begun")
    @classmethod
    def _in_any_time_zone(cls, when: datetime | None) -> datetime | None:
        if when and not 2000 <= when.year <= 9000:  # the calendar's first and last day have no other zones
            raise ValueError("a run was made in 2000 or later")
        return when

    @model_validator(mode="after")
    def _steering_that_fits(self) -> "RunRecord":
        settings = self.settings
        for change in self.steering:
            settings = settings.changed(**change.changes)
        return self

    @staticmethod
    def from_json(data: bytes, exists: Callable[[str], bool]) -> "RunRecord":
        """Return the record in `run.json`, migrated from version 1; `exists` says whether the run has such a file.

        Raises `OtherVersionError` for other versions, `ValueError` or `RecursionError` for a damaged record.
        """
        fields = json.loads(data)
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version == 1 and type(version) is int:
            data = json.dumps(_from_version_1(fields, exists)).encode()
        elif version != 2:
            raise OtherVersionError(repr(version))
        return RunRecord.model_validate_json(data)  # stricter than json: no half characters

    def summary(self) -> dict[str, Any]:
        """Return what `--json` and reports say of a run: the record with the joined names of its styles."""
        told = list(self.model_dump(mode="json", exclude={"writer"}).items())
        place = [name for name, _ in told].index("styles")
        return dict([*told[:place], ("style", self.style), *told[place:]])

    @property
    def style(self) -> str:
        return as_name(SEPARATOR.join(style.name for style in self.styles))

    @property
    def masks(self) -> int:
        return sum(style.mask for style in self.styles)

    @property
    def title(self) -> str:
        return f"{self.content} × {self.style}"

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


class OtherVersionError(ValueError):
    """Its text is the version of a record that this program does not read."""


def _from_version_1(fields: dict[str, Any], exists: Callable[[str], bool]) -> dict[str, Any]:
    """Return the fields as version 2 has them: version 1 joined the names of the styles, and counted their files."""
    if "styles" in fields or not isinstance(joined := fields.pop("style", None), str):
        raise ValueError("no record of version 1")
    count = 1 + sum(exists(f"style-{number}.png") for number in range(2, MOST_STYLES + 1))
    names = joined.split(SEPARATOR, count - 1)  # a name may hold the separator, or the end may have been cut off
    names += [f"painting {number}" for number in range(len(names) + 1, count + 1)]
    styles = [{"name": name, "mask": exists(f"mask-{number}.png")} for number, name in enumerate(names, 1)]
    return {**fields, "schema_version": 2, "styles": styles}


def metadata(record: RunRecord) -> dict[str, str]:
    """What a result picture says of itself."""
    return {
        "Software": SOFTWARE,
        "Title": record.title,
        "Settings": record.settings.model_dump_json(),
        "Weights": f"VGG19, {record.weights}",
        "Total loss": f"{record.best_total:.6g}",
    }
