"""A run's styles for display: their names, shares and regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.images.masks import blend

if TYPE_CHECKING:
    from core.runs.record import RunRecord
    from core.runs.run import Run

EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class RunStyle:
    """A style of a run, with its texts for pages and reports."""

    label: str  # "Painting", with its number if there are several
    name: str
    path: Path
    mask: Path | None
    share_text: str  # empty if it is the only style


def styles_of(run: Run, record: RunRecord) -> list[RunStyle]:
    """Return a run's styles, in order."""
    masked = [style.mask for style in record.styles]
    shares = style_shares(record.settings.style_blend, masked)
    return [
        RunStyle(
            f"Painting {number}" if len(masked) > 1 else "Painting",
            style.name,
            run.style(number),
            run.mask(number) if style.mask else None,
            share_text(share, style.mask, masked),
        )
        for number, (style, share) in enumerate(zip(record.styles, shares, strict=True), 1)
    ]


def describe_regions(run: Run, record: RunRecord) -> str:
    """Describe which styles have their own part of the photo, and whether a part stays unchanged."""
    parts = [f"{style.name} in its part" for style in record.styles if style.mask]
    return ", ".join([*parts, *(["a part stays as it is"] if run.kept.is_file() else [])]) or EVERYWHERE


def style_shares(weights: Sequence[float], masked: Sequence[bool]) -> list[float]:
    """Return each style's share: 1 for a style with a mask, otherwise according to the weights."""
    given = weights if len(weights) == len(masked) else (1.0,) * len(masked)
    free = [0.0 if has_mask else weight for weight, has_mask in zip(given, masked, strict=True)]
    blended = blend(len(free), free) if any(free) else free
    return [1.0 if has_mask else float(share) for share, has_mask in zip(blended, masked, strict=True)]


def share_text(share: float, has_mask: bool, masked: Sequence[bool]) -> str:
    """Describe a style's share (0 to 1) and its region; `masked` tells which of the run's styles have a mask."""
    if has_mask:
        return "in its part"
    if len(masked) == 1:
        return ""
    elsewhere = " elsewhere" if any(masked) else ""
    return f"{100 * share:.0f} %{elsewhere}"
