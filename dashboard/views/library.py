"""The library: a card for each run, to find, mark, compare, export, import and delete runs."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import streamlit as st
from PIL import ImageOps

from core.errors import StudioError
from core.images import codec
from core.presets import PRESETS
from core.runs import archive, library, styles
from core.runs.library import GIGABYTE, ORDERS, Entry, Marks
from core.runs.record import RunRecord, Status
from core.runs.run import Run
from core.settings import SETTINGS
from dashboard import auth
from dashboard.common.text import STATUSES, duration, plain, size
from dashboard.common.url_state import MOST_RUNS
from dashboard.run import downloads, inputs, queue
from dashboard.run.inputs import Input
from export import describe

PER_PAGE = 24
MOST_SETTINGS = 3  # on a card
THUMBNAIL, INSET, FRAME = 480, 84, 8  # px
ORDER_NAMES = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "name": "By name",
    "loss": "Lowest loss first",
    "duration": "Shortest first",
    "size": "Largest first",
}


def page() -> None:
    """Show the search, the cards that it finds, and the storage."""
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title("Library", anchor=False, width="content")
        with st.container(horizontal=True, width="content"):
            _import()
    _undo()
    entries = library.entries(auth.may_see())
    _damaged(entries)
    if not entries:
        st.info("There are no runs yet. Runs from the page Stylize and from nst stylize appear here.")
        _deleted()
        return
    found = _search(entries)
    _storage(entries)
    _deleted()
    if not found:
        st.info("No run matches the search.")
        return
    pages = math.ceil(len(found) / PER_PAGE)
    place = st.container()
    number = st.pagination(pages, key="page", bind="query-params") if pages > 1 else 1
    with place:
        _cards(found[PER_PAGE * (number - 1) : PER_PAGE * number])
    _selection(entries)


def _search(entries: Sequence[Entry]) -> list[Entry]:
    """Let the user search; the URL keeps the search, so that it can be saved and sent."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = st.text_input(
            "Search", key="words", bind="query-params", placeholder="names, notes, presets …", width=280
        )
        statuses = st.multiselect("Status", get_args(Status), key="status", bind="query-params", width=240)
        presets = st.multiselect("Preset", list(PRESETS), key="preset-is", bind="query-params", width=220)
        order = st.selectbox(
            "Order", ORDERS, format_func=ORDER_NAMES.__getitem__, key="order", bind="query-params", width=190
        )
        favourites = st.toggle("Favourites", key="favourites", bind="query-params")
    found = library.select(entries, words or "", statuses, presets, favourites, order)
    all_of_them = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
    st.caption(f"{len(found)} of {all_of_them}" if len(found) < len(entries) else all_of_them)
    return found


def _cards(entries: Sequence[Entry]) -> None:
    with st.grid(min_column_width=280, gap="medium", key="cards"):
        for entry in entries:
            with st.container(border=True, key=f"card-{entry.run.id}", height="stretch"):
                _card(entry)


def _card(entry: Entry) -> None:
    run, record = entry.run, entry.run.with_progress(entry.record)
    if picture := _card_picture(run, record):
        st.image(picture, width="stretch", alt=f"{entry.title}, {record.status}")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        star = "★ " if entry.marks.favourite else ""
        st.markdown(f"**{star}{plain(entry.title)}**", width="stretch")
        label, colour, icon = STATUSES[record.status]
        st.badge(label, color=colour, icon=icon)
    facts = [plain(record.preset), f"{record.shape[1]} × {record.shape[0]}"]
    if record.best_total is not None:
        facts.append(f"loss {record.best_total:.3g}")
    if "total" in record.timings:
        facts.append(duration(record.timings["total"]))
    st.caption(" · ".join([*facts, f"{record.created.astimezone():%d %b %Y %H:%M}"]))
    if described := _describe(run, record):
        st.caption(plain(described))
    if entry.marks.note:
        st.caption(plain(entry.marks.note))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        address = {"run": run.id}
        st.page_link("views/stylize.py", label="View", icon=":material/open_in_full:", query_params=address)
        # Set the tick only if Streamlit has forgotten it: setting it at each rerun may undo the user's next click.
        st.session_state.setdefault(f"tick-{run.id}", run.id in _chosen())
        st.checkbox(
            "Compare", key=f"tick-{run.id}", disabled=not run.result.is_file(), on_change=_choose, args=(run.id,)
        )
        with st.popover("", icon=":material/more_vert:", help=f"More for {plain(entry.title)}", key=f"more-{run.id}"):
            _more(entry)


def _describe(run: Run, record: RunRecord) -> str:
    """Return the settings that differ from the preset, without the size, which the card shows; and the masks."""
    left_out = {SETTINGS[name].label for name in ("size", "frame_every", "memory")}
    differing = [(label, value) for label, value, _ in describe.differences(record) if label not in left_out]
    shown = [f"{label} {value}" for label, value in differing[:MOST_SETTINGS]]
    more = [f"and {len(differing) - MOST_SETTINGS} more"] if len(differing) > MOST_SETTINGS else []
    where = styles.describe_regions(run, record)
    return " · ".join([*shown, *more, *([where] if where != styles.EVERYWHERE else [])])


def _more(entry: Entry) -> None:
    run = entry.run
    asking: dict[str, dict[str, Any]] = {
        name: {"key": f"{name}-{run.id}", "on_change": _mark, "args": (run, name)} for name in Marks.model_fields
    }
    for name in Marks.model_fields:  # another page may have changed the marks
        st.session_state[f"{name}-{run.id}"] = getattr(entry.marks, name)
    st.text_input("Name", max_chars=120, placeholder=entry.record.title, **asking["name"])
    st.text_area("Note", max_chars=4000, **asking["note"])
    st.toggle("Favourite", **asking["favourite"])
    downloads.whole(run, "Export (ZIP)")
    if entry.record.unfinished:
        st.caption("This run has not ended: stop it before you delete it.")
    elif st.button("Delete …", key=f"delete-{run.id}", icon=":material/delete:", width="stretch"):
        _confirm([entry])


def _mark(run: Run, name: str) -> None:
    try:
        library.mark(run, **{name: st.session_state[f"{name}-{run.id}"]})
    except (StudioError, OSError) as error:
        st.session_state["refused"] = str(error)


@st.dialog("Delete?", icon=":material/delete:")
def _confirm(entries: Sequence[Entry]) -> None:
    for entry in entries[:8]:
        st.markdown(f"- {plain(entry.title)}, {entry.record.created.astimezone():%d %b %Y %H:%M}")
    if len(entries) > 8:
        st.markdown(f"- and {len(entries) - 8} more")
    deleted = "it" if len(entries) == 1 else "them"
    st.caption(f"{size(sum(entry.size for entry in entries))}. You can restore {deleted} for 24 hours.")
    if st.button("Delete", type="primary", icon=":material/delete:", key="confirmed"):
        _delete([entry.run for entry in entries])
        st.rerun()


def _undo() -> None:
    if refused := st.session_state.pop("refused", ""):
        st.error(plain(refused))
    if deleted := st.session_state.get("deleted"):
        with st.container(horizontal=True, vertical_alignment="center", border=True):
            st.markdown("One run is deleted." if len(deleted) == 1 else f"{len(deleted)} runs are deleted.")
            st.button("Undo", icon=":material/undo:", on_click=_restore, args=(deleted,))
            st.button("Dismiss", icon=":material/close:", on_click=st.session_state.pop, args=("deleted",))


def _damaged(entries: Sequence[Entry]) -> None:
    """Offer runs with a damaged record for deletion. They have no owner, so only people who see all runs see them."""
    if auth.may_see() is not None:
        return
    for run, why in library.damaged(entries):
        with st.container(horizontal=True, vertical_alignment="center", key=f"damaged-{run.id}"):
            st.warning(plain(why))
            st.button("Delete", key=f"delete-{run.id}", icon=":material/delete:", on_click=_delete, args=([run],))


def _delete(runs: Sequence[Run]) -> None:
    gone = []
    for run in runs:
        try:
            library.delete(run)
            gone.append(run)
        except StudioError as error:
            st.session_state["refused"] = str(error)
    st.session_state["deleted"] = gone


def _deleted() -> None:
    """Offer the deleted runs that can still be restored, also those deleted on another page."""
    if not (found := library.deleted(auth.may_see())):
        return
    with st.expander(f"Deleted in the last 24 hours: {len(found)}", icon=":material/delete_history:"):
        for run in found:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button("Restore", key=f"restore-{run.id}", icon=":material/undo:", on_click=_restore, args=([run],))
                st.markdown(plain(f"{queue.title_of(run)}, {size(library.size(run))}"))


def _restore(deleted: Sequence[Run]) -> None:
    st.session_state.pop("deleted", None)
    for run in deleted:
        try:
            library.restore(run)
        except StudioError as error:
            st.session_state["refused"] = str(error)


def _import() -> None:
    with st.popover("Import a run", icon=":material/upload:"):
        packed = st.file_uploader("A run that the library exported", ["zip"], key="import")
        if packed and st.session_state.get("imported") != packed.file_id:
            if (refused := st.session_state.get("not-imported")) and refused[0] == packed.file_id:
                st.error(plain(refused[1]))  # refused before
                return
            try:
                run = archive.import_run(packed.getvalue(), packed.name, auth.owner())
            except StudioError as error:
                st.session_state["not-imported"] = packed.file_id, str(error)
                st.error(plain(str(error)))
                return
            st.session_state["imported"] = packed.file_id
            st.toast(f"Imported as {plain(run.id)}", icon=":material/check_circle:")


def _storage(entries: Sequence[Entry]) -> None:
    held, quota = sum(entry.size for entry in entries), library.quota()
    offered = library.beyond_quota(entries, quota)
    with st.expander(
        f"{size(held)} of {quota.gigabytes:g} GB used", icon=":material/database:", expanded=bool(offered)
    ):
        st.progress(min(1.0, held / (quota.gigabytes * GIGABYTE)))
        st.session_state["quota"] = quota.gigabytes
        st.number_input(
            "Limit of the store (GB)", 0.1, 1e5, step=1.0, key="quota", on_change=_set_quota,
            help="Above it, you can delete the oldest runs without name, note or star. Nothing is deleted unasked.",
        )  # fmt: skip
        if offered:
            freed = size(sum(entry.size for entry in offered))
            st.warning(f"The store is over its limit. The {len(offered)} oldest unmarked runs take {freed}.")
            if st.button(f"Review them and delete {freed} …", icon=":material/delete_sweep:"):
                _confirm(offered)


def _set_quota() -> None:
    library.set_quota(st.session_state["quota"])


def _chosen() -> list[str]:
    """Return the ticked runs, kept apart from the ticks: Streamlit forgets those of hidden cards."""
    chosen: list[str] = st.session_state.setdefault("chosen", [])
    return chosen


def _choose(name: str) -> None:
    others = [other for other in _chosen() if other != name]
    st.session_state["chosen"] = [*others, name] if st.session_state[f"tick-{name}"] else others


def _selection(entries: Sequence[Entry]) -> None:
    """Offer to compare the ticked runs of all pages of the library."""
    here = {entry.run.id for entry in entries}
    ticked = [name for name in _chosen() if name in here]
    if not ticked:
        return
    with st.bottom, st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"{len(ticked)} chosen" + ("" if 2 <= len(ticked) <= MOST_RUNS else " (choose two to six)"))
        st.page_link(
            "views/compare.py",
            label="Compare them",
            icon=":material/compare:",
            disabled=not 2 <= len(ticked) <= MOST_RUNS,
            query_params={"runs": ",".join(ticked)},
        )


def _card_picture(run: Run, record: RunRecord) -> bytes | None:
    """Return a run's picture with its inputs in the corner, or `None` if no picture can be read."""
    for path in (run.result, run.live, run.content):
        try:
            given = () if path == run.content else (inputs.photo(run, record), *inputs.paintings(run, record))
            return _drawn(path, path.stat().st_mtime, given)
        except (OSError, StudioError):
            continue
    return None


@st.cache_data(show_spinner=False, max_entries=2000)
def _drawn(path: Path, changed: float, given: Sequence[Input]) -> bytes:
    picture = ImageOps.contain(codec.shrunk(path, THUMBNAIL), (THUMBNAIL, THUMBNAIL))
    place = FRAME
    side = min(INSET, picture.width // max(1, len(given)) - 2 * FRAME)
    for each in given:
        with contextlib.suppress(OSError, StudioError):  # leave out a damaged picture
            inset = ImageOps.contain(each.drawn(side), (side, side))
            framed = ImageOps.expand(inset, FRAME // 2, "white")
            picture.paste(framed, (place, picture.height - framed.height - FRAME))
            place += framed.width + FRAME
    return codec.encode_jpeg(np.asarray(picture), quality=80)


page()
