"""A choice that is kept in the page's URL: it can be saved and sent, and the back button undoes it."""

from collections.abc import Callable, Sequence

import streamlit as st

MOST_RUNS = 6  # in one comparison


def choose(
    label: str,
    options: Sequence[str],
    format_func: Callable[[str], str],
    name: str,
    most: int,
    first: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Let the user choose options, by default `first`.

    Returns the chosen options, and the names in the URL that are no options.
    """
    asked = list(dict.fromkeys(part for part in st.query_params.get(name, "").split(",") if part))
    wanted = asked or list(first)
    if st.session_state.get(f"address-{name}") != wanted:  # the URL differs from the one that this page wrote
        st.session_state[f"address-{name}"] = wanted
        st.session_state[f"choice-{name}"] = [part for part in wanted if part in options][:most]
    key = f"choice-{name}"
    st.session_state[key] = [part for part in st.session_state[key] if part in options]
    chosen = st.multiselect(label, options, format_func=format_func, max_selections=most, key=key)
    if chosen != wanted:
        st.session_state[f"address-{name}"] = chosen or list(first)
        st.query_params[name] = ",".join(chosen)
    return chosen, [part for part in asked if part not in options]
