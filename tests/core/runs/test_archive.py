"""Export to ZIP and import, and every kind of broken or harmful ZIP file."""

import io
import json
import os
import pickle
import stat
import struct
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, preprocessing
from core.machine import processes
from core.runs import archive, library, store
from core.runs.archive import export_run, import_run
from core.runs.library import Marks
from core.runs.record import UNFINISHED, Steering
from core.runs.run import METRICS
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

SETTINGS = TransferSettings(size=64, iterations=4, style_layers=("block1_conv1", "block2_conv1"))
RUN_ID = "20260101-000000-000000-photo-painting-abcd"


@pytest.fixture(autouse=True)
def _own_home(own_home):
    """These tests count runs."""


def picture(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def run():
    """Create an ended run with every kind of file."""
    pictures = (Image.fromarray(picture(seed)) for seed in (1, 2, 3))
    content, style, start = pictures
    steering = [Steering(iteration=2, changes={"style_layer_weights": (1.0, 2.0)})]
    spec = RunSpec([Style("painting", style)], SETTINGS, "draft", None, start, "mine", steering)
    made = store.create(spec, content, "Grüße")
    result = np.random.default_rng(4).uniform(0, 255, (48, 64, 3)).astype(np.float32)
    np.save(made.path / "result.npy", result)
    codec.write_image(made.result, preprocessing.to_uint8(result))
    for path, seed in (
        (made.live, 5),
        (made.path / "frames" / "000000.jpg", 6),
        (made.path / "frames" / "000004.jpg", 7),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(codec.encode_jpeg(picture(seed)))
    lines = [",".join([*METRICS, *SETTINGS.style_layers])]
    lines += [f"{number},{number + 1},0.5,{9.5 - number},4,5,0,1,3" for number in range(5)]
    (made.path / "metrics.csv").write_text("\n".join(lines) + "\n")
    library.mark(made, name="The one", note="two\nlines", favourite=True)
    for stays_at_home in ("checkpoint.npz", "request.json", "error.txt", ".run.json.0011"):
        (made.path / stays_at_home).write_text("private")
    made.change(status="done", writer=None, iteration=4, best_total=5.5, timings={"total": 2.5})
    return made


def exported(run):
    target = io.BytesIO()
    export_run(run, target)
    return target.getvalue()


def members(data):
    """Return the files of a ZIP by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist()}


def packed(files, compression=zipfile.ZIP_DEFLATED):
    """Pack files into a ZIP; a list of pairs may contain a name twice."""
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", compression) as opened:
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        for name, data in files.items() if isinstance(files, dict) else files:
            opened.writestr(name, data)
    return target.getvalue()


@pytest.fixture
def plain():
    """Return the files of a small exported run, by their names in the run."""
    record = {
        "schema_version": 2,
        "id": RUN_ID,
        "created": "2026-01-01T00:00:00Z",
        "status": "done",
        "preset": "draft",
        "settings": SETTINGS.model_dump(mode="json"),
        "content": "photo",
        "styles": [{"name": "painting"}],
        "shape": [48, 64],
    }
    return {
        "run.json": json.dumps(record).encode(),
        "content.png": codec.encode(picture(1), ".png"),
        "style-1.png": codec.encode(picture(2), ".png"),
    }


def zipped(files, folder=RUN_ID, **changes):
    return packed({f"{folder}/{name}": data for name, data in files.items()}, **changes)


def with_record(files, **changes):
    return zipped(files | {"run.json": json.dumps(json.loads(files["run.json"]) | changes).encode()})


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def refusal(data):
    """Import a ZIP; check that it fails and leaves no files; return the message."""
    before, outside = names(paths.runs()), names(paths.home().parent)
    with pytest.raises(InputError) as caught:
        import_run(data, "my.zip")
    assert names(paths.runs()) == before
    assert set(names(paths.home().parent)) <= {*outside, paths.home().name}
    sentence = str(caught.value)
    assert sentence.startswith("my.zip") and sentence.endswith(".") and "\n" not in sentence
    return sentence


# Export and import


def test_a_run_is_the_same_after_export_and_import_in_another_home(run, tmp_path, monkeypatch):
    data, record = exported(run), run.record()
    files = {path.relative_to(run.path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    monkeypatch.setenv("NST_HOME", str(tmp_path / "elsewhere"))
    found = import_run(data)
    assert found.path == tmp_path / "elsewhere" / "runs" / run.id
    assert store.all_runs() == [found] and names(paths.runs()) == [run.id]
    assert found.record() == record.model_copy(update={"queued": None})  # the run was never queued in this home
    assert found.record().steering[0].options() == ["2:style_layer_weights=1.0,2.0"]
    assert library.marks(found) == Marks(name="The one", note="two\nlines", favourite=True)
    assert found.metrics().equals(run.metrics()) and len(found.metrics()) == 5
    here = {path.relative_to(found.path): path.read_bytes() for path in found.path.rglob("*") if path.is_file()}
    assert {path.as_posix() for path in set(files) - set(here)} == {
        "checkpoint.npz",
        "request.json",
        "error.txt",
        ".run.json.0011",
    }
    for path, content in here.items():
        if path.name != "run.json":
            assert content == files[path], path
    assert [iteration for iteration, _ in found.frames()] == [0, 4]


def test_the_zip_contains_a_folder_named_like_the_run(run):
    assert {name.partition("/")[0] for name in members(exported(run))} == {run.id}


def test_import_from_a_file(run, tmp_path):
    file = tmp_path / "a run.zip"
    file.write_bytes(exported(run))
    assert import_run(file, file.name).record().content == "Grüße"


def test_a_second_import_creates_a_second_run(run):
    data = exported(run)
    library.mark(run, name="changed here")
    second, third = import_run(data), import_run(data)
    assert {found.id for found in store.all_runs()} == {run.id, second.id, third.id} and len(store.all_runs()) == 3
    for found in (second, third):
        assert found.id.startswith(f"{run.id}-") and store.find(found.id) == found
        assert found.record() == run.record().model_copy(update={"id": found.id, "queued": None})
        assert library.marks(found).name == "The one"
    assert library.marks(run).name == "changed here"
    again = import_run(exported(second))  # an imported run can be exported
    assert again.record().content == "Grüße"


def test_import_does_not_prevent_the_restoration_of_a_deleted_run(run):
    data = exported(run)
    library.delete(run)
    found = import_run(data)
    library.delete(found)
    library.restore(run)
    library.restore(found)
    assert sorted(store.all_runs(), key=lambda run: run.id) == sorted([run, found], key=lambda run: run.id)


@pytest.mark.parametrize("status", UNFINISHED)
def test_an_unfinished_run_is_imported_as_interrupted(run, status):
    run.change(status=status, writer=processes.ProcessId.this_process())
    found = import_run(exported(run))
    said = json.loads((found.path / "run.json").read_text())
    assert (said["status"], said["writer"]) == ("interrupted", None)
    assert run.record().status == status


def test_a_run_without_results_packed_by_another_program(plain):
    found = import_run(zipped(plain, "renamed", compression=zipfile.ZIP_STORED))
    assert found.id == RUN_ID
    assert names(found.path) == ["content.png", "run.json", "style-1.png"]
    assert found.metrics().empty


def test_folder_entries_are_allowed(plain):
    files = {f"{RUN_ID}/": b"", f"{RUN_ID}/frames/": b""} | {f"{RUN_ID}/{name}": data for name, data in plain.items()}
    assert import_run(packed(files)).id == RUN_ID


# Other files and damaged ZIPs


NO_ZIP = "my.zip is not a ZIP file, or is damaged."


@pytest.mark.parametrize("data", [b"", b"no ZIP", bytes(1000), b"PK\x03\x04", b"PK\x05\x06" + bytes(10)])
def test_a_file_that_is_not_a_zip_is_refused(data):
    assert refusal(data) == NO_ZIP


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99, 0.9999])
def test_a_truncated_zip_is_refused(run, share):
    data = exported(run)
    assert refusal(data[: int(share * len(data))]) == NO_ZIP


def test_a_zip_with_a_changed_byte_is_refused(plain):
    data = bytearray(zipped(plain, compression=zipfile.ZIP_STORED))
    data[data.index(plain["content.png"]) + 200] ^= 1
    assert refusal(bytes(data)) == NO_ZIP


def test_packed_data_that_cannot_be_unpacked(plain):
    data = bytearray(zipped(plain))
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        info = opened.getinfo(f"{RUN_ID}/style-1.png")
    begin = info.header_offset + 30 + len(info.filename)
    data[begin + 12 : begin + 200] = b"\xff" * 188
    assert refusal(bytes(data)) == NO_ZIP


def entry(data, name):
    """Return the offset of a file's entry in the directory."""
    return data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))


def changed_entry(data, name, offset, form, *values):
    data = bytearray(data)
    struct.pack_into(form, data, entry(bytes(data), name) + offset, *values)
    return bytes(data)


def test_an_encrypted_zip_is_refused(plain):
    data = zipped(plain)
    data = changed_entry(data, f"{RUN_ID}/content.png", 8, "<H", 1)
    local = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        struct.pack_into("<H", local, opened.getinfo(f"{RUN_ID}/content.png").header_offset + 6, 1)
    assert refusal(bytes(local)) == NO_ZIP


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (8, "<H", 0x800),  # the name is marked as UTF-8
        (10, "<H", 99),  # an unknown compression
        (28, "<H", 0),  # an empty name
        (42, "<I", 0xFFFFFFF0),  # starts after the end
    ],
    ids=["name", "compression", "no name", "offset"],
)
def test_a_wrong_directory_is_refused(plain, offset, form, value):
    data = changed_entry(zipped(plain), f"{RUN_ID}/content.png", offset, form, value)
    if offset == 8:
        at = entry(data, f"{RUN_ID}/content.png") + 46
        data = data[:at] + b"\xff" + data[at + 1 :]
    refusal(data)


def test_random_damage_gives_a_message_or_a_valid_run(plain):
    """Random bytes of the directory and the headers change; some of these ZIPs can still be imported."""
    data, random = zipped(plain), np.random.default_rng(8)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        places = [*range(opened.start_dir, len(data))]
        places += [info.header_offset + byte for info in opened.infolist() for byte in range(80)]
    refused = 0
    for _ in range(200):
        broken = bytearray(data)
        for place in random.choice(places, random.integers(1, 4)):
            broken[place] = random.choice([0, 255, random.integers(256)])
        try:
            library.delete(import_run(bytes(broken)))
            library.empty_trash(older_than=-1)
        except InputError:
            refused += 1
    assert refused > 100
    assert names(paths.runs()) == []


# Harmful ZIPs


@pytest.mark.parametrize(
    "name",
    [
        "../run.json",
        "../../evil.txt",
        "frames/../../evil.txt",
        "/etc/evil",
        "frames\\..\\..\\evil.txt",
        "C:\\evil",
        "..",
    ],
)
def test_path_traversal_is_refused(plain, name):
    assert refusal(zipped(plain | {name: b"evil"})).endswith("which does not belong to a run.")


@pytest.mark.parametrize("folder", ["..", ".", "", "/", "../..", "a\\..", "C:", RUN_ID + "/frames"])
def test_the_folder_s_name_cannot_leave_the_home(plain, folder):
    data = zipped(plain, folder)
    try:
        found = import_run(data)
    except InputError:
        assert names(paths.runs()) == []
    else:
        assert found.path == paths.runs() / RUN_ID
        assert names(paths.runs()) == [RUN_ID]
    assert set(names(paths.home())) <= {"runs", "processes", "imports.lock"} and names(paths.home().parent) in (
        [],
        ["home"],
    )


@pytest.mark.parametrize("name", ["content.png", "result.npy", "marks.json"])
def test_symbolic_links_are_not_followed(plain, tmp_path, name):
    secret = tmp_path / "home-of-another" / name
    secret.parent.mkdir()
    secret.write_bytes(plain.get(name, b"{}"))
    link = zipfile.ZipInfo(f"{RUN_ID}/{name}")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    files = [(f"{RUN_ID}/{inner}", data) for inner, data in plain.items() if inner != name]
    assert name in refusal(packed([*files, (link, str(secret))]))


def test_a_link_instead_of_the_metrics_is_an_ordinary_file(plain, tmp_path):
    """It is unpacked as a text file that contains the link's target."""
    (tmp_path / "metrics.csv").write_text(f"{HEAD}\n{ROW}\n")
    link = zipfile.ZipInfo(f"{RUN_ID}/metrics.csv")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    files = [(f"{RUN_ID}/{inner}", data) for inner, data in plain.items()]
    found = import_run(packed([*files, (link, str(tmp_path / "metrics.csv"))]))
    assert not (found.path / "metrics.csv").is_symlink() and found.metrics().empty


def test_duplicate_files_are_refused(plain):
    files = [(f"{RUN_ID}/{name}", data) for name, data in plain.items()]
    assert refusal(packed([*files, files[1]])) == "my.zip contains a file twice."


@pytest.mark.parametrize(
    "name",
    [
        "evil.py",
        "checkpoint.npz",
        "request.json",
        ".run.json",
        "frames/1.jpg",
        "frames/0000001.jpg",
        "frames/000001.png",
        "a/run.json",
        "RUN.JSON",
        "run.json ",
        "run.json\n",
        "frames/０００００１.jpg",
    ],
)
def test_files_that_do_not_belong_to_a_run_are_refused(plain, name):
    assert refusal(zipped(plain | {name: b"{}"})) == f"my.zip contains {name!r}, which does not belong to a run."


@pytest.mark.parametrize("missing", ["run.json", "content.png", "style-1.png"])
def test_a_run_with_missing_files_is_refused(plain, missing):
    del plain[missing]
    assert refusal(zipped(plain)) == f"my.zip is not a run: {missing} is missing."


@pytest.mark.parametrize("missing", ["style-2.png", "mask-1.png"])
def test_a_style_without_its_files_is_refused(plain, missing):
    styles = {"style-2.png": [{"name": "a"}, {"name": "b"}], "mask-1.png": [{"name": "a", "mask": True}]}[missing]
    assert refusal(with_record(plain, styles=styles)) == f"my.zip is not a complete run: {missing} is missing."
    assert import_run(with_record(plain | {missing: plain["style-1.png"]}, styles=styles))


def test_a_zip_with_several_runs_or_none_is_refused(plain):
    message = "my.zip is not an exported run: it must contain exactly one folder."
    assert refusal(packed({})) == message
    assert refusal(packed(plain)) == message  # without a folder
    two = {f"{folder}/{name}": data for folder in ("a", "b") for name, data in plain.items()}
    assert refusal(packed(two)) == message


def test_too_many_files_are_refused(plain, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 5)
    frame = codec.encode_jpeg(picture(3))
    frames = {f"frames/{number:06d}.jpg": frame for number in range(3)}
    assert refusal(zipped(plain | frames)) == "my.zip contains 6 files, but a run has at most 5."
    del frames["frames/000002.jpg"]
    assert len(import_run(zipped(plain | frames)).frames()) == 2


def test_a_zip_bomb_is_refused(plain, monkeypatch):
    """The unpacked bytes of all files are counted; the sizes in the directory are not trusted."""
    monkeypatch.setattr(archive, "MAX_BYTES", 200_000)
    marks = {"marks.json": b'{"name": "' + bytes(300_000) + b'"}'}
    data = zipped(plain | marks)
    assert len(data) < 50_000
    assert refusal(data).startswith(f"my.zip: {RUN_ID}/marks.json is larger than ")
    frames = {f"frames/{number:06d}.jpg": codec.encode_jpeg(picture(3)) + bytes(50_000) for number in range(6)}
    assert refusal(zipped(plain | frames)) == "my.zip is larger than 200,000 bytes when unpacked."
    small = changed_entry(data, f"{RUN_ID}/marks.json", 24, "<I", 10)
    refusal(small)
    large = changed_entry(zipped(plain), f"{RUN_ID}/content.png", 24, "<I", 2**31)  # a wrong size
    assert import_run(large).content.read_bytes() == plain["content.png"]


def test_a_record_that_is_a_zip_bomb_is_refused(plain):
    plain["run.json"] = plain["run.json"] + b" " * 2**20
    assert refusal(zipped(plain)) == f"my.zip: {RUN_ID}/run.json is larger than 1,048,576 bytes."


# Records


@pytest.mark.parametrize("version", [0, 3, "1", None, [1]])
def test_other_schema_versions_are_refused(plain, version):
    message = "my.zip contains a run of another version; this program reads 1 and 2."
    assert refusal(with_record(plain, schema_version=version)) == message


DAMAGED = "my.zip: the run's record is damaged."


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b'{"schema_version": 2}', b'{"schema_version": ' + b"1" * 5000]
)
def test_damaged_json_is_refused(plain, data):
    assert refusal(zipped(plain | {"run.json": data})) == DAMAGED


@pytest.mark.parametrize("data", [b"[1]", b"null", b"3", b'"run"'])
def test_json_that_is_not_a_record_is_refused(plain, data):
    assert refusal(zipped(plain | {"run.json": data})).startswith("my.zip contains a run of another version")


@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_deeply_nested_json_is_refused(plain, depth):
    deep = b'"environment": {"a": ' + b"[" * depth + b"]" * depth + b"}, "
    assert refusal(zipped(plain | {"run.json": b"{" + deep + plain["run.json"][1:]})) == DAMAGED


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "asleep"},
        {"settings": {"size": 1}},
        {"new": 1},
        {"created": "yesterday"},
        {"created": "2026-01-01T00:00:00"},  # without a time zone, runs cannot be sorted
        {"shape": [48]},
        {"timings": {"total": float("nan")}},
        {"timings": {"total": float("inf")}},
        {"steering": [{"iteration": 1, "changes": {"size": 128}}]},
        {"steering": [{"iteration": -1, "changes": {"style_weight": 1}}]},
        {"environment": {"processor": "\ud800"}},
    ],
    ids=str,
)
def test_records_with_invalid_values_are_refused(plain, changes):
    assert refusal(with_record(plain, **changes)) == DAMAGED


def test_a_loss_that_is_nan_becomes_none(plain):
    assert import_run(with_record(plain, best_total=float("nan"))).record().best_total is None


@pytest.mark.parametrize("name", ["..", "", "a/b", "../20260101-000000-a", ".20260101-000000-a", "20260101-000000-A"])
def test_invalid_ids_are_refused(plain, name):
    assert refusal(with_record(plain, id=name)) == f"my.zip: {name!r} is not a valid name of a run."


# Pictures, results, metrics and marks


@pytest.mark.parametrize(
    "name", ["content.png", "style-1.png", "start.png", "result.png", "live.jpg", "frames/000007.jpg"]
)
def test_a_damaged_picture_is_refused(plain, name):
    short = name.rpartition("/")[2]
    for data in (b"", b"<svg onload='alert(1)'/>", codec.encode(picture(3), ".png")[:500]):
        assert refusal(zipped(plain | {name: data})).startswith(f"my.zip: {short} ")


def npy(array, **how):
    target = io.BytesIO()
    np.save(target, array, **how)
    return target.getvalue()


def npz(array):
    target = io.BytesIO()
    np.savez(target, array)
    return target.getvalue()


RESULT = np.zeros((48, 64, 3), np.float32)


@pytest.mark.parametrize(
    "data",
    [
        npy(np.zeros((64, 48, 3), np.float32)),
        npy(np.zeros((48, 64), np.float32)),
        npy(np.zeros((), np.float32)),
        npy(RESULT.astype(np.float64)),
        npy(RESULT.astype("U1")),
        npy(np.full((48, 64, 3), None), allow_pickle=True),
        pickle.dumps(RESULT),
        npz(RESULT),
        npy(RESULT)[:-1],
        npy(RESULT).replace(b"(48, 64, 3)", b"(48, 64, 3 "),
        b"",
        b"\x93NUMPY",
    ],
    ids=["turned", "grey", "none", "float64", "words", "objects", "pickle", "npz", "short", "header", "empty", "stump"],
)
def test_a_result_that_does_not_match_the_record_is_refused(plain, data):
    message = "my.zip: result.npy does not match the run's record."
    assert refusal(zipped(plain | {"result.npy": data})) == message


def test_a_result_that_matches_the_record_is_imported(plain):
    found = import_run(zipped(plain | {"result.npy": npy(RESULT)}))
    np.testing.assert_array_equal(np.load(found.path / "result.npy"), RESULT)


HEAD = ",".join([*METRICS, *SETTINGS.style_layers])
ROW = "0,1,0.5,9,4,5,0,1,3"


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\n",
        b"iteration,total\n0,1\n",
        b"<b>iteration</b>\n",
        f"{HEAD},more\n{ROW},1\n".encode(),
        f"{HEAD.replace('block2', 'block4')}\n{ROW}\n".encode(),
        f"{HEAD}\n{ROW}\n1,2,much,9,4,5,0,1,3\n".encode(),
        f"{HEAD}\n{ROW.replace('9', 'nan')}\n".encode(),
        f"{HEAD}\n{ROW.replace('9', 'inf')}\n".encode(),
        f"{HEAD}\n{ROW}\n1,2\n".encode(),
        f"{HEAD}\n{ROW}\n{ROW},1,2,3\n".encode(),
        f'{HEAD}\n"{ROW}\n'.encode(),
    ],
    ids=["bytes", "columns", "markup", "more", "layers", "word", "nan", "inf", "short row", "long row", "quote"],
)
def test_damaged_metrics_are_refused(plain, text):
    assert refusal(zipped(plain | {"metrics.csv": text})).startswith("my.zip: metrics.csv ")


@pytest.mark.parametrize(
    "text", [f"{HEAD}\n{ROW}\n", f"{HEAD}\n{ROW}\n1,2,0.", f"{HEAD}\n", f"{','.join(METRICS)}\n", ""]
)
def test_unfinished_metrics_are_imported(plain, text):
    """The run ended in the middle of a line, or before the first line."""
    found = import_run(zipped(plain | {"metrics.csv": text.encode()}))
    assert len(found.metrics()) == text.count(ROW)
    assert found.with_progress(found.record()).iteration == (0 if ROW in text else None)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"favourite": "perhaps"}', b'{"name": "' + b"x" * 121 + b'"}'])
def test_damaged_marks_are_refused(plain, data):
    assert refusal(zipped(plain | {"marks.json": data})) == "my.zip: marks.json is damaged."


def test_a_home_that_cannot_be_written_is_reported(plain, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NST_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StudioError, match=r"^my\.zip cannot be imported: Not a directory\.$") as caught:
        import_run(zipped(plain), "my.zip")
    assert not isinstance(caught.value, InputError)


def test_two_simultaneous_imports_of_a_zip_create_two_runs(plain):
    data, found = zipped(plain), []
    threads = [threading.Thread(target=lambda: found.append(import_run(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.id for run in found}) == 4
    assert all(run.record().id == run.id and run.content.is_file() for run in found)
    assert names(paths.runs()) == sorted(run.id for run in found)


def test_the_next_import_removes_the_files_of_a_killed_import(plain):
    ours = paths.runs() / f"{archive.DRAFT}{processes.own_lock()}-0123"
    left = paths.runs() / f"{archive.DRAFT}{'0' * 16}-0123"
    for draft in (ours, left):
        draft.mkdir(parents=True)
        (draft / "content.png").write_bytes(b"half")
    run = import_run(zipped(plain))
    assert names(paths.runs()) == sorted([ours.name, run.id])


def test_an_import_flushes_its_files_together(plain, monkeypatch):
    frame = codec.encode_jpeg(picture(3))
    files = plain | {f"frames/{number:06d}.jpg": frame for number in range(2 * paths.FEW)}
    calls, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), fsync(descriptor)))
    run = import_run(zipped(files))
    assert len(run.frames()) == 2 * paths.FEW
    if sys.platform == "linux":
        assert len(calls) < 10
