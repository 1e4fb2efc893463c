"""Evaluate results in a background process and show its progress."""

from collections.abc import Sequence

import streamlit as st

from core.errors import StudioError
from dashboard import auth, background_jobs
from dashboard.common.text import plain

POLL_SECONDS = 1.0


def measure(missing: Sequence[str], by: str) -> None:
    """Evaluate runs with the losses of a preset or run, and show the progress."""
    wanted = ["compare", *missing, "--by", by]
    command = background_jobs.status("yardstick")
    if command and command.is_running():
        _wait(command.arguments == wanted or auth.may_see() is None)
        return
    failed = command if command and command.arguments == wanted else None
    if failed:
        st.error(plain(failed.last_line()))
        if not st.button("Try again", icon=":material/refresh:"):
            return
    try:
        background_jobs.start("yardstick", *wanted)
    except (StudioError, OSError) as error:  # such as an evaluation that another session has just started
        st.error(plain(str(error)))
        return
    if failed:
        st.rerun()  # without the error
    _wait(True)


@st.fragment(run_every=POLL_SECONDS)
def _wait(these: bool) -> None:
    """Show the progress until the evaluation ends. Hide it for other runs, whose names this person may not see."""
    command = background_jobs.status("yardstick")
    if not command or not command.is_running():
        st.rerun()
    progress = plain(command.last_line() or "starting …") if these else "other runs come first"
    st.status(f"Evaluating: {progress}", type="compact")
