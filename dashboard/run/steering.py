"""Change the weights of a run while it is painted."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from core.errors import InputError, StudioError
from core.runs.record import RunRecord
from core.runs.run import Run
from core.settings import SETTINGS, TransferSettings
from dashboard.common.text import plain
from dashboard.compose.settings_form import MOST_OF_A_LAYER

FACTORS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64]  # of the initial weight
BY_FACTOR = ("style_weight", "content_weight")
LAYERS = {"style": "", "content": "content-"}  # by loss: the prefix of the sliders' names
SMOOTHNESS = [0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]
REFRESH_SECONDS = 2.0  # another page may steer the same run


def show(run: Run) -> None:
    """Show sliders for the weights; a change takes effect with the next iteration."""
    with st.expander("Steer", icon=":material/explore:", key=f"steering-{run.id}"):
        st.caption("Move a weight and watch the picture change. Each move is recorded and marked in the curves.")
        _sliders(run)


@dataclass
class _Slider:
    """The value of a slider. A new value needs a new slider: a browser may still send the old slider's value."""

    value: float
    number: int = 0
    asked: float | None = None  # by this session, not yet in effect


@st.fragment(run_every=REFRESH_SECONDS)
def _sliders(run: Run) -> None:
    try:
        record = _record(run)
    except StudioError:
        return  # the rest of the page shows the error
    began, now = record.settings, _now(record)
    sliders = _up_to_date(run, _places(began, now), _places(began, _wanted(run, now)))

    def given(name: str) -> dict[str, Any]:
        return {"value": sliders[name].value, "key": _key(run, name), "on_change": _ask, "args": (run, name)}

    losses, layers = st.columns(2, gap="large")
    with losses:
        for name in BY_FACTOR:
            setting, nothing = SETTINGS[name], getattr(began, name) == 0
            st.select_slider(
                setting.label, FACTORS, format_func=_times, help=setting.meaning, disabled=nothing, **given(name)
            )
        smoothness = SETTINGS["total_variation_weight"]
        choices = sorted({*SMOOTHNESS, began.total_variation_weight, sliders[smoothness.name].value})
        st.select_slider(
            smoothness.label, choices, format_func="{:g}".format, help=smoothness.meaning, **given(smoothness.name)
        )
    with layers:
        for kind, prefix in LAYERS.items():
            for layer in _layers(began, kind):
                name = prefix + layer
                most = max(MOST_OF_A_LAYER, sliders[name].value)
                st.slider(f"{kind.capitalize()} in {layer}", 0.0, most, step=0.05, **given(name))
    if refused := st.session_state.pop(f"steer-{run.id}-refused", ""):
        st.error(plain(refused))


def _record(run: Run) -> RunRecord:
    """Return the record with its last iteration. Reading all of a long run's metrics every 2 seconds is too slow."""
    record = run.record()
    try:
        steps = run.metrics(last=1)["iteration"]
    except StudioError:
        return record
    return record if steps.empty else record.model_copy(update={"iteration": int(steps.iloc[-1])})


def _places(began: TransferSettings, now: TransferSettings) -> dict[str, float]:
    """Return the sliders' values for the weights `now`; some are factors of the initial weights `began`."""
    return {
        **{name: _nearest(getattr(now, name), getattr(began, name)) for name in BY_FACTOR},
        "total_variation_weight": now.total_variation_weight,
        **{
            prefix + layer: weight
            for kind, prefix in LAYERS.items()
            for layer, weight in zip(_layers(began, kind), _weights(now, kind), strict=False)
        },
    }


def _layers(settings: TransferSettings, kind: str) -> tuple[str, ...]:
    """Return the layers that have a slider; the content weight's slider serves a single content layer."""
    layers: tuple[str, ...] = getattr(settings, f"{kind}_layers")
    return layers if kind == "style" or len(layers) > 1 else ()


def _weights(settings: TransferSettings, kind: str) -> tuple[float, ...]:
    weights: tuple[float, ...] = getattr(settings.loss_weights(), f"{kind}_layers")
    return weights


def _up_to_date(run: Run, at: dict[str, float], wanted: dict[str, float]) -> dict[str, _Slider]:
    """Set the session's sliders to the current weights, except those with a change that is not yet in effect."""
    sliders: dict[str, _Slider] = st.session_state.setdefault(f"sliders-{run.id}", {})
    for name, place in at.items():
        slider = sliders.setdefault(name, _Slider(place))
        if slider.asked not in (None, place) and slider.asked == wanted[name]:
            continue
        slider.asked = None
        if st.session_state.get(_key(run, name), slider.value) != place:  # steered on another page
            sliders[name] = _Slider(place, slider.number + 1)
    return sliders


def _key(run: Run, name: str) -> str:
    return f"steer-{run.id}-{name}-{st.session_state[f'sliders-{run.id}'][name].number}"


def _now(record: RunRecord) -> TransferSettings:
    """Return the settings as steered up to the last iteration, without changes planned for later."""
    settings = record.settings
    for change in record.steering:
        if change.iteration <= (record.iteration or 0):
            settings = settings.changed(**change.changes)
    return settings


def _nearest(weight: float, began: float) -> float:
    return min(FACTORS, key=lambda factor: abs(factor * began - weight))


def _times(factor: float) -> str:
    return "unchanged" if factor == 1 else f"× {factor:g}" if factor > 1 else f"÷ {1 / factor:g}"


def _wanted(run: Run, now: TransferSettings) -> TransferSettings:
    try:
        return now.changed(**run.request().weights)
    except InputError:  # a file that another program wrote
        return now


def _ask(run: Run, name: str) -> None:
    """Request the weight whose slider moved, and no other: another page may have changed the others."""
    moved = float(st.session_state[_key(run, name)])
    try:
        record = _record(run)
        began, now = record.settings, _now(record)
        weights: dict[str, Any] = {name: moved * getattr(began, name) if name in BY_FACTOR else moved}
        for kind, prefix in LAYERS.items():
            names = [prefix + layer for layer in _layers(began, kind)]
            if name in names:
                setting = f"{kind}_layer_weights"
                layers = run.request().weights.get(setting) or _weights(now, kind)
                weights = {setting: list({**dict(zip(names, layers, strict=True)), name: moved}.values())}
        run.ask(weights=weights)
        st.session_state[f"sliders-{run.id}"][name].asked = moved
    except (StudioError, OSError) as error:
        st.session_state[f"steer-{run.id}-refused"] = str(error)
