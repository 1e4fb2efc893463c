"""The drawings: loss curves, and where the seconds went."""

import altair as alt
import pandas as pd

from dashboard.wording import CURVES

COLOURS = ["#2f7ed8", "#e07b39", "#3a9e6d"]
TEXT = "#808890"  # legible on light and dark
POINTS = 400  # no eye tells more apart on a screen's width


def loss_curves(metrics: pd.DataFrame) -> alt.Chart:
    """Total, style and content loss over the iterations, on a logarithmic axis (a loss of 0 is not on it)."""
    every = max(1, len(metrics) // POINTS)
    thinned = pd.concat([metrics.iloc[::every], metrics.iloc[-1:]]).drop_duplicates("iteration")
    long = thinned.rename(columns=CURVES).melt("iteration", list(CURVES.values()), "loss", "value")
    return (
        alt.Chart(long[long["value"] > 0])
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("iteration:Q", title="Iteration", axis=alt.Axis(format="d", tickMinStep=1)),
            y=alt.Y("value:Q", title="Loss", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e", tickCount=5)),
            color=alt.Color(
                "loss:N",
                title=None,
                scale=alt.Scale(domain=list(CURVES.values()), range=COLOURS),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=["iteration:Q", "loss:N", alt.Tooltip("value:Q", format=".4g")],
        )
        .properties(height=280)
    )


def phases(seconds: dict[str, float]) -> alt.Chart:
    """A bar for each phase, in the order in which they came."""
    frame = pd.DataFrame({"phase": list(seconds), "seconds": list(seconds.values())})
    bars = alt.Chart(frame).encode(
        x=alt.X("seconds:Q", title="Seconds", scale=alt.Scale(domainMax=1.15 * max(seconds.values()))),
        y=alt.Y("phase:N", title=None, sort=list(seconds)),
        tooltip=["phase:N", alt.Tooltip("seconds:Q", format=".2f")],
    )
    text = bars.mark_text(align="left", dx=4, color=TEXT).encode(text=alt.Text("seconds:Q", format=".2f"))
    return (bars.mark_bar(color=COLOURS[0], cornerRadiusEnd=3) + text).properties(height=28 * len(seconds) + 40)
