"""Every knob of a style transfer, once: its range, unit, default and meaning; and the presets.

The command line's options, the page's widgets and the run record are drawn from `TransferSettings`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.errors import InputError
from core.vgg import CONVOLUTIONS

Group = Literal["picture", "losses", "layers", "optimizer"]


def _knob(
    default: Any,
    label: str,
    meaning: str,
    group: Group,
    unit: str = "",
    steered: bool = False,
    each_of: str = "",
    **limits: Any,
) -> Any:
    return Field(
        default,
        title=label,
        description=meaning,
        json_schema_extra={"group": group, "unit": unit, "steered": steered, "each_of": each_of},
        **limits,
    )


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _split_if_any(value: Any) -> Any:
    return [] if isinstance(value, str) and not value.strip() else _split(value)


Layers = Annotated[tuple[str, ...], BeforeValidator(_split)]
LayerWeight = Annotated[float, Field(ge=0, le=1e6)]
LayerWeights = Annotated[tuple[LayerWeight, ...], BeforeValidator(_split_if_any)]


class LossWeights(NamedTuple):
    """What the losses count against each other."""

    style: float
    content: float
    total_variation: float
    style_layers: tuple[float, ...]  # a factor for each


class TransferSettings(BaseModel):
    """What a style transfer is asked to do. The defaults are the published reference run's (see `bench.reference`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = _knob(
        512,
        "Size",
        "Length of the picture's longer side; the style picture is brought to the same.",
        "picture",
        unit="px",
        ge=64,
        le=4096,
    )
    iterations: int = _knob(
        1000,
        "Iterations",
        "How many steps the optimizer takes; more come closer to the style.",
        "picture",
        ge=1,
        le=20_000,
    )
    frame_every: int = _knob(
        100,
        "Keep a picture every",
        "How often a picture on the way is kept.",
        "picture",
        unit="iterations",
        ge=1,
        le=20_000,
    )
    init: Literal["content", "preview"] = _knob(
        "content",
        "Start from",
        "The picture that painting starts from: the photo itself, or the instant preview, which is nearer the goal.",
        "picture",
    )
    style_weight: float = _knob(
        1e-2,
        "Style weight",
        "How much the painting's manner counts: strokes, textures, colours.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    content_weight: float = _knob(
        1e3,
        "Content weight",
        "How much the photo's shapes count; more keeps it recognisable.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    total_variation_weight: float = _knob(
        0.0,
        "Smoothness",
        "Weight of the total variation: more takes fine grain out.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    style_layers: Layers = _knob(
        ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1"),
        "Style layers",
        "Where in VGG19 the style is read: early layers hold grain and colour, late ones large motifs.",
        "layers",
        min_length=1,
    )
    style_layer_weights: LayerWeights = _knob(
        (),
        "Style layer weights",
        "How much each of the style layers counts, in their order; 1 each where nothing is said.",
        "layers",
        steered=True,
        each_of="style_layers",
    )
    content_layers: Layers = _knob(
        ("block5_conv2",),
        "Content layers",
        "Where in VGG19 the photo's shapes are read: the later, the freer the paint.",
        "layers",
        min_length=1,
    )
    precision: Literal["auto", "float32", "bfloat16"] = _knob(
        "float32",
        "Precision",
        "The numbers that the network computes with; auto takes what this machine does best. Losses and picture are "
        "float32 in any case.",
        "optimizer",
    )
    optimizer: Literal["adam", "l-bfgs"] = _knob(
        "adam",
        "Optimizer",
        "Adam is the published way; L-BFGS learns the losses' curvature and needs several times fewer steps.",
        "optimizer",
    )
    history: int = _knob(
        30,
        "L-BFGS history",
        "So many steps L-BFGS remembers; each keeps two pictures in memory.",
        "optimizer",
        unit="steps",
        ge=1,
        le=200,
    )
    preconditioning: float = _knob(
        0.3,
        "L-BFGS preconditioning",
        "How much farther large shapes move than fine grain while L-BFGS knows little of the curvature.",
        "optimizer",
        ge=0,
        le=1,
    )
    learning_rate: float = _knob(
        5.0, "Learning rate", "Length of Adam's steps, in grey levels of 255.", "optimizer", ge=0.001, le=255
    )
    beta_1: float = _knob(0.99, "Adam β₁", "How long Adam remembers the direction.", "optimizer", ge=0, le=0.9999)
    beta_2: float = _knob(
        0.999, "Adam β₂", "How long Adam remembers the gradient's size.", "optimizer", ge=0, le=0.9999
    )
    epsilon: float = _knob(
        0.1, "Adam ε", "Added to the root of Adam's second moment: damps small gradients.", "optimizer", ge=1e-8, le=1e6
    )

    @field_validator("style_layers", "content_layers")
    @classmethod
    def _known_layers(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [layer for layer in layers if layer not in CONVOLUTIONS]:
            raise ValueError(f"VGG19 has no convolution {unknown[0]!r}; it has {', '.join(CONVOLUTIONS)}")
        if len(set(layers)) < len(layers):
            raise ValueError("a layer is named twice")
        return layers

    @model_validator(mode="after")
    def _a_weight_for_each_layer(self) -> "TransferSettings":
        if self.style_layer_weights and len(self.style_layer_weights) != len(self.style_layers):
            raise ValueError(
                f"style_layer_weights has {len(self.style_layer_weights)} numbers for {len(self.style_layers)} style "
                "layers: give one for each, or none"
            )
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> "TransferSettings":
        if self.style_weight == 0 and self.content_weight == 0:
            raise ValueError("style_weight and content_weight cannot both be 0: there would be nothing to paint")
        return self

    def loss_weights(self) -> LossWeights:
        layers = self.style_layer_weights or (1.0,) * len(self.style_layers)
        return LossWeights(self.style_weight, self.content_weight, self.total_variation_weight, layers)

    def changed(self, **changes: Any) -> "TransferSettings":
        """These settings but for some. Raises `InputError` as `choose` does."""
        return _validated({**self.model_dump(exclude_defaults=True), **changes})


@dataclass(frozen=True)
class Preset:
    """A named choice of settings: what it is for, and what it changes of the defaults."""

    title: str
    purpose: str
    changes: Mapping[str, Any]

    def settings(self) -> TransferSettings:
        return TransferSettings(**self.changes)


_QUICK = {"init": "preview", "optimizer": "l-bfgs", "precision": "auto"}

PRESETS: Mapping[str, Preset] = {
    "draft": Preset(
        "Draft",
        "A small picture within seconds, to see whether the pair is worth more.",
        {"size": 256, "iterations": 20, "frame_every": 2, **_QUICK},
    ),
    "fast": Preset(
        "Fast",
        "The published run's loss or better at 512 px, in a fraction of its time.",
        {"iterations": 200, "frame_every": 10, **_QUICK},
    ),
    "reference": Preset(
        "Reference",
        "The published run, exactly: 512 px, 1000 iterations of Adam in float32. Slow without a GPU.",
        {},
    ),
}
DEFAULT_PRESET = "fast"


@dataclass(frozen=True)
class Knob:
    """A setting as a person meets it: what an option's help or a widget needs to know."""

    name: str
    label: str
    meaning: str
    group: Group
    unit: str
    type: type
    choices: tuple[str, ...]  # what a knob of words may be; empty for the others
    steered: bool  # may be changed while a run paints
    each_of: str  # the knob for each of whose entries this one has a number; empty for the others
    minimum: float | None
    maximum: float | None


def _limit(metadata: list[Any], name: str) -> float | None:
    return next((getattr(limit, name) for limit in metadata if hasattr(limit, name)), None)


def _knobs() -> dict[str, Knob]:
    knobs = {}
    for name, field in TransferSettings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # as _knob() made it
        words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        knobs[name] = Knob(
            name=name,
            label=str(field.title),
            meaning=str(field.description),
            group=extra["group"],  # type: ignore[arg-type]
            unit=str(extra["unit"]),
            type=str if words else {int: int, float: float}.get(field.annotation, tuple),  # type: ignore[arg-type]
            choices=words,
            steered=bool(extra["steered"]),
            each_of=str(extra["each_of"]),
            minimum=_limit(field.metadata, "ge"),
            maximum=_limit(field.metadata, "le"),
        )
    return knobs


KNOBS: Mapping[str, Knob] = _knobs()


def choose(preset: str = DEFAULT_PRESET, **choices: Any) -> TransferSettings:
    """A preset's settings with some of them chosen otherwise (a choice of `None` is none).

    Raises `InputError`, one sentence that names the setting, its limit and the value given.
    """
    if preset not in PRESETS:
        raise InputError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    return _validated(
        {**PRESETS[preset].changes, **{name: value for name, value in choices.items() if value is not None}}
    )


def _validated(wanted: Mapping[str, Any]) -> TransferSettings:
    try:
        return TransferSettings(**wanted)
    except ValidationError as error:
        first = error.errors()[0]
        message = re.sub("^Value error, |^Input (?=should)", "", first["msg"])
        if first["type"] == "too_short":
            message = "name at least one"
        given = repr(first["input"])
        where = f"{first['loc'][0]} = {given if len(given) < 80 else given[:77] + '…'}: " if first["loc"] else ""
        raise InputError(f"{where}{message}.") from error
