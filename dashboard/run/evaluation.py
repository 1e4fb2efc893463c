"""Results that have not been measured by a yardstick yet: a process of their own does so, watched from the page."""

from collections.abc import Sequence

import streamlit as st

from core.errors import StudioError
from dashboard import auth, background_jobs
from dashboard.common.text import plain

POLL_SECONDS = 1.0


def measure(missing: Sequence[str], by: str) -> None:
    """Have these runs measured by the losses of that preset or run, and show how far that is."""
    wanted = ["compare", *missing, "--by", by]
    command = background_jobs.status("yardstick")
    if command and command.is_running():
        _wait(command.arguments == wanted or auth.may_see() is None)
    elif command and command.arguments == wanted:
        st.error(plain(command.last_line()))
        st.button("Try again", icon=":material/refresh:", on_click=_start, args=wanted)
    else:
        try:
            _start(*wanted)
        except (StudioError, OSError) as error:
            st.error(plain(str(error)))
            return
        _wait(True)


def _start(*wanted: str) -> None:
    background_jobs.start("yardstick", *wanted)


@st.fragment(run_every=POLL_SECONDS)
def _wait(these: bool) -> None:
    """Until the measuring is over, of these runs or of others, whose names may not be for everyone."""
    command = background_jobs.status("yardstick")
    if not command or not command.is_running():
        st.rerun()
    said = plain(command.last_line() or "starting …") if these else "other runs are measured first"
    st.status(f"Measuring: {said}", type="compact")
