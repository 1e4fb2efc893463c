"""The library: marks, search, deletion and restoration, and the quota."""

import json
import os
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.runs import library, store
from core.runs.library import GIGABYTE, ORDERS, Entry, Marks, Quota
from core.runs.record import RunRecord
from core.runs.recorder import Recorder
from core.runs.run import Run
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

SETTINGS = TransferSettings(size=64, iterations=4)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _own_home(own_home):
    """These tests count runs."""


def new_run(content="photo", style="painting", status="done", **changes):
    random = np.random.default_rng(1)
    photo, picture = (Image.fromarray(random.integers(0, 256, (48, 64, 3)).astype(np.uint8)) for _ in range(2))
    run = store.create(RunSpec([Style(style, picture)], SETTINGS, "draft"), photo, content)
    if status != "queued":
        run.change(status=status, **changes)
    return run


def damaged_run():
    run = new_run()
    (run.path / "run.json").write_text("{")
    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Marks


def test_marks_add_up():
    run = new_run()
    assert library.marks(run) == Marks(name="", note="", favourite=False)
    library.mark(run, name="Die Welle, später")
    library.mark(run, favourite=True)
    library.mark(run, note="two\nlines")
    assert library.marks(run) == Marks(name="Die Welle, später", note="two\nlines", favourite=True)
    library.mark(run, name="", favourite=False)
    assert library.marks(run) == Marks(note="two\nlines")
    assert run.record().status == "done"  # only the writer may change the record


def test_marks_are_kept_while_the_run_is_recorded():
    run = new_run(status="queued")
    with Recorder(run) as recorder:
        library.mark(run, name="early")
        recorder.update(message="…")
    assert library.marks(run).name == "early"


@pytest.mark.parametrize("changes", [{"name": "x" * 121}, {"note": "x" * 4001}, {"favourite": "perhaps"}, {"name": 3}])
def test_invalid_marks_do_not_change_the_earlier_ones(changes):
    run = new_run()
    library.mark(run, name="x" * 120, note="y" * 4000)
    with pytest.raises(InputError, match=rf"^{next(iter(changes))}: .*\.$"):
        library.mark(run, **changes)
    assert library.marks(run) == Marks(name="x" * 120, note="y" * 4000)


def test_a_missing_run_cannot_be_marked():
    run = new_run()
    library.delete(run)
    with pytest.raises(InputError, match=rf"^The run {run.id} no longer exists\.$"):
        library.mark(run, name="late")
    assert not run.path.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"name": 3}', b'{"name": "' + b"x" * 121 + b'"}'])
def test_damaged_marks_count_as_empty(damage):
    run = new_run()
    (run.path / "marks.json").write_bytes(damage)
    assert library.marks(run) == Marks()
    library.mark(run, name="new")
    assert library.marks(run) == Marks(name="new")


# Entries


def test_entries_are_the_readable_runs_newest_first():
    first, second = new_run("first"), new_run("second")
    damaged_run()
    library.mark(first, name="A name")
    found = library.entries()
    assert [entry.run for entry in found] == [second, first]
    assert [entry.title for entry in found] == ["second × painting", "A name"]
    assert [entry.record.content for entry in found] == ["second", "first"]


def test_size_includes_all_files():
    run = new_run()
    before = library.size(run)
    assert before == sum((run.path / name).stat().st_size for name in ("run.json", "content.png", "style-1.png"))
    (run.path / "frames").mkdir()
    (run.path / "frames" / "000000.jpg").write_bytes(bytes(1000))
    (run.path / "checkpoint.npz").write_bytes(bytes(20_000))
    assert library.size(run) == before + 21_000
    assert library.size(Run(run.path.with_name("gone"))) == 0


# Selecting


def entry(content="photo", style="painting", size=100, days=0, marks=None, preset="fast", **changes):
    """Return a library entry for a run without a folder."""
    record = RunRecord(
        id=f"20260101-0000{days:02}-{content}-{style}-0000",
        created=BEGAN + timedelta(days=days),
        preset=preset,
        settings=SETTINGS,
        content=content,
        styles=[{"name": style}],
        shape=(48, 64),
        **{"status": "done", **changes},
    )
    return Entry(Run(paths.runs() / record.id), record, Marks(**marks or {}), size)


ENTRIES = [
    entry("Chelsea", "waves", 300, 1, {"name": "zebra"}, best_total=5.0, timings={"total": 9.0}),
    entry("astronaut", "night", 100, 3, {"favourite": True}, preset="draft", status="failed"),
    entry("coffee", "Waves", 200, 2, {"note": "Ärger mit ROT"}, best_total=7.0, timings={"total": 3.0}),
    entry("cat", "scream", 400, 0, preset="draft", status="stopped", best_total=1.0, timings={"total": 4.0}),
]


def chosen(**wanted):
    return [found.record.content for found in library.select(ENTRIES, **wanted)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["astronaut", "coffee", "Chelsea", "cat"]),
        ("   ", ["astronaut", "coffee", "Chelsea", "cat"]),
        ("waves", ["coffee", "Chelsea"]),
        ("WAVES che", ["Chelsea"]),
        ("waves night", []),
        ("zebra", ["Chelsea"]),
        ("ärger", ["coffee"]),
        ("rot ärger  mit", ["coffee"]),
        ("draft", ["astronaut", "cat"]),
        ("stopped", ["cat"]),
        ("20260101-000002", ["coffee"]),
        (".*", []),
    ],
)
def test_selection_by_words(words, expected):
    assert chosen(words=words) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"statuses": ["failed"]}, ["astronaut"]),
        ({"statuses": ["failed", "stopped"]}, ["astronaut", "cat"]),
        ({"statuses": ["queued"]}, []),
        ({"presets": ["fast"]}, ["coffee", "Chelsea"]),
        ({"presets": ["fast", "draft"]}, ["astronaut", "coffee", "Chelsea", "cat"]),
        ({"favourites": True}, ["astronaut"]),
        ({"favourites": True, "statuses": ["done"]}, []),
        ({"presets": ["draft"], "statuses": ["stopped"], "words": "cat"}, ["cat"]),
    ],
)
def test_selection_by_kind(wanted, expected):
    assert chosen(**wanted) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("newest", ["astronaut", "coffee", "Chelsea", "cat"]),
        ("oldest", ["cat", "Chelsea", "coffee", "astronaut"]),
        ("name", ["astronaut", "cat", "coffee", "Chelsea"]),  # Chelsea is named zebra
        ("loss", ["cat", "Chelsea", "coffee", "astronaut"]),  # the best first, a run without a loss last
        ("duration", ["coffee", "cat", "Chelsea", "astronaut"]),
        ("size", ["cat", "Chelsea", "coffee", "astronaut"]),  # the largest first
    ],
)
def test_sort_orders(order, expected):
    assert chosen(order=order) == expected
    backwards = library.select(reversed(ENTRIES), order=order)
    assert [found.record.content for found in backwards] == expected


def test_every_order_has_a_test():
    marks = next(mark for mark in test_sort_orders.pytestmark if mark.args[0] == ("order", "expected"))
    assert {case[0] for case in marks.args[1]} == set(ORDERS)


def test_runs_without_a_loss_or_a_duration_can_be_sorted():
    found = [entry("a", days=1, status="failed"), entry("b", days=2, status="queued"), entry("c", best_total=1.0)]
    for order in ORDERS:
        assert {one.record.content for one in library.select(found, order=order)} == {"a", "b", "c"}


# Deletion and restoration


def test_a_deleted_run_can_be_restored(own_home):
    run, other = new_run(), new_run()
    library.mark(run, name="kept")
    files, before = names(run.path), run.record()
    library.delete(run)
    assert store.all_runs() == [other]
    with pytest.raises(InputError):
        store.find(run.id)
    library.restore(run)
    assert store.all_runs() == [other, run]
    assert (run.record(), names(run.path), library.marks(run).name) == (before, files, "kept")
    assert names(own_home / "trash") == []


def test_an_unfinished_run_cannot_be_deleted(own_home):
    run = new_run(status="queued")
    recorder = Recorder(run)
    with recorder:
        for status in ("preparing", "running"):
            recorder.update(status=status)
            with pytest.raises(InputError, match=rf"^The run {run.id} has not ended: stop it first\.$"):
                library.delete(run)
    waiting = new_run(status="queued")
    with pytest.raises(InputError, match=r"has not ended"):
        library.delete(waiting)
    assert store.all_runs() == [waiting, run]
    library.delete(run)
    assert store.all_runs() == [waiting]


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "interrupted"])
def test_an_ended_run_can_be_deleted(status):
    library.delete(new_run(status=status))
    assert store.all_runs() == []


def test_an_interrupted_run_can_be_deleted():
    run = new_run(status="queued")
    said = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(said | {"status": "running", "writer": None}))
    library.delete(run)
    assert store.all_runs() == []


def test_a_damaged_run_can_be_deleted_and_restored(own_home):
    run = damaged_run()
    library.delete(run)
    assert store.all_runs() == []
    library.restore(run)
    assert store.all_runs() == [run]


def test_a_missing_run_can_neither_be_deleted_nor_restored(own_home):
    run = new_run()
    library.delete(run)
    with pytest.raises(StudioError, match=rf"^The run {run.id} cannot be deleted: No such file or directory\.$"):
        library.delete(run)
    library.restore(run)
    with pytest.raises(StudioError, match=rf"^The run {run.id} cannot be restored: No such file or directory\.$"):
        library.restore(run)
    assert store.all_runs() == [run]


def test_a_run_is_removed_24_hours_after_its_deletion(own_home):
    old, new, young = new_run(), new_run(), new_run()
    os.utime(old.path, (0, 0))  # the 24 hours start with the deletion
    for run in (old, new):
        library.delete(run)
    library.empty_trash()
    assert names(own_home / "trash") == sorted([old.id, new.id])
    day_ago = time.time() - library.TRASH_SECONDS - 60
    os.utime(own_home / "trash" / old.id, (day_ago, day_ago))
    library.delete(young)  # this also empties the trash
    assert names(own_home / "trash") == sorted([new.id, young.id])
    with pytest.raises(StudioError):
        library.restore(old)
    library.empty_trash(older_than=-1)
    assert names(own_home / "trash") == []


def test_an_empty_trash_can_be_emptied(own_home):
    library.empty_trash()
    assert not (own_home / "trash").exists()


# The quota


def test_quota_is_saved(own_home):
    assert library.quota() == Quota(gigabytes=10)
    library.set_quota(2.5)
    assert library.quota() == Quota(gigabytes=2.5)
    for damage in ("", "{", '{"gigabytes": 0}', '{"gigabytes": "much"}'):
        (own_home / "quota.json").write_text(damage)
        assert library.quota() == Quota()


@pytest.mark.parametrize("gigabytes", [0.0, -1.0, 2e5])
def test_quota_has_limits(gigabytes):
    library.set_quota(3)
    with pytest.raises(ValueError, match="gigabytes"):
        library.set_quota(gigabytes)
    assert library.quota() == Quota(gigabytes=3)


def offered(found, gigabytes):
    return [entry.record.content for entry in library.beyond_quota(found, Quota(gigabytes=gigabytes))]


def test_the_oldest_runs_are_offered_until_the_others_fit():
    found = [entry(name, size=GIGABYTE, days=days) for name, days in (("c", 3), ("a", 1), ("d", 4), ("b", 2))]
    assert offered(found, 4.0) == []
    assert offered(found, 3.9) == ["a"]
    assert offered(found, 3.0) == ["a"]
    assert offered(found, 2.9) == ["a", "b"]
    assert offered(found, 0.1) == ["a", "b", "c", "d"]
    assert offered(iter(found), 2.0) == ["a", "b"]


@pytest.mark.parametrize("marks", [{"name": "x"}, {"note": "x"}, {"favourite": True}])
def test_marked_runs_are_not_offered(marks):
    found = [
        entry("marked", size=GIGABYTE, days=0, marks=marks),
        entry("painted", size=GIGABYTE, days=1, status="running"),
        entry("waiting", size=GIGABYTE, days=2, status="queued"),
        entry("plain", size=GIGABYTE, days=3),
        entry("last", size=GIGABYTE, days=4),
    ]
    assert offered(found, 4.0) == ["plain"]
    assert offered(found, 0.1) == ["plain", "last"]  # no other run may be deleted
