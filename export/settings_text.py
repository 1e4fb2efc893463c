"""Settings in words, as people read them."""

from core.presets import PRESETS
from core.settings import SETTINGS, Setting, TransferSettings


def describe_setting(setting: Setting, settings: TransferSettings) -> str:
    """A setting's value, with its unit."""
    value = getattr(settings, setting.name)
    unit = setting.unit.removesuffix("s") if setting.type is int and value == 1 else setting.unit  # one of the stages
    return f"{plainly(value)} {unit}".strip()


def plainly(value: object) -> str:
    """A number without the zeros that say nothing; of a list, each number."""
    if isinstance(value, list | tuple):
        return ", ".join(map(plainly, value)) or "1 each"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def own(preset: str, settings: TransferSettings) -> list[str]:
    """The names of the settings that are not the preset's; none for a preset that is none here."""
    if preset not in PRESETS:
        return []
    usual = PRESETS[preset].settings()
    return [name for name in SETTINGS if getattr(settings, name) != getattr(usual, name)]
