"""What the first start has to do before anything can be painted, with its progress."""

import streamlit as st

from core import jobs


def show() -> None:
    """Start the preparation where it has not been done, and show how far it is; nothing once all is ready."""
    said = jobs.readiness()
    if said and said.ready:
        return
    if said is None and not st.session_state.get("preparing"):
        _start()
    _progress()


@st.fragment(run_every=0.5)
def _progress() -> None:
    said = jobs.readiness()
    if said is None:
        st.status("Getting ready: starting …", type="compact")
    elif said.failed:
        st.error(said.message)
        st.button("Try again", icon=":material/refresh:", on_click=_start)
    elif said.ready:
        st.rerun()
    else:
        st.status(f"Getting ready: {said.message}", type="compact")
        st.caption(
            "This happens once: the network's weights are fetched, exported to ONNX and checked. You can choose "
            "pictures and press Start meanwhile."
        )


def _start() -> None:
    st.session_state.preparing = True
    jobs.start_worker()
