"""Show a run while it is painted and afterwards."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil
import streamlit as st

from core import paths
from core.errors import StudioError
from core.images import codec
from core.jobs import control, eta, workers
from core.runs import library
from core.runs.record import RunRecord
from core.runs.run import METRICS, SUMS, Run
from dashboard.common.charts import prepared
from dashboard.common.text import STATUSES, duration, plain
from dashboard.run import actions, downloads, inputs, notifications, queue, steering
from export import charts, describe

if TYPE_CHECKING:
    import pandas as pd

REFRESH_SECONDS = 0.5
CURVES_SECONDS = 2.0  # drawing curves takes longer than a picture, and the worker needs the processor
INPUT_SIDE = 800  # px, of an input picture
INPUT_WIDTH = 140  # px, minimum for each of several paintings
STRIP = 12  # intermediate pictures that are shown
RECENT_STEPS = 20  # the time left is estimated from these


def show(run: Run) -> None:
    """Show the run and refresh it until it ends."""
    try:
        record = control.record_ending(run)
    except (StudioError, OSError) as error:
        st.error(plain(str(error)))
        return
    st.header(plain(library.marks(run).title_of(record)), anchor=False)
    if record.unfinished:
        st.session_state[f"watched-{run.id}"] = True
        _live(run)
        if record.status == "running":
            steering.show(run)
        st.fragment(_curves, run_every=CURVES_SECONDS)(run, record.unfinished)
        queue.show()
    else:
        if st.session_state.pop(f"watched-{run.id}", False):
            label, _, icon = STATUSES[record.status]
            notifications.tell(f"{record.title}: {label}", icon)
        _finished(run, record)


@st.cache_data(ttl=10, show_spinner=False)
def ensure_workers() -> None:
    """Start missing workers, at most every 10 seconds: a new worker needs a moment to report."""
    workers.ensure_workers()


@dataclass(frozen=True)
class _Snapshot:
    """The state of a run as shown, read and encoded once for all sessions."""

    metrics: pd.DataFrame  # of the last steps
    silent: float | None  # seconds without a sign of life, if that is too long
    memory: int  # bytes, of the painting process
    picture: str  # as a data URL; empty if there is none yet


_record = st.cache_resource(ttl=REFRESH_SECONDS / 2, max_entries=16, show_spinner=False)(Run.record)


@st.cache_resource(ttl=REFRESH_SECONDS / 2, max_entries=16, show_spinner=False)
def _look(run: Run) -> _Snapshot:
    """Return the current state. Raises `StudioError` if the record or the metrics are damaged."""
    record = run.record()
    metrics = run.metrics(last=RECENT_STEPS + 1)  # reading all would be slow for a long run
    silent, picture = None, ""
    with contextlib.suppress(OSError):  # a file is just being replaced
        silent = control.silent_for(run, record)
    with contextlib.suppress(OSError):  # there is no picture yet
        picture = _inline(run.live if run.live.is_file() else run.result)  # a continued run already has a result
    return _Snapshot(metrics, silent, _memory(record), picture)


@st.fragment(run_every=REFRESH_SECONDS)
def _live(run: Run) -> None:
    try:
        record = _record(run)
    except StudioError:
        st.rerun()  # the whole page, which shows the error
    if not record.unfinished or record.status != st.session_state.setdefault(f"seen-{run.id}", record.status):
        st.session_state.pop(f"seen-{run.id}", None)
        st.rerun()  # the whole page: the run now has a result or can be steered
    if record.status == "queued":
        ensure_workers()
    try:
        seen = _look(run)
    except StudioError as error:
        st.warning(plain(str(error)))
        return
    _progress(record, seen)
    if seen.silent and record.writer:
        st.warning(
            f"The painting process (number {record.writer.pid}) is alive but has not reported for "
            f"{duration(seen.silent)}: it may be stuck. If you end it, the run can continue from its last checkpoint."
        )
        st.button("End it", icon=":material/power_off:", on_click=_kill, args=(run,))
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, label in charts.CURVES.items():
            value = seen.metrics[name].iloc[-1] if len(seen.metrics) else None
            st.metric(f"{label} loss", value, format="compact", width=150)
        if run.request().stop:
            st.button("Stopping …", icon=":material/stop:", disabled=True)
        else:
            st.button("Stop", icon=":material/stop:", on_click=control.stop, args=(run,))
        notifications.offer(run.id)
    _pictures(run, record, seen.picture, "Initial image" if seen.metrics.empty else "Painted so far")


def _kill(run: Run) -> None:
    with contextlib.suppress(StudioError, psutil.Error):  # it has already ended, which the page shows
        control.kill(run)


@st.cache_resource(ttl=CURVES_SECONDS / 2, max_entries=16, show_spinner=False)
def _loss_curves(run: Run, unfinished: bool) -> tuple[dict[str, Any], dict[int, str]] | None:
    """Return the chart and its marks, cached for all sessions; `None` before the second step.

    `unfinished` is part of the cache's key: a finished run needs a new chart. Raises `StudioError` for damaged files.
    """
    metrics = run.metrics()
    if len(metrics) < 2:
        return None
    last = metrics["iteration"].iloc[-1]
    record = run.record()
    steered = [change for change in record.steering if change.iteration <= last]
    stages = charts.stage_marks(record.settings, last)
    return prepared(charts.loss_curves(metrics, steered, stages), 230), charts.steering_marks(steered)


@st.cache_resource(ttl=CURVES_SECONDS / 2, max_entries=16, show_spinner=False)
def _layer_curves(run: Run, unfinished: bool) -> dict[str, Any]:
    metrics = run.metrics()
    layers = len(metrics.columns) - len(METRICS)
    stages = charts.stage_marks(run.record().settings, metrics["iteration"].iloc[-1])
    return prepared(charts.layer_curves(metrics, stages), 230, layers // 2 + 1)


def _curves(run: Run, unfinished: bool) -> None:
    try:
        drawn = _loss_curves(run, unfinished)
        if not drawn:
            return
        chart, marks = drawn
        st.vega_lite_chart(spec=chart, width="stretch", key=f"curves-{run.id}")
        for number, (iteration, words) in enumerate(marks.items(), 1):
            st.caption(plain(f"{number}: after iteration {iteration}, {words}"))
        if st.toggle("Style loss of each layer", key=f"layers-{run.id}"):
            chart = _layer_curves(run, unfinished)
            st.vega_lite_chart(spec=chart, width="stretch", key=f"layer-curves-{run.id}")
    except StudioError as error:
        st.warning(plain(str(error)))


def _progress(record: RunRecord, seen: _Snapshot) -> None:
    total, metrics = record.settings.iterations, seen.metrics
    if record.status == "queued":
        st.progress(0.0, queue.of(Run(paths.runs() / record.id)))
    elif metrics.empty:
        st.progress(0.0, plain(record.message) or "Preparing …")
    else:
        last = metrics.iloc[-1]
        recent = metrics["seconds"]
        step = (recent.iloc[-1] - recent.iloc[0]) / max(1, len(recent) - 1)
        rest = eta.seconds_of_the_rest(record.settings, metrics)
        left = f", {duration(rest)} left" if rest is not None else ""
        rate = f"{1 / step:.1f} iterations a second" if step and step < 1 else f"{step:.1f} s an iteration"
        held = f" · {seen.memory / 1e9:.1f} GB of memory" if seen.memory else ""
        text = f"Iteration {int(last['iteration'])} of {total} · {rate}{left}{held}"
        st.progress(min(1.0, last["iteration"] / total), text if step else "The first step …")


def _memory(record: RunRecord) -> int:
    """Return the painting process's memory in bytes; 0 if it has ended."""
    try:
        return psutil.Process(record.writer.pid).memory_info().rss if record.writer else 0
    except psutil.Error:
        return 0


def _pictures(run: Run, record: RunRecord, painted: Path | str, caption: str) -> None:
    """Show photo, paintings and the painted picture: a file, or a live picture from `_inline`."""
    with st.container(key="pictures"):  # on a narrow screen, dashboard/app.py puts the last column first
        content, style, result = st.columns(3)
    photo, paintings = inputs.photo(run, record), inputs.paintings(run, record)
    with content:
        _image(lambda: photo.jpeg(INPUT_SIDE), photo.what, "The photo")
    with style:
        several = len(paintings) > 1
        with st.grid(min_column_width=INPUT_WIDTH, gap="small", key="paintings") if several else st.container():
            for painting in paintings:
                _image(partial(painting.jpeg, INPUT_SIDE), painting.what, painting.name)
    with result:
        if isinstance(painted, Path):
            if painted.is_file():
                _image(lambda: _whole(painted), caption, caption)
            else:
                st.caption("The run ended before its first picture.")
        elif painted:
            _image(lambda: painted, caption, caption)
        else:
            st.skeleton(height=240)
            st.caption("The picture appears after the first step.")


def _image(
    read: Callable[[], bytes | str], caption: str, meaning: str, width: int | Literal["stretch"] = "stretch"
) -> None:
    try:
        st.image(read(), caption=caption, width=width, alt=meaning)
    except (OSError, ValueError, StudioError):
        st.caption(f"{caption}: the file is damaged.")


def _whole(picture: Path) -> bytes:
    """Read a picture file, up to the largest allowed size."""
    return paths.read(picture, 4 * codec.MAX_PIXELS)


def _inline(picture: Path) -> str:
    """Return a picture as a data URL. Streamlit serves a file only until the next refresh, too short for a slow one."""
    kind = "png" if picture.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(_whole(picture)).decode()}"


def _finished(run: Run, record: RunRecord) -> None:
    label, colour, icon = STATUSES[record.status]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(label, color=colour, icon=icon)
        if record.best_total is not None:
            st.markdown(f"loss **{record.best_total:.4g}** at iteration {record.best_iteration}")
        st.caption(_provenance(record))
    if record.status == "failed":
        st.error(plain(record.message))
    elif record.status == "interrupted":
        st.warning(plain(f"{record.message} The run is kept up to its last checkpoint and can continue."))
    with st.container(horizontal=True):
        if run.result.is_file():
            downloads.picture(run, record)
        actions.actions(run, record)
    painted = (run.result, "Painted") if run.result.is_file() else (run.live, "Painted last")
    _pictures(run, record, *painted)
    if differing := describe.differences(record):
        changed = " · ".join(f"{label}: {value}" for label, value, _ in differing)
        st.caption(f"Different from the preset: {plain(changed)}")
    _curves(run, record.unfinished)
    _frames(run)
    _timings(record)


def _provenance(record: RunRecord) -> str:
    """Describe how the run was made. The text is escaped, because an imported record may contain anything."""
    parts = [
        f"{record.shape[1]} × {record.shape[0]} · preset {record.preset}",
        record.precision,
        record.start and f"started from: {record.start}",
        record.weights and f"VGG19 weights: {record.weights}",
        record.style_targets and f"style targets: {record.style_targets}",
    ]
    return plain(" · ".join(filter(None, parts)))


def _frames(run: Run) -> None:
    frames = run.frames()
    if len(frames) > 1:
        st.header("Intermediate pictures", anchor=False)
        with st.container(horizontal=True, key="frames"):
            shown = np.linspace(0, len(frames) - 1, min(len(frames), STRIP)).round().astype(int)
            for iteration, path in (frames[place] for place in shown):
                _image(partial(_whole, path), f"{iteration}", f"After {iteration} iterations", 160)
        downloads.film(run)


def _timings(record: RunRecord) -> None:
    import pandas as pd

    seconds = describe.phase_seconds(record.timings)
    if not seconds:
        return
    st.header("Time per phase", anchor=False)
    drawing, table = st.columns([3, 2])
    with drawing:
        st.altair_chart(charts.phases(seconds), width="stretch", key="phases")
    with table:
        rows = seconds | {name: record.timings[name] for name in SUMS if name in record.timings}
        frame = pd.DataFrame({"phase": list(rows), "seconds": list(rows.values())})
        columns = {"seconds": st.column_config.NumberColumn(format="%.3f")}
        st.dataframe(frame, hide_index=True, column_config=columns, height="content")
