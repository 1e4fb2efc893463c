"""The queue: the waiting runs, their order, and when each should begin."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from core.errors import StudioError
from core.jobs import control, queue, schedule
from core.jobs.schedule import QueuePosition
from core.runs import library, store
from core.runs.run import Run
from dashboard import auth
from dashboard.common.text import duration, plain

REFRESH_SECONDS = 2.0


@st.cache_resource(ttl=REFRESH_SECONDS / 2, show_spinner=False)
def _queue() -> list[tuple[Run, QueuePosition]]:
    """Return the queue. Cached for all sessions, because the estimates need many runs' records."""
    return schedule.queue_positions()


@st.fragment(run_every=REFRESH_SECONDS)
def show() -> None:
    """Show the waiting runs with their buttons. People who see only their own runs see no titles of others."""
    found = _queue()
    if not found:
        return
    owner = auth.may_see()
    mine = [owner is None or store.is_of(run, owner) for run, _ in found]
    st.header("Waiting", anchor=False)
    for number, (run, waiting) in enumerate(found):
        title = f"**{plain(title_of(run))}**" if mine[number] else "Someone else's run"
        with st.container(horizontal=True, vertical_alignment="center", key=f"waiting-{waiting.place}"):
            st.markdown(f"{waiting.place}. {title}{_begins(waiting)}", width="stretch")
            if not mine[number]:
                continue
            if number and all(mine[:number]):
                _button("First", ":material/vertical_align_top:", run, queue.move, True)
            if number and mine[number - 1]:
                _button("Sooner", ":material/arrow_upward:", run, queue.move)
            _button("Cancel", ":material/close:", run, control.cancel)
    if refused := st.session_state.pop("queue-refused", ""):
        st.warning(plain(refused))


def of(run: Run) -> str:
    """Return a waiting run's position and expected start in words."""
    waiting = dict(_queue()).get(run)
    return f"Number {waiting.place} in the queue{_begins(waiting)}" if waiting else "Waiting in the queue …"


def _begins(waiting: QueuePosition) -> str:
    if waiting.seconds is None:
        return ""
    return f", begins in about {duration(waiting.seconds)}" if waiting.seconds else ", begins now"


def title_of(run: Run) -> str:
    """Return the run's title, or its ID if its record cannot be read."""
    try:
        return library.marks(run).title_of(run.record())
    except StudioError:
        return run.id


def _button(label: str, icon: str, run: Run, change: Callable[..., None], *more: Any) -> None:
    st.button(label, icon=icon, key=f"{label}-{run.id}", on_click=_change, args=(change, run, *more))


def _change(change: Callable[..., None], *what: Any) -> None:
    try:
        change(*what)
    except (StudioError, OSError) as error:  # such as a run that has begun meanwhile
        st.session_state["queue-refused"] = str(error)
    _queue.clear()
