"""Charts for the dashboard and the reports: losses, style layers, phases and measured times.

The functions import Altair themselves, so that a page without charts opens faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from core.names import legible
from core.runs.run import METRICS
from core.settings import SETTINGS, TransferSettings
from export.settings_text import plainly

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from core.runs.record import Steering

Value = TypeVar("Value")

#: The labels of the drawn losses, by their columns in the metrics.
CURVES = {"total": "Total", "style": "Style", "content": "Content"}

#: Okabe and Ito's palette for colour-blind people. Yellow, orange and sky blue are darker, and violet replaces black,
#: so that each colour has a contrast of 3 on a white and on a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A67B00", "#4A90C2", "#8C6BB1")
GREY = "#808080"  # for the published curve and the small phases
DASHES = ([1, 0], [7, 3], [2, 2], [8, 3, 2, 3])  # with the colours, they give 28 different curves
DOTS = [1, 3]
TEXT = "currentColor"  # the page's own, light or dark

POINTS = 400  # of a curve; a screen shows no more
ROWS = 5000  # of a chart; Altair's limit
PHASES = 6  # with their own colours; smaller phases share a colour

SVG_WIDTH = 380  # px: legible unscaled on a phone, and two fit side by side on a desktop
_SVG_CONFIG = {
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), TEXT),
        "domainOpacity": 0.5,
        "tickOpacity": 0.5,
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12},
}


def loss_curves(
    metrics: pd.DataFrame, steering: Sequence[Steering] = (), stages: Mapping[int, str] = {}
) -> alt.Chart | alt.LayerChart:
    """Draw total, style and content loss over the iterations, with lines at changes of weights and `stage_marks`."""
    wide = _thinned(metrics).rename(columns=CURVES)
    long = wide.melt("iteration", list(CURVES.values()), "curve", "loss")
    lines = _curves(long, "iteration", list(CURVES.values()), COLOURS[:3], [DASHES[0]] * 3, columns=3)
    return _layered(lines, [*_stage_rules(stages), *_steering_rules(steering)])


def layer_curves(metrics: pd.DataFrame, stages: Mapping[int, str] = {}) -> alt.Chart | alt.LayerChart:
    """Draw each style layer's share of the style loss over the iterations, with lines at `stage_marks`."""
    layers = list(metrics.columns[len(METRICS) :])
    long = _thinned(metrics, len(layers)).melt("iteration", layers, "curve", "loss")
    lines = _curves(long, "iteration", layers, _cycle(COLOURS, layers), _cycle(DASHES, layers), columns=2)
    return _layered(lines, _stage_rules(stages))


def stage_marks(settings: TransferSettings, last: int) -> dict[int, str]:
    """Return each stage's size by its first iteration, up to iteration `last`; empty for a single stage."""
    schedule = settings.schedule()
    begins = [0, *(end + 1 for _, end in schedule[:-1])]
    marks = {start: f"{size} px" for start, (size, _) in zip(begins, schedule, strict=True) if start <= last}
    return marks if len(schedule) > 1 else {}


def comparison(
    runs: Mapping[str, pd.DataFrame],
    over: Literal["iteration", "seconds"] = "iteration",
    published: pd.DataFrame | None = None,
    stages: Mapping[str, Mapping[int, str]] = {},
    columns: int = 1,
) -> alt.Chart | alt.LayerChart:
    """Draw the total losses of several runs, with a point where a later stage of a run begins.

    Args:
        runs: The metrics of each run, by its name.
        over: The column of the horizontal axis.
        published: A further curve, with the columns "total" and `over`.
        stages: The sizes from `stage_marks`, by the run's name.
        columns: The number of columns of the legend.
    """
    import pandas as pd

    curves = {name: _thinned(metrics, len(runs)) for name, metrics in runs.items()}
    begins = [_beginnings(metrics, stages.get(name, {})).assign(curve=name) for name, metrics in runs.items()]
    colours, dashes = _cycle(COLOURS, curves), _cycle(DASHES, curves)
    if published is not None:
        curves["Published"] = published
        colours, dashes = [*colours, GREY], [*dashes, DOTS]
    long = pd.concat(
        [frame[[over, "total"]].rename(columns={"total": "loss"}).assign(curve=name) for name, frame in curves.items()]
    )
    lines = _curves(long, over, list(curves), colours, dashes, columns)
    return _layered(lines, _stage_points(pd.concat(begins), over, lines))


def phases(seconds: Mapping[str, float]) -> alt.LayerChart:
    """Draw a bar for each phase of a run, in chronological order."""
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame({"phase": list(seconds), "seconds": list(seconds.values())})
    bars = alt.Chart(frame).encode(
        x=alt.X("seconds:Q", title="Seconds", scale=alt.Scale(domainMax=1.15 * max(seconds.values()))),
        y=alt.Y("phase:N", title=None, sort=list(seconds)),
        tooltip=["phase:N", alt.Tooltip("seconds:Q", format=".2f")],
    )
    text = bars.mark_text(align="left", dx=4, color=TEXT).encode(text=alt.Text("seconds:Q", format=".2f"))
    return (bars.mark_bar(color=COLOURS[0], cornerRadiusEnd=3) + text).properties(height=28 * len(seconds) + 40)


def phases_of_runs(runs: Mapping[str, Mapping[str, float]]) -> alt.Chart:
    """Draw a bar of stacked phases for each run, with the small phases as one segment."""
    import altair as alt
    import pandas as pd

    names = list(dict.fromkeys(name for seconds in runs.values() for name in seconds))
    largest = sorted(names, key=lambda name: -max(seconds.get(name, 0.0) for seconds in runs.values()))[:PHASES]
    drawn = [name for name in names if name in largest]
    rest = "all other phases"
    rows = []
    for run, seconds in runs.items():
        rows += [(run, name, seconds.get(name, 0.0), place) for place, name in enumerate(drawn)]
        if len(drawn) < len(names):
            rows.append((run, rest, sum(seconds[name] for name in seconds if name not in drawn), len(drawn)))
    domain = drawn if len(drawn) == len(names) else [*drawn, rest]
    colours = [*COLOURS[: len(drawn)], GREY][: len(domain)]
    return (
        alt.Chart(pd.DataFrame(rows, columns=["run", "phase", "seconds", "place"]))
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="Seconds", stack="zero"),
            y=alt.Y("run:N", title=None, sort=list(runs), axis=alt.Axis(labelLimit=220, labelOverlap=False)),
            color=alt.Color(
                "phase:N",
                title=None,
                scale=alt.Scale(domain=domain, range=colours),
                legend=alt.Legend(orient="top", columns=2),
            ),
            order="place:Q",
            tooltip=["run:N", "phase:N", alt.Tooltip("seconds:Q", format=".2f")],
        )
        .properties(height=34 * len(runs) + 10)
    )


def durations(timings: pd.DataFrame) -> alt.LayerChart:
    """Draw how long each way takes: a bar up to the median, and a line from the 10th to the 90th percentile.

    Args:
        timings: The columns "way" and "machine", and "median", "low" and "high" in seconds.
    """
    import altair as alt

    rows = timings.assign(low_end=timings["low"].min() / 2)
    ways, machines = list(dict.fromkeys(rows["way"])), list(dict.fromkeys(rows["machine"]))
    colour = alt.Color(
        "machine:N",
        title=None,
        scale=alt.Scale(domain=machines, range=_cycle(COLOURS, machines)),
        legend=alt.Legend(orient="top", columns=1, labelLimit=360) if len(machines) > 1 else None,
    )
    scale = alt.Scale(type="log", domainMin=float(rows["low_end"].iloc[0]), nice=False)
    base = alt.Chart(rows).encode(
        y=alt.Y("way:N", title=None, sort=ways, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("machine:N", sort=machines),
        tooltip=["way:N", "machine:N", *(alt.Tooltip(f"{name}:Q", format=".3g") for name in ("median", "low", "high"))],
    )
    bars = base.mark_bar(opacity=0.75).encode(
        x=alt.X("low_end:Q", title="Seconds", scale=scale, axis=alt.Axis(format="~g", tickCount=5)),
        x2="median:Q",
        color=colour,
    )
    lines = base.mark_rule(color=TEXT, strokeWidth=2).encode(
        x=alt.X("low:Q", title="Seconds", scale=scale), x2="high:Q"
    )
    return (bars + lines).properties(height=height_of_durations(timings))


def height_of_durations(timings: pd.DataFrame) -> int:
    """Return the height of the chart `durations` in px."""
    return max(24, 18 * timings["machine"].nunique()) * int(timings["way"].nunique())


def quality(courses: pd.DataFrame) -> alt.LayerChart:
    """Draw how the loss of each way falls over time, on a logarithmic axis, with a line at the target.

    Args:
        courses: The columns "way", "seconds", "loss" and "target".
    """
    import altair as alt
    import pandas as pd

    ways = list(dict.fromkeys(courses["way"]))
    long = courses.rename(columns={"way": "curve"})
    long = pd.concat([_thinned(part, len(ways)) for _, part in long.groupby("curve", sort=False)])
    lines = _curves(long, "seconds", ways, _cycle(COLOURS, ways), _cycle(DASHES, ways), columns=1)
    target = alt.Chart(courses[["target"]].drop_duplicates()).mark_rule(color=TEXT, strokeDash=[4, 3])
    return lines + target.encode(y="target:Q", tooltip=[alt.Tooltip("target:Q", format=".4g")])


def steering_marks(steering: Sequence[Steering]) -> dict[int, str]:
    """Return the changes, such as "Style weight 0.1", by the iteration after which they happen."""
    marks: dict[int, list[str]] = {}
    for change in steering:
        words = (f"{SETTINGS[name].label} {plainly(value)}" for name, value in change.changes.items())
        marks.setdefault(change.iteration, []).extend(words)
    return {iteration: "; ".join(words) for iteration, words in marks.items()}


def svg(chart: alt.Chart | alt.LayerChart, meaning: str) -> str:
    """Return the chart as an `<svg>` element for an HTML page, without scripts or references.

    It takes its width and text colour from the page. `meaning` describes it to people who cannot see it.
    """
    from html import escape

    import altair as alt
    import vl_convert

    # A character that XML cannot hold would crash the process in the converter.
    specification = _legible(chart.to_dict()) | {
        "width": SVG_WIDTH,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    drawn = vl_convert.vegalite_to_svg(
        specification,
        vl_version=".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2]),
        config=_SVG_CONFIG,
        allowed_base_urls=[],
    )
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(legible(meaning))}" ', 1)


def _legible(value: Any) -> Any:
    """Make every text of a specification legible."""
    if isinstance(value, dict):
        return {_legible(name): _legible(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_legible(inner) for inner in value]
    return legible(value) if isinstance(value, str) else value


def _thinned(metrics: pd.DataFrame, curves: int = 3) -> pd.DataFrame:
    """Thin out the rows to `POINTS` for each curve and `ROWS` for all, but keep the last row."""
    import pandas as pd

    every = -(-len(metrics) // max(2, min(POINTS, ROWS // max(1, curves) - 2))) or 1
    return pd.concat([metrics.iloc[::every], metrics.iloc[-1:]]).drop_duplicates()


def _curves(
    long: pd.DataFrame, over: str, names: list[str], colours: Sequence[str], dashes: Sequence[list[int]], columns: int
) -> alt.Chart:
    """Draw a line of "loss" over the column `over` for each "curve"."""
    import altair as alt
    import numpy as np

    legend = alt.Legend(orient="top", columns=columns, symbolType="stroke", symbolStrokeWidth=3, symbolSize=300,
                        labelLimit=330)  # fmt: skip
    axis = alt.Axis(format="d", tickMinStep=1, labelOverlap="greedy") if over == "iteration" else alt.Axis()
    return (
        alt.Chart(long[(long["loss"] > 0) & np.isfinite(long["loss"])])
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X(f"{over}:Q", title=over.capitalize(), axis=axis),
            y=alt.Y("loss:Q", title="Loss", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e", tickCount=5)),
            color=alt.Color("curve:N", title=None, scale=alt.Scale(domain=names, range=list(colours)), legend=legend),
            strokeDash=alt.StrokeDash(
                "curve:N", title=None, scale=alt.Scale(domain=names, range=list(dashes)), legend=legend
            ),
            tooltip=[f"{over}:Q", "curve:N", alt.Tooltip("loss:Q", format=".4g")],
        )
        .properties(height=280)
    )


def _layered(lines: alt.Chart, marks: list[alt.Chart]) -> alt.Chart | alt.LayerChart:
    import altair as alt

    return alt.LayerChart(layer=[lines, *marks]) if marks else lines


def _stage_rules(stages: Mapping[int, str]) -> list[alt.Chart]:
    import altair as alt
    import pandas as pd

    if not stages:
        return []
    frame = pd.DataFrame({"iteration": list(stages), "size": list(stages.values())})
    rules = alt.Chart(frame).encode(x="iteration:Q", tooltip=["iteration:Q", "size:N"])
    line = rules.mark_rule(color=TEXT, strokeWidth=1, opacity=0.5)
    name = rules.mark_text(color=TEXT, align="center", baseline="bottom", dy=-4, fontSize=11)  # above the curves
    return [line, name.encode(y=alt.value(0), text="size:N")]


def _beginnings(metrics: pd.DataFrame, stages: Mapping[int, str]) -> pd.DataFrame:
    """Return the first row of each later stage, with the size of the stage."""
    rows = metrics[(metrics["iteration"] > 0) & metrics["iteration"].isin(list(stages))]
    return rows[["iteration", "seconds", "total"]].assign(size=rows["iteration"].map(stages))


def _stage_points(begins: pd.DataFrame, over: str, lines: alt.Chart) -> list[alt.Chart]:
    import altair as alt

    if begins.empty:
        return []
    points = alt.Chart(begins.rename(columns={"total": "loss"})).mark_point(filled=True, size=70, opacity=1)
    tooltip = [f"{over}:Q", "curve:N", "size:N", alt.Tooltip("loss:Q", format=".4g")]
    return [points.encode(x=f"{over}:Q", y="loss:Q", color=lines.encoding.color, tooltip=tooltip)]


def _steering_rules(steering: Sequence[Steering]) -> list[alt.Chart]:
    import altair as alt
    import pandas as pd

    if not steering:
        return []
    marks = steering_marks(steering)
    numbers = [str(number) for number in range(1, len(marks) + 1)]
    frame = pd.DataFrame({"iteration": list(marks), "changed": list(marks.values()), "number": numbers})
    rules = alt.Chart(frame).encode(x="iteration:Q", tooltip=["iteration:Q", "changed:N"])
    line = rules.mark_rule(color=TEXT, strokeDash=[4, 3], strokeWidth=1.5, opacity=0.8)
    number = rules.mark_text(color=TEXT, align="left", baseline="top", dx=4, fontWeight="bold")
    return [line, number.encode(y=alt.value(2), text="number:N")]


def _cycle(values: Sequence[Value], names: Iterable[str]) -> list[Value]:
    return [values[number % len(values)] for number, _ in enumerate(names)]
