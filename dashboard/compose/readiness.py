"""The preparation that the first start needs, with its progress."""

import streamlit as st

from core.jobs import workers
from dashboard.common.text import plain


def show() -> None:
    """Start the preparation if it is missing and show its progress; show nothing if all is ready."""
    state = workers.readiness()
    if not (state and state.ready):
        _progress()


@st.fragment(run_every=0.5)
def _progress() -> None:
    state = workers.readiness()
    if state is None:
        st.status("Getting ready: starting …", type="compact")
        _start_now_and_then()
    elif state.failed:
        st.error(plain(state.message))
        st.button("Try again", icon=":material/refresh:", on_click=workers.start_worker)
    elif state.ready:
        st.rerun()
    else:
        under_way = st.status(f"Getting ready: {state.message}", type="compact")  # a with block would complete it
        under_way.caption(
            "This happens once: the network's weights are downloaded, exported to ONNX and checked. You can already "
            "choose pictures and press Start."
        )


@st.cache_data(ttl=10, show_spinner=False)
def _start_now_and_then() -> None:
    """Start a worker, at most every 10 seconds: a new worker needs a moment to report, a dead one is replaced."""
    workers.start_worker()
