"""Arguments and options that several commands share."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from core.presets import DEFAULT_PRESET, PRESETS
from core.settings import SETTINGS, Setting

Content = Annotated[
    str, typer.Argument(metavar="CONTENT", help="The photo: a file, or a sample's name such as chelsea.")
]
Style = Annotated[str, typer.Argument(metavar="STYLE", help="The painting: a file, or a sample's name such as waves.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="A file of VGG19 weights; otherwise found, or fetched.", metavar="FILE")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes: .png .jpg .webp .tif")]
Now = Annotated[bool, typer.Option("--now", help="Paint at once, also while another run is being painted.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on standard output.")]
By = Annotated[
    str, typer.Option("--by", metavar="PRESET|RUN", help="Whose losses to measure by: a preset's, or a run's own.")
]


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting of `core.settings`, in place of its `**choices`."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for setting in SETTINGS.values():
        option = typer.Option(
            help=_help(setting),
            metavar="|".join(setting.choices) or _metavar(setting),
            rich_help_panel=f"Settings: {setting.group}",
            show_default=False,
        )
        value_type = str if setting.type is tuple else setting.type
        annotation: Any = Annotated[value_type | None, option]  # made for typer, not for mypy
        parameters.append(
            inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _help(setting: Setting) -> str:
    """What a setting means, its range, and its defaults: one for all presets, or each preset's."""

    def word(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(word, value))
        return f"{value:.10g}" if isinstance(value, float) else str(value)

    limits = f" [{setting.minimum:.10g} … {setting.maximum:.10g}]" if setting.maximum is not None else ""
    words = {name: word(getattr(preset.settings(), setting.name)) for name, preset in PRESETS.items()}
    same = len(set(words.values())) == 1
    defaults = words[DEFAULT_PRESET] if same else ", ".join(f"{name} {value}" for name, value in words.items())
    return f"{setting.meaning}{limits}" + (f" ({defaults})" if defaults else "")


def _metavar(setting: Setting) -> str:
    if setting.type is tuple:
        return "X,Y,…" if setting.each_of else "A,B,…"
    return setting.unit.upper() or ("N" if setting.type is int else "X")
