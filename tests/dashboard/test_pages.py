"""The page's logic, without a browser: what is shown, chosen and refused."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import images, jobs, paths, runs, samples, settings
from core.errors import StudioError
from core.runs import Recorder, Writer

APP = Path(__file__).resolve().parent.parent.parent / "dashboard" / "app.py"


@pytest.fixture
def ready(own_home, home):
    """A home in which the preparation has been done, the sample styles too."""
    (own_home / "cache").mkdir(parents=True)
    (home / "cache" / "samples").mkdir(parents=True, exist_ok=True)
    (own_home / "cache" / "samples").symlink_to(home / "cache" / "samples")
    said = jobs.Readiness(message="Ready.", ready=True, writer=Writer.this_process())
    with paths.replacing(paths.home() / "worker.json") as file:
        file.write(said.model_dump_json().encode())


def open_page(**query):
    page = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def new_run(iterations=30, size=64):
    content, style = (images.read_image(group[0].path()) for group in (samples.PHOTOS, samples.STYLES))
    return runs.create(
        content, style, settings.choose("draft", size=size, iterations=iterations), "draft", "me", "waves"
    )


def button(page, label):
    return next(button for button in page.button if button.label == label)


def texts(page):
    return " ".join(element.value for element in [*page.markdown, *page.caption, *page.error, *page.warning])


def test_opens_ready_to_start(ready):
    page = open_page()
    assert not button(page, "Start").disabled
    assert page.title[0].value == "Style Transfer Studio"
    assert {sample.title for sample in samples.PHOTOS + samples.STYLES} <= {each.label for each in page.button}


def test_a_preset_brings_its_settings(ready):
    page = open_page()
    assert page.number_input(key="draft-size").value == settings.PRESETS["draft"].settings().size
    page.button_group(key="preset").set_value("reference").run()
    assert page.number_input(key="reference-size").value == 512
    assert page.number_input(key="reference-iterations").value == 1000


def test_every_setting_has_a_widget(ready):
    page = open_page()
    keys = {widget.key for widget in [*page.number_input, *page.multiselect]}
    assert {f"draft-{name}" for name in settings.KNOBS} <= keys


def test_settings_that_do_not_fit_are_refused_in_a_sentence(ready):
    page = open_page()
    page.multiselect(key="draft-style_layers").set_value([]).run()
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
    data = images.encode_png(images.resize(images.read_image(samples.PHOTOS[0].path()), 100))
    page.file_uploader(key="upload-photo").set_value(("me.png", data, "image/png")).run()
    assert not page.exception and not page.error
    assert not button(page, "Start").disabled


def test_a_narrow_picture_is_refused_when_started(ready):
    page = open_page()
    strip = images.encode_png(images.resize(images.read_image(samples.PHOTOS[0].path()).resize((1200, 40)), 1200))
    page.file_uploader(key="upload-photo").set_value(("strip.png", strip, "image/png")).run()
    button(page, "Start").click().run()
    assert not page.exception
    assert "strip" in page.error[0].value
    assert not runs.all_runs()


def test_the_expected_time_stands_beside_start_once_measured(ready):
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
    assert "ended before there was a picture" in texts(page) and "appears with the first step" not in texts(page)


def test_a_run_whose_process_died_is_shown_as_interrupted(ready):
    run = new_run()
    Recorder(run).update(status="running", writer=Writer(pid=2**22 + 1, started=0.0))
    page = open_page(run=run.id)
    assert "is gone" in page.warning[0].value


def test_an_unknown_run_is_told_and_the_page_goes_on(ready):
    page = open_page(run="../../etc")
    assert "no run" in page.warning[0].value
    assert button(page, "Start")


def test_new_picture_leaves_a_run_that_is_under_way(ready):
    new_run()
    page = open_page()
    button(page, "New picture").click().run()
    assert not page.exception
    assert button(page, "Start")


def test_a_failed_preparation_is_told_and_can_be_tried_again(own_home):
    said = jobs.Readiness(message="No weights can be had.", failed=True, writer=Writer.this_process())
    with paths.replacing(paths.home() / "worker.json") as file:
        file.write(said.model_dump_json().encode())
    page = open_page()
    assert "No weights can be had" in page.error[0].value
    assert button(page, "Try again")
