"""Actions for a finished run: continue it, start again from its result, or reuse its settings."""

import streamlit as st

from core.errors import StudioError
from core.jobs import schedule
from core.runs import library, recovery
from core.runs.record import RunRecord
from core.runs.run import Run
from dashboard.common.text import plain
from dashboard.compose import mask_picker, picture_picker, settings_form, style_picker


def actions(run: Run, record: RunRecord) -> None:
    """Show the buttons of the actions."""
    marked = library.marks(run)
    icon = ":material/star:" if marked.favourite else ":material/star_border:"
    st.button(
        "Favourite",
        icon=icon,
        help="Favourites are never offered for deletion.",
        on_click=_mark,
        args=(run, not marked.favourite),
    )
    if run.checkpoint.is_file() or recovery.starts_over(run, record):
        with st.popover("Continue", icon=":material/play_arrow:"):
            left = record.settings.iterations - (run.with_progress(record).iteration or 0)
            as_it_is = left > 0 or record.status == "interrupted"  # it must still write its result
            st.number_input(
                "More iterations", 0 if as_it_is else 1, 10_000, 0 if as_it_is else 50, 10, key=f"more-{run.id}"
            )
            if left > 0:
                st.caption(f"{left} of {record.settings.iterations} iterations are still to do.")
            st.button("Go on painting", type="primary", on_click=_resume, args=(run,))
    if run.result.is_file():
        st.button(
            "Start again from this",
            icon=":material/replay:",
            help="A new run of the same pair that starts from this result, with settings of your choice.",
            on_click=_again,
            args=(run, record),
        )
    st.button(
        "Same settings, other picture", icon=":material/content_copy:", on_click=_other_picture, args=(run, record)
    )
    if refused := st.session_state.pop("refused", ""):
        st.error(plain(refused))


def _mark(run: Run, favourite: bool) -> None:
    try:
        library.mark(run, favourite=favourite)
    except (StudioError, OSError) as error:  # such as a run that was deleted on another page
        st.session_state["refused"] = str(error)


def _resume(run: Run) -> None:
    try:
        recovery.resume(run, int(st.session_state[f"more-{run.id}"]))
        schedule.submit(run)
    except (StudioError, OSError) as error:
        st.session_state["refused"] = str(error)


def _again(run: Run, record: RunRecord) -> None:
    picture_picker.keep("photo", run.content, record.content)
    st.session_state["kept-start"] = (run.result, f"the result of {record.title}")
    _prefill(run, record, same_photo=True)


def _other_picture(run: Run, record: RunRecord) -> None:
    st.session_state.pop("own-photo", None)
    _prefill(run, record, same_photo=False)


def _prefill(run: Run, record: RunRecord, same_photo: bool) -> None:
    """Fill the form for a new run with this run's settings and paintings, and with its masks for the same photo."""
    style_picker.prefill(run, record, with_masks=same_photo)
    mask_picker.forget("photo")
    if same_photo and run.kept.is_file():
        mask_picker.keep("photo", run.kept)
    settings_form.prefill(record.preset, record.settings)
    st.session_state.composing = True
    st.query_params.clear()
