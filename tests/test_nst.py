"""The command line, as a person or a script meets it: exit codes, one line for what went wrong, results to parse."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import images, runs
from core.settings import TransferSettings

ROOT = Path(__file__).parent.parent
SMALL = ("--size", "64", "--iterations", "3")
PREPARING = ["Loading TensorFlow …", "Reading the pictures …", "Measuring the style …"]


def command(*arguments):
    return [sys.executable, "-m", "nst", *map(str, arguments)]


def nst(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture
def files(tmp_path):
    """A folder with a picture, one that is none and one that is too narrow."""
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(tmp_path / "good.png")
    Image.new("RGB", (400, 40)).save(tmp_path / "narrow.png")
    (tmp_path / "words.jpg").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("stylize none.png waves -o out.png", r"none\.png does not exist in "),
        ("stylize good.png words.jpg -o out.png", r"words\.jpg is not a JPEG, PNG, "),
        ("stylize narrow.png waves -o out.png", r"narrow would be only 256 × 26 pixels .* choose a larger size\."),
        ("stylize good.png waves -o out.png --preset oil", r"There is no preset 'oil'; there are draft, reference\."),
        ("stylize good.png waves -o out.png --size 63", r"size = 63: .*greater than or equal to 64\."),
        ("stylize good.png waves -o out.png --size large", r"Invalid value for '--size': .*integer"),
        ("stylize good.png waves -o out.png --style-layers block9_conv9", r"style_layers = .*VGG19 has no convolution"),
        ("stylize good.png waves -o out.gif", r".*out\.gif cannot be written: the name must end in \.png"),
        ("stylize good.png waves -o none/out.png", r".*out\.png cannot be written: there is no folder .*none\."),
        ("stylize good.png waves", r"Missing option '-o'|Missing option .*--output"),
        ("stylize good.png waves -o out.png --sise 64", r"No such option:? .*--sise"),
        ("paint good.png waves", r"No such command 'paint'"),
        ("reference --rows 0,150 good.png good.png", r"--rows 0,150: no row 150 was published; there are 0,100,"),
        ("reference --rows all good.png good.png", r"--rows all is no list of iterations such as 0,100\."),
        ("reference good.png", r"Give both pictures of the pair, or neither to have them fetched\."),
    ],
)
def test_bad_input_is_told_in_one_line(files, own_home, arguments, expected):
    # Names are given relative to the folder where the person is; the program is the checkout's.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(*arguments.split()), cwd=files, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.match(f"nst: (?:{expected})", line), line
    assert not list(files.glob("out*"))
    assert not (own_home / "runs").exists()


def test_failure_that_is_nobody_s_input_exits_with_1(files, monkeypatch):
    (files / "file").touch()
    monkeypatch.setenv("NST_HOME", str(files / "file" / "home"))
    done = nst("stylize", files / "good.png", files / "good.png", "-o", files / "out.png")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("nst: The run cannot be written to ")


def test_debug_shows_the_traceback(files, own_home):
    done = nst("stylize", files / "none.png", "waves", "-o", files / "out.png", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "InputError" in done.stderr


def test_help_names_every_setting():
    done = nst("stylize", "--help")
    assert done.returncode == 0
    for name in TransferSettings.model_fields:
        assert "--" + name.replace("_", "-")[:18] in done.stdout, name  # long names may be cut or wrapped
    done = nst("--help")
    assert done.returncode == 0
    for name in ("stylize", "reference", "export", "runs", "doctor", "dashboard"):
        assert name in done.stdout
    assert "worker" not in done.stdout


def test_stylize_as_json(files, own_home, weights, model):
    output = files / "out.png"
    done = nst("stylize", files / "good.png", "waves", "-o", output, "--frame-every", "2", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["iteration"], told["evaluations"]) == ("done", 3, 4)
    assert (told["content"], told["style"], told["preset"]) == ("good", "waves", "draft")
    assert (told["settings"]["size"], told["settings"]["iterations"]) == (64, 3)
    assert told["settings"]["beta_1"] == 0.9  # the preset's own
    assert told["output"] == str(output) and told["shape"] == [48, 64]
    assert {"imports", "weights", "model", "first step", "median step", "total"} <= set(told["timings"])
    assert told["weights"] == weights.provenance

    said = images.read_metadata(output)
    assert json.loads(said["Settings"]) == told["settings"]
    assert said["Title"] == "good × waves"
    assert float(said["Total loss"]) == pytest.approx(told["best_total"], rel=1e-5)
    (run,) = runs.all_runs()
    assert told["run"] == str(run.path) and told["id"] == run.id
    assert images.read_image(output).tobytes() == images.read_image(run.result).tobytes()
    assert [iteration for iteration, _ in run.frames()] == [0, 2]

    lines = done.stderr.splitlines()  # what is prepared, then the steps, and not a word of TensorFlow's own
    assert lines[:3] == PREPARING
    progress = [re.fullmatch(r"(\d)/3  total \S+  style \S+  content \S+  [\d.]+ s", line) for line in lines[3:]]
    assert all(progress), lines
    assert [match[1] for match in progress] == ["0", "1", "2", "3"]


@pytest.mark.skipif(os.name != "posix", reason="the signal is one of POSIX")
def test_ctrl_c_keeps_the_best_picture(files, own_home, weights, model):
    output = files / "out.jpg"
    arguments = ("stylize", "chelsea", files / "good.png", "-o", output, "--size", "64", "--iterations", "20000")
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not ((found := runs.all_runs()) and len(found[0].metrics()) >= 4):
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
    assert images.read_image(output).size == (64, 43)
    assert json.loads(images.read_metadata(output)["Settings"])["iterations"] == 20_000
    assert "Traceback" not in told


def test_runs_as_json_and_as_a_table(files, own_home):
    done = nst("runs", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    picture = images.read_image(files / "good.png")
    settings = TransferSettings(size=64, iterations=7)
    made = [runs.create(picture, picture, settings, "draft", name, "Grüße") for name in ("one", "two")]
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


def test_doctor_as_json_and_as_a_table(weights, model, own_home):
    done = nst("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert all(set(finding) == {"state", "what", "found", "remedy"} for finding in told)
    states = {finding["what"]: finding["state"] for finding in told}
    assert states["VGG19 weights"] == states["ONNX model"] == states["Python"] == "ok"


def test_doctor_fails_where_something_is_missing(own_home, tmp_path, monkeypatch):
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
