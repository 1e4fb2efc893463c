"""Describe runs: how their settings differ, and which command repeats a run."""

import shlex
from collections.abc import Callable, Mapping, Sequence

from core.presets import PRESETS
from core.runs.record import RunRecord, Steering
from core.runs.run import SUMS, Run
from core.runs.styles import describe_regions, styles_of
from core.settings import SETTINGS, TransferSettings
from export import charts, settings_text


def differences(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return label, value and preset value of each changed setting; nothing for an unknown preset."""
    changed = []
    for name in settings_text.own(record.preset, record.settings):
        both = record.settings, PRESETS[record.preset].settings()
        value, usual = (settings_text.describe_setting(SETTINGS[name], settings) for settings in both)
        changed.append((SETTINGS[name].label, value, usual))
    return changed


def differing(found: Sequence[tuple[Run, RunRecord]]) -> list[tuple[str, list[str]]]:
    """Return the differences between several runs: a name, and the value of each run as text."""
    lines = [
        (setting.label, [settings_text.describe_setting(setting, record.settings) for _, record in found])
        for setting in SETTINGS.values()
    ]
    beside: dict[str, Callable[[RunRecord], str]] = {
        "Photo": lambda record: record.content,
        "Painting": lambda record: record.style,
        "Preset": lambda record: record.preset,
        "Started from": lambda record: record.start or "–",
        "Changed while painting": lambda record: (
            "; ".join(f"after {number}: {words}" for number, words in charts.steering_marks(record.steering).items())
            or "–"
        ),
        "Precision used": lambda record: record.precision or "–",
        "Weights of VGG19": lambda record: record.weights or "–",
    }
    lines += [(name, [tell(record) for _, record in found]) for name, tell in beside.items()]
    lines.append(("Regions", [describe_regions(run, record) for run, record in found]))
    return [(name, values) for name, values in lines if len(set(values)) > 1]


def command(run: Run, record: RunRecord, output: str = "result.png") -> str:
    """Return the shell command that paints the run again in a folder with its pictures."""
    return " ".join(command_parts(run, record, output))


def phase_seconds(timings: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each phase, with the rest of the total as "further steps"; empty without a total."""
    if "total" not in timings:
        return {}
    seconds = {name: value for name, value in timings.items() if name not in SUMS}
    if "median step" in timings:
        seconds["further steps"] = max(0.0, timings["total"] - sum(seconds.values()))
    return seconds


def command_parts(run: Run, record: RunRecord, output: str = "result.png") -> list[str]:
    """Return the command in parts, each option together with its value."""
    preset = record.preset if record.preset in PRESETS else "reference"  # its settings are the defaults
    styles = styles_of(run, record)
    parts = [["nst", "stylize", run.content.name, *(style.path.name for style in styles)], ["--preset", preset]]
    for name in settings_text.own(preset, record.settings):
        value = getattr(record.settings, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append([f"--{name.replace('_', '-')}", text])
    for number, style in enumerate(styles, 1):
        if style.mask:
            parts.append(["--mask", f"{number}:{style.mask.name}"])
    if run.kept.is_file():
        parts.append(["--keep", run.kept.name])
    if run.start.is_file():
        parts.append(["--start-from", run.start.name])
    for change in record.steering:
        parts += [["--steer", option] for option in _spelt_out(change, record.settings).options()]
    return [shlex.join(part) for part in [*parts, ["-o", output]]]


def _spelt_out(change: Steering, settings: TransferSettings) -> Steering:
    """Replace an empty list, which a command line cannot express, with a 1 for each layer."""
    changes = {name: value if value not in ((), []) else (1.0,) * len(getattr(settings, SETTINGS[name].each_of))
               for name, value in change.changes.items()}  # fmt: skip
    return Steering(iteration=change.iteration, changes=changes)
