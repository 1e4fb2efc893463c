"""Timings: run `nst bench` from the page, and compare measurements of this machine and others."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from bench import measurements
from bench.measurements import MARKS, Course, Measurement, Pair
from core.errors import StudioError
from dashboard import background_jobs
from dashboard.common import url_state
from dashboard.common.charts import draw
from dashboard.common.text import duration, plain
from export import charts

PARTS = {
    "targets": "Gram targets: TensorFlow, ONNX Runtime and the cache (a minute)",
    "step": "One step in each precision, by size (some minutes)",
    "start": "From Start to the first picture (a minute or two)",
    "quality": "Until a picture is as good as the published run's (tens of minutes)",
}
QUICK_SIZES = "256,512"
IMPORTED = "imported-"
MOST = 4
POLL_SECONDS = 1.0


def page() -> None:
    """Show a running measurement or the form for a new one, then the saved measurements side by side."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title("Timings", anchor=False, width="content")
        with st.popover("Import a measurement", icon=":material/upload:"):
            _import()
    command = background_jobs.status("bench")
    if command and command.is_running():
        _progress()
    else:
        if command and command.last_line().startswith("nst:") and command.last_line() != "nst: Stopped.":
            st.error(plain(command.last_line().removeprefix("nst: ")))
        _form()
    _kept()


def _form() -> None:
    with st.expander("Measure this machine", icon=":material/timer:", expanded=not _files()):
        parts = st.multiselect("What", list(PARTS), ["targets", "step"], format_func=PARTS.__getitem__, key="parts")
        sizes = st.text_input("Sizes of a step (px)", QUICK_SIZES, key="sizes", help="64 to 4096, separated by commas.")
        st.caption("The machine must do nothing else: do not paint during a measurement.")
        if st.button("Measure", type="primary", icon=":material/play_arrow:", disabled=not parts):
            options = []
            try:
                if "step" in parts:  # the command refuses sizes without this part
                    measurements.parse_sizes(sizes)
                    options = ["--sizes", sizes]
                background_jobs.start("bench", "bench", *parts, *options)
            except (StudioError, OSError) as error:
                st.error(plain(str(error).removeprefix("--sizes ")))
                return
            st.rerun()


@st.fragment(run_every=POLL_SECONDS)
def _progress() -> None:
    command = background_jobs.status("bench")
    if not command or not command.is_running():
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.status(
            f"Measuring for {duration(command.seconds())}: {plain(command.last_line() or 'starting …')}", type="compact"
        )
        st.button("Stop measuring", icon=":material/stop:", on_click=command.stop)


def _import() -> None:
    given = st.file_uploader(
        "A file that nst bench wrote", ["json"], key="import-bench", max_upload_size=measurements.MAX_BYTES // 2**20
    )
    if given and st.session_state.get("imported-bench") != given.file_id:
        try:
            found = measurements.parse(given.getvalue(), given.name)
            digest = hashlib.sha256(given.getvalue()).hexdigest()[:8]  # two machines may measure in the same second
            found.save(measurements.folder() / f"{IMPORTED}{found.created:%Y%m%d-%H%M%S}-{digest}.json")
        except StudioError as error:
            st.error(plain(str(error)))
            return
        st.session_state["imported-bench"] = given.file_id
        st.toast("Imported", icon=":material/check_circle:")


def _files() -> list[Path]:
    """Return the files of the saved measurements, newest first."""
    folder = measurements.folder()
    return sorted(folder.glob("*.json"), key=lambda path: path.name.removeprefix(IMPORTED), reverse=True)


def _kept() -> None:
    found: dict[str, Measurement] = {}
    for path in _files():
        try:
            found[path.stem] = measurements.read(path)
        except StudioError as error:
            st.warning(plain(str(error)))
    if not found:
        st.info("Nothing has been measured here yet.")
        return
    names, missing = url_state.choose(
        "Measurements", list(found), lambda name: _label(name, found[name]), "show", MOST, first=[next(iter(found))]
    )
    if missing:
        st.warning(f"There is no measurement {plain(missing[0])} here.")
    shown = {f"{number}. {_label(name, found[name])}": found[name] for number, name in enumerate(names, 1)}
    if len(shown) == 1:
        shown = {_label(names[0], found[names[0]]): found[names[0]]}
    _machines(shown, names)
    _comparisons(shown)
    _qualities(shown)


def _label(name: str, found: Measurement) -> str:
    where = "imported" if name.startswith(IMPORTED) else "here"
    return f"{found.label}, {where}"


def _machines(shown: dict[str, Measurement], names: list[str]) -> None:
    for name, (title, found) in zip(names, shown.items(), strict=True):
        environment = found.environment
        cores, gpus = environment.get("cores", "?"), environment.get("gpus")
        gpus = gpus if gpus and isinstance(gpus, list) else ["no GPU"]  # an imported file may contain anything
        facts = [f"{cores} cores", *map(str, gpus), f"VGG19 weights: {found.weights}"]
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(plain(f"{title}: {', '.join(facts)}"), width="content")
            if name.startswith(IMPORTED):  # this machine's own took long and cannot be removed here
                st.button("Remove", key=f"remove-{name}", type="tertiary", on_click=_remove, args=(name,))


def _remove(name: str) -> None:
    (measurements.folder() / f"{name}.json").unlink(missing_ok=True)
    st.session_state.pop("imported-bench", None)


def _comparisons(shown: dict[str, Measurement]) -> None:
    for title, rows in measurements.tables(shown).items():
        st.header(plain(title), anchor=False)
        frame = pd.DataFrame(rows)
        for size in sorted(frame["size"].unique()):  # one chart each: a faceted chart would not shrink with the page
            of_size = frame[frame["size"] == size]
            if size:
                st.markdown(f"**{size} px**")
            chart, table = st.columns(2, gap="medium")
            with chart:
                legend_rows = len(shown) if len(shown) > 1 else 0
                drawn = charts.durations(of_size)
                draw(drawn, f"durations-{title}-{size}", charts.height_of_durations(of_size), legend_rows)
            with table:
                _table(of_size, len(shown) > 1)


def _table(frame: pd.DataFrame, with_machine: bool) -> None:
    """Show the seconds, and the speed-up over the slowest way."""
    slowest = frame.groupby("machine")["median"].transform("max")
    table = pd.DataFrame(
        {
            **({"": [machine.partition(".")[0] for machine in frame["machine"]]} if with_machine else {}),
            "way": frame["way"],
            "median (s)": frame["median"],
            "faster": slowest / frame["median"],
            "10–90 % (s)": [f"{low:.3g} to {high:.3g}" for low, high in zip(frame["low"], frame["high"], strict=True)],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        height="content",
        column_config={
            "median (s)": st.column_config.NumberColumn(format="%.3g"),
            "faster": st.column_config.NumberColumn(format="%.3g ×", help="Compared with the slowest way"),
        },
    )


def _drawable(pair: Pair) -> list[Course]:
    """Return the courses that can be drawn; an imported file may contain others."""
    return [course for course in pair.courses if course.seconds and len(course.seconds) == len(course.totals)]


def _qualities(shown: dict[str, Measurement]) -> None:
    pairs = dict.fromkeys(pair.pair for found in shown.values() for pair in found.pairs if _drawable(pair))
    for name in pairs:
        st.header(plain(f"Time to quality: {name}"), anchor=False)
        st.caption(
            "The float32 loss of the best picture so far, over the seconds since Start. The line is the published "
            "run's loss at iteration 900 with the same weights."
        )
        curves: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for machine, found in shown.items():
            for pair in (pair for pair in found.pairs if pair.pair == name):
                for course in _drawable(pair):
                    way = f"{course.way} ({machine.split('.')[0]})" if len(shown) > 1 else course.way
                    curves += [
                        {"way": way, "seconds": at, "loss": loss, "target": pair.target}
                        for at, loss in zip(course.seconds, course.totals, strict=True)
                    ]
                    reached = "not reached" if course.to_target is None else f"{course.to_target:.4g}"
                    marks = {f"loss at {mark} s": course.total_at(mark) for mark in MARKS}
                    target = {"way": way, "s to the target": f"{reached}{' *' if course.extrapolated else ''}"}
                    rows.append({**target, "s per iteration": course.step, **marks})
        draw(charts.quality(pd.DataFrame(curves)), f"quality-{name}", 280, len(rows))
        losses = dict.fromkeys((f"loss at {mark} s" for mark in MARKS), st.column_config.NumberColumn(format="compact"))
        step = {"s per iteration": st.column_config.NumberColumn(format="%.3g")}
        st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", column_config={**losses, **step})
        if any("*" in row["s to the target"] for row in rows):
            st.caption("\\* extrapolated: the median time of an iteration, times the iterations of the published run")


page()
