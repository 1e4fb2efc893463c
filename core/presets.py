"""Presets: named settings to start from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import InputError
from core.settings import TransferSettings, validated


@dataclass(frozen=True)
class Preset:
    """A preset: its title, its purpose, and the settings that differ from the defaults."""

    title: str
    purpose: str
    changes: Mapping[str, Any]

    def settings(self) -> TransferSettings:
        """Return all settings of the preset."""
        return TransferSettings(**self.changes)


_QUICK = {"init": "preview", "optimizer": "l-bfgs", "precision": "auto"}
PRESETS: Mapping[str, Preset] = {
    "draft": Preset(
        "Draft",
        "A small picture within seconds, to see whether photo and painting fit.",
        {"size": 256, "iterations": 20, "frame_every": 2, **_QUICK},
    ),
    "fast": Preset(
        "Fast",
        "The loss of the published run or lower at 512 px, in a fraction of its time.",
        {"iterations": 200, "frame_every": 10, **_QUICK},
    ),
    "fine": Preset(
        "Fine",
        "The best-looking picture: coarse to fine, so that large shapes follow the style, and without edge artefacts.",
        {
            "iterations": 700,
            "frame_every": 20,
            "stages": 3,
            "padding": "replicate",
            "content_layers": ("block4_conv2",),  # in a coarse stage, block5_conv2 has too few positions for a face
            "content_weight": 50.0,
            **_QUICK,
        },
    ),
    "reference": Preset(
        "Reference",
        "Exactly the published run: 512 px, 1000 iterations of Adam in float32. Slow without a GPU.",
        {},
    ),
}
DEFAULT_PRESET = "fast"


def choose(preset: str = DEFAULT_PRESET, **choices: Any) -> TransferSettings:
    """Return a preset's settings with some changes; changes to `None` are ignored.

    Raises:
        InputError: If there is no such preset or a value is not allowed.
    """
    if preset not in PRESETS:
        raise InputError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    chosen = {name: value for name, value in choices.items() if value is not None}
    return validated({**PRESETS[preset].changes, **chosen})
