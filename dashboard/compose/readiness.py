"""What the first start has to do before anything can be painted, with its progress."""

import streamlit as st

from core.jobs import workers
from dashboard.common.text import plain


def show() -> None:
    """Start the preparation where it has not been done, and show how far it is; nothing once all is ready."""
    said = workers.readiness()
    if not (said and said.ready):
        _progress()


@st.fragment(run_every=0.5)
def _progress() -> None:
    said = workers.readiness()
    if said is None:
        st.status("Getting ready: starting …", type="compact")
        _start_now_and_then()
    elif said.failed:
        st.error(plain(said.message))
        st.button("Try again", icon=":material/refresh:", on_click=workers.start_worker)
    elif said.ready:
        st.rerun()
    else:
        under_way = st.status(f"Getting ready: {said.message}", type="compact")  # as a context it would end as done
        under_way.caption(
            "This happens once: the network's weights are fetched, exported to ONNX and checked. You can choose "
            "pictures and press Start meanwhile."
        )


@st.cache_data(ttl=10, show_spinner=False)
def _start_now_and_then() -> None:
    """A worker that is starting needs a moment until it is heard; one that died is replaced."""
    workers.start_worker()
