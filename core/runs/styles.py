"""A run's paintings, as people are told of them: what each is called, how much it counts, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.images.masks import blend
from core.names import names_of

if TYPE_CHECKING:
    from core.runs.record import RunRecord
    from core.runs.run import Run

EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class Painting:
    """One of a run's paintings."""

    label: str  # "Painting", or its number too where there are several
    name: str
    path: Path
    mask: Path | None  # where it is; without one it is where no other's mask is
    share: float  # of the style there, 0 … 1
    role: str  # how much and where it is, in words; empty for a painting that is alone


def of(run: Run, record: RunRecord) -> list[Painting]:
    """The paintings of a run, in their order."""
    files = run.styles
    masks = [mask if (mask := run.mask(number)).is_file() else None for number in range(1, len(files) + 1)]
    names = names_of(record.style, len(files))
    parts = shares(record.settings.style_blend, [mask is not None for mask in masks])
    return [
        Painting(
            f"Painting {number}" if len(files) > 1 else "Painting",
            name,
            path,
            mask,
            share,
            role(share, mask is not None, masks),
        )
        for number, (name, path, mask, share) in enumerate(zip(names, files, masks, parts, strict=True), 1)
    ]


def whereabouts(run: Run, record: RunRecord) -> str:
    """In which parts of the photo the paintings are, and whether a part of it stays, in words."""
    masked = [painting.name for painting in of(run, record) if painting.mask]
    parts = [f"{name} in its part" for name in masked]
    return ", ".join([*parts, *(["a part stays as it is"] if run.kept.is_file() else [])]) or EVERYWHERE


def shares(weights: tuple[float, ...], masked: list[bool]) -> list[float]:
    """What each painting counts where it is: one with a mask all there is, the others by their weights."""
    given = weights if len(weights) == len(masked) else (1.0,) * len(masked)
    free = [0.0 if alone else weight for weight, alone in zip(given, masked, strict=True)]
    blended = blend(len(free), free) if any(free) else free
    return [1.0 if alone else float(share) for share, alone in zip(blended, masked, strict=True)]


def role(share: float, masked: bool, masks: list[Path | None] | list[bool]) -> str:
    """How much of the style a painting is and where, in words, among paintings with these masks."""
    if masked:
        return "in its part"
    if len(masks) == 1:
        return ""
    elsewhere = " elsewhere" if any(masks) else ""
    return f"{100 * share:.0f} %{elsewhere}"
