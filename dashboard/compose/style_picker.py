"""Choosing one to six paintings, with a weight and a mask for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from core.runs import styles
from core.runs.record import RunRecord
from core.runs.run import Run
from core.runs.spec import Style
from core.settings import MOST_STYLES
from dashboard.common.text import plain
from dashboard.compose import mask_picker, picture_picker
from dashboard.compose.picture_picker import Picture

PLACES = ("style", *(f"style-{number}" for number in range(2, MOST_STYLES + 1)))
MOST_WEIGHT = 5.0  # upper end of a slider, unless the run has a larger weight
THUMBNAIL = 56  # px


@dataclass(frozen=True)
class ChosenStyles:
    """The styles of a new run."""

    styles: Sequence[Style]
    weights: tuple[float, ...]  # empty if all are equal


def choose(photo: Picture | None) -> tuple[ChosenStyles | None, dict[str, DeltaGenerator]]:
    """Let the user choose the paintings.

    Returns the paintings, or `None` if one cannot be used; and the container for each place's samples.
    """
    places = _places()
    several = len(places) > 1
    with picture_picker.heading("Paintings" if several else "Painting"):
        if len(places) < MOST_STYLES:
            st.button("Add a painting", icon=":material/add:", type="tertiary", on_click=_add, args=(places,))
    if not several:
        picture, mask, room = _one(places[0], photo)
        return _chosen([picture], [mask], ()), {places[0]: room}
    rows = st.container(gap="small", key="weights")
    found = []
    labels = [f"Painting {number}" for number in range(1, len(places) + 1)]
    newest = labels[-1] if st.session_state.pop("painting-added", False) else None
    tabs = st.tabs(labels, default=newest, key=f"paintings-{'-'.join(places)}")
    for place, tab in zip(places, tabs, strict=True):
        with tab:
            found.append(_one(place, photo))
    pictures, masks, rooms = zip(*found, strict=True)
    with rows:
        weights = _weights(places, pictures, masks)
    return _chosen(pictures, masks, weights), dict(zip(places, rooms, strict=True))


def _chosen(
    pictures: Sequence[Picture | None], masks: Sequence[Image.Image | None], weights: tuple[float, ...]
) -> ChosenStyles | None:
    usable = [Style(each.name, each.image, mask) for each, mask in zip(pictures, masks, strict=True) if each]
    return ChosenStyles(usable, weights) if len(usable) == len(pictures) else None


def prefill(run: Run, record: RunRecord, with_masks: bool) -> None:
    """Start with a run's paintings and weights, and with its masks if the photo is the same."""
    forget()
    used = styles.styles_of(run, record)
    st.session_state["paintings"] = PLACES[: len(used)]
    weights = record.settings.style_blend or (1.0,) * len(used)
    for place, painting, weight in zip(PLACES, used, weights, strict=False):
        picture_picker.keep(place, painting.path, painting.name)
        st.session_state[f"blend-{place}"] = float(weight)
        if with_masks and painting.mask:
            mask_picker.keep(place, painting.mask)


def forget() -> None:
    """Start with one painting without a mask."""
    st.session_state.pop("paintings", None)
    for place in PLACES:
        _forget(place)


def _places() -> tuple[str, ...]:
    places: tuple[str, ...] = st.session_state.setdefault("paintings", PLACES[:1])
    return places


def _add(seen: tuple[str, ...]) -> None:
    """Add a painting to the places `seen` by the button: a click that arrives twice then adds only one."""
    if _places() != seen:
        return
    free = next(place for place in PLACES if place not in seen)
    _forget(free)
    st.session_state["paintings"] = (*seen, free)
    st.session_state["painting-added"] = True


def _remove(place: str) -> None:
    st.session_state["paintings"] = tuple(other for other in _places() if other != place)
    _forget(place)


def _forget(place: str) -> None:
    picture_picker.forget(place)
    mask_picker.forget(place)
    st.session_state.pop(f"blend-{place}", None)


def _one(place: str, photo: Picture | None) -> tuple[Picture | None, Image.Image | None, DeltaGenerator]:
    """Let the user choose a painting and its mask; return both, and the container for the samples between them."""
    picture, room = picture_picker.choose(place), st.container()
    mask = mask_picker.choose(
        place,
        "Only in a part of the photo",
        "Mark the part for this painting alone. A part of the photo without any painting is not painted.",
        photo,
    )
    return picture, mask, room


def _weights(
    places: Sequence[str], pictures: Sequence[Picture | None], masks: Sequence[Image.Image | None]
) -> tuple[float, ...]:
    """Show a row with each painting's weight. Return nothing if all weights are equal, as the settings expect."""
    masked = [mask is not None for mask in masks]
    weights = tuple(st.session_state.setdefault(f"blend-{place}", 1.0) for place in places)
    for number, (place, picture, alone, share) in enumerate(
        zip(places, pictures, masked, styles.style_shares(weights, masked), strict=True), 1
    ):
        name = picture.name if picture else "not usable"
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if picture:
                st.image(picture.preview, width=THUMBNAIL, alt=picture.name)
            label = f"{number} · {plain(name)}: {styles.share_text(share, alone, masked)}"
            most = max(MOST_WEIGHT, weights[number - 1])
            if alone:
                st.markdown(label, width="stretch")
            else:
                st.slider(
                    label,
                    0.0,
                    most,
                    step=0.05,
                    key=f"blend-{place}",
                    help="How much this painting counts compared with the others." if number == 1 else None,
                    persist_state="session",
                )
            st.button(
                "",
                key=f"remove-{place}",
                icon=":material/close:",
                type="tertiary",
                help=f"Remove painting {number}",
                on_click=_remove,
                args=(place,),
            )
    return () if len(set(weights)) == 1 and any(weights) else weights
