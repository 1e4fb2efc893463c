"""The page Library: find, mark, delete, restore, import and choose runs."""

import io
import json
import struct

import pytest

from core import paths
from core.errors import StudioError
from core.machine.processes import ProcessId
from core.runs import archive, library
from core.runs.recorder import Recorder
from core.runs.run import Run
from core.settings import SETTINGS
from dashboard.common.text import plain


def button(page, label):
    return next(button for button in page.button if button.label.startswith(label))


def texts(page):
    return " ".join(
        element.value for element in [*page.markdown, *page.caption, *page.error, *page.warning, *page.info]
    )


def cards(page):
    """Return the IDs of the runs shown, in their order."""
    return [box.key.removeprefix("tick-") for box in page.checkbox]


def ids(*found):
    return [run.id for run in found]


def test_an_empty_library_says_where_runs_come_from(visit):
    page = visit("library")
    assert "no runs yet" in page.info[0].value and not page.checkbox


def test_each_run_has_a_card_newest_first(visit, kept):
    page = visit("library")
    assert cards(page) == ids(kept.stopped, kept.steered, kept.done)
    assert "**coffee × glass**" in texts(page) and "3 runs" in texts(page)
    record = kept.done.record()
    assert f"draft · 64 × 48 · loss {record.best_total:.3g}" in texts(page)
    links = [(link.label, link.proto.query_string) for link in page.get("page_link") if link.label == "View"]
    assert links == [("View", f"run={run}") for run in cards(page)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"words": "WAVES script"}, ["steered"]),
        ({"words": "no such words"}, []),
        ({"status": "stopped"}, ["stopped"]),
        ({"preset-is": "reference"}, ["steered"]),
        ({"order": "Oldest first"}, ["done", "steered", "stopped"]),
        ({"order": "By name", "preset-is": "draft"}, ["stopped", "done"]),
        ({"favourites": "true"}, ["done"]),
        ({"status": "nonsense", "order": "nonsense", "page": "-7"}, ["stopped", "steered", "done"]),
    ],
)
def test_the_url_holds_the_search(visit, kept, query, found):
    library.mark(kept.done, favourite=True)
    page = visit("library", **query)
    assert cards(page) == [getattr(kept, name).id for name in found]
    assert ("No run matches the search" in texts(page)) == (not found)


def test_a_search_finds_its_runs(visit, kept):
    page = visit("library")
    page.text_input(key="words").set_value("glass").run()
    page.selectbox(key="order").set_value("size").run()
    assert cards(page) == [kept.done.id] and "1 of 3 runs" in texts(page)


def test_a_run_gets_a_name_a_note_and_a_star(visit, kept):
    page = visit("library")
    page.text_input(key=f"name-{kept.done.id}").set_value("My [first]").run()
    page.text_area(key=f"note-{kept.done.id}").set_value("too *green*").run()
    page.toggle(key=f"favourite-{kept.done.id}").set_value(True).run()
    assert library.marks(kept.done) == library.Marks(name="My [first]", note="too *green*", favourite=True)
    assert r"**★ My \[first\]**" in texts(page) and r"too \*green\*" in texts(page)


def test_marks_from_another_page_are_shown_and_kept(visit, kept):
    page = visit("library")
    library.mark(kept.done, name="Named elsewhere", favourite=True)
    library.set_quota(5)
    page.run()
    assert library.marks(kept.done).name == "Named elsewhere" and library.marks(kept.done).favourite
    assert library.quota().gigabytes == 5
    assert page.text_input(key=f"name-{kept.done.id}").value == "Named elsewhere"


def test_a_deleted_run_cannot_be_marked(visit, kept):
    page = visit("library")
    library.delete(kept.done)
    page.text_input(key=f"name-{kept.done.id}").set_value("late").run()
    assert not page.exception and "no longer exists" in texts(page)


def deleted(page, run):
    """Delete a run in the dialog, which AppTest can only open and answer in one step."""
    page.button(key=f"delete-{run.id}").click().run()
    assert run.path.exists() and plain(run.record().title) in texts(page)
    page.button(key=f"delete-{run.id}").click()
    page.button(key="confirmed").click().run()
    assert not page.exception


def test_another_page_can_restore_a_deleted_run(visit, kept):
    page = visit("library")
    for run in (kept.done, kept.steered):
        deleted(page, run)
    later = visit("library")
    assert cards(later) == ids(kept.stopped)
    later.button(key=f"restore-{kept.done.id}").click().run()
    assert not later.exception and cards(later) == ids(kept.stopped, kept.done)
    assert [each.id for each in library.deleted()] == ids(kept.steered)


def test_deleting_is_confirmed_and_undone(visit, kept):
    page = visit("library")
    deleted(page, kept.done)
    assert cards(page) == ids(kept.stopped, kept.steered) and "One run is deleted" in texts(page)
    button(page, "Undo").click().run()
    assert cards(page) == ids(kept.stopped, kept.steered, kept.done) and "deleted" not in texts(page)


def test_the_only_run_can_be_deleted_and_restored(visit, kept):
    for run in (kept.steered, kept.stopped):
        library.delete(run)
    page = visit("library")
    deleted(page, kept.done)
    assert not page.checkbox
    button(page, "Undo").click().run()
    assert cards(page) == ids(kept.done)


def test_an_unfinished_run_is_not_offered_for_deletion(visit, new_run):
    run = new_run()
    page = visit("library")
    assert "stop it before you delete it" in texts(page)
    assert not [each for each in page.button if each.key == f"delete-{run.id}"]
    assert page.checkbox[0].disabled  # it has no picture to compare


def test_a_run_that_begins_during_the_dialog_is_not_deleted(visit, kept):
    page = visit("library")
    page.button(key=f"delete-{kept.done.id}").click().run()
    page.button(key=f"delete-{kept.done.id}").click()
    page.button(key="confirmed").click()
    original = library.delete

    def begun_meanwhile(run):
        run.change(status="running", writer=ProcessId.this_process())
        original(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "delete", begun_meanwhile)
        page.run()
    assert "has not ended" in texts(page) and kept.done.path.exists()
    assert "deleted" not in texts(page)


def test_beyond_the_quota_the_oldest_unmarked_runs_are_offered(visit, kept):
    library.mark(kept.done, name="kept")
    (kept.stopped.path / "ballast.bin").write_bytes(b"0")
    with (kept.stopped.path / "ballast.bin").open("r+b") as file:
        file.truncate(100_000_000)  # sparse
    page = visit("library")
    assert "unmarked runs" not in texts(page)
    page.number_input(key="quota").set_value(0.1).run()
    assert library.quota().gigabytes == 0.1
    assert "The 2 oldest unmarked runs" in texts(page)
    button(page, "Review them").click().run()
    shown = [element.value for element in page.markdown if element.value.startswith("- ")]
    assert len(shown) == 2 and not any("coffee" in line for line in shown)


def packed(run):
    file = io.BytesIO()
    archive.export_run(run, file)
    return file.getvalue()


def test_a_run_is_imported_once(visit, kept):
    data = packed(kept.done)
    library.delete(kept.done)
    library.empty_trash(older_than=-1)
    page = visit("library")
    page.file_uploader(key="import").set_value(("run.zip", data, "application/zip")).run()
    assert not page.error and kept.done.id in cards(page)
    page.run()
    assert len(cards(page)) == 3


@pytest.mark.parametrize("name", ["run.zip", '"><img src=x>.zip'])
def test_an_import_that_is_no_run_is_refused_with_a_reason(visit, kept, name):
    page = visit("library")
    page.file_uploader(key="import").set_value((name, b"no zip", "application/zip")).run()
    assert page.error[0].value == plain(f"{name} is not a ZIP file, or is damaged.")
    assert len(cards(page)) == 3


DAMAGES = {
    "run.json": b"{",
    "marks.json": b"\xff",
    "metrics.csv": b"iteration\nx,y,z\n\xff\n",
    "result.png": b"no picture",
    "checkpoint.npz": b"nothing",
    "result.npy": b"",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_breaks_no_page(visit, kept, name):
    (kept.stopped.path / name).write_bytes(DAMAGES[name])
    (kept.steered.path / name).write_bytes(DAMAGES[name])
    if name == "metrics.csv":  # the page reads the metrics only of runs that did not end normally
        kept.stopped.change(status="failed", iteration=None)
    page = visit("library")
    assert kept.done.id in cards(page)
    assert (kept.stopped.id in cards(page)) == (name != "run.json")
    visit("compare", runs=",".join(ids(kept.done, kept.stopped, kept.steered)))
    for run in (kept.stopped, kept.steered):
        visit("stylize", run=run.id)


def test_runs_are_chosen_across_searches_and_compared(visit, kept):
    page = visit("library")
    assert not [link for link in page.get("page_link") if link.label == "Compare them"]
    page.checkbox(key=f"tick-{kept.done.id}").check().run()
    (link,) = [link for link in page.get("page_link") if link.label == "Compare them"]
    assert link.proto.disabled and "1 chosen" in texts(page)
    page.text_input(key="words").set_value("waves").run()
    page.checkbox(key=f"tick-{kept.stopped.id}").check().run()
    (link,) = [link for link in page.get("page_link") if link.label == "Compare them"]
    assert not link.proto.disabled and "2 chosen" in texts(page)
    assert all(run.id in link.proto.query_string for run in (kept.done, kept.stopped))
    page.text_input(key="words").set_value("").run()
    assert page.checkbox(key=f"tick-{kept.done.id}").value
    page.checkbox(key=f"tick-{kept.stopped.id}").uncheck().run()
    assert "1 chosen" in texts(page)


def test_a_deleted_run_is_no_longer_chosen(visit, kept):
    page = visit("library")
    for run in (kept.done, kept.stopped):
        page.checkbox(key=f"tick-{run.id}").check().run()
    library.delete(kept.done)
    page.run()
    assert "1 chosen" in texts(page)


def test_text_from_an_imported_run_is_escaped(visit, kept):
    kept.done.change(preset="![x](http://localhost/x)", weights="![y](http://localhost/y)", precision="**z**")
    page = visit("library")
    assert "![x](http" not in texts(page)
    page = visit("stylize", run=kept.done.id)
    assert "![" not in texts(page) and "**z**" not in texts(page)
    button(page, "Same settings").click().run()
    assert not page.exception and button(page, "Start")


def test_many_runs_are_split_into_pages(visit, kept):
    record = json.loads((kept.done.path / "run.json").read_text())
    for number in range(25):
        run = Run(paths.runs() / f"20200101-000000-{number:06d}-many")
        run.path.mkdir()
        (run.path / "run.json").write_text(json.dumps({**record, "id": run.id}))
    page = visit("library", page="2")
    assert len(cards(page)) == 4
    page = visit("library", page="999")
    assert len(cards(page)) == 24
    page = visit("library")
    assert len(cards(page)) == 24 and "28 runs" in texts(page)


def test_a_run_that_failed_without_a_picture_has_a_card(visit, new_run):
    run = new_run()
    with pytest.raises(StudioError), Recorder(run):
        raise StudioError("The paint ran out.")
    page = visit("library")
    assert cards(page) == [run.id] and "size" in SETTINGS
    assert page.checkbox[0].disabled


HEADER_OF_60000_X_60000 = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0) + bytes(60)
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("result.png", b"<html><script>alert(1)</script></html>"),
        ("result.png", HEADER_OF_60000_X_60000),
        ("content.png", b"%!PS-Adobe-3.0 EPSF-3.0\n(evil) run\n"),
        ("frames/000000.jpg", b"<svg onload='alert(1)'/>"),
        ("metrics.csv", b"iteration,total\nnan,nan\n"),
        ("result.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff"),
        ("checkpoint.npz", b"PK\x03\x04"),
        ("marks.json", b"[" * 100_000),
    ],
    ids=["page", "bomb", "program", "frame", "metrics", "array", "checkpoint", "marks"],
)
def test_the_pages_open_with_hostile_files_in_a_run(visit, kept, name, data):
    (kept.done.path / name).parent.mkdir(exist_ok=True)
    (kept.done.path / name).write_bytes(data)
    page = visit("library")
    assert kept.done.id in cards(page)
    page = visit("stylize", run=kept.done.id)
    button(page, "Same settings").click().run()
    assert not page.exception


def test_a_damaged_run_is_reported_and_can_be_deleted(visit, kept):
    run = Run(paths.runs() / "20260101-000000-damaged")
    run.path.mkdir()
    (run.path / "run.json").write_text("{")
    page = visit("library")
    assert f"The record of the run {run.id} is damaged." in [each.value.replace("\\", "") for each in page.warning]
    page.button(key=f"delete-{run.id}").click().run()
    assert not run.path.exists() and not page.warning and not page.exception
    assert cards(page)  # the others are there as before
