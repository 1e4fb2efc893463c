"""A notice when a run is over, also to who looks elsewhere meanwhile."""

import streamlit as st

from dashboard.common.text import plain

# The browser asks for the permission itself, and only after a click; what it says is shown by the system.
_desktop_notice = st.components.v2.component(
    "desktop_notice",
    js="""
export default function ({ data }) {
  if (!("Notification" in window)) return;
  if (data.ask && Notification.permission === "default") Notification.requestPermission();
  if (data.tell && Notification.permission === "granted" && document.hidden) new Notification(data.tell);
}
""",
)


def offer(run_id: str) -> None:
    """Let the user ask for a notice of the system beside the page's own."""
    if st.toggle("Tell me when it is done", key="notify", help="By a notice of your browser, if you allow it."):
        _desktop_notice(data={"ask": True, "tell": ""}, key=f"notice-ask-{run_id}", height=1)


def tell(what: str, icon: str) -> None:
    """Say that something is over."""
    st.toast(plain(what), icon=icon, duration="long")
    if st.session_state.get("notify"):
        _desktop_notice(data={"ask": False, "tell": what}, key=f"notice-{what}", height=1)
