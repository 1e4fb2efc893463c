"""Show the runs of a batch side by side, with links to their comparison and report."""

import io
from collections.abc import Callable

import streamlit as st
from PIL import Image

from core.batches import plan, progress
from core.errors import StudioError
from core.jobs import schedule
from core.runs import evaluation, store
from core.runs.record import RunRecord
from core.runs.run import Run
from dashboard import auth
from dashboard.common import viewer
from dashboard.common.text import STATUSES, duration, plain
from dashboard.common.url_state import MOST_RUNS
from dashboard.run import downloads, view
from dashboard.run.evaluation import measure
from export import contact_sheet
from export.contact_sheet import Sheet

SIDE = 360  # px, of a picture in the table
REFRESH_SECONDS = 2.0
MEASURED_BY = "reference"  # the preset whose losses evaluate the runs in the report
# On a narrow screen the table keeps its rows and columns and scrolls sideways.
ROW = '[data-testid="stHorizontalBlock"]:has(> [data-testid="stColumn"])'
STYLE = f"""
[class*="st-key-sheet-"] {{ overflow-x: auto; }}
[class*="st-key-sheet-"] {ROW} {{ flex-wrap: nowrap; }}
[class*="st-key-sheet-"] [data-testid="stColumn"] {{ flex: 1 1 0; min-width: 0; max-width: 20rem; }}
[class*="st-key-sheet-"] [data-testid="stColumn"]:first-child {{ flex: 0 0 5rem; }}
"""
Found = list[tuple[Run, RunRecord]]


def link_from(run: Run) -> None:
    """Show a link from a run to its batch."""
    try:
        name = run.record().batch
    except StudioError:
        return
    if name and len(_of(name, auth.may_see())) > 1:
        there = {"batch": name}
        st.button("Whole batch", icon=":material/grid_on:", on_click=st.query_params.from_dict, args=(there,))


def show(name: str) -> None:
    """Show the runs of a batch in a table, which fills while they are painted."""
    found = _look(name)
    if not found:
        st.warning(f"There is no batch {plain(name)} here. Choose a run in the library.")
        return
    titles = {record.title for _, record in found}
    st.header(plain(titles.pop() if len(titles) == 1 else name), anchor=False)
    if any(record.unfinished for _, record in found):
        st.fragment(_live, run_every=REFRESH_SECONDS)(name)
    else:
        _offer_report(found)
        _table(found)


@st.cache_resource(ttl=10, max_entries=16, show_spinner=False)
def _of(name: str, owner: str | None) -> list[Run]:
    """Return the runs of a batch, oldest first. Cached for 10 seconds, because it searches all runs."""
    return [run for run, record in store.readable_runs(owner) if record.batch == name][::-1][: plan.MOST_RUNS]


def _look(name: str) -> Found:
    found = []
    for run in _of(name, auth.may_see()):
        try:
            found.append((run, run.record()))
        except StudioError:  # deleted meanwhile
            continue
    return found


def _live(name: str) -> None:
    found = _look(name)
    unfinished = [run for run, record in found if record.unfinished]
    if not unfinished:
        st.rerun()  # the whole page, which now offers comparison and report
    view.ensure_workers()
    over = len(found) - len(unfinished)
    seconds = _seconds_left(tuple(unfinished))
    left = f", about {duration(seconds)} left" if seconds else ""
    st.progress(over / len(found), f"{over} of {len(found)} runs have ended{left}")
    if st.button("Stop all", icon=":material/stop:", key="stop-batch"):
        progress.cancel_waiting(unfinished)
        _of.clear()
        st.rerun()
    _table(found)


@st.cache_resource(ttl=2 * REFRESH_SECONDS, max_entries=16, show_spinner=False)
def _seconds_left(unfinished: tuple[Run, ...]) -> float | None:
    return schedule.seconds_until_over(unfinished)


def _table(found: Found) -> None:
    records = [record for _, record in found]
    words = contact_sheet.captions(records)

    def cell(number: int) -> None:
        _cell(*found[number], words[number])

    tables = contact_sheet.sheets(records)
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
                _row(table, row, cell)


def _row(table: Sheet, row: str, cell: Callable[[int], None]) -> None:
    head, *places = st.columns(1 + len(table.columns))
    head.markdown(f"**{plain(row)}**")
    for here, column in zip(places, table.columns, strict=True):
        with here, st.container(gap="xsmall"):
            for number in table.at(row, column):
                cell(number)


def _width(place: int, table: Sheet) -> str:
    """Return CSS for the minimum width of a table's rows, which keeps its columns aligned."""
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
        # A button, because a Streamlit link to the same page does not change the browser's URL.
        if st.button("View", key=f"view-{run.id}", icon=":material/open_in_full:", type="tertiary"):
            st.query_params.from_dict({"run": run.id})
            st.rerun()


@st.cache_data(show_spinner=False, max_entries=64)
def _blank(shape: tuple[int, int]) -> bytes:
    """Return a placeholder for a picture that does not exist yet, so that the table does not jump."""
    height, width = (max(1, round(side * SIDE / max(shape))) for side in shape)
    png = io.BytesIO()
    Image.new("RGBA", (width, height), (128, 128, 128, 48)).save(png, "PNG")
    return png.getvalue()


def _offer_report(found: Found) -> None:
    """Offer the comparison and the report of the finished runs."""
    painted = [run for run, _ in found if run.result.is_file()]
    if not painted:
        return
    evaluations = evaluation.evaluations(painted, evaluation.settings_of(MEASURED_BY))
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(painted) > 1:
            st.page_link(
                "views/compare.py",
                label="Compare them" if len(painted) <= MOST_RUNS else f"Compare the first {MOST_RUNS}",
                icon=":material/compare:",
                query_params={"runs": ",".join(run.id for run in painted[:MOST_RUNS])},
            )
        downloads.report(painted, evaluations, f"the preset {MEASURED_BY}")
        missing = [run.id for run in painted if run.id not in evaluations]
        measured = bool(missing) and st.toggle(
            "Evaluate them for the report",
            key="measure-batch",
            help="With the losses of the preset reference, in float32: runs with different weights have no other "
            "common scale.",
        )
    if measured:
        measure(missing, MEASURED_BY)
