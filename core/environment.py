"""The `NST_*` environment variables, each defined once.

`python -m core.environment` prints the table in docs/operations.md.
"""

import functools
import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import InputError

MOST_SLOTS = 64  # on this machine, and in all clusters together


def _value(default: Any, must_be: str, description: str, **limits: Any) -> Any:
    return Field(default, title=must_be, description=description, **limits)


def _whole_number(default: int | None, most: int, description: str) -> Any:
    return _value(default, f"a whole number from 1 to {most}", description, ge=1, le=most)


def _seconds(default: float | None, description: str) -> Any:
    return _value(default, "a number of seconds, 0 or more", description, ge=0, allow_inf_nan=False)


class Environment(BaseSettings):
    """The values of the variables; an empty variable counts as not set.

    Raises:
        InputError: If an attribute is read whose variable has an invalid value. The other variables stay readable.
    """

    model_config = SettingsConfigDict(env_prefix="NST_", env_ignore_empty=True)

    home: Path | None = _value(
        None,
        "a folder",
        "Holds runs, cached style targets and logs. Default: the platform's folder for user data (see `nst doctor`).",
    )
    weights: Path | None = _value(
        None,
        "a file",
        "Keras's VGG19 weights. Default: Keras's cache, then what was downloaded before, then a download.",
    )
    workers: int | None = _whole_number(
        None,
        MOST_SLOTS,
        "How many runs are computed at the same time on this machine. Default: one on each NVIDIA GPU that "
        "`CUDA_VISIBLE_DEVICES` allows, at least one.",
    )
    worker_idle: float = _seconds(300, "How long a worker without work keeps TensorFlow loaded before it ends.")
    checkpoint_seconds: float | None = _seconds(
        None,
        "The time between two checkpoints of a run. Default: 5 to 60 s, so that they take about 2 % of the time.",
    )
    ray_address: str = _value(
        "",
        "`host:port` or `auto`",
        "The head of the Ray cluster that computes the queued runs; `auto` works on one of its nodes. Set it for the "
        "dashboard or for `nst worker`. Default: this machine computes them.",
    )
    ray_cpus: int = _whole_number(
        1,
        9999,
        "How many processors a run on the cluster requests and uses. Give runs of the preset `fast` as many as a node "
        "has; one run then has the node to itself.",
    )
    metrics_port: int | None = _whole_number(
        None, 65535, "The port where `nst dashboard` answers Prometheus. Default: it does not answer."
    )
    metrics_address: str = _value(
        "127.0.0.1", "an address of this machine", "Where that port listens; `0.0.0.0` for all."
    )
    log: str = _value(
        "",
        "`text` or `json`",
        "The format of the log. If set, `nst` logs to standard error too. Default: text, and `nst` does not log.",
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep_refusal(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Replace an invalid value with the error message, to raise it when the variable is read."""
        try:
            return validate(value)
        except ValidationError:
            name = str(info.field_name)
            must_be = cls.model_fields[name].title
            return _Refusal(f"{_variable(name)} is {value[:80]!r}: it must be {must_be}, or not be set.")

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if isinstance(value, _Refusal):
            raise InputError(value)
        return value


class _Refusal(str):
    """The error message for an invalid value, stored in place of the value."""


def environment() -> Environment:
    """Return the current values of the variables."""
    return _parse(*(os.environ.get(_variable(name)) for name in Environment.model_fields))


@functools.lru_cache(maxsize=1)
def _parse(*_values: str | None) -> Environment:
    """Parse the variables; cached for the same values, because parsing takes 0.3 ms and NST_HOME is read very often."""
    return Environment()


def table() -> str:
    """Return the Markdown table of all variables."""
    rows = [("variable", "value", "default", ""), ("---",) * 4]
    for name, field in Environment.model_fields.items():
        default = f"`{field.default}`" if field.default else ""
        rows.append((f"`{_variable(name)}`", str(field.title), default, str(field.description)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _variable(name: str) -> str:
    return f"NST_{name.upper()}"


if __name__ == "__main__":
    print(table(), end="")
