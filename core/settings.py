"""Every setting of a style transfer, once: its range, unit, default and meaning; and the presets.

The command line's options, the page's widgets and the run record are drawn from `TransferSettings`.
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
    """What the losses count against each other."""

    style: float
    content: float
    total_variation: float
    style_layers: tuple[float, ...]  # a factor for each
    content_layers: tuple[float, ...] = ()  # likewise; 1 each where there is none


class TransferSettings(BaseModel):
    """What a style transfer is asked to do. The defaults are the published reference run's (see `bench.reference`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = _setting(
        512,
        "Size",
        "Length of the picture's longer side; the style picture is brought to the same, times the style scale.",
        "picture",
        unit="px",
        ge=64,
        le=10_000,
    )
    iterations: int = _setting(
        1000,
        "Iterations",
        "How many steps the optimizer takes; more come closer to the style.",
        "picture",
        ge=1,
        le=20_000,
    )
    frame_every: int = _setting(
        100,
        "Keep a picture every",
        "How often a picture on the way is kept.",
        "picture",
        unit="iterations",
        shapes_result=False,
        ge=1,
        le=20_000,
    )
    init: Literal["content", "preview", "style", "noise"] = _setting(
        "content",
        "Start from",
        "The picture that painting starts from: the photo itself; the instant preview, which is nearer the goal; the "
        "painting; or grey noise, which shows what the losses alone make.",
        "picture",
    )
    seed: int = _setting(
        0, "Seed", "Which noise it is, where painting starts from noise.", "picture", ge=0, le=2**31 - 1
    )
    stages: int = _setting(
        1,
        "Coarse to fine",
        "Paint at so many sizes, each twice the one before and with half its iterations: large shapes follow the style "
        "first. 1 paints at full size alone.",
        "picture",
        unit="stages",
        ge=1,
        le=6,
    )
    style_scale: float = _setting(
        1.0,
        "Style scale",
        "How large the painting is beside the photo: more makes larger strokes and motifs.",
        "picture",
        unit="times",
        ge=0.1,
        le=4,
    )
    style_blend: Weights = _setting(
        (),
        "Style blend",
        "With several paintings, how much each of them counts, in their order; alike where nothing is said.",
        "picture",
        each_of="styles",
        max_length=MOST_STYLES,
    )
    colours: Literal["style", "luminance", "matched"] = _setting(
        "style",
        "Colours",
        "The painting's own; the photo's, by painting its lightness alone (luminance); or the photo's, by recolouring "
        "the painting beforehand (matched). Gatys et al. 2016, arXiv:1606.05897.",
        "picture",
    )
    memory: float = _setting(
        0.0,
        "Memory",
        "The most that a run may hold; a picture that needs more is computed in tiles, with the same result. 0 takes "
        "what is free.",
        "picture",
        unit="GB",
        shapes_result=False,
        ge=0,
        le=10_000,
    )
    style_weight: float = _setting(
        1e-2,
        "Style weight",
        "How much the painting's manner counts: strokes, textures, colours.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    content_weight: float = _setting(
        1e3,
        "Content weight",
        "How much the photo's shapes count; more keeps it recognisable.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    total_variation_weight: float = _setting(
        0.0,
        "Smoothness",
        "Weight of the total variation: more takes fine grain out.",
        "losses",
        steered=True,
        ge=0,
        le=1e12,
    )
    style_layers: Layers = _setting(
        ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1"),
        "Style layers",
        "Where in VGG19 the style is read: early layers hold grain and colour, late ones large motifs.",
        "layers",
        min_length=1,
    )
    style_layer_weights: Weights = _setting(
        (),
        "Style layer weights",
        "How much each of the style layers counts, in their order; 1 each where nothing is said.",
        "layers",
        steered=True,
        each_of="style_layers",
    )
    content_layers: Layers = _setting(
        ("block5_conv2",),
        "Content layers",
        "Where in VGG19 the photo's shapes are read: the later, the freer the paint.",
        "layers",
        min_length=1,
    )
    content_layer_weights: Weights = _setting(
        (),
        "Content layer weights",
        "How much each of the content layers counts, in their order; 1 each where nothing is said.",
        "layers",
        steered=True,
        each_of="content_layers",
    )
    style_loss: StyleLossName = _setting(
        "gram",
        "Style loss",
        f"What is compared of the style: {'; or '.join(loss.meaning for loss in STYLE_LOSSES.values())}.",
        "layers",
    )
    pooling: Pooling = _setting(
        "max", "Pooling", "How the network grows coarser: by maxima, as trained; averages paint smoother.", "layers"
    )
    padding: Padding = _setting(
        "zero",
        "Padding",
        "What the network sees beyond the picture's edge: black, as trained; or the edge again (replicate), against "
        "frames and blots along it.",
        "layers",
    )
    precision: Literal["auto", "float32", "bfloat16"] = _setting(
        "float32",
        "Precision",
        "The numbers that the network computes with; auto takes what this machine does best. Losses and picture are "
        "float32 in any case.",
        "optimizer",
    )
    optimizer: Literal["adam", "l-bfgs"] = _setting(
        "adam",
        "Optimizer",
        "Adam is the published way; L-BFGS learns the losses' curvature and needs several times fewer steps.",
        "optimizer",
    )
    history: int = _setting(
        30,
        "L-BFGS history",
        "So many steps L-BFGS remembers; each keeps two pictures in memory.",
        "optimizer",
        unit="steps",
        ge=1,
        le=200,
    )
    preconditioning: float = _setting(
        0.3,
        "L-BFGS preconditioning",
        "How much farther large shapes move than fine grain while L-BFGS knows little of the curvature.",
        "optimizer",
        ge=0,
        le=1,
    )
    learning_rate: float = _setting(
        5.0, "Learning rate", "Length of Adam's steps, in grey levels of 255.", "optimizer", ge=0.001, le=255
    )
    beta_1: float = _setting(0.99, "Adam β₁", "How long Adam remembers the direction.", "optimizer", ge=0, le=0.9999)
    beta_2: float = _setting(
        0.999, "Adam β₂", "How long Adam remembers the gradient's size.", "optimizer", ge=0, le=0.9999
    )
    epsilon: float = _setting(
        0.1, "Adam ε", "Added to the root of Adam's second moment: damps small gradients.", "optimizer", ge=1e-8, le=1e6
    )
    averaging: float = _setting(
        0.0,
        "Averaging",
        "How long the picture remembers where it was: a mean over the last steps has less of Adam's noise (0.99 is one "
        "over about 100). 0 takes no mean.",
        "optimizer",
        ge=0,
        le=0.9999,
    )

    @field_validator("style_layers", "content_layers")
    @classmethod
    def _known_layers(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(layer_name(layer) for layer in layers)
        if len(set(names)) < len(names):
            raise ValueError("a layer is named twice")
        return names

    @model_validator(mode="after")
    def _values_that_fit_each_other(self) -> "TransferSettings":
        for kind in ("style", "content"):
            weights, layers = getattr(self, f"{kind}_layer_weights"), getattr(self, f"{kind}_layers")
            if weights and len(weights) != len(layers):
                raise ValueError(
                    f"{kind}_layer_weights has {len(weights)} numbers for {len(layers)} {kind} layers: give one for "
                    "each, or none"
                )
        if self.style_blend and not any(self.style_blend):
            raise ValueError("style_blend cannot be all 0: there would be no style")
        coarsest, least = self.size >> (self.stages - 1), type(self).model_fields["size"].metadata[0].ge
        if self.stages > 1 and coarsest < least:
            raise ValueError(
                f"{self.stages} stages to {self.size} px would begin at {coarsest} px; the least is {least} px"
            )
        if self.style_weight == 0 and self.content_weight == 0:
            raise ValueError("style_weight and content_weight cannot both be 0: there would be nothing to paint")
        return self

    def loss_weights(self) -> LossWeights:
        style = self.style_layer_weights or (1.0,) * len(self.style_layers)
        content = self.content_layer_weights or (1.0,) * len(self.content_layers)
        return LossWeights(self.style_weight, self.content_weight, self.total_variation_weight, style, content)

    def schedule(self) -> list[tuple[int, int]]:
        """Each stage's size in px and the iteration that it ends with: the size doubles, and the iterations halve, but
        for one in each at least. With fewer iterations than stages, the coarsest stages are left out."""
        count = min(self.stages, self.iterations)
        shares = [2 ** (count - stage - 1) for stage in range(count)]
        ends = [0]
        for stage in range(count):
            end = round(self.iterations * sum(shares[: stage + 1]) / sum(shares))
            ends.append(min(max(end, ends[-1] + 1), self.iterations - (count - stage - 1)))
        return [(self.size // share, end) for share, end in zip(shares, ends[1:], strict=True)]

    def shaping_result(self) -> str:
        """The same, as JSON, for settings that paint the same picture."""
        return self.model_dump_json(exclude={name for name, setting in SETTINGS.items() if not setting.shapes_result})

    def changed(self, **changes: Any) -> "TransferSettings":
        """These settings but for some. Raises `InputError` as `choose` does."""
        return validated({**self.model_dump(exclude_defaults=True), **changes})


@dataclass(frozen=True)
class Setting:
    """A setting as a person meets it: what an option's help or a widget needs to know."""

    name: str
    label: str
    meaning: str
    group: Group
    unit: str
    type: type
    choices: tuple[str, ...]  # what a setting of words may be; empty for the others
    steered: bool  # may be changed while a run paints
    shapes_result: bool  # the picture that comes out depends on it
    each_of: str  # the setting for each of whose entries this one has a number; empty for the others
    minimum: float | None
    maximum: float | None


def _limit(metadata: list[Any], name: str) -> float | None:
    return next((getattr(limit, name) for limit in metadata if hasattr(limit, name)), None)


def _read_settings() -> dict[str, Setting]:
    settings = {}
    for name, field in TransferSettings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # as _setting() made it
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
