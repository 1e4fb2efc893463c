"""Charts on a page, with room for their legends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    import altair as alt

LEGEND_ROW = 20  # px
AXIS = 90  # with its title, and the margins


def draw(chart: alt.Chart | alt.LayerChart, key: str, height: int, legend_rows: int = 1) -> None:
    """The chart as wide as its place; Streamlit counts legend and axis into the height, which is the drawing's here."""
    st.vega_lite_chart(spec=prepared(chart, height, legend_rows), width="stretch", key=key)


def prepared(chart: alt.Chart | alt.LayerChart, height: int, legend_rows: int = 1) -> dict[str, Any]:
    """The chart as Streamlit takes it. This costs ten times what showing it does: prepare once what many see."""
    import pandas as pd

    specification = chart.properties(height=height + AXIS + LEGEND_ROW * legend_rows).to_dict()
    specification.pop("config", None)  # Altair's theme, in place of which comes the page's
    specification["datasets"] = {name: pd.DataFrame(rows) for name, rows in specification["datasets"].items()}
    return specification
