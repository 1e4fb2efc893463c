"""The main page: the form for a new run, or a run or batch while it is painted and afterwards."""

from pathlib import Path

import streamlit as st
from PIL import Image

from core import log
from core.errors import StudioError
from core.images import codec, geometry, sandbox
from core.jobs import eta, schedule, workers
from core.runs import store
from core.runs.run import Run
from core.runs.spec import RunSpec
from core.settings import TransferSettings
from dashboard import auth
from dashboard.common.text import duration, plain
from dashboard.compose import mask_picker, picture_picker, preview, readiness, settings_form, style_picker, sweep
from dashboard.compose.picture_picker import Picture
from dashboard.compose.style_picker import ChosenStyles
from dashboard.run import batch, queue, view


def page() -> None:
    """Show the chosen run or batch, an unfinished run, or the form for a new run."""
    run = _run_to_show()
    name = None if run else st.query_params.get("batch")
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title("Style Transfer Studio", anchor=False, width="content")
        if run or name:
            with st.container(horizontal=True, width="content"):
                if run:
                    batch.link_from(run)
                st.button("New picture", icon=":material/add:", on_click=_compose)
    if run:
        view.show(run)
    elif name:
        batch.show(name)
    else:
        _new_picture()


def _run_to_show() -> Run | None:
    """Return the run in the URL; without a run or batch there, an unfinished run of this person."""
    if run_id := st.query_params.get("run"):
        try:
            return store.find(run_id, auth.may_see())
        except StudioError:
            st.warning(f"There is no run {plain(run_id)} here. Choose one in the library.")
            return None
    if st.session_state.get("composing") or "batch" in st.query_params:
        return None
    for run, record in store.readable_runs(auth.owner() or None):
        if record.unfinished:
            st.query_params["run"] = run.id
            return run
    return None


def _compose() -> None:
    st.session_state.composing = True
    st.query_params.clear()
    for source in ("own-photo", "kept-photo", "kept-start"):
        st.session_state.pop(source, None)
    mask_picker.forget("photo")
    style_picker.forget()


def _new_picture() -> None:
    st.markdown("Choose a photo and a painting: the photo is painted in the style of the painting.")
    readiness.show()
    photo_column, painting_column, settings_column = st.columns([4, 4, 3], gap="large")
    with photo_column:
        picture_picker.heading("Photo")
        content, photo_room = picture_picker.choose("photo"), st.container()
        kept = mask_picker.choose(
            "photo", "Leave a part of the photo as it is", "The part that you mark is not painted.", content
        )
    with painting_column:
        styles, rooms = style_picker.choose(content)
    with settings_column:
        picture_picker.heading("Settings")
        preset = settings_form.choose_preset()
        settings = settings_form.choose_settings(preset, styles.weights if styles else ())
        start = _given_start()
        _start(content, styles, kept, preset, settings, start)
        if content and styles and not start:
            preview.show(content, styles)
    for place, room in {"photo": photo_room, **rooms}.items():
        with room:
            picture_picker.offer_samples(place)
    queue.show()
    _keep_warm()


@st.cache_data(ttl=30, show_spinner=False)
def _keep_warm() -> None:
    """Load a worker while the user still chooses; ask at most every 30 seconds, because loading takes a while."""
    workers.ensure_warm_worker()


def _given_start() -> tuple[Path, str] | None:
    """Return the earlier result to start from and its description."""
    kept: tuple[Path, str] | None = st.session_state.get("kept-start")
    if kept and not kept[0].is_file():
        st.session_state.pop("kept-start")
        st.warning(f"The picture to start from, {plain(kept[1])}, no longer exists.")
        return None
    if kept:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.image(str(kept[0]), width=96, alt=kept[1])
            st.caption(f"Starts from {plain(kept[1])}")
            st.button("Do not use it", icon=":material/close:", on_click=st.session_state.pop, args=("kept-start",))
    return kept


def _start(
    content: Picture | None,
    styles: ChosenStyles | None,
    kept: Image.Image | None,
    preset: str,
    settings: TransferSettings | None,
    start: tuple[Path, str] | None,
) -> None:
    ready = content and styles and settings
    started = st.button("Start", type="primary", icon=":material/brush:", width="stretch", disabled=not ready)
    if not (content and styles and settings):
        return
    shape = geometry.resized_shape(content.image.width, content.image.height, settings.size)
    expected = eta.expected_seconds(settings, shape)
    time_needed = f"about {duration(expected)}" if expected else "its time is known once this machine is measured"
    st.caption(f"{shape[1]} × {shape[0]} pixels, {settings.iterations} iterations: {time_needed}")

    def spec() -> RunSpec:
        """Make the run's spec. Raises `StudioError` if the picture to start from cannot be read."""
        picture, name = (sandbox.read(start[0], max_bytes=4 * codec.MAX_PIXELS), start[1]) if start else (None, "")
        return RunSpec(styles.styles, settings, preset, kept, picture, name)

    if started:
        try:
            run = store.create(spec(), content.image, content.name, auth.owner())
            schedule.submit(run)
        except (StudioError, OSError) as error:
            log.refused("run refused", error)
            st.error(plain(str(error)))
            return
        st.session_state.composing = False
        st.query_params["run"] = run.id
        st.rerun()
    if name := sweep.offer(content, styles, settings, spec):
        st.session_state.composing = False
        st.query_params["batch"] = name
        st.rerun()


page()
