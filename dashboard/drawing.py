"""Charts on a page, with room for their legends."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    import altair as alt

LEGEND_ROW = 20  # px
AXIS = 90  # with its title, and the margins


def draw(chart: alt.Chart | alt.LayerChart, key: str, height: int, legend_rows: int = 1) -> None:
    """The chart as wide as its place; Streamlit counts legend and axis into the height, which is the drawing's here."""
    _settle()
    st.altair_chart(chart.properties(height=height + AXIS + LEGEND_ROW * legend_rows), width="stretch", key=key)


@st.cache_resource(show_spinner=False)
def _settle() -> None:
    """Leave what is loaded by now out of garbage collections: Streamlit collects after each refresh of a live page,
    and going through all that Altair and pandas brought along costs a fifth of a core."""
    gc.collect()
    gc.freeze()
