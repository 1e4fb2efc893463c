"""Settings as text for people."""

from core.presets import PRESETS
from core.settings import SETTINGS, Setting, TransferSettings


def describe_setting(setting: Setting, settings: TransferSettings) -> str:
    """Return a setting's value with its unit."""
    value = getattr(settings, setting.name)
    unit = setting.unit.removesuffix("s") if setting.type is int and value == 1 else setting.unit  # 1 stage
    return f"{plainly(value)} {unit}".strip()


def plainly(value: object) -> str:
    """Return a number, or each number of a list, without trailing zeros."""
    if isinstance(value, list | tuple):
        return ", ".join(map(plainly, value)) or "1 each"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def own(preset: str, settings: TransferSettings) -> list[str]:
    """Return the names of the settings that differ from the preset; none for an unknown preset."""
    if preset not in PRESETS:
        return []
    usual = PRESETS[preset].settings()
    return [name for name in SETTINGS if getattr(settings, name) != getattr(usual, name)]
