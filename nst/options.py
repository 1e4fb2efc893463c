"""Arguments and options that several commands share."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from core.presets import DEFAULT_PRESET, PRESETS
from core.settings import SETTINGS, Setting

Content = Annotated[
    str, typer.Argument(metavar="CONTENT", help="The photo: a file, or the name of a sample such as chelsea.")
]
Style = Annotated[
    str, typer.Argument(metavar="STYLE", help="The painting: a file, or the name of a sample such as waves.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="A file of VGG19 weights. Default: found on this machine, or downloaded.", metavar="FILE"
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write: .png .jpg .webp .tif")]
Now = Annotated[bool, typer.Option("--now", help="Paint at once, even if another run is active.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on standard output.")]
By = Annotated[
    str, typer.Option("--by", metavar="PRESET|RUN", help="Evaluate with the settings of this preset or run.")
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
        annotation: Any = Annotated[value_type | None, option]  # mypy cannot check an annotation made at run time
        parameters.append(
            inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _help(setting: Setting) -> str:
    """Return a setting's meaning, range and default; if the presets differ, the default of each preset."""

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
