"""Turning a picture upright and cutting it to what is to be painted, before anything starts."""

from dataclasses import dataclass, replace

import streamlit as st
from PIL import Image

from core.images import codec


@dataclass(frozen=True)
class Crop:
    """What is done to a picture: quarter turns to the right, then the part of width and height that stays."""

    turns: int = 0
    across: tuple[int, int] = (0, 100)  # percent
    down: tuple[int, int] = (0, 100)

    def of(self, image: Image.Image) -> Image.Image:
        """The picture so framed."""
        turned = image.rotate(-90 * self.turns, expand=True) if self.turns else image
        left, right = (round(turned.width * part / 100) for part in self.across)
        top, bottom = (round(turned.height * part / 100) for part in self.down)
        whole = (left, top, right, bottom) == (0, 0, turned.width, turned.height)
        return turned if whole else turned.crop((left, top, right, bottom))


def choose(kind: str, picture: str, image: Image.Image) -> Crop:
    """Let the user frame the picture of that name; another picture begins unframed."""
    key = f"framing-{kind}"
    if st.session_state.get(f"{key}-of") != picture:
        st.session_state[f"{key}-of"] = picture
        _set(key, Crop())
    now: Crop = st.session_state[key]
    with st.expander("Crop and rotate", icon=":material/crop_rotate:", key=f"{key}-panel"):
        with st.container(horizontal=True):
            for label, icon, turns in (("Turn left", "rotate_left", 3), ("Turn right", "rotate_right", 1)):
                turned = replace(now, turns=(now.turns + turns) % 4)
                st.button(label, key=f"{key}-{label}", icon=f":material/{icon}:", on_click=_set, args=(key, turned))
            st.button("Whole picture", key=f"{key}-whole", on_click=_set, args=(key, Crop()))
        version = st.session_state.get(f"{key}-version", 0)  # a slider takes a new value only under a new key
        across = st.slider("From left to right", 0, 100, now.across, format="%d %%", key=f"{key}-across-{version}")
        down = st.slider("From top to bottom", 0, 100, now.down, format="%d %%", key=f"{key}-down-{version}")
    width, height = image.size if now.turns % 2 == 0 else image.size[::-1]
    left = min((across[1] - across[0]) * width, (down[1] - down[0]) * height) / 100
    if left < codec.MIN_SIDE:
        st.warning(
            f"So little of the picture cannot be painted: keep {codec.MIN_SIDE} pixels at least. It is kept whole."
        )
        across = down = (0, 100)
    return replace(now, across=across, down=down)


def _set(key: str, framing: Crop) -> None:
    st.session_state[key] = framing
    st.session_state[f"{key}-version"] = st.session_state.get(f"{key}-version", 0) + 1
