"""The published run that we reproduce: its pictures, its losses, and the deviation of ours.

It is the run of the project "Real Time Style Transfer" (anirudhprabhakaran3/real_time_style_transfer on GitHub): the
method of Gatys, Ecker and Bethge, 2015, with Keras VGG19 and Adam.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core import paths
from core.errors import InputError, StudioError
from core.images import codec
from core.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from core.transfer.stylize import Step

SOURCE = "https://cdn.jsdelivr.net/gh/anirudhprabhakaran3/real_time_style_transfer/imgs"
PAIR = {  # file at the source: sha256
    "image-3.jpg": "088e14097c834298342b9dd1a018adc7eaa89d1a8fd94dd0f10d0a60b54cbaf5",
    "image-4.jpg": "5e844693342d32b830bb9b7b2eb02a8b9f1b33a898f7cde386e48e1e756a634d",
}
PIXELS = (  # sha256 of the same pictures, decoded to RGB
    "f380e27abba82a2f6523ee9fb60a796394ec29029ff9c71f7385dc48ff1afeea",
    "a74c2d6b403c97d1eca7a689a3cd527526fea5c7770926fb43f79d8cc8ff3567",
)
#: iteration: (style, content, total), as published. Row 600 adds up only with a content loss of 8.1799e5.
PUBLISHED: dict[int, tuple[float, float, float]] = {
    0: (5.7769e08, 0.0, 5.7769e08),
    100: (1.6871e07, 1.5939e06, 1.8465e07),
    200: (6.3584e06, 1.3791e06, 7.7375e06),
    300: (3.2306e06, 1.1993e06, 4.4299e06),
    400: (2.0485e06, 1.0201e06, 3.0686e06),
    500: (1.4694e06, 9.0234e05, 2.3717e06),
    600: (1.1519e06, 9.1799e05, 1.9699e06),
    700: (9.6703e05, 7.5486e05, 1.7219e06),
    800: (8.5002e05, 7.0624e05, 1.5563e06),
    900: (7.6842e05, 6.6915e05, 1.4374e06),
}
LOSSES = ("style", "content", "total")


@dataclass(frozen=True)
class Row:
    """The published and our losses at an iteration, with the deviation in percent (`None` from a published 0)."""

    iteration: int
    ours: dict[str, float]
    published: dict[str, float]
    deviation_percent: dict[str, float | None]

    def as_json(self) -> dict[str, object]:
        """Return the row as in the output of `nst reference --json`."""
        published = {f"published_{name}": value for name, value in self.published.items()}
        return {"iteration": self.iteration, **self.ours, **published, "deviation_percent": self.deviation_percent}


def rows(steps: Iterable[Step], wanted: Iterable[int]) -> Iterator[Row]:
    """Yield a comparison for each wanted iteration as a run of the preset reference reaches it."""
    wanted = set(wanted)
    for step in steps:
        if step.iteration in wanted:
            published = dict(zip(LOSSES, PUBLISHED[step.iteration], strict=True))
            ours = {name: getattr(step.losses, name) for name in LOSSES}
            deviation = {name: 100 * (ours[name] / published[name] - 1) if published[name] else None for name in LOSSES}
            yield Row(step.iteration, ours, published, deviation)


def parse_rows(text: str) -> tuple[int, ...]:
    """Return iterations from text such as "0,100".

    Raises:
        InputError: If an iteration was not published.
    """
    try:
        wanted = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        wanted = (-1,)
    if unknown := [row for row in wanted if row not in PUBLISHED]:
        raise InputError(
            f"--rows {text}: row {unknown[0]} was not published; choose from {','.join(map(str, PUBLISHED))}."
            if unknown != [-1]
            else f"--rows {text} is no list of iterations such as 0,100."
        )
    return wanted


def is_published(content: Path, style: Path) -> bool:
    """Return whether these files are the published pair."""
    return (
        paths.is_file(content)
        and paths.is_file(style)
        and [hashlib.sha256(path.read_bytes()).hexdigest() for path in (content, style)] == list(PAIR.values())
    )


def is_published_run(run: Run) -> bool:
    """Return whether a run paints the published pair, judged by the pixels of its inputs."""
    try:
        return all(
            hashlib.sha256(codec.read_image(path, max_bytes=4 * codec.MAX_PIXELS).tobytes()).hexdigest() == pixels
            for path, pixels in zip((run.content, run.style(1)), PIXELS, strict=True)
        )
    except StudioError:
        return False


def curve() -> pd.DataFrame:
    """Return the published losses: a row for each published iteration, with the columns of a run's metrics."""
    import pandas as pd

    return pd.DataFrame([(row, *PUBLISHED[row]) for row in PUBLISHED], columns=["iteration", *LOSSES])


def fetch_pair() -> tuple[Path, Path]:
    """Return the published content and style image, downloaded once and checked by hash.

    Raises:
        StudioError: If they cannot be downloaded.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    pair = pooch.create(paths.cache() / "reference", f"{SOURCE}/", registry=PAIR)
    try:
        content, style = (Path(pair.fetch(name)) for name in PAIR)
    except (OSError, ValueError) as error:  # ValueError: wrong hash
        raise StudioError(f"The published pictures cannot be downloaded from {SOURCE} ({error}).") from error
    return content, style
