"""The contents of a run's small files: its record `run.json`, its `request.json`, and its entry in the queue.

The queue entry is defined here, because a run counts as queued only while it has an entry (see `Run.record`).
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

VERSIONS = "1 and 2"  # the schema versions that this program reads; it writes version 2
SOFTWARE = "Style Transfer Studio"  # the program's name in the metadata of results
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-z-]{1,200}")
Count = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(ge=1, le=SETTINGS["size"].maximum)]  # px
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
Status = Literal["queued", "preparing", "running", "stopped", "done", "failed", "interrupted"]
UNFINISHED: tuple[Status, ...] = ("queued", "preparing", "running")


class QueueEntry(BaseModel):
    """A run's entry in the queue."""

    order: float = 0.0  # lower values come first
    waiter: ProcessId | None = None  # the process that waits to compute the run itself; `None`: a worker computes it

    @staticmethod
    def of(run_id: str) -> "QueueEntry | None":
        """Return a run's entry; `None` if it has none, or the process that waits is gone."""
        try:
            place = QueueEntry.model_validate_json(paths.read(paths.queue() / run_id))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            return QueueEntry()
        return place if place.waiter is None or place.waiter.is_alive() else None


class Steering(BaseModel):
    """A change of weights during a run; it applies from the step after `iteration` on."""

    iteration: Count
    changes: dict[str, Any]

    @field_validator("changes")
    @classmethod
    def _only_what_can_be_steered(cls, changes: dict[str, Any]) -> dict[str, Any]:
        if foreign := [name for name in changes if name not in SETTINGS or not SETTINGS[name].steered]:
            steered = ", ".join(name for name, setting in SETTINGS.items() if setting.steered)
            raise ValueError(f"{foreign[0]} cannot be changed during a run; {steered} can")
        return changes

    @staticmethod
    def parse(text: str, settings: TransferSettings) -> "Steering":
        """Read a text like "40:style_weight=0.1".

        Raises:
            InputError: If the text has another form, or the change is not allowed.
        """
        iteration, colon, change = text.partition(":")
        name, equals, value = change.partition("=")
        name = name.strip().replace("-", "_")
        if not (iteration.strip().isdecimal() and colon and equals):
            raise InputError(f"{text!r} is not a change of a weight: give one such as 40:style_weight=0.1.")
        return Steering.of(int(iteration), {name: value}, settings)

    @staticmethod
    def of(iteration: int, changes: Mapping[str, Any], settings: TransferSettings) -> "Steering":
        """Check changes, and convert their values to the types of the settings.

        Raises:
            InputError: If a setting cannot be changed during a run, or a value is not allowed.
        """
        try:
            Steering(iteration=iteration, changes=dict(changes))  # checks the names before the values
            changed = settings.changed(**changes)
            return Steering(iteration=iteration, changes={name: getattr(changed, name) for name in changes})
        except ValidationError as error:
            raise InputError(error.errors()[0]["msg"].removeprefix("Value error, ") + ".") from error

    def options(self) -> list[str]:
        """Return a text for each weight, which `parse` can read."""
        words = {
            name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            for name, value in self.changes.items()
        }
        return [f"{self.iteration}:{name}={word}" for name, word in words.items()]


class Request(BaseModel):
    """A user's request to a running run."""

    stop: bool = False  # after the current step; the best picture so far is kept
    at_once: bool = False  # without waiting for the current step; only for runs on a cluster
    iterations: int | None = None  # the new total
    weights: dict[str, Any] = Field(default_factory=dict)  # the new weights


class RecordedStyle(BaseModel):
    """A style of a run. Its weight is one of the settings, `style_blend`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    mask: bool = False  # whether the style has a mask


class RunRecord(BaseModel):
    """The content of `run.json`."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2] = 2
    id: str
    created: AwareDatetime
    queued: AwareDatetime | None = None  # the last time; `None` for an imported run
    begun: AwareDatetime | None = None  # when a process started it, the last time
    status: Status = "queued"
    message: str = ""  # the current preparation, or a sentence about what went wrong
    preset: Name
    settings: TransferSettings
    content: Name  # the name of the content image
    styles: list[RecordedStyle] = Field(min_length=1, max_length=MOST_STYLES)
    owner: str = ""  # the user who started it; empty without login
    batch: Name = ""  # the name of its batch or sweep
    job: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")  # `Job.digest` of `core.batches.plan`
    shape: tuple[Side, Side]  # height and width of the result
    weights: str = ""  # provenance
    weights_sha256: str = ""
    precision: str = ""  # of the network; the best loss is always computed in float32
    start: Name = ""  # the name of the initial image
    style_targets: str = ""  # "cache", or the ONNX Runtime provider that computed them
    steering: list[Steering] = Field(default_factory=list, max_length=20_000)  # by iteration
    timings: dict[str, Seconds] = Field(default_factory=dict, max_length=100)  # seconds by phase
    environment: dict[str, Any] = Field(default_factory=dict)
    iteration: Count | None = None  # the last iteration
    evaluations: Count = 0
    best_iteration: Count | None = None
    best_total: float | None = None
    writer: ProcessId | None = None

    @field_validator("created", "queued", "begun")
    @classmethod
    def _in_any_time_zone(cls, when: datetime | None) -> datetime | None:
        if when and not 2000 <= when.year <= 9000:  # extreme dates cannot be converted to other time zones
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
        """Read a record, and migrate version 1; `exists` tells whether the run has a file with this name.

        Raises:
            OtherVersionError: If this program does not read the record's version.
            ValueError: If the record is damaged.
            RecursionError: If it is nested too deeply.
        """
        fields = json.loads(data)
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version == 1 and type(version) is int:
            data = json.dumps(_from_version_1(fields, exists)).encode()
        elif version != 2:
            raise OtherVersionError(repr(version))
        return RunRecord.model_validate_json(data)  # unlike json, this refuses lone surrogates

    def summary(self) -> dict[str, Any]:
        """Return the record for `--json` and reports, with the joined names of the styles."""
        told = list(self.model_dump(mode="json", exclude={"writer"}).items())
        place = [name for name, _ in told].index("styles")
        return dict([*told[:place], ("style", self.style), *told[place:]])

    @property
    def style(self) -> str:
        """Return the names of all style images, joined as one name."""
        return as_name(SEPARATOR.join(style.name for style in self.styles))

    @property
    def masks(self) -> int:
        """Return the number of styles with a mask."""
        return sum(style.mask for style in self.styles)

    @property
    def title(self) -> str:
        """Return the names of the pictures, such as "chelsea × waves"."""
        return f"{self.content} × {self.style}"

    @property
    def unfinished(self) -> bool:
        """Tell whether the run is queued or under way."""
        return self.status in UNFINISHED


class OtherVersionError(ValueError):
    """A record has a version that this program does not read; the message is the version."""


def _from_version_1(fields: dict[str, Any], exists: Callable[[str], bool]) -> dict[str, Any]:
    """Convert the fields to version 2. Version 1 joined the names of the styles; only their files show their number."""
    if "styles" in fields or not isinstance(joined := fields.pop("style", None), str):
        raise ValueError("not a record of version 1")
    count = 1 + sum(exists(f"style-{number}.png") for number in range(2, MOST_STYLES + 1))
    names = joined.split(SEPARATOR, count - 1)  # a name may contain the separator, or the text may have been shortened
    names += [f"painting {number}" for number in range(len(names) + 1, count + 1)]
    styles = [{"name": name, "mask": exists(f"mask-{number}.png")} for number, name in enumerate(names, 1)]
    return {**fields, "schema_version": 2, "styles": styles}


def metadata(record: RunRecord) -> dict[str, str]:
    """Return the metadata of a run's result picture."""
    return {
        "Software": SOFTWARE,
        "Title": record.title,
        "Settings": record.settings.model_dump_json(),
        "Weights": f"VGG19, {record.weights}",
        "Total loss": f"{record.best_total:.6g}",
    }
