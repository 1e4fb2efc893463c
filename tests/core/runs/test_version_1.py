"""Runs of schema version 1 can be listed, resumed, compared, reported, exported and imported."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from core import paths
from core.errors import StudioError
from core.jobs import execution
from core.presets import PRESETS
from core.runs import archive, evaluation, library, recovery, store
from core.runs.record import RunRecord
from core.runs.styles import describe_regions, styles_of
from export.report import bundle, page

FIXTURE = Path(__file__).parents[2] / "fixtures" / "runs-version-1.tar.xz"
DONE, STOPPED = "20261128-105841-434932-hill-stripes-squares-1d33", "20261128-105847-776172-hill-stripes-a288"


@pytest.fixture
def expected(own_home):
    """Copy a version 1 library into this test's home; return the expected outputs by file name."""
    with tarfile.open(FIXTURE) as packed:
        packed.extractall(own_home, filter="data")
    return {file.stem: json.loads(file.read_text()) for file in (own_home / "expected").glob("*.json")}


def test_runs_are_listed_as_before(expected):
    found = [run.with_progress(record).summary() for run, record in store.readable_runs()]
    assert [record.pop("schema_version") for record in found] == [2, 2]
    assert [record.pop("styles") for record in found] == [
        [{"name": "stripes", "mask": False}],
        [{"name": "stripes", "mask": True}, {"name": "squares", "mask": False}],
    ]
    for record, before in zip(found, expected["runs"], strict=True):  # settings that were added later have defaults
        record["settings"] = {name: record["settings"][name] for name in before["settings"]}
    assert found == [{name: value for name, value in record.items() if name != "schema_version"}
                     for record in expected["runs"]]  # fmt: skip
    (favourite,) = [entry for entry in library.entries() if entry.marks.favourite]
    assert favourite.title == "Two manners"


def test_styles_and_masks_are_known(expected):
    run = store.find(DONE)
    record = run.record()
    found = [(style.label, style.name, style.path, style.mask, style.share_text) for style in styles_of(run, record)]
    assert found == [
        ("Painting 1", "stripes", run.style(1), run.mask(1), "in its part"),
        ("Painting 2", "squares", run.style(2), None, "100 % elsewhere"),
    ]
    assert describe_regions(run, record) == "stripes in its part, a part stays as it is"
    assert (record.title, record.masks) == ("hill × stripes + squares", 1)
    assert [mask is not None for mask in run.pictures().masks] == [True, False]


def test_reading_changes_nothing_on_disk_and_a_change_writes_version_2(expected):
    run = store.find(DONE)
    before = (run.path / "run.json").read_bytes()
    record = run.record()
    assert (run.path / "run.json").read_bytes() == before
    run.change(message="seen")
    assert json.loads((run.path / "run.json").read_bytes())["schema_version"] == 2
    assert run.record() == record.model_copy(update={"message": "seen"})


def test_a_stopped_run_can_be_resumed(expected, engine):
    run, wanted = store.find(STOPPED), expected["resumed"]
    recovery.resume(run)
    for _ in execution.perform(run, lambda *_: engine):
        pass
    record = run.record()
    assert [record.status, record.iteration] == [wanted["status"], wanted["iteration"]]
    assert record.best_total == pytest.approx(wanted["best_total"], rel=0.01)
    last = run.metrics().iloc[-1]
    assert {name: last[name] for name in wanted["metrics_last"]} == pytest.approx(
        {name: float(value) for name, value in wanted["metrics_last"].items()}, rel=0.05
    )


def test_runs_compare_as_before(expected, engine):
    for wanted in expected["compare"]:
        run = store.find(wanted.pop("run"))
        found = evaluation.evaluate(engine, run, run.record(), PRESETS["reference"].settings())
        assert found.model_dump(exclude={"run"}) == pytest.approx(wanted, rel=1e-3)


def test_runs_are_reported(expected):
    found = [store.find(DONE), store.find(STOPPED)]
    html = page.html(found)
    assert "Two manners" in html and "hill × stripes" in html and "--mask 1:mask-1.png" in html
    bundle.write_zip(packed := io.BytesIO(), found)
    with zipfile.ZipFile(packed) as opened:
        assert f"{DONE}/mask-1.png" in opened.namelist()
        assert [run["style"] for run in json.loads(opened.read("runs.json"))] == ["stripes + squares", "stripes"]


@pytest.mark.parametrize("packed_by", [1, 2])
def test_runs_are_imported(expected, packed_by):
    run = store.find(DONE)
    target = io.BytesIO()
    if packed_by == 2:
        archive.export_run(run, target)
    else:
        with zipfile.ZipFile(target, "w") as packed:
            for path in run.path.rglob("*"):
                if path.is_file() and path.name != "checkpoint.npz":
                    packed.write(path, path.relative_to(paths.runs()))
    imported = archive.import_run(target.getvalue())
    assert imported.id != run.id and library.marks(imported).favourite
    changed = {"id": imported.id, "queued": None, "begun": None}
    assert imported.record() == run.record().model_copy(update=changed)
    assert json.loads((imported.path / "run.json").read_bytes())["schema_version"] == 2


@pytest.mark.parametrize(
    ("style", "names"),
    [
        ("a + b", ["a", "b"]),
        ("a + b + c", ["a", "b + c"]),  # the split is ambiguous
        ("x" * 199 + "…", ["x" * 199 + "…", "painting 2"]),  # the text was cut
    ],
)
def test_the_joined_names_stay_the_same(expected, style, names):
    run = store.find(DONE)
    fields = json.loads((run.path / "run.json").read_bytes()) | {"style": style}
    record = RunRecord.from_json(json.dumps(fields).encode(), lambda name: (run.path / name).exists())
    assert [each.name for each in record.styles] == names and record.style == style


@pytest.mark.parametrize(
    "changes", [{"style": 1}, {"style": None}, {"styles": []}, {"new": 1}, {"settings": {"size": 1}}]
)
def test_a_damaged_record_is_refused(expected, changes):
    run = store.find(STOPPED)
    fields = json.loads((run.path / "run.json").read_bytes()) | changes
    (run.path / "run.json").write_text(json.dumps(fields))
    with pytest.raises(StudioError, match=r"^The record of the run .* is damaged\.$"):
        run.record()
