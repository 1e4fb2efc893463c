"""The login, and whose runs a person may see.

The login is on if Streamlit's secrets contain a block `[auth]` (docs/server.md, Login). The claims `iss` and
`sub` identify a person. Only these two are permanent by OpenID Connect; names and e-mail addresses may change hands.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import Error

from core import log
from core.errors import StudioError
from dashboard.common.text import plain

TITLE = "Style Transfer Studio"


def require_login() -> None:
    """Stop the page until the person has logged in, then show their name."""
    try:
        if _login() is None:
            return
        if not st.user.get("is_logged_in"):
            _ask_to_log_in()
        identity = owner()
    except StudioError as error:
        st.title(TITLE, anchor=False)
        st.error(plain(str(error)))
        st.stop()
    with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        st.caption(plain(str(st.user.get("name") or st.user.get("email") or identity)), width="content")
        st.button("Log out", type="tertiary", icon=":material/logout:", on_click=st.logout)


def owner() -> str:
    """Return the owner of this person's new runs; empty if the login is off."""
    if _login() is None:
        return ""
    issuer, subject = st.user.get("iss"), st.user.get("sub")
    if not (st.user.get("is_logged_in") and issuer and subject):
        raise StudioError("The login does not say who you are: its provider sends no claims iss and sub.")
    return f"{issuer} {subject}"


def may_see() -> str | None:
    """Return the owner whose runs this person may see, or `None` for all runs."""
    login = _login()
    return None if login is None or login.get("share_runs") is True else owner()


def _login() -> Mapping[str, Any] | None:
    """Return the login's settings, or `None` if the login is off. Settings that cannot be read close the page."""
    if st.secrets.load_if_toml_exists():
        return st.secrets.get("auth")
    if found := [path for path in st.get_option("secrets.files") if Path(path).exists()]:
        log.refused("login not set up", f"{found[0]} cannot be read")
        raise StudioError("The page is closed: its login settings cannot be read.")
    return None


def _ask_to_log_in() -> None:
    st.title(TITLE, anchor=False)
    st.button("Log in", type="primary", icon=":material/login:", on_click=_log_in)
    if st.session_state.pop("login-failed", False):
        st.error("The login is not set up correctly. The server's log says what is missing.")
    st.stop()


def _log_in() -> None:
    try:
        st.login()
    except Error as error:
        log.refused("login not set up", error)
        st.session_state["login-failed"] = True
