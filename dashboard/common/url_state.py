"""A choice that stands in the page's address: it can be kept and sent, and the back button undoes it."""

from collections.abc import Callable, Sequence

import streamlit as st

MOST_RUNS = 6  # that are compared


def choose(
    label: str,
    options: Sequence[str],
    format_func: Callable[[str], str],
    name: str,
    most: int,
    first: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Let the user choose among the options, by default `first`. What the address asks for and is none comes second."""
    asked = list(dict.fromkeys(part for part in st.query_params.get(name, "").split(",") if part))
    wanted = asked or list(first)
    if st.session_state.get(f"address-{name}") != wanted:  # another address than this page last wrote
        st.session_state[f"address-{name}"] = wanted
        st.session_state[f"choice-{name}"] = [part for part in wanted if part in options][:most]
    key = f"choice-{name}"
    st.session_state[key] = [part for part in st.session_state[key] if part in options]
    chosen = st.multiselect(label, options, format_func=format_func, max_selections=most, key=key)
    if chosen != wanted:
        st.session_state[f"address-{name}"] = chosen or list(first)
        st.query_params[name] = ",".join(chosen)
    return chosen, [part for part in asked if part not in options]
