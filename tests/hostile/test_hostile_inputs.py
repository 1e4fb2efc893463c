"""Malicious files and texts, each with a name: the program refuses it in a sentence or reads it safely."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import seeds
from PIL import Image
from seeds import noise, saved, tiff

from bench import measurements
from core import paths, presets
from core.errors import InputError, StudioError
from core.images import codec, sandbox
from core.names import LONGEST, as_name, legible
from core.runs import archive, library, recovery, store
from core.runs.archive import export_run, import_run
from core.runs.record import Request
from core.runs.run import METRICS, Run
from core.runs.spec import RunSpec, Style
from core.settings import SETTINGS
from core.transfer.checkpoint import Checkpoint
from core.vgg.layers import CONVOLUTIONS
from core.vgg.weights import WeightsFile, read

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
RGB = Image.fromarray(noise())


@pytest.fixture(autouse=True)
def _own_home(own_home):
    """Give each test its own home, because the tests count runs and leave damaged runs."""


@pytest.fixture(scope="module")
def decoder():
    with sandbox.Decoder() as decoder:
        yield decoder


@contextmanager
def bounded(mebibytes):
    """Check that Python allocates less than `mebibytes` in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


# Pictures


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=64, height=48, extra=b"", pixels=None, colour=2):
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise()) if pixels is None else pixels, 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff_of(tags):
    """Return a little-endian TIFF of one directory, with a LONG for each tag number."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    # The next directory is the same.
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8)


def exif(entries, next_directory=0):
    """Return an EXIF block of one directory."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", next_directory)


SPACES = b" " * (100 * 2**20)
ZEROS = bytes(64 * 2**20)
SMALL = zlib.compress(ZEROS, 9)
POLYGLOT_ZIP = io.BytesIO()
with zipfile.ZipFile(POLYGLOT_ZIP, "w") as opened:
    opened.writestr("evil.py", "print()")
JPEG = saved(RGB, "JPEG")
GIF = saved(RGB.convert("P"), "GIF")

NOT_ONE = "is not a JPEG, PNG, WebP, TIFF, BMP or GIF picture"
DAMAGED = "cannot be decoded: it is cut short, damaged or of an unusual kind"
TOO_LARGE = "the limit is 100,000,000 pixels"
TOO_SMALL = "the shorter side must have at least 32 pixels"

REFUSED = {
    "nothing": (b"", "is empty (0 bytes)"),
    "zeros": (bytes(1000), NOT_ONE),
    "a page": (b"<html><script>alert(1)</script></html>", NOT_ONE),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', NOT_ONE),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(evil) run\n", NOT_ONE),
    "a PDF": (b"%PDF-1.7\n", NOT_ONE),
    "a program": (b"\x7fELF" + bytes(200), NOT_ONE),
    "a PPM": (b"P6 64 64 255\n" + bytes(64 * 64 * 3), NOT_ONE),
    "a PNG of 4 thousand million rows": (png(2**31 - 1, 2**31 - 1), TOO_LARGE),
    "a PNG of 20000 x 20000": (png(20_000, 20_000), TOO_LARGE),
    "a GIF of 65535 x 65535": (GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:], TOO_LARGE),
    "a BMP of 2**30 rows": (b"BM" + bytes(8) + struct.pack("<IIii", 54, 40, 64, 2**30) + bytes(500), ""),
    "a TIFF of 2**31 rows": (tiff_of({256: 2**31, 257: 2**31, 258: 8, 259: 1, 262: 1, 277: 1, 273: 8}), ""),
    "a strip of one row": (saved(Image.new("RGB", (5000, 1)), "PNG"), TOO_SMALL),
    "a strip of one column": (saved(Image.new("RGB", (1, 5000)), "JPEG"), TOO_SMALL),
    "a PNG of no row": (png(64, 0), ""),
    "a PNG without pixels": (png(pixels=b""), DAMAGED),
    "a PNG cut amid": (saved(RGB, "PNG")[:3000], DAMAGED),
    "a JPEG cut amid": (JPEG[:1500], DAMAGED),
    "a WebP cut amid": (saved(RGB, "WEBP")[:800], DAMAGED),
    "a TIFF cut amid": (saved(RGB, "TIFF")[:-3000], ""),
    "a GIF cut amid": (GIF[:1200], DAMAGED),
    "a TIFF of directories in a circle": (tiff_of({256: 64, 257: 64}), ""),
    "a TIFF of no numbers": (tiff(np.full((48, 64, 3), np.nan, np.float32), photometric="rgb"), "has values"),
    "a TIFF of complex numbers": (tiff(np.zeros((48, 64), np.complex64)), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_are_refused(decoder, name):
    data, why = REFUSED[name]
    with pytest.raises(InputError, match=r"^photo\.png .*" + re.escape(why)) as caught:
        decoder.read(data, "photo.png")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert decoder.read(JPEG).size == RGB.size  # the decoder still works


FRAMES = [RGB.convert("P").rotate(angle) for angle in range(0, 360, 2)]
READ_AS_THEY_ARE = {
    "a PNG that is a ZIP too": saved(RGB, "PNG") + POLYGLOT_ZIP.getvalue(),
    "a PNG that is a page too": png(extra=chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")),
    "a JPEG that is a page too": JPEG[:2] + b"\xff\xfe\0\x22<script>alert(document.domain)/*" + JPEG[2:],
    "a JPEG under another name": JPEG,
    "a film of 180 frames": saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "a PNG of several frames": saved(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90)] * 20),
    "a TIFF of 200 pages": saved(RGB, "TIFF", save_all=True, append_images=[RGB] * 199),
    "64 MiB of text in a PNG": png(extra=chunk(b"zTXt", b"Comment\0\0" + SMALL)),
    "64 MiB of profile in a PNG": png(extra=chunk(b"iCCP", b"sRGB\0\0" + SMALL)),
    "64 MiB of pixels for 9 KiB": png(pixels=b"".join(b"\0" + row.tobytes() for row in noise()) + ZEROS),
    "a profile of noise": saved(RGB, "JPEG", icc_profile=np.random.default_rng(1).bytes(3000)),
    "a profile that says it is 4 GiB": saved(RGB, "PNG", icc_profile=b"\xff" * 4 + bytes(32) + b"acsp" + bytes(88)),
    "EXIF in a circle": saved(RGB, "JPEG", exif=exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)], 8)),
    "EXIF of 4 thousand million values": saved(RGB, "JPEG", exif=exif([(0x010E, 2, 2**32 - 1, 8)])),
    "EXIF of 5000 entries": saved(RGB, "JPEG", exif=exif([(1000 + n, 3, 1, n) for n in range(5000)])),
    "EXIF that turns by 99": saved(RGB, "JPEG", exif=exif([(0x0112, 3, 1, 99)])),
    "EXIF that is a word": saved(RGB, "JPEG", exif=b"Exif\0\0evil"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_AS_THEY_ARE)
def test_other_data_in_a_picture_is_ignored(decoder, name):
    """Only the pixels of the first picture are read, and nothing else takes memory."""
    try:
        found = decoder.read(READ_AS_THEY_ARE[name], "photo.png")
    except InputError as error:
        assert "64 MiB" in name and DAMAGED in str(error)  # Pillow refuses data that large
    else:
        assert found.size == RGB.size and found.info == {}
        assert np.abs(np.asarray(found, int) - noise()).mean() < 60  # the right picture, almost in its colours


@pytest.mark.parametrize("name", REFUSED)
def test_bad_pictures_in_a_run_directory_are_refused(name, tmp_path):
    (tmp_path / "result.png").write_bytes(REFUSED[name][0])
    with pytest.raises(InputError, match=r"^result\.png .*\.$"):
        codec.shrunk(tmp_path / "result.png", 100)


# ZIPs


def refusal(files, **how):
    data = files if isinstance(files, bytes) else seeds.zipped(files, **how)
    before = at_home()
    with pytest.raises(InputError, match=r"^my\.zip.*\.$") as caught:
        import_run(data, "my.zip")
    assert at_home() <= {*before, "runs", "imports.lock"}
    return str(caught.value)


def at_home():
    """Return the names of all files in the home, except those of living processes."""
    return {path.name for path in paths.home().rglob("*") if "processes" not in path.parts}


def test_the_seed_itself_is_imported():
    assert import_run(seeds.zipped(seeds.run_files())).record().title == "photo × painting"


def test_a_zip_with_a_huge_directory_is_refused():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        for number in range(90_000):
            opened.writestr(zipfile.ZipInfo(f"{number:0>60}"), b"")
    assert len(packed.getvalue()) > archive.MAX_DIRECTORY
    with bounded(20):
        assert refusal(packed.getvalue()) == "my.zip is not a ZIP file, or is damaged."


def test_a_zip_bomb_is_unpacked_only_up_to_the_limit():
    with bounded(12):
        files = seeds.run_files() | {"marks.json": SPACES}
        assert refusal(files).endswith("marks.json is larger than 65,536 bytes.")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_zipfile_unpacks_in_one_go_is_refused(compression):
    data = seeds.zipped(seeds.run_files() | {"marks.json": SPACES}, compression=compression)
    with bounded(12):
        assert refusal(data).endswith("must be stored or deflated, as in most ZIPs.")


def test_a_zip_bomb_in_place_of_a_picture_is_refused(monkeypatch):
    """It is unpacked to the disk piece by piece, up to the limit of a picture."""
    monkeypatch.setattr(archive, "PICTURE_BYTES", 50 * 2**20)
    data = seeds.zipped(seeds.run_files() | {"start.png": SPACES})
    with bounded(12):
        assert refusal(data).endswith("start.png is larger than 52,428,800 bytes.")


@pytest.mark.parametrize("name", ["content.png", "result.png", "frames/000004.jpg"])
def test_a_picture_of_another_format_than_its_name_is_refused(name):
    other = saved(RGB, "JPEG" if name.endswith("png") else "PNG")
    kind = "PNG" if name.endswith("png") else "JPEG"
    short = name.rpartition("/")[2]
    assert refusal(seeds.run_files() | {name: other}) == f"my.zip: {short} is not a {kind} picture, or is damaged."


@pytest.mark.parametrize("name", ["result.png", "live.jpg", "frames/000004.jpg"])
def test_a_picture_of_another_size_than_the_run_is_refused(name):
    smaller = saved(Image.fromarray(noise(48, 60)), "PNG" if name.endswith("png") else "JPEG")
    larger = saved(Image.new("RGB", (3000, 3000)), "PNG" if name.endswith("png") else "JPEG")
    assert refusal(seeds.run_files() | {name: smaller}).endswith("has another size than the run's record says.")
    assert refusal(seeds.run_files() | {name: larger}).endswith("the limit is 3,072 pixels.")


@ON_POSIX
@pytest.mark.parametrize("name", ["result.png", "marks.json", "frames/000099.jpg"])
def test_a_link_in_a_run_is_not_exported(name, tmp_path):
    (tmp_path / "secret").write_text("a secret")
    run = import_run(seeds.zipped(seeds.run_files()))
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "secret")
    packed = io.BytesIO()
    export_run(run, packed)
    with zipfile.ZipFile(packed) as opened:
        assert f"{run.id}/{name}" not in opened.namelist() and f"{run.id}/run.json" in opened.namelist()


# Run directories


@pytest.fixture
def run():
    return import_run(seeds.zipped(seeds.run_files()))


def rewritten(run, **changes):
    said = json.loads((run.path / "run.json").read_text()) | changes
    (run.path / "run.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [0, 0]},
        {"shape": [48, 2**40]},
        {"created": "0001-01-01T00:00:00Z"},
        {"created": "9999-12-31T23:59:59-14:00"},
        {"timings": {"total": float("nan")}},
        {"timings": {"total": -1}},
        {"timings": {"total": 1e300}},
        {"iteration": 10**400},
        {"iteration": -1},
        {"evaluations": 1e300},
        {"writer": {"pid": -1, "started": 0}},
        {"writer": {"pid": 10**30, "started": 0}},
        {"environment": {"processor": "\ud800"}},
        {"steering": [{"iteration": 1, "changes": {"style_weight": "much"}}]},
        {"steering": [{"iteration": 1, "changes": {"style_weight": 0, "content_weight": 0}}]},
        {"steering": [{"iteration": 1, "changes": {"size": 128}}]},
        {"settings": []},
    ],
    ids=str,
)
def test_invalid_records_are_refused(run, changes):
    rewritten(run, **changes)
    with pytest.raises(StudioError, match=rf"^The record of the run {run.id} is damaged\.$"):
        run.record()
    assert library.entries() == []
    library.delete(run)  # it can still be deleted


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_deeply_nested_record_is_refused(run, depth):
    (run.path / "run.json").write_text('{"schema_version": 1, "a": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(StudioError, match=r"is damaged\.$"):
        run.record()


def test_files_of_100_mb_are_not_read(run):
    for name in ("run.json", "marks.json", "request.json", "metrics.csv"):
        with (run.path / name).open("wb") as file:
            file.truncate(100 * 2**20)
    with bounded(10):
        with pytest.raises(StudioError, match=r"cannot be read: it has more than 1,048,576 bytes\.$"):
            run.record()
        assert library.marks(run) == library.Marks() and run.request() == Request()
    with bounded(80), pytest.raises(StudioError, match=r"^The metrics of the run .* are damaged\.$"):
        run.metrics()


@ON_POSIX
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_pipes_folders_and_devices_are_refused(run, kind):
    """Reading a pipe without a writer would block forever."""
    for name in ("run.json", "marks.json", "request.json", "metrics.csv"):
        (run.path / name).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(run.path / name)
        elif kind == "folder":
            (run.path / name).mkdir()
        else:
            (run.path / name).symlink_to("/dev/zero")
    with pytest.raises(StudioError, match=r"cannot be read: it is not a file\.$"):
        run.record()
    with pytest.raises(StudioError, match=r"are damaged\.$"):
        run.metrics()
    assert library.marks(run) == library.Marks() and run.request() == Request()
    assert library.entries() == []


HEAD = ",".join([*METRICS, *seeds.SETTINGS.style_layers])


@pytest.mark.parametrize(
    "text",
    [
        ",".join(map(str, range(300_000))) + "\n",
        HEAD + "," + ",".join(["block1_conv1"] * 5) + ",evil\n",
        f"{HEAD}\nnan,1,0.5,9,4,5,0,1,3\n",
        f"{HEAD}\n0,inf,0.5,9,4,5,0,1,3\n",
        f"{HEAD}\n0,1,much,9,4,5,0,1,3\n",
        f"{HEAD}\n0,1,0.5,=1+1,4,5,0,1,3\n",
        f"{HEAD}\n" + '"' * 1001 + "\n",
        f"{HEAD}\n\x00\n",
        "\ufeff" + HEAD + "\n",
    ],
    ids=["wide", "columns", "nan", "inf", "word", "formula", "quotes", "nul", "mark"],
)
def test_invalid_metrics_are_refused(run, text):
    (run.path / "metrics.csv").write_text(text)
    with bounded(30), pytest.raises(StudioError, match=rf"^The metrics of the run {run.id} are damaged\.$"):
        run.metrics()
    assert run.with_progress(run.record()) == run.record()


def test_files_with_other_names_are_not_frames(run):
    for name in ("1e5.jpg", "0x1.jpg", "1 (copy).jpg", "9" * 30 + ".jpg", "１.jpg"):
        (run.path / "frames" / name).touch()
    assert [iteration for iteration, _ in run.frames()] == [0, 4]


def false_header(shape, descr="<f4"):
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(48)


@pytest.mark.parametrize(
    "data",
    [
        false_header((10**6, 10**6, 3)),
        false_header((48, 64, 3)),
        false_header((-1, 64, 3)),
        false_header((10**30, 64, 3)),
        false_header((48, 64, 3), "|O"),
        false_header((48, 64, 3), [("a", "<f4")]),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1),
        pickle.dumps(np.zeros(3)),
        seeds.npy(np.zeros((48, 64, 4), np.float32)),
        b"",
    ],
    ids=["large", "short", "negative", "beyond", "objects", "fields", "header", "pickle", "channels", "empty"],
)
def test_invalid_results_are_refused(run, data):
    (run.path / "result.npy").write_bytes(data)
    with (
        bounded(5),
        pytest.raises(StudioError, match=r"has no usable result: result\.npy is missing or damaged"),
    ):
        codec.read_exact(run.path / "result.npy")
    assert refusal(seeds.run_files() | {"result.npy": data}).endswith("does not match the run's record.")


def npz(**members):
    """Return a compressed checkpoint file of these members."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(f"{name}.npy", data)
    return packed.getvalue()


def test_a_checkpoint_that_unpacks_too_large_is_refused(run):
    run.checkpoint.write_bytes(npz(image=seeds.npy(np.zeros((1, 4000, 4000, 3), np.float32))))
    assert run.checkpoint.stat().st_size < 300_000
    with bounded(5), pytest.raises(StudioError, match=rf"^The checkpoint of {run.id} is damaged\.$"):
        Checkpoint.load(run.checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": np.array([None], object)},
        {"image": np.zeros((1, 48, 64, 3), np.float64)},
        {"best_image": np.zeros((1, 8, 8, 3), np.float32)},
        {"iteration": -1},
        {"iteration": 0.5},
        {"seconds": float("nan")},
        {"evil": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_invalid_checkpoints_are_refused(run, changes):
    image = np.zeros((1, 48, 64, 3), np.float32)
    np.savez(run.path / "checkpoint.npz", **{"image": image, "best_image": image, "iteration": 3} | changes)
    with pytest.raises(StudioError, match=rf"^The checkpoint of {run.id} is damaged\.$"):
        Checkpoint.load(run.checkpoint)


@ON_POSIX
@pytest.mark.parametrize("name", ["error.txt", "frames", "metrics.csv"])
def test_a_run_with_a_link_in_it_is_not_resumed(run, name, tmp_path):
    """It would write to the target of the link."""
    seeds.checkpoint(run.path)
    (tmp_path / "elsewhere").mkdir()
    for path in [*(run.path / "frames").iterdir()]:
        path.unlink()
    (run.path / "frames").rmdir()
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"cannot resume: {name} is a link"):
        recovery.resume(run, 5)
    assert run.record().status == "done"


# JSON, settings, names


def test_a_measurement_of_100_mb_is_refused(tmp_path):
    file = tmp_path / "bench.json"
    with file.open("wb") as opened:
        opened.truncate(100 * 2**20)
    with bounded(10), pytest.raises(InputError, match=r"has more than 4 MiB, too much for a measurement\.$"):
        measurements.read(file)


@ON_POSIX
def test_a_measurement_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "bench.json")
    with pytest.raises(InputError, match=r"bench\.json is not a file\.$"):
        measurements.read(tmp_path / "bench.json")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 3),
        (("created",), "yesterday"),
        (("environment",), []),
        (("weights",), "w" * 201),
        (("comparisons", 0, "title"), 5),
        (("comparisons", 0, "timings", 0, "seconds"), []),
        (("comparisons", 0, "timings", 0, "seconds"), [float("nan")]),
        (("comparisons", 0, "timings", 0, "seconds"), [1e300]),
        (("comparisons", 0, "timings", 0, "size"), 10**30),
        (("pairs", 0, "shape"), [1, 2, 3]),
        (("pairs", 0, "courses", 0, "seconds"), [1.0]),
        (("pairs", 0, "courses", 0, "totals"), [float("inf"), 1.0]),
        (("pairs", 0, "courses"), [None]),
        (("evil",), {}),
    ],
    ids=str,
)
def test_invalid_measurements_are_refused(place, value):
    said = holder = seeds.measurement()
    for part in place[:-1]:
        holder = holder[part]
    holder[place[-1]] = value
    with pytest.raises(InputError, match=r"^b\.json holds no measurement of nst bench: .*\.$"):
        measurements.parse(json.dumps(said).encode(), "b.json")


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_deeply_nested_measurement_is_refused(depth):
    with pytest.raises(InputError, match=r"^b\.json holds no measurement"):
        measurements.parse(b'{"environment": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}", "b.json")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "value", [-1, 10**30, float("nan"), float("inf"), "", "\x00", [], {}, "size=1; rm -rf", b"\xff"]
)
def test_invalid_settings_are_refused(name, value):
    setting = SETTINGS[name]
    if setting.each_of and value in ("", []):
        assert presets.choose(**{name: value}).style_layer_weights == ()  # empty: all layers have the same weight
        return
    with pytest.raises(InputError, match=rf"^{name} = .*\.$") as caught:
        presets.choose(**{name: value})
    assert len(str(caught.value)) < 600


NAMES = {
    "NUL": "a\x00b",
    "a line more": "a\nb\r\nc",
    "escape": "\x1b[2J\x1b]0;evil\x07",
    "turned": "invoice\u202egnp.exe",
    "isolated": "a\u2066b\u2069c",
    "marks": "a\u200e\u200f\u061cb",
    "half a character": "a\ud800b",
    "a separator": "a\u2028b\u2029c",
    "long": "a" * 5000,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_made_legible(run, name):
    """Names in a record are made legible, even if another program wrote the record."""
    rewritten(run, content=NAMES[name] if name != "half a character" else "a\ufffdb")
    found = run.record().content
    assert found == as_name(NAMES[name]) == as_name(found)
    assert found.isprintable() and len(found) <= LONGEST
    made = store.create(RunSpec([Style("style", RGB)], seeds.SETTINGS, "draft"), RGB, NAMES[name]).record()
    assert made.content == found
    with pytest.raises(InputError) as caught:
        store.create(RunSpec([Style("style", RGB)], seeds.SETTINGS, "draft"), Image.new("RGB", (4000, 40)), NAMES[name])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["Grüße vom  Meer, Teil 2/3!", "富嶽三十六景", "👩‍👩‍👧", "صورة", "תמונה", "a–b “c” … ½"]
)
def test_ordinary_names_do_not_change(name):
    assert as_name(name) == legible(name) == name


@ON_POSIX
def test_a_file_name_cannot_control_the_terminal(tmp_path):
    """This also holds for a refused file."""
    file = tmp_path / "evil\x1b[2J\x07\u202egnp.png"
    file.write_bytes(b"no picture")
    command = [sys.executable, "-m", "nst", "stylize", str(file), "waves", "-o", str(tmp_path / "out.png")]
    done = subprocess.run(command, cwd=paths.CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("nst: evil\ufffd[2J\ufffd\ufffdgnp.png is not a JPEG, PNG") and done.stdout == ""


def test_a_run_id_cannot_lead_out_of_the_runs_folder():
    for name in ("..", "../../etc", "a\x00", "20260101-000000-" + "a" * 5000, "20260101-000000-a/..", ""):
        with pytest.raises(InputError, match="There is no run"):
            store.find(name)


# Weights


def test_weights_that_declare_terabytes_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for layer in CONVOLUTIONS:
            group = file.create_group(layer)
            group.create_dataset("kernel", (10**4, 10**4, 10**4, 10**4), np.float32, chunks=(1, 1, 64, 64))
            group.create_dataset("bias", (64,), np.float32)
    with bounded(20), pytest.raises(InputError, match=r"does not contain VGG19 weights \(block1_conv1 has the shapes"):
        read(WeightsFile(tmp_path / "w.h5", "user"))


def test_an_import_leaves_only_known_files_in_the_home(own_home):
    import_run(seeds.zipped(seeds.run_files()))
    assert {path.name for path in own_home.iterdir()} <= {"runs", "processes", "imports.lock"}
    assert isinstance(store.all_runs()[0], Run) and not list(Path(own_home).glob("runs/.*"))
