"""The settings of a style transfer, each defined once: range, unit, default and meaning.

`TransferSettings` defines the options of the command line, the widgets of the page and the run record.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.errors import InputError
from core.losses.style_losses import STYLE_LOSSES
from core.vgg.layers import Padding, Pooling, layer_name

Group = Literal["picture", "losses", "layers", "optimizer"]
if TYPE_CHECKING:
    StyleLossName = str
else:
    StyleLossName = Literal[tuple(STYLE_LOSSES)]


def _setting(
    default: Any,
    label: str,
    meaning: str,
    group: Group,
    unit: str = "",
    steered: bool = False,
    each_of: str = "",
    shapes_result: bool = True,
    **limits: Any,
) -> Any:
    extra: dict[str, Any] = {"group": group, "unit": unit, "steered": steered, "each_of": each_of}
    extra["shapes_result"] = shapes_result
    return Field(default, title=label, description=meaning, json_schema_extra=extra, **limits)


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _split_if_any(value: Any) -> Any:
    return [] if isinstance(value, str) and not value.strip() else _split(value)


Layers = Annotated[tuple[str, ...], BeforeValidator(_split)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Weights = Annotated[tuple[Weight, ...], BeforeValidator(_split_if_any)]

MOST_STYLES = 6


class LossWeights(NamedTuple):
    """The weights of the losses."""

    style: float
    content: float
    total_variation: float
    style_layers: tuple[float, ...]  # a factor for each style layer
    content_layers: tuple[float, ...] = ()  # a factor for each content layer; if empty, all are 1


class TransferSettings(BaseModel):
    """The settings of a style transfer; the defaults are those of the published reference run (`bench.reference`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = _setting(
        512,
        "Size",
        "Length of the result's longer side. The painting is resized to this length times the style scale.",
        "picture",
        unit="px",
        ge=64,
        le=10_000,
    )
    iterations: int = _setting(
        1000,
        "Iterations",
        "Number of optimizer steps. More steps come closer to the style.",
        "picture",
        ge=1,
        le=20_000,
    )
    frame_every: int = _setting(
        100,
        "Keep a picture every",
        "Number of iterations between two saved intermediate pictures.",
        "picture",
        unit="iterations",
        shapes_result=False,
        ge=1,
        le=20_000,
    )
    init: Literal["content", "preview", "style", "noise"] = _setting(
        "content",
        "Start from",
        "The initial picture: the photo (content); the instant preview, which is closer to the result; the painting "
        "(style); or grey noise, which shows what the losses alone produce.",
        "picture",
    )
    seed: int = _setting(
        0, "Seed", "Random seed of the noise, if the run starts from noise.", "picture", ge=0, le=2**31 - 1
    )
    stages: int = _setting(
        1,
        "Coarse to fine",
        "Number of sizes to paint at. Each size is twice the previous size and has half its iterations, so large "
        "shapes follow the style first. With 1, the run paints only at full size.",
        "picture",
        unit="stages",
        ge=1,
        le=6,
    )
    style_scale: float = _setting(
        1.0,
        "Style scale",
        "Size of the painting relative to the photo. A larger scale makes larger strokes and motifs.",
        "picture",
        unit="times",
        ge=0.1,
        le=4,
    )
    style_blend: Weights = _setting(
        (),
        "Style blend",
        "The weights of several paintings, in their order. Default: equal weights.",
        "picture",
        each_of="styles",
        max_length=MOST_STYLES,
    )
    colours: Literal["style", "luminance", "matched"] = _setting(
        "style",
        "Colours",
        "Colours of the result: those of the painting (style), or those of the photo. Luminance paints only the "
        "photo's lightness; matched first recolours the painting. Gatys et al. 2016, arXiv:1606.05897.",
        "picture",
    )
    memory: float = _setting(
        0.0,
        "Memory",
        "Memory limit of a run. A picture that needs more is computed in tiles, with the same result. 0 uses all free "
        "memory.",
        "picture",
        unit="GB",
        shapes_result=False,
        ge=0,
        le=10_000,
    )
    style_weight: float = _setting(
        1e-2,
        "Style weight",
        "Weight of the painting's style: strokes, textures, colours.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    content_weight: float = _setting(
        1e3,
        "Content weight",
        "Weight of the photo's shapes. A larger weight keeps the photo recognisable.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    total_variation_weight: float = _setting(
        0.0,
        "Smoothness",
        "Weight of the total variation loss. A larger weight removes fine grain.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    style_layers: Layers = _setting(
        ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1"),
        "Style layers",
        "VGG19 layers of the style loss. Early layers capture grain and colour, late layers capture large motifs.",
        "layers",
        min_length=1,
    )
    style_layer_weights: Weights = _setting(
        (),
        "Style layer weights",
        "The weights of the style layers, in their order. Default: 1 each.",
        "layers",
        steered=True,
        each_of="style_layers",
    )
    content_layers: Layers = _setting(
        ("block5_conv2",),
        "Content layers",
        "VGG19 layers of the content loss. A later layer lets the result deviate more from the photo.",
        "layers",
        min_length=1,
    )
    content_layer_weights: Weights = _setting(
        (),
        "Content layer weights",
        "The weights of the content layers, in their order. Default: 1 each.",
        "layers",
        steered=True,
        each_of="content_layers",
    )
    style_loss: StyleLossName = _setting(
        "gram",
        "Style loss",
        f"What the style loss compares: {'; or '.join(loss.meaning for loss in STYLE_LOSSES.values())}.",
        "layers",
    )
    pooling: Pooling = _setting(
        "max", "Pooling", "Pooling in VGG19: maximum, as trained; or average, for a smoother result.", "layers"
    )
    padding: Padding = _setting(
        "zero",
        "Padding",
        "Padding around the picture: zeros, as trained; or replicate, which repeats the edge pixels and avoids frames "
        "and blots along the edge.",
        "layers",
    )
    precision: Literal["auto", "float32", "bfloat16"] = _setting(
        "float32",
        "Precision",
        "Number format of the network; auto chooses the best format for this machine. Losses and picture are always "
        "float32.",
        "optimizer",
    )
    optimizer: Literal["adam", "l-bfgs"] = _setting(
        "adam",
        "Optimizer",
        "Adam is the published method. L-BFGS estimates the curvature of the loss and needs several times fewer steps.",
        "optimizer",
    )
    history: int = _setting(
        30,
        "L-BFGS history",
        "Number of steps that L-BFGS remembers. Each takes the memory of two pictures.",
        "optimizer",
        unit="steps",
        ge=1,
        le=200,
    )
    preconditioning: float = _setting(
        0.3,
        "L-BFGS preconditioning",
        "How much more L-BFGS changes large shapes than fine grain while it knows little about the curvature.",
        "optimizer",
        ge=0,
        le=1,
    )
    learning_rate: float = _setting(
        5.0, "Learning rate", "Size of Adam's steps, in grey levels of 255.", "optimizer", ge=0.001, le=255
    )
    beta_1: float = _setting(
        0.99, "Adam β₁", "How long Adam remembers the gradient's direction.", "optimizer", ge=0, le=0.9999
    )
    beta_2: float = _setting(
        0.999, "Adam β₂", "How long Adam remembers the gradient's size.", "optimizer", ge=0, le=0.9999
    )
    epsilon: float = _setting(
        0.1,
        "Adam ε",
        "Added to the root of Adam's second moment. It damps small gradients.",
        "optimizer",
        ge=1e-8,
        le=1e6,
    )
    averaging: float = _setting(
        0.0,
        "Averaging",
        "Decay of an average over the last pictures, which has less of Adam's noise. 0.99 averages over about 100 "
        "steps; 0 turns the average off.",
        "optimizer",
        ge=0,
        le=0.9999,
    )

    @field_validator("style_layers", "content_layers")
    @classmethod
    def _known_layers(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(layer_name(layer) for layer in layers)
        if len(set(names)) < len(names):
            raise ValueError("a layer is listed twice")
        return names

    @model_validator(mode="after")
    def _values_that_fit_each_other(self) -> "TransferSettings":
        for kind in ("style", "content"):
            weights, layers = getattr(self, f"{kind}_layer_weights"), getattr(self, f"{kind}_layers")
            if weights and len(weights) != len(layers):
                raise ValueError(
                    f"{kind}_layer_weights has {len(weights)} numbers for {len(layers)} {kind} layers: give a number "
                    "for each layer, or no numbers"
                )
        if self.style_blend and not any(self.style_blend):
            raise ValueError("style_blend cannot be all 0: there would be no style")
        coarsest, least = self.size >> (self.stages - 1), type(self).model_fields["size"].metadata[0].ge
        if self.stages > 1 and coarsest < least:
            raise ValueError(
                f"{self.stages} stages to {self.size} px would start at {coarsest} px; the minimum is {least} px"
            )
        if self.style_weight == 0 and self.content_weight == 0:
            raise ValueError("style_weight and content_weight cannot both be 0: there would be nothing to paint")
        return self

    def loss_weights(self) -> LossWeights:
        """Return the weights of the losses, with a weight for each layer."""
        style = self.style_layer_weights or (1.0,) * len(self.style_layers)
        content = self.content_layer_weights or (1.0,) * len(self.content_layers)
        return LossWeights(self.style_weight, self.content_weight, self.total_variation_weight, style, content)

    def schedule(self) -> list[tuple[int, int]]:
        """Return the size of each stage in px and its last iteration.

        From stage to stage the size doubles and the number of iterations halves, to at least 1. If there are fewer
        iterations than stages, the coarsest stages are left out.
        """
        count = min(self.stages, self.iterations)
        shares = [2 ** (count - stage - 1) for stage in range(count)]
        ends = [0]
        for stage in range(count):
            end = round(self.iterations * sum(shares[: stage + 1]) / sum(shares))
            ends.append(min(max(end, ends[-1] + 1), self.iterations - (count - stage - 1)))
        return [(self.size // share, end) for share, end in zip(shares, ends[1:], strict=True)]

    def shaping_result(self) -> str:
        """Return the settings that change the result and are not at their defaults, as JSON.

        Batches and folders find their finished runs by it, so a new setting must not change it.
        """
        others = {name for name, setting in SETTINGS.items() if not setting.shapes_result}
        return self.model_dump_json(exclude=others, exclude_defaults=True)

    def changed(self, **changes: Any) -> "TransferSettings":
        """Return these settings with some changes.

        Raises:
            InputError: If a value is not allowed.
        """
        return validated({**self.model_dump(exclude_defaults=True), **changes})


@dataclass(frozen=True)
class Setting:
    """A setting, described for an option's help or a widget."""

    name: str
    label: str
    meaning: str
    group: Group
    unit: str
    type: type
    choices: tuple[str, ...]  # the allowed words; empty for numbers and lists
    steered: bool  # whether it can change during a run
    shapes_result: bool  # whether the result depends on it
    each_of: str  # for a list of weights: the setting (or "styles") whose entries they belong to; else empty
    minimum: float | None
    maximum: float | None


def _limit(metadata: list[Any], name: str) -> float | None:
    return next((getattr(limit, name) for limit in metadata if hasattr(limit, name)), None)


def _read_settings() -> dict[str, Setting]:
    settings = {}
    for name, field in TransferSettings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # from _setting()
        words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        settings[name] = Setting(
            name=name,
            label=str(field.title),
            meaning=str(field.description),
            type=str if words else {int: int, float: float}.get(field.annotation, tuple),  # type: ignore[arg-type]
            choices=words,
            minimum=_limit(field.metadata, "ge"),
            maximum=_limit(field.metadata, "le"),
            **extra,  # type: ignore[arg-type]
        )
    return settings


SETTINGS: Mapping[str, Setting] = _read_settings()


def validated(wanted: Mapping[str, Any]) -> TransferSettings:
    """Return the settings with these values.

    Raises:
        InputError: If a value is not allowed; the message names the setting, the value and its limit.
    """
    try:
        return TransferSettings(**wanted)
    except ValidationError as error:
        first = error.errors()[0]
        message = re.sub("^Value error, |^Input (?=should)", "", first["msg"])
        if first["type"] == "too_short":
            message = "name at least one layer"
        given = repr(first["input"])
        where = f"{first['loc'][0]} = {given if len(given) < 80 else given[:77] + '…'}: " if first["loc"] else ""
        raise InputError(f"{where}{message}.") from error
