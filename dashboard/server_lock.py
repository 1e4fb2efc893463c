"""The lock that lets only one server work on a store; a second server only shows the runs."""

import threading
from pathlib import Path

import streamlit as st
from filelock import FileLock, Timeout

from core import paths
from core.images import codec
from core.runs import library
from dashboard import auth
from dashboard.common.text import STATUSES, plain

SHOWN = 30  # newest runs
_held: dict[Path, FileLock] = {}  # by store, until this process ends
_asking = threading.Lock()  # pages run in several threads


def another_server_runs() -> bool:
    """Return whether another server holds the store's lock; if none does, take it."""
    home = paths.home()
    with _asking:
        if home in _held:
            return False
        lock = FileLock(home / "server.lock")
        try:
            home.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # the store is read-only; an attempt to write shows the error
            return False
        _held[home] = lock
        return False


def show_runs() -> None:
    """Show the newest runs, without actions."""
    st.title("Style Transfer Studio", anchor=False)
    st.warning(plain(f"Another server works on {paths.home()}: use its page. This page only shows the runs."))
    st.button("Look again", icon=":material/refresh:")
    for entry in library.entries(auth.may_see())[:SHOWN]:
        label, colour, icon = STATUSES[entry.record.status]
        with st.container(horizontal=True, vertical_alignment="center"):
            if entry.run.result.is_file():
                try:
                    picture = paths.read(entry.run.result, 4 * codec.MAX_PIXELS)
                    st.image(picture, width=200, alt=plain(entry.title))
                except (OSError, ValueError):
                    st.caption("The file of the picture is damaged.")
            st.badge(label, color=colour, icon=icon)
            st.markdown(plain(entry.title))
