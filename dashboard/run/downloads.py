"""Downloads of a run: its picture in each format, its time-lapse, its report and the whole run."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from core import paths
from core.errors import StudioError
from core.images import codec, preprocessing
from core.runs import archive
from core.runs.evaluation import Evaluation
from core.runs.record import RunRecord, metadata
from core.runs.run import Run
from dashboard.common.text import plain

FORMATS = {  # label: suffix, media type
    "PNG": (".png", "image/png"),
    "JPEG": (".jpg", "image/jpeg"),
    "WebP": (".webp", "image/webp"),
    "TIFF, 16 bits": (".tif", "image/tiff"),
}
FILM_SIDE = 640  # px


def picture(run: Run, record: RunRecord) -> None:
    """Show download buttons for the picture in each format and for the whole run."""
    name = f"{record.content}-{record.style}"
    with st.popover("Download", icon=":material/download:", type="primary"):
        for label, (suffix, media_type) in FORMATS.items():
            st.download_button(
                f"Download {label}",
                partial(_encoded, run, suffix),
                file_name=name + suffix,
                mime=media_type,
                icon=":material/image:",
                width="stretch",
                on_click="ignore",
            )
        whole(run, "Download the run (ZIP)")


def whole(run: Run, label: str) -> None:
    """Show a download button for the run as a ZIP."""
    st.download_button(
        label,
        lambda: _zipped(run),
        file_name=f"{run.id}.zip",
        mime="application/zip",
        icon=":material/folder_zip:",
        key=f"zip-{run.id}",
        width="stretch",
        on_click="ignore",
        help="It contains the inputs, so that the run can be repeated elsewhere. The library imports it.",
    )


def report(
    found: Sequence[Run],
    evaluations: Mapping[str, Evaluation],
    measured_by: str,
    timings: Mapping[str, Sequence[Mapping[str, Any]]] = {},
) -> None:
    """Show a download button for a report of runs as one HTML page."""
    from export.report import page

    st.download_button(
        "Report (HTML)",
        lambda: page.html(found, evaluations, measured_by=measured_by, timings=timings),
        "report.html",
        "text/html",
        type="primary",
        icon=":material/description:",
        on_click="ignore",
    )


def film(run: Run) -> None:
    """Show the run as an animation, made on demand."""
    if not st.toggle("Time-lapse", key=f"film-{run.id}"):
        return
    try:
        data = _film(run)
    except (StudioError, OSError) as error:
        st.error(plain(str(error)))
        return
    st.image(data, width=FILM_SIDE, caption="From the start to the result", alt="Time-lapse of the run")
    st.download_button(
        "Download the time-lapse (WebP)", data, f"{run.id}.webp", "image/webp", icon=":material/movie:",
        on_click="ignore",
    )  # fmt: skip


def _encoded(run: Run, suffix: str) -> bytes:
    details = metadata(run.record())
    if suffix == ".png":
        return paths.read(run.result, 4 * codec.MAX_PIXELS)
    result = codec.read_exact(run.path / "result.npy")
    if suffix == ".tif":
        return codec.encode_tiff16(result, details)
    return codec.encode(preprocessing.to_uint8(result), suffix, details)


def _zipped(run: Run) -> bytes:
    packed = io.BytesIO()
    archive.export_run(run, packed)
    return packed.getvalue()


@st.cache_data(show_spinner="Making the time-lapse …", max_entries=4)
def _film(run: Run) -> bytes:
    from export import timelapse

    return timelapse.animate(run, FILM_SIDE)
