"""Compare two to six runs: pictures, evaluations, curves, settings, times and a report."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any, Literal

import streamlit as st

from bench import measurements, reference
from core.errors import StudioError
from core.presets import PRESETS
from core.runs import evaluation, library
from core.runs.evaluation import Evaluation
from core.runs.record import RunRecord
from core.runs.run import Run
from dashboard import auth
from dashboard.common import url_state, viewer
from dashboard.common.charts import draw
from dashboard.common.text import duration, plain
from dashboard.common.url_state import MOST_RUNS
from dashboard.run import downloads, inputs
from dashboard.run.evaluation import measure
from export import charts, describe

SIDE = 1024  # px, of the pictures

Chosen = list[tuple[Run, RunRecord]]


def page() -> None:
    """Show the runs from the URL or the user's choice."""
    st.title("Compare", anchor=False)
    chosen = _choose()
    if len(chosen) < 2:
        st.info("Choose two to six runs. You can save or send the page's address.")
        return
    titles = _titles(chosen)
    _pictures(chosen, titles)
    evaluations, by = _evaluations(chosen, titles)
    _curves(chosen, titles)
    _settings(chosen, titles)
    _phases(chosen)
    _report(chosen, evaluations, by)


def _choose() -> Chosen:
    """Let the user choose finished runs; the URL keeps the choice."""
    listed = {entry.run.id: entry for entry in library.entries(auth.may_see()) if entry.run.result.is_file()}

    def label(name: str) -> str:
        entry = listed[name]
        return f"{entry.title} · {entry.record.preset} · {entry.record.created.astimezone():%d %b %H:%M:%S}"

    names, missing = url_state.choose("Runs", list(listed), label, "runs", MOST_RUNS)
    if missing:
        st.warning(f"There is no finished run {plain(missing[0])} here.")
    return [(listed[name].run, listed[name].record) for name in names]


def _titles(chosen: Chosen) -> dict[str, str]:
    """Return each run's title, with a number because names may be the same."""
    return {
        run.id: f"{number} · {library.marks(run).title_of(record)} · {record.preset}"
        for number, (run, record) in enumerate(chosen, 1)
    }


def _pictures(chosen: Chosen, titles: Mapping[str, str]) -> None:
    slider = False
    if len(chosen) == 2:
        slider = st.segmented_control("Show", ["Side by side", "Slider"], default="Side by side") == "Slider"
    found = [(titles[run.id], viewer.jpeg(run.result, SIDE)) for run, _ in chosen]
    for title, jpeg in found:
        if not jpeg:
            st.warning(f"The picture of {plain(title)} is damaged.")
    shown = [(title, jpeg) for title, jpeg in found if jpeg]
    viewer.show(shown, slider and len(shown) == 2, key=f"viewer-{slider}")
    with st.expander("The photos and paintings", icon=":material/image:"):
        for run, record in chosen:
            st.markdown(f"**{plain(titles[run.id])}**")
            with st.grid(min_column_width=160):
                _inputs(run, record)


def _inputs(run: Run, record: RunRecord) -> None:
    for given in (inputs.photo(run, record), *inputs.paintings(run, record)):
        with contextlib.suppress(OSError, StudioError):  # leave out a damaged picture
            st.image(given.jpeg(320), plain(f"{given.name} ({given.what})"), "stretch", alt=given.name)


def _evaluations(chosen: Chosen, titles: Mapping[str, str]) -> tuple[dict[str, Evaluation], str]:
    """Return the evaluations so far, and the name of the preset or run whose losses they use."""

    def words(name: str) -> str:
        return f"the preset {name}" if name in PRESETS else titles[name]

    st.header("Evaluated with the same settings", anchor=False)
    st.caption(
        "The losses of runs with different weights cannot be compared. Here all results are evaluated with the same "
        "losses, in float32. Likeness is the structural similarity to the photo."
    )
    by = st.selectbox("Losses of", [*PRESETS, *titles], list(PRESETS).index("reference"), format_func=words, width=360)
    settings = evaluation.settings_of(by)
    evaluations = evaluation.evaluations([run for run, _ in chosen], settings)
    _table(chosen, titles, evaluations)
    missing = [run.id for run, _ in chosen if run.id not in evaluations]
    if missing:
        measure(missing, by)
    return evaluations, words(by)


def _table(chosen: Chosen, titles: Mapping[str, str], evaluations: Mapping[str, Evaluation]) -> None:
    import pandas as pd

    rows = []
    for run, record in chosen:
        measured = evaluations.get(run.id)
        rows.append(
            {
                "Run": titles[run.id],
                "Total": measured and measured.total,
                "Style": measured and measured.style,
                "Content": measured and measured.content,
                "Likeness": measured and measured.similarity,
                "Own best loss": record.best_total,
                "Iterations": record.iteration,
                "Time": duration(record.timings["total"]) if "total" in record.timings else "–",
            }
        )
    loss = st.column_config.NumberColumn(format="compact")
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config={
            **dict.fromkeys(("Total", "Style", "Content", "Own best loss"), loss),
            "Likeness": st.column_config.NumberColumn(format="%.3f"),
        },
        height="content",
        placeholder="–",
    )


def _curves(chosen: Chosen, titles: Mapping[str, str]) -> None:
    st.header("Losses over time", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        over = st.segmented_control("Over", ["iterations", "seconds"], default="iterations", required=True)
        published = None
        if over == "iterations" and any(reference.is_published_run(run) for run, _ in chosen):
            with_published = st.toggle("The published run", value=True, key="with-published")
            published = reference.curve() if with_published else None
    metrics, stages = {}, {}
    for run, record in chosen:
        try:
            metrics[titles[run.id]] = found = run.metrics()
            if not found.empty:
                stages[titles[run.id]] = charts.stage_marks(record.settings, found["iteration"].iloc[-1])
        except StudioError as error:
            st.warning(plain(str(error)))
    if not metrics:
        return
    if not evaluation.comparable(record for _, record in chosen):
        st.caption("These are the runs' own losses, with different weights or definitions: compare only the shapes.")
    if any(len(marks) > 1 for marks in stages.values()):
        st.caption("A point marks the start of a larger size; losses at different sizes cannot be compared.")
    axis: Literal["iteration", "seconds"] = "iteration" if over == "iterations" else "seconds"
    draw(charts.comparison(metrics, axis, published, stages=stages), f"compare-{over}", 300, len(metrics) + 1)


def _settings(chosen: Chosen, titles: Mapping[str, str]) -> None:
    import pandas as pd

    st.header("Settings that differ", anchor=False)
    rows = dict(describe.differing(chosen))
    if not rows:
        st.caption("None: all runs have the same settings.")
        return
    table = pd.DataFrame(rows, index=[titles[run.id] for run, _ in chosen]).T
    st.dataframe(table.rename_axis("Setting"), height="content")


def _phases(chosen: Chosen) -> None:
    seconds = {
        f"Run {number}": describe.phase_seconds(record.timings)  # the titles do not fit on a phone
        for number, (_, record) in enumerate(chosen, 1)
        if "total" in record.timings
    }
    if seconds:
        st.header("Time per phase", anchor=False)
        draw(charts.phases_of_runs(seconds), "compare-phases", 48 * len(seconds), 4)


def _report(chosen: Chosen, evaluations: Mapping[str, Evaluation], by: str) -> None:
    from export.report import bundle, content

    st.header("Report", anchor=False)
    st.caption(
        "One file that works offline, or a ZIP with the full pictures, the metrics and all that repeats each run."
    )
    found = [run for run, _ in chosen]
    try:
        content.check(found)
    except StudioError as error:
        st.error(plain(str(error)))
        return
    tables = _measured_here()

    def packed() -> bytes:
        file = io.BytesIO()
        bundle.write_zip(file, found, evaluations, measured_by=by, timings=tables)
        return file.getvalue()

    with st.container(horizontal=True):
        downloads.report(found, evaluations, by, tables)
        st.download_button(
            "Report and everything (ZIP)",
            packed,
            "report.zip",
            "application/zip",
            icon=":material/folder_zip:",
            on_click="ignore",
        )


def _measured_here() -> dict[str, list[dict[str, Any]]]:
    """Return this machine's newest timings, if the user wants them in the report."""
    kept = sorted(measurements.folder().glob("[0-9]*.json"))
    if not kept or not st.toggle("With the newest timings of this machine", key="with-timings"):
        return {}
    try:
        newest = measurements.read(kept[-1])
    except StudioError as error:
        st.warning(plain(str(error)))
        return {}
    return measurements.tables({newest.label: newest})


page()
