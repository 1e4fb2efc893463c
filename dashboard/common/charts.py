"""Charts on a page, sized with their axes and legends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    import altair as alt

LEGEND_ROW = 20  # px
AXIS = 90  # px, with its title and the margins


def draw(chart: alt.Chart | alt.LayerChart, key: str, height: int, legend_rows: int = 1) -> None:
    """Show a chart at full width. `height` is the drawing's; Streamlit's own height includes axis and legend."""
    st.vega_lite_chart(spec=prepared(chart, height, legend_rows), width="stretch", key=key)


def prepared(chart: alt.Chart | alt.LayerChart, height: int, legend_rows: int = 1) -> dict[str, Any]:
    """Return a chart's specification for Streamlit. Cache it: preparing takes ten times as long as showing."""
    import pandas as pd

    specification = chart.properties(height=height + AXIS + LEGEND_ROW * legend_rows).to_dict()
    specification.pop("config", None)  # without Altair's theme, Streamlit applies its own
    specification["datasets"] = {name: pd.DataFrame(rows) for name, rows in specification["datasets"].items()}
    return specification
