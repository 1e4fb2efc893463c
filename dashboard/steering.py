"""Changing the weights of a run while it paints."""

from typing import Any

import streamlit as st

from core.errors import StudioError
from core.runs import Run, RunRecord
from core.settings import KNOBS, TransferSettings
from dashboard.knobs import MOST_OF_A_LAYER
from dashboard.wording import plain

FACTORS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64]  # of the weight that it began with
SMOOTHNESS = [0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]


def show(run: Run, record: RunRecord) -> None:
    """Sliders for what can be steered; the picture answers from the next iteration on."""
    began, now = record.settings, _now(record)

    def asking(name: str) -> dict[str, Any]:
        return {"key": f"steer-{run.id}-{name}", "on_change": _ask, "args": (run, began)}

    with st.expander("Steer", icon=":material/explore:", key=f"steering-{run.id}"):
        st.caption("Move a weight and watch the picture answer. Each change is marked in the curves and recorded.")
        losses, layers = st.columns(2, gap="large")
        with losses:
            for name in ("style_weight", "content_weight"):
                weight = getattr(began, name)
                factor = min(
                    FACTORS, key=lambda factor, name=name, weight=weight: abs(factor * weight - getattr(now, name))
                )
                st.select_slider(
                    KNOBS[name].label, FACTORS, factor, _times, help=KNOBS[name].meaning, disabled=weight == 0,
                    **asking(name),
                )  # fmt: skip
            smoothness = KNOBS["total_variation_weight"]
            given = now.total_variation_weight
            choices = sorted({*SMOOTHNESS, began.total_variation_weight, given})
            st.select_slider(
                smoothness.label, choices, given, "{:g}".format, help=smoothness.meaning, **asking(smoothness.name)
            )
        with layers:
            for layer, weight in zip(began.style_layers, now.loss_weights().style_layers, strict=True):
                st.slider(f"Style in {layer}", 0.0, max(MOST_OF_A_LAYER, weight), weight, 0.05, **asking(layer))
        if refused := st.session_state.pop(f"steer-{run.id}-refused", ""):
            st.error(plain(refused))


def _now(record: RunRecord) -> TransferSettings:
    settings = record.settings
    for change in record.steering:
        settings = settings.changed(**change.changes)
    return settings


def _times(factor: float) -> str:
    return "as it began" if factor == 1 else f"× {factor:g}" if factor > 1 else f"÷ {1 / factor:g}"


def _ask(run: Run, began: TransferSettings) -> None:
    def moved(name: str) -> float:
        return float(st.session_state[f"steer-{run.id}-{name}"])

    weights = {
        "style_weight": began.style_weight * moved("style_weight"),
        "content_weight": began.content_weight * moved("content_weight"),
        "total_variation_weight": moved("total_variation_weight"),
        "style_layer_weights": [moved(layer) for layer in began.style_layers],
    }
    try:
        run.ask(weights=weights)
    except (StudioError, OSError) as error:
        st.session_state[f"steer-{run.id}-refused"] = str(error)
