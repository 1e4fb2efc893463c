"""The widgets for the settings, generated from `core.settings`.

Each has a `persist_state`: without it, Streamlit forgets a value while another page is shown.
"""

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from core import presets
from core.errors import InputError
from core.presets import PRESETS
from core.settings import SETTINGS, Group, Setting, TransferSettings
from core.vgg.layers import CONVOLUTIONS, before_relu
from dashboard.common.text import plain

IN_SIGHT = ("size", "iterations")  # shown outside "More settings"
WITH_THE_PAINTINGS = "styles"  # settings with a value for each painting have their widgets beside the paintings
GROUPS: dict[Group, tuple[str, str]] = {
    "picture": ("Picture", "The initial image, the sizes and the colours."),
    "losses": ("Losses", "How much each loss counts."),
    "layers": ("Layers", "The network layers for style and shapes, and how they are compared."),
    "optimizer": ("Optimizer", "How each step changes the picture."),
}
#: Each layer after its ReLU, then each before its ReLU.
LAYERS = (*CONVOLUTIONS, *(before_relu(layer) for layer in CONVOLUTIONS))
MOST_OF_A_LAYER = 5.0  # upper end of a slider, unless the run has a larger weight


def choose_preset() -> str:
    """Let the user choose a preset."""
    st.session_state.setdefault("preset", presets.DEFAULT_PRESET)
    preset = (
        st.segmented_control(
            "Preset",
            list(PRESETS),
            format_func=lambda name: PRESETS[name].title,
            required=True,
            key="preset",
            persist_state="session",
        )
        or presets.DEFAULT_PRESET
    )
    st.caption(PRESETS[preset].purpose)
    return preset


def choose_settings(preset: str, style_blend: tuple[float, ...] = ()) -> TransferSettings | None:
    """Let the user change the preset's settings. Return `None` if they are invalid; the page then shows the error."""
    given: dict[str, Any] = {name: _widget(SETTINGS[name], preset) for name in IN_SIGHT}
    given["style_blend"] = style_blend
    with st.expander("More settings", icon=":material/tune:"):
        tabs = st.tabs([title for title, _ in GROUPS.values()])
    for (group, (_, meaning)), tab in zip(GROUPS.items(), tabs, strict=True):
        others = [each for each in SETTINGS.values() if each.group == group and each.name not in given]
        with tab:
            st.caption(meaning)
            given.update((setting.name, _widget(setting, preset)) for setting in others)
    try:
        return presets.choose(preset, **given)
    except InputError as error:
        st.error(plain(str(error)))
        return None


def _widget(setting: Setting, preset: str) -> Any:
    """Show the widget of a setting, or one for each layer. The key names the preset, so each preset has its values."""
    value = getattr(PRESETS[preset].settings(), setting.name)
    label = f"{setting.label} ({setting.unit})" if setting.unit else setting.label
    key = f"{preset}-{setting.name}"
    if setting.each_of:
        return layer_weights(setting, st.session_state[f"{preset}-{setting.each_of}"], key)
    st.session_state.setdefault(key, list(value) if setting.type is tuple else value)
    common: dict[str, Any] = {"help": setting.meaning, "key": key, "persist_state": "session"}
    if setting.choices:
        return st.selectbox(label, setting.choices, **common)
    if setting.type is tuple:
        return st.multiselect(label, LAYERS, format_func=_layer, **common)
    if setting.type is int:
        step = 64 if setting.name == "size" else 1
        return st.number_input(label, int(setting.minimum or 0), int(setting.maximum or 2**31), step=step, **common)
    low, high = float(setting.minimum or 0), setting.maximum and float(setting.maximum)
    return st.number_input(label, low, high, step=_step(value), format="%g", **common)


def _layer(name: str) -> str:
    return name if name in CONVOLUTIONS else f"{name}, before its ReLU"


def _step(value: float) -> float:
    """Return the step for the − and + of a number: a tenth of the value's order of magnitude."""
    return 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 0.1


def layer_weights(setting: Setting, layers: Sequence[str], key: str) -> tuple[float, ...]:
    """Show a slider for each layer, or none for a single layer of weight 1. Return nothing if all weights are 1."""
    weights = [st.session_state.setdefault(f"{key}-{layer}", 1.0) for layer in layers]
    if len(layers) == 1 and weights == [1.0]:
        return ()
    st.caption(f"{setting.label}: how much each layer counts.")
    for layer, now in zip(layers, weights, strict=True):
        most = max(MOST_OF_A_LAYER, now)
        st.slider(_layer(layer), 0.0, most, step=0.05, key=f"{key}-{layer}", persist_state="session")
    return () if set(weights) == {1.0} else tuple(weights)


def prefill(preset: str, chosen: TransferSettings) -> None:
    """Show these settings in the widgets. The default preset replaces an unknown one, as of an imported run."""
    preset = preset if preset in PRESETS else presets.DEFAULT_PRESET
    st.session_state["preset"] = preset
    for name, setting in SETTINGS.items():
        value = getattr(chosen, name)
        if setting.each_of == WITH_THE_PAINTINGS:
            continue
        if setting.each_of:
            layers = getattr(chosen, setting.each_of)
            for layer, weight in zip(layers, value or (1.0,) * len(layers), strict=True):
                st.session_state[f"{preset}-{name}-{layer}"] = weight
        else:
            st.session_state[f"{preset}-{name}"] = list(value) if setting.type is tuple else value
