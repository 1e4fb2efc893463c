"""Who looks at the page, where people log in, and whose runs they see.

Login is on where Streamlit finds a block `[auth]` among its secrets (README.md, On a shared host). A person is known by
the claims `iss` and `sub`, the only ones that OpenID Connect calls lasting: a name or an address may change hands.
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
    """Let nobody further who is to log in and has not, and show who has."""
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
    """Whose the runs are that this person starts; empty where nobody logs in."""
    if _login() is None:
        return ""
    issuer, subject = st.user.get("iss"), st.user.get("sub")
    if not (st.user.get("is_logged_in") and issuer and subject):
        raise StudioError("The login does not say who you are: its provider gives no claims iss and sub.")
    return f"{issuer} {subject}"


def may_see() -> str | None:
    """Whose runs this person sees; `None` for everyone's."""
    login = _login()
    return None if login is None or login.get("share_runs") is True else owner()


def _login() -> Mapping[str, Any] | None:
    """The settings of the login; `None` where there is none. Settings that cannot be read open no door."""
    if st.secrets.load_if_toml_exists():
        return st.secrets.get("auth")
    if found := [path for path in st.get_option("secrets.files") if Path(path).exists()]:
        log.refused("login not set up", f"{found[0]} cannot be read")
        raise StudioError("The page is closed: the settings of its login cannot be read.")
    return None


def _ask_to_log_in() -> None:
    st.title(TITLE, anchor=False)
    st.button("Log in", type="primary", icon=":material/login:", on_click=_log_in)
    if st.session_state.pop("login-failed", False):
        st.error("The login is not set up as it should be; the log of the page says what is missing.")
    st.stop()


def _log_in() -> None:
    try:
        st.login()
    except Error as error:
        log.refused("login not set up", error)
        st.session_state["login-failed"] = True
