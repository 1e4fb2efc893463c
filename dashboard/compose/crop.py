"""Cropping and rotating a picture before a run."""

from dataclasses import dataclass, replace

import streamlit as st
from PIL import Image

from core.images import codec


@dataclass(frozen=True)
class Crop:
    """Quarter turns to the right, then the part of the width and height to keep."""

    turns: int = 0
    across: tuple[int, int] = (0, 100)  # percent
    down: tuple[int, int] = (0, 100)

    def of(self, image: Image.Image) -> Image.Image:
        """Return the cropped and rotated picture."""
        turned = image.rotate(-90 * self.turns, expand=True) if self.turns else image
        left, right = (round(turned.width * part / 100) for part in self.across)
        top, bottom = (round(turned.height * part / 100) for part in self.down)
        whole = (left, top, right, bottom) == (0, 0, turned.width, turned.height)
        return turned if whole else turned.crop((left, top, right, bottom))


def choose(kind: str, picture: str, image: Image.Image) -> Crop:
    """Let the user crop and rotate the picture named `picture`; another picture starts whole."""
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
        version = st.session_state.get(f"{key}-version", 0)  # Streamlit moves a slider only if its key changes
        across = st.slider("From left to right", 0, 100, now.across, format="%d %%", key=f"{key}-across-{version}")
        down = st.slider("From top to bottom", 0, 100, now.down, format="%d %%", key=f"{key}-down-{version}")
    width, height = image.size if now.turns % 2 == 0 else image.size[::-1]
    left = min((across[1] - across[0]) * width, (down[1] - down[0]) * height) / 100
    if left < codec.MIN_SIDE:
        st.warning(
            f"This part is too small to paint: keep at least {codec.MIN_SIDE} pixels. The whole picture is used."
        )
        across = down = (0, 100)
    return replace(now, across=across, down=down)


def _set(key: str, chosen: Crop) -> None:
    st.session_state[key] = chosen
    st.session_state[f"{key}-version"] = st.session_state.get(f"{key}-version", 0) + 1
