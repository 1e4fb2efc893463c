"""Notifications that a run has ended, on the page and from the browser."""

import streamlit as st

from dashboard.common.text import plain

# The browser asks for permission only after a click. The operating system shows the notification.
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
    """Offer a browser notification in addition to the page's own."""
    if st.toggle("Notify me when it is done", key="notify", help="With a browser notification, if you allow it."):
        _desktop_notice(data={"ask": True, "tell": ""}, key=f"notice-ask-{run_id}", height=1)


def tell(what: str, icon: str) -> None:
    """Notify the user that something has ended."""
    st.toast(plain(what), icon=icon, duration="long")
    if st.session_state.get("notify"):
        _desktop_notice(data={"ask": False, "tell": what}, key=f"notice-{what}", height=1)
