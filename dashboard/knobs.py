"""The settings as widgets, drawn from their one definition in `core.settings`."""

from typing import Any

import streamlit as st

from core import settings
from core.errors import InputError
from core.settings import KNOBS, PRESETS, Knob, TransferSettings
from core.vgg import CONVOLUTIONS
from dashboard.wording import plain

IN_SIGHT = ("size", "iterations")  # the others are one click away


def choose_preset() -> str:
    """Let the user choose a preset."""
    preset = st.segmented_control(
        "Preset",
        list(PRESETS),
        format_func=lambda name: PRESETS[name].title,
        default=settings.DEFAULT_PRESET,
        required=True,
        key="preset",
    )
    st.caption(PRESETS[preset].purpose)
    return preset


def choose_settings(preset: str) -> TransferSettings | None:
    """Let the user change the preset's settings; `None` when they do not fit (they are told why)."""
    given = {name: _widget(KNOBS[name], preset) for name in IN_SIGHT}
    with st.expander("More settings", icon=":material/tune:"):
        for group in dict.fromkeys(knob.group for knob in KNOBS.values()):
            st.markdown(f"**{group.capitalize()}**")
            for knob in KNOBS.values():
                if knob.group == group and knob.name not in IN_SIGHT:
                    given[knob.name] = _widget(knob, preset)
    try:
        return settings.choose(preset, **given)
    except InputError as error:
        st.error(plain(str(error)))
        return None


def _widget(knob: Knob, preset: str) -> Any:
    """A widget for one knob; its key names the preset, so that another preset brings its own values."""
    value = getattr(PRESETS[preset].settings(), knob.name)
    label = f"{knob.label} ({knob.unit})" if knob.unit else knob.label
    key = f"{preset}-{knob.name}"
    if knob.choices:
        return st.selectbox(label, knob.choices, knob.choices.index(value), help=knob.meaning, key=key)
    if knob.type is tuple:
        return st.multiselect(label, list(CONVOLUTIONS), default=list(value), help=knob.meaning, key=key)
    if knob.type is int:
        step = 64 if knob.name == "size" else 1
        low, high = int(knob.minimum or 0), int(knob.maximum or 2**31)
        return st.number_input(label, low, high, value, step, help=knob.meaning, key=key)
    return st.number_input(
        label,
        float(knob.minimum or 0),
        knob.maximum and float(knob.maximum),
        value,
        format="%g",
        help=knob.meaning,
        key=key,
    )
