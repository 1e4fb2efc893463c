"""One server at a time works on a store; a second one says so, and only shows what is there."""

import threading
from pathlib import Path

import streamlit as st
from filelock import FileLock, Timeout

from core import paths
from core.images import codec
from core.runs import library
from dashboard import auth
from dashboard.common.text import STATUSES, plain

SHOWN = 30  # runs, the newest
_held: dict[Path, FileLock] = {}  # by store, for as long as this process lives
_asking = threading.Lock()  # pages are opened in several threads


def another_server_runs() -> bool:
    """Whether another server works on the store; if none does, this one does from now on."""
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
        except OSError:  # a store that cannot be written: whoever wants to write is told why
            return False
        _held[home] = lock
        return False


def show_runs() -> None:
    """The newest runs, to look at."""
    st.title("Style Transfer Studio", anchor=False)
    st.warning(
        plain(f"Another server works on {paths.home()}: use its page. This one only shows the runs that are there.")
    )
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
