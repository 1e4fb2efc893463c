"""A sweep: the same pictures with several values of one or two settings, and what becomes of them in a table."""

from __future__ import annotations

import dataclasses
import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import streamlit as st
from PIL import Image

from core import batch, images, jobs, log, pace, runs, yardstick
from core.errors import InputError, StudioError
from core.runs import Run, RunRecord
from core.series import Manner
from core.settings import KNOBS, Knob, TransferSettings
from dashboard import measuring, viewer, visitor, watch
from dashboard.address import MOST_RUNS
from dashboard.gallery import Picture
from dashboard.paintings import Chosen
from dashboard.wording import STATUSES, duration, plain

if TYPE_CHECKING:
    from export.sheet import Sheet

MOST_VALUES = 6  # of a setting: more make a table that no screen shows
SETTINGS = ("Setting", "And another")
FIRST = "style_weight"  # what is offered at first
OFFERED = [name for name, knob in KNOBS.items() if knob.type is not tuple and knob.shapes_result]
SIDE = 360  # px, of a picture in the table
REFRESH_SECONDS = 2.0
YARDSTICK = "reference"  # whose losses the report measures by

# The table keeps its rows and columns on a narrow screen, and is moved sideways there.
ROW = '[data-testid="stHorizontalBlock"]:has(> [data-testid="stColumn"])'
STYLE = f"""
[class*="st-key-sheet-"] {{ overflow-x: auto; }}
[class*="st-key-sheet-"] {ROW} {{ flex-wrap: nowrap; }}
[class*="st-key-sheet-"] [data-testid="stColumn"] {{ flex: 1 1 0; min-width: 0; max-width: 20rem; }}
[class*="st-key-sheet-"] [data-testid="stColumn"]:first-child {{ flex: 0 0 5rem; }}
"""

Found = list[tuple[Run, RunRecord]]


# --- asking for one -------------------------------------------------------------------------------------------------


def offer(photo: Picture, styles: Chosen, settings: TransferSettings, manner: Callable[[], Manner]) -> str | None:
    """Let the user try several values; the name of the batch once its runs wait in the queue.

    `manner` makes what all its runs have in common but for the settings.
    """
    with st.expander("Try several values", icon=":material/grid_on:"):
        st.caption("The same pictures with each combination of the values, side by side in a table.")
        wanted: dict[str, list[Any]] = {}
        try:
            for place, label in enumerate(SETTINGS):
                if name := _choose_setting(place, label, [*wanted]):
                    wanted[name] = _choose_values(place, KNOBS[name], getattr(settings, name))
            chosen = [settings.changed(**changes) for changes in batch.combinations(wanted)] if wanted else []
            for each in chosen:
                runs.check_side(photo.image.size, each, photo.name)
                runs.check_styles([painting.image.size for painting in styles.pictures], each, styles.name)
        except InputError as error:
            st.error(plain(str(error)))
            chosen = []
        if chosen:
            st.caption(f"{len(chosen)} runs: {_time_needed(photo, chosen)}")
        how_many = f"all {len(chosen)}" if len(chosen) > 1 else "them"
        asked = st.button(
            f"Paint {how_many}", icon=":material/grid_on:", width="stretch", disabled=len(chosen) < 2, key="sweep"
        )
        return _enter(photo, chosen, manner) if asked else None


def _choose_setting(place: int, label: str, taken: Sequence[str]) -> str | None:
    first = OFFERED.index(FIRST) if place == 0 else None
    return st.selectbox(
        label,
        [name for name in OFFERED if name not in taken],
        first,
        format_func=lambda name: KNOBS[name].label,
        placeholder="None",
        key=f"sweep-setting-{place}",
    )


def _choose_values(place: int, knob: Knob, now: Any) -> list[Any]:
    """Raises `InputError` where they cannot be."""
    label = f"Values of {knob.label}" + (f" ({knob.unit})" if knob.unit else "")
    key = f"sweep-values-{place}-{knob.name}"
    if knob.choices:
        return list(st.multiselect(label, knob.choices, knob.choices, key=key, help=knob.meaning))
    text = st.text_input(label, around(knob, now), key=key, help=f"{knob.meaning} Up to {MOST_VALUES}, with commas.")
    values = batch.values_of(knob.name, (text or "").split(","))
    if len(values) > MOST_VALUES:
        raise InputError(
            f"{knob.label} has {len(values)} values: give {MOST_VALUES} at most here; nst batch takes more."
        )
    return values


def around(knob: Knob, now: float) -> str:
    """Values to begin with: what is set, and less and more of it as far as there is."""
    low, high = knob.minimum or 0, knob.maximum or float("inf")
    step = 2 if knob.type is int or high <= 10 else 10
    tried = [now / step, now, now * step] if now else [0, 1]
    if high <= 1:
        tried = [now / 2, now, (1 + now) / 2]
    values = [knob.type(value) for value in tried if low <= value <= high]
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in dict.fromkeys(values))


def _time_needed(photo: Picture, chosen: Sequence[TransferSettings]) -> str:
    if jobs.cluster_address():
        return "how long they take on the cluster cannot be told"
    known = pace.Known()
    shapes = [images.resized_shape(photo.image.width, photo.image.height, each.size) for each in chosen]
    seconds = [pace.expected_seconds(each, shape, known=known) for each, shape in zip(chosen, shapes, strict=True)]
    if any(each is None for each in seconds):
        return "their time is known once this machine is measured"
    return f"about {duration(sum(filter(None, seconds)) / len(jobs.easels()))}"


def _enter(photo: Picture, chosen: Sequence[TransferSettings], manner: Callable[[], Manner]) -> str | None:
    """Queue a run of each; `None` where that fails (they are told why)."""
    name = f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    made: list[Run] = []
    try:
        with st.spinner("Getting the runs ready …"):
            common = manner()
            for each in chosen:
                of_each = dataclasses.replace(common, settings=each)
                made.append(of_each.new_run(photo.image, photo.name, visitor.owner(), name))
            jobs.submit(*made)
    except (StudioError, OSError) as error:
        batch.leave_off(made)
        log.refused("sweep refused", error)
        st.error(plain(str(error)))
        return None
    return name


# --- looking at one -------------------------------------------------------------------------------------------------


def link_from(run: Run) -> None:
    """From a run to the batch that it was begun for."""
    try:
        name = run.record().batch
    except StudioError:
        return
    if name and len(_of(name, visitor.sees())) > 1:
        there = {"batch": name}
        st.button("Whole batch", icon=":material/grid_on:", on_click=st.query_params.from_dict, args=(there,))


def show(name: str) -> None:
    """The runs of a batch in a table, which fills while they are painted."""
    found = _look(name)
    if not found:
        st.warning(f"There is no batch {plain(name)} here; the library shows the runs that are.")
        return
    titles = {record.title for _, record in found}
    st.header(plain(titles.pop() if len(titles) == 1 else name), anchor=False)
    if any(record.unfinished for _, record in found):
        st.fragment(_live, run_every=REFRESH_SECONDS)(name)
    else:
        _afterwards(found)
        _table(found)


@st.cache_resource(ttl=10, max_entries=16, show_spinner=False)
def _of(name: str, owner: str | None) -> list[Run]:
    """The runs of a batch in the order in which they were begun: found among all runs now and then."""
    return [run for run, record in runs.readable_runs(owner) if record.batch == name][::-1][: batch.MOST_RUNS]


def _look(name: str) -> Found:
    found = []
    for run in _of(name, visitor.sees()):
        try:
            found.append((run, run.record()))
        except StudioError:  # deleted meanwhile
            continue
    return found


def _live(name: str) -> None:
    found = _look(name)
    unfinished = [run for run, record in found if record.unfinished]
    if not unfinished:
        st.rerun()  # the whole page: there is more to be done with it now
    watch.see_to_queue()
    over = len(found) - len(unfinished)
    seconds = _seconds_left(tuple(unfinished))
    left = f", about {duration(seconds)} left" if seconds else ""
    st.progress(over / len(found), f"{over} of {len(found)} are painted{left}")
    if st.button("Stop them all", icon=":material/stop:", key="stop-batch"):
        batch.leave_off(unfinished)
        _of.clear()
        st.rerun()
    _table(found)


@st.cache_resource(ttl=2 * REFRESH_SECONDS, max_entries=16, show_spinner=False)
def _seconds_left(unfinished: tuple[Run, ...]) -> float | None:
    return jobs.seconds_until_over(unfinished)


def _table(found: Found) -> None:
    from export import sheet

    records = [record for _, record in found]
    words = sheet.captions(records)

    def cell(number: int) -> None:
        _cell(*found[number], words[number])

    tables = sheet.sheets(records)
    st.html(f"<style>{STYLE}{''.join(map(_width, range(len(tables)), tables))}</style>")
    if not tables:
        with st.grid(min_column_width=200, key="sheet-grid"):
            for number in range(len(found)):
                with st.container(gap="xsmall"):
                    cell(number)
    for place, table in enumerate(tables):
        if table.title:
            st.subheader(plain(table.title), anchor=False)
        with st.container(key=f"sheet-{place}"):
            corner, *heads = st.columns(1 + len(table.columns))
            corner.caption(f"{plain(table.row)} ↓  \n{plain(table.column)} →")
            for head, column in zip(heads, table.columns, strict=True):
                head.markdown(f"**{plain(column)}**")
            for row in table.rows:
                head, *places = st.columns(1 + len(table.columns))
                head.markdown(f"**{plain(row)}**")
                for here, column in zip(places, table.columns, strict=True):
                    with here, st.container(gap="xsmall"):
                        for number in table.at(row, column):
                            cell(number)


def _width(place: int, table: Sheet) -> str:
    """The least width of a table's rows, so that their columns stay under one another."""
    return f".st-key-sheet-{place} {ROW} {{ min-width: {6 + 9 * len(table.columns)}rem; }}"


def _cell(run: Run, record: RunRecord, words: str) -> None:
    path = run.live if record.unfinished and run.live.is_file() else run.result
    picture = viewer.jpeg(path, SIDE) or viewer.jpeg(run.live, SIDE)
    label, colour, icon = STATUSES[record.status]
    st.image(picture or _blank(record.shape), width="stretch", alt=f"{record.title}, {words}: {label}")
    st.caption(plain(words))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if record.status != "done":
            st.badge(label, color=colour, icon=icon)
        # No link: Streamlit follows one to the same page, and leaves the browser's address as it was.
        if st.button("View", key=f"view-{run.id}", icon=":material/open_in_full:", type="tertiary"):
            st.query_params.from_dict({"run": run.id})
            st.rerun()


@st.cache_data(show_spinner=False, max_entries=64)
def _blank(shape: tuple[int, int]) -> bytes:
    """In the place of a picture that is still to come, so that the table keeps its lines."""
    height, width = (max(1, round(side * SIDE / max(shape))) for side in shape)
    png = io.BytesIO()
    Image.new("RGBA", (width, height), (128, 128, 128, 48)).save(png, "PNG")
    return png.getvalue()


def _afterwards(found: Found) -> None:
    """The comparison and the report of what was painted."""
    from export import report

    painted = [run for run, _ in found if run.result.is_file()]
    if not painted:
        return
    by = yardstick.settings_of(YARDSTICK)
    readings = yardstick.readings(painted, by)
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(painted) > 1:
            st.page_link(
                "views/compare.py",
                label="Compare them" if len(painted) <= MOST_RUNS else f"Compare the first {MOST_RUNS}",
                icon=":material/compare:",
                query_params={"runs": ",".join(run.id for run in painted[:MOST_RUNS])},
            )
        st.download_button(
            "Report (HTML)",
            lambda: _report(report, painted, readings),
            "report.html",
            "text/html",
            type="primary",
            icon=":material/description:",
            on_click="ignore",
        )
        missing = [run.id for run in painted if run.id not in readings]
        measured = bool(missing) and st.toggle(
            "Measure them for the report",
            key="measure-batch",
            help="By the losses of the preset reference, in float32: runs of different weights compare by them alone.",
        )
    if measured:
        measuring.measure(missing, YARDSTICK)


def _report(report: Any, painted: Sequence[Run], readings: Mapping[str, Any]) -> str:
    return str(report.html(painted, readings, yardstick=f"the preset {YARDSTICK}"))
