"""The page Stylize without a browser: choices, refusals, the preview and the worker."""

import subprocess
import sys
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from core import paths, presets, settings
from core.errors import StudioError
from core.images import codec, geometry
from core.jobs import queue, workers
from core.machine.processes import ProcessId
from core.runs import store
from core.runs.recorder import Recorder
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.transfer import preview
from dashboard.compose.preview import _opened

CHECKOUT = Path(__file__).resolve().parent.parent.parent
APP = CHECKOUT / "dashboard" / "app.py"
DEFAULT = presets.DEFAULT_PRESET


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """Count the workers instead of starting them: a real one would load TensorFlow."""
    calls = []
    monkeypatch.setattr(workers, "start_worker", lambda: calls.append("worker"))
    return calls


@pytest.fixture
def ready(own_home, home):
    """Make a home with a finished preparation and the sample styles."""
    (own_home / "cache").mkdir(parents=True)
    (home / "cache" / "samples").mkdir(parents=True, exist_ok=True)
    (own_home / "cache" / "samples").symlink_to(home / "cache" / "samples")
    says(message="Ready.", ready=True)


def says(writer=None, **readiness):
    """Write a worker's state for the page; by default this process is the worker."""
    said = workers.Readiness(writer=writer or ProcessId.this_process(), **readiness)
    with paths.replacing(paths.home() / "worker.json") as file:
        file.write(said.model_dump_json().encode())


NOBODY = ProcessId(pid=2**22 + 1)


def open_page(**query):
    page = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def new_run(iterations=30, size=64):
    content, style = (codec.read_image(group[0].path()) for group in (PHOTOS, STYLES))
    settings = presets.choose("draft", size=size, iterations=iterations)
    return store.create(RunSpec([Style("waves", style)], settings, "draft"), content, "me")


def button(page, label):
    return next(button for button in page.button if button.label == label)


def texts(page):
    return " ".join(element.value for element in [*page.markdown, *page.caption, *page.error, *page.warning])


def test_opens_ready_to_start(ready):
    page = open_page()
    assert not button(page, "Start").disabled
    assert page.title[0].value == "Style Transfer Studio"
    assert {sample.title for sample in PHOTOS + STYLES} <= {each.label for each in page.button}


def widgets(page):
    """Return the settings' widgets by key."""
    return {widget.key: widget for widget in [*page.number_input, *page.multiselect, *page.selectbox, *page.slider]}


def keys_of(name, preset):
    """Return the keys of a setting's widgets: one, or one for each of several layers, or none beside the paintings."""
    each_of = settings.SETTINGS[name].each_of
    if each_of == "styles":
        return []
    if each_of:
        layers = getattr(presets.PRESETS[preset].settings(), each_of)
        return [f"{preset}-{name}-{layer}" for layer in layers] if len(layers) > 1 else []
    return [f"{preset}-{name}"]


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_a_preset_brings_its_settings(ready, preset):
    page = open_page()
    if preset != DEFAULT:
        page.button_group(key="preset").set_value(preset).run()
    shown = widgets(page)
    for name, value in presets.PRESETS[preset].settings().model_dump().items():
        if settings.SETTINGS[name].each_of:
            assert value == () and {shown[key].value for key in keys_of(name, preset)} <= {1.0}
            continue
        shown_value = shown[f"{preset}-{name}"].value
        assert (tuple(shown_value) if isinstance(value, tuple) else shown_value) == value, name
    assert presets.PRESETS[preset].purpose in texts(page)


def test_a_changed_setting_stays_with_its_preset(ready):
    page = open_page()
    page.selectbox(key=f"{DEFAULT}-optimizer").set_value("adam").run()
    page.number_input(key=f"{DEFAULT}-size").set_value(320).run()
    assert "320 × 320 pixels" in texts(page)
    page.button_group(key="preset").set_value("draft").run()
    assert page.selectbox(key="draft-optimizer").value == "l-bfgs"
    assert "256 × 256 pixels, 20 iterations" in texts(page)


def test_every_setting_has_a_widget(ready):
    page = open_page()
    assert set(widgets(page)) >= {key for name in settings.SETTINGS for key in keys_of(name, DEFAULT)}


def test_an_unfinished_preparation_is_not_shown_as_done(ready):
    says(message="Loading TensorFlow …")
    shown = open_page().get("status")
    assert [(each.label, each.icon) for each in shown] == [("Getting ready: Loading TensorFlow …", "spinner")]


def test_a_setting_of_words_is_chosen_from_a_list(ready):
    page = open_page()
    words = {name: setting for name, setting in settings.SETTINGS.items() if setting.choices}
    boxes = [box for box in page.selectbox if not box.key.startswith("sweep-")]
    assert {box.key: tuple(box.options) for box in boxes} == {
        f"{DEFAULT}-{name}": setting.choices for name, setting in words.items()
    }
    assert {box.label for box in boxes} == {setting.label for setting in words.values()}


def test_a_run_gets_the_chosen_settings(ready, started):
    page = open_page()
    chosen = {"init": "content", "precision": "float32", "optimizer": "adam", "size": 128, "iterations": 40}
    for name, value in chosen.items():
        widgets(page)[f"{DEFAULT}-{name}"].set_value(value).run()
    button(page, "Start").click().run()
    assert not page.exception
    (run,) = store.all_runs()
    record = run.record()
    assert (record.preset, record.settings) == (DEFAULT, presets.choose(DEFAULT, **chosen))
    assert queue.next_queued() == run and started == ["worker"]
    assert button(page, "Stop")


def test_settings_that_do_not_fit_are_refused_in_a_sentence(ready):
    page = open_page()
    page.multiselect(key=f"{DEFAULT}-style_layers").set_value([]).run()
    assert not page.exception
    assert "style\\_layers" in page.error[0].value
    assert button(page, "Start").disabled


def test_a_sample_is_chosen(ready):
    page = open_page()
    page.button(key="choose-coffee").click().run()
    assert page.session_state["sample-photo"] == "coffee"


def test_an_upload_that_is_no_picture_is_refused(ready):
    page = open_page()
    page.file_uploader(key="upload-photo").set_value(("cat.png", b"not a picture", "image/png")).run()
    assert not page.exception
    assert "cat\\.png" in page.error[0].value
    assert button(page, "Start").disabled


def test_an_own_picture_can_be_used(ready):
    page = open_page()
    data = codec.encode(geometry.resize(codec.read_image(PHOTOS[0].path()), 100), ".png")
    page.file_uploader(key="upload-photo").set_value(("me.png", data, "image/png")).run()
    assert not page.exception and not page.error
    assert not button(page, "Start").disabled


def test_the_camera_can_be_opened(ready):
    page = open_page()
    page.toggle(key="camera").set_value(True).run()
    assert not page.exception and not page.error


def test_a_narrow_picture_is_refused_when_started(ready):
    page = open_page()
    strip = codec.encode(geometry.resize(codec.read_image(PHOTOS[0].path()).resize((1200, 40)), 1200), ".png")
    page.file_uploader(key="upload-photo").set_value(("strip.png", strip, "image/png")).run()
    button(page, "Start").click().run()
    assert not page.exception
    assert "strip" in page.error[0].value
    assert not store.all_runs()


def test_the_expected_time_is_unknown_before_a_measurement(ready):
    run = new_run()
    with pytest.raises(StudioError), Recorder(run):
        raise StudioError("unmeasured")
    assert "once this machine is measured" in texts(open_page())


def test_an_unfinished_run_is_found_again(ready):
    run = new_run()
    page = open_page()
    assert page.query_params["run"] in (run.id, [run.id])
    assert button(page, "Stop")


def test_stop_ends_a_waiting_run_at_once(ready, monkeypatch):
    run = new_run()
    (paths.home() / "queue").mkdir(parents=True)
    (paths.home() / "queue" / run.id).touch()
    page = open_page(run=run.id)
    button(page, "Stop").click().run()
    assert run.record().status == "stopped"


def test_a_failed_run_says_why(ready):
    run = new_run()
    with pytest.raises(StudioError), Recorder(run):
        raise StudioError("The paint ran out.")
    page = open_page(run=run.id)
    assert "The paint ran out" in page.error[0].value
    assert "ended before its first picture" in texts(page) and "appears after the first step" not in texts(page)


def test_a_run_whose_process_died_is_shown_as_interrupted(ready):
    run = new_run()
    Recorder(run).update(status="running", writer=NOBODY)
    page = open_page(run=run.id)
    assert "is gone" in page.warning[0].value


def test_an_unknown_run_is_reported_and_the_form_is_shown(ready):
    page = open_page(run="../../etc")
    assert "no run" in page.warning[0].value
    assert button(page, "Start")


def test_new_picture_leaves_an_unfinished_run(ready):
    new_run()
    page = open_page()
    button(page, "New picture").click().run()
    assert not page.exception
    assert button(page, "Start")


def test_a_failed_preparation_is_reported_and_can_be_tried_again(own_home):
    says(message="No weights can be had.", failed=True)
    page = open_page()
    assert "No weights can be had" in page.error[0].value
    assert button(page, "Try again")


# The instant preview


def previews(page):
    """Return the URLs of the previews; each picture has its own."""
    return [image.value[0] for image in page.image if image.captions[0].startswith("Instant preview")]


def test_the_two_default_pictures_are_previewed(ready, network):
    page = open_page()
    assert len(previews(page)) == 1
    assert "no instant preview" not in texts(page)
    assert previews(open_page()) == previews(page)  # deterministic


def test_the_preview_follows_the_pictures_not_the_settings(ready, network):
    page = open_page()
    seen = previews(page)
    for sample in ("coffee", "glass"):
        page.button(key=f"choose-{sample}").click().run()
        seen += previews(page)
    assert len(set(seen)) == 3
    page.button_group(key="preset").set_value("draft").run()
    page.multiselect(key="draft-style_layers").set_value([]).run()
    assert button(page, "Start").disabled
    assert previews(page) == seen[-1:]


def test_an_own_picture_is_previewed(ready, network):
    page = open_page()
    before = previews(page)
    data = codec.encode(geometry.resize(codec.read_image(PHOTOS[2].path()), 101), ".png")
    page.file_uploader(key="upload-photo").set_value(("me.png", data, "image/png")).run()
    assert len(previews(page)) == 1 and previews(page) != before


def test_a_small_photo_is_previewed_with_a_style_that_is_not_square(ready, network):
    """Start accepts this pair, so the preview must not ask for a larger size: the preview has no such setting."""
    page = open_page()
    data = codec.encode(geometry.resize(codec.read_image(PHOTOS[0].path()), 40), ".png")
    page.file_uploader(key="upload-photo").set_value(("me.png", data, "image/png")).run()
    assert not button(page, "Start").disabled
    assert "choose a larger size" not in texts(page)
    assert len(previews(page)) == 1


def test_without_two_pictures_there_is_no_preview(ready, network):
    page = open_page()
    page.file_uploader(key="upload-style").set_value(("cat.png", b"not a picture", "image/png")).run()
    assert not page.exception
    assert previews(page) == []


def test_a_photo_too_narrow_for_a_preview_is_reported(ready, network):
    strip = codec.encode(geometry.resize(codec.read_image(PHOTOS[0].path()).resize((1200, 40)), 1200), ".png")
    page = open_page()
    page.file_uploader(key="upload-photo").set_value(("[b] strip.png", strip, "image/png")).run()
    assert not page.exception
    assert previews(page) == []
    assert r"\[b\] strip would be only" in texts(page)


@pytest.fixture
def no_models(ready, monkeypatch, tmp_path):
    """Provide a machine without downloaded models, and clear the page's cache."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "checkout")
    _opened.clear()
    yield paths.home() / "models"
    _opened.clear()


def test_the_page_says_how_to_get_a_missing_network(no_models):
    page = open_page()
    assert previews(page) == []
    assert "There is no instant preview yet" in texts(page) and "nst preview" in texts(page)
    assert not button(page, "Start").disabled
    assert not no_models.exists()  # looking at the page fetches nothing


def test_a_damaged_network_counts_as_missing(no_models):
    no_models.mkdir(parents=True)
    for name in preview.SHA256:
        (no_models / name).write_bytes(b"half of it")
    assert "There is no instant preview yet" in texts(open_page())


def test_a_new_network_is_used_without_a_restart(no_models, network):
    page = open_page()
    assert previews(page) == []
    no_models.mkdir(parents=True)
    for name in preview.SHA256:
        (no_models / name).symlink_to(CHECKOUT / "models" / name)
    page.run()
    assert len(previews(page)) == 1
    assert "no instant preview" not in texts(page)


OPEN = """
import sys
from streamlit.testing.v1 import AppTest
from core.jobs import workers
workers.start_worker = lambda: None
page = AppTest.from_file(sys.argv[1], default_timeout=120).run()
print(len(page.exception), [image.captions[0] for image in page.image if image.captions[0]])
print({"tensorflow", "keras", "tf2onnx", "torch"} & set(sys.modules))
"""


def test_the_page_that_shows_a_preview_has_not_loaded_tensorflow(ready, network):
    done = subprocess.run([sys.executable, "-c", OPEN, str(APP)], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    opened, loaded = done.stdout.splitlines()
    assert opened.startswith("0 ['Instant preview")
    assert loaded == "set()"


# The worker that the page keeps warm


@pytest.fixture
def nothing_cached():
    """Clear what the page cached in another test."""
    st.cache_data.clear()


def test_opening_the_page_starts_a_worker_if_none_is_alive(ready, started, nothing_cached):
    says(message="Ready.", ready=True, writer=NOBODY)
    page = open_page()
    assert started == ["worker"]
    page.run()
    open_page()
    assert started == ["worker"]  # the first one needs a moment to report
    assert not button(page, "Start").disabled


def test_opening_the_page_starts_no_second_worker(ready, started, nothing_cached):
    open_page()
    assert started == []


def test_watching_a_run_starts_no_worker(ready, started, nothing_cached):
    says(message="Ready.", ready=True, writer=NOBODY)
    run = new_run()
    with pytest.raises(StudioError), Recorder(run):
        raise StudioError("The paint ran out.")
    open_page(run=run.id)
    assert started == []
