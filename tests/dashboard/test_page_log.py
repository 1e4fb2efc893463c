"""The log of the pages: each event once, however often a page reruns."""

import pytest

from core.runs import library, store


@pytest.fixture
def told(told, monkeypatch):
    monkeypatch.setenv("NST_LOG", "json")
    return told


def events(told):
    """Return each event with its run or reason."""
    return [(each["event"], each.get("run") or each.get("reason")) for each in told.facts()]


def test_a_refused_picture_is_logged_once(visit, told):
    page = visit("stylize")
    page.file_uploader(key="upload-photo").set_value(("cat.png", b"private", "image/png")).run()
    page.run()
    assert [event for event, _ in events(told)] == ["picture refused"]
    page.file_uploader(key="upload-photo").set_value(("dog.png", b"private", "image/png")).run()
    ((event, reason),) = events(told)
    assert event == "picture refused" and "dog.png" in reason and "private" not in reason


def test_a_refused_import_is_logged_once(visit, told, kept):
    page = visit("library")
    page.file_uploader(key="import").set_value(("x.zip", b"private", "application/zip")).run()
    page.run()
    assert page.error[0].value
    assert events(told) == [("import refused", "x.zip is not a ZIP file, or is damaged.")]


def test_queueing_and_withdrawing_a_run_are_logged(visit, told):
    page = visit("stylize")
    next(button for button in page.button if button.label == "Start").click().run()
    (run,) = store.all_runs()
    next(button for button in page.button if button.label == "Stop").click().run()
    assert events(told) == [("run queued", run.id), ("run withdrawn", run.id)]


def test_an_error_on_a_page_is_logged_with_its_traceback(visit, told, monkeypatch):
    def broken(owner):
        raise ZeroDivisionError("no paint")

    monkeypatch.setattr(library, "entries", broken)
    with pytest.raises(AssertionError):
        visit("library")
    (event,) = told.facts()
    assert (event["event"], event["page"], event["reason"]) == (
        "page failed", "Library", "ZeroDivisionError: no paint",
    )  # fmt: skip
    assert "in broken" in event["traceback"]
