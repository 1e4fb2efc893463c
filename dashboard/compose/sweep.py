"""A sweep: a batch of runs of the same pictures with several values of one or two settings."""

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import streamlit as st

from core import log
from core.batches import plan, progress
from core.environment import environment
from core.errors import InputError, StudioError
from core.images import geometry
from core.jobs import eta, schedule, slots
from core.runs import store
from core.runs.run import Run
from core.runs.spec import RunSpec
from core.settings import SETTINGS, Setting, TransferSettings
from core.transfer import inputs
from dashboard import auth
from dashboard.common.text import duration, plain
from dashboard.compose.picture_picker import Picture
from dashboard.compose.style_picker import ChosenStyles

MOST_VALUES = 6  # of a setting; a larger table does not fit on a screen
CHOICES = ("Setting", "Another setting")
FIRST = "style_weight"  # the default choice
OFFERED = [name for name, setting in SETTINGS.items() if setting.type is not tuple and setting.shapes_result]


def offer(photo: Picture, styles: ChosenStyles, settings: TransferSettings, spec: Callable[[], RunSpec]) -> str | None:
    """Let the user try several values; `spec` makes the runs' spec. Return the batch's name once they are queued."""
    with st.expander("Try several values", icon=":material/grid_on:"):
        st.caption("The same pictures with each combination of the values, side by side in a table.")
        wanted: dict[str, list[Any]] = {}
        try:
            for place, label in enumerate(CHOICES):
                if name := _choose_setting(place, label, [*wanted]):
                    wanted[name] = _choose_values(place, SETTINGS[name], getattr(settings, name))
            chosen = [settings.changed(**changes) for changes in plan.combinations(wanted)] if wanted else []
            for each in chosen:
                inputs.check_side(photo.image.size, each, photo.name)
                sizes, names = [style.picture.size for style in styles.styles], [style.name for style in styles.styles]
                inputs.check_styles(sizes, each, names)
        except InputError as error:
            st.error(plain(str(error)))
            chosen = []
        if chosen:
            st.caption(f"{len(chosen)} runs: {_time_needed(photo, chosen)}")
        how_many = f"all {len(chosen)}" if len(chosen) > 1 else "them"
        asked = st.button(
            f"Paint {how_many}", icon=":material/grid_on:", width="stretch", disabled=len(chosen) < 2, key="sweep"
        )
        return _enter(photo, chosen, spec) if asked else None


def _choose_setting(place: int, label: str, taken: Sequence[str]) -> str | None:
    first = OFFERED.index(FIRST) if place == 0 else None
    return st.selectbox(
        label,
        [name for name in OFFERED if name not in taken],
        first,
        format_func=lambda name: SETTINGS[name].label,
        placeholder="None",
        key=f"sweep-setting-{place}",
    )


def _choose_values(place: int, setting: Setting, now: Any) -> list[Any]:
    """Let the user give a setting's values. Raises `InputError` if they are invalid."""
    label = f"Values of {setting.label}" + (f" ({setting.unit})" if setting.unit else "")
    key = f"sweep-values-{place}-{setting.name}"
    if setting.choices:
        return list(st.multiselect(label, setting.choices, setting.choices, key=key, help=setting.meaning))
    text = st.text_input(
        label, around(setting, now), key=key, help=f"{setting.meaning} Up to {MOST_VALUES} values, separated by commas."
    )
    values = plan.values_of(setting.name, (text or "").split(","))
    if len(values) > MOST_VALUES:
        raise InputError(
            f"{setting.label} has {len(values)} values: give at most {MOST_VALUES} here, or use nst batch for more."
        )
    return values


def around(setting: Setting, now: float) -> str:
    """Return initial values for the field: the current one, a smaller and a larger one, within the limits."""
    low, high = setting.minimum or 0, setting.maximum or float("inf")
    step = 2 if setting.type is int or high <= 10 else 10
    tried = [now / step, now, now * step] if now else [0, 1]
    if high <= 1:
        tried = [now / 2, now, (1 + now) / 2]
    values = [setting.type(value) for value in tried if low <= value <= high]
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in dict.fromkeys(values))


def _time_needed(photo: Picture, chosen: Sequence[TransferSettings]) -> str:
    if environment().ray_address:
        return "their time on a cluster is not known"
    measurements = eta.Measurements()
    seconds = []
    for each in chosen:
        shape = geometry.resized_shape(photo.image.width, photo.image.height, each.size)
        seconds.append(eta.expected_seconds(each, shape, measurements=measurements))
    if any(each is None for each in seconds):
        return "their time is known once this machine is measured"
    return f"about {duration(sum(filter(None, seconds)) / len(slots.local_slots()))}"


def _enter(photo: Picture, chosen: Sequence[TransferSettings], spec: Callable[[], RunSpec]) -> str | None:
    """Queue a run for each of the settings. Return `None` if that fails; the page then shows the error."""
    name = f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    made: list[Run] = []
    try:
        with st.spinner("Preparing the runs …"):
            common = spec()
            for each in chosen:
                changed = dataclasses.replace(common, settings=each)
                made.append(store.create(changed, photo.image, photo.name, auth.owner(), name))
            schedule.submit(*made)
    except (StudioError, OSError) as error:
        progress.cancel_waiting(made)
        log.refused("sweep refused", error)
        st.error(plain(str(error)))
        return None
    return name
