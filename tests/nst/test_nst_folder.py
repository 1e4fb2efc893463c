"""nst stylize on a folder of photos and on the frames of a film, with the real engine."""

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
from in_process import nst
from PIL import Image

from core.images import codec, geometry
from core.runs import store

ROOT = Path(__file__).parents[2]
SMALL = ("--preset", "reference", "--size", "64", "--iterations", "2")


def command(*arguments):
    return [sys.executable, "-m", "nst", "stylize", *map(str, arguments)]


def stylize(*arguments):
    return nst("stylize", *arguments)


def photo(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (2, 10):
        photo(number).save(folder / f"photo{number}.png")
    return folder


def told(done):
    return json.loads(done.stdout)


def names(outputs):
    return [Path(output).name for output in outputs]


def test_a_folder_is_painted_and_finished_photos_are_not_painted_again(photos, own_home, weights, model):
    out = photos.parent / "out"
    (photos / "photo3.jpg").write_text("no picture")
    done = stylize(photos, "waves", "-o", out, *SMALL)
    assert (done.returncode, done.stdout) == (1, "")
    *lines, summary, broken, failure = done.stderr.splitlines()
    assert lines[:2] == ["Reading the pictures …", "Loading TensorFlow …"]
    progress = [
        re.match(r"(\d of 3, \S+): (\d)/2  total \S+  style \S+  content \S+  [\d.]+ s$", line) for line in lines
    ]
    steps = [match.groups() for match in progress if match]
    assert steps == [
        (f"{place} of 3, photo{number}.png", str(i)) for place, number in ((1, 2), (3, 10)) for i in range(3)
    ]
    assert summary == f"Painted 2 of 3: {out}"
    assert broken.startswith("photo3.jpg is not a JPEG, ")
    assert failure == "nst: 1 of 3 photos could not be painted."
    assert sorted(path.name for path in out.iterdir()) == ["photo10.png", "photo2.png"]
    found = {run.record().content: run for run in store.all_runs()}  # a run for each photo, as for single photos
    assert set(found) == {"photo2", "photo10"}
    for name, run in found.items():
        assert codec.read_image(out / f"{name}.png").tobytes() == codec.read_image(run.result).tobytes()

    (photos / "photo3.jpg").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    done = stylize(photos, "waves", "-o", out, *SMALL)
    assert (done.returncode, done.stderr) == (0, f"Painted 0 of 2, 2 were already painted: {out}\n")
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}

    photo(3).save(photos / "photo3.png")
    done = stylize(photos, "waves", "-o", out, *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    assert names(each["output"] for each in told(done)["painted"]) == ["photo3.png"]
    assert names(told(done)["there already"]) == ["photo2.png", "photo10.png"]
    assert told(done)["failed"] == {}

    done = stylize(photos, "waves", "-o", out, *SMALL, "--again", "--json")
    assert done.returncode == 0, done.stderr
    assert names(each["output"] for each in told(done)["painted"]) == ["photo2.png", "photo3.png", "photo10.png"]
    assert len(store.all_runs()) == 6


def test_a_photo_that_is_too_narrow_is_reported_at_the_end(photos, own_home, weights, model):
    Image.new("RGB", (400, 40)).save(photos / "narrow.png")
    done = stylize(photos, "waves", "-o", photos.parent / "out", *SMALL, "--json")
    assert done.returncode == 1
    assert set(told(done)["failed"]) == {"narrow.png"}
    assert names(each["output"] for each in told(done)["painted"]) == ["photo2.png", "photo10.png"]
    *_, reason, failure = done.stderr.splitlines()
    assert reason.startswith("narrow would be only 64 × 6 pixels at size 64")
    assert failure == "nst: 1 of 3 photos could not be painted."


def test_each_frame_starts_from_the_result_before_and_an_interrupted_film_continues(photos, own_home, weights, model):
    out = photos.parent / "out"
    photo(1).save(photos / "photo1.png")
    # with steps of a hundredth of a grey level, a result equals its start
    given = (*SMALL, "--learning-rate", "0.01", "--sequence", "--iterations-after-first", "1")
    done = stylize(photos, "waves", "-o", out, *given, "--json")
    assert done.returncode == 0, done.stderr
    painted = told(done)["painted"]
    assert [(each["start"], each["iteration"]) for each in painted] == [("content", 2), ("photo1", 1), ("photo2", 1)]
    assert [run.record().content for run in store.all_runs()] == ["photo1"]
    begun = geometry.resize(codec.read_image(photos / "photo1.png"), 64).astype(int)
    results = {path.name: np.asarray(codec.read_image(path), int) for path in sorted(out.iterdir())}
    assert set(results) == {"photo1.png", "photo2.png", "photo10.png"}
    for result in results.values():
        assert abs(result - begun).max() <= 1

    done = stylize(photos, "waves", "-o", out, *given)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"Painted 0 of 3, 3 were already painted: {out}")
    (out / "photo10.png").unlink()
    given = (*SMALL, "--sequence", "--iterations-after-first", "1")
    courses = []
    for missing in (None, "photo2.png"):  # first all frames, then only the missing frame
        if missing:
            (out / missing).unlink()
        done = stylize(photos, "waves", "-o", out, *given, "--json")
        assert done.returncode == 0, done.stderr
        courses.append({each["content"]: each["best_total"] for each in told(done)["painted"]})
    assert list(courses[0]) == ["photo1", "photo2", "photo10"]
    assert list(courses[1]) == ["photo2"]
    assert courses[1]["photo2"] == pytest.approx(courses[0]["photo2"], rel=1e-5)


def test_frames_of_different_sizes_are_refused_before_anything_is_painted(photos, own_home):
    photo(1).resize((60, 80)).save(photos / "photo3.png")
    done = stylize(photos, "waves", "-o", photos.parent / "out", *SMALL, "--sequence")
    assert (done.returncode, done.stdout) == (2, "")
    *_, line = done.stderr.splitlines()
    assert line == (
        "nst: photo3.png has 60 × 80 pixels, but the first frame, photo2.png, has 80 × 60: all frames of a film must "
        "have the same size."
    )
    assert not store.all_runs() and not (photos.parent / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_ends_a_film_and_keeps_its_finished_frames(photos, own_home, weights, model):
    out = photos.parent / "out"
    words = command(photos, "waves", "-o", out, *SMALL, "--sequence", "--iterations-after-first", "20000")
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not (
            (found := store.all_runs()) and found[0].record().content == "photo10" and len(found[0].metrics()) > 2
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, lines = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (130, "")
    assert lines.splitlines()[-3:] == [
        f"Painted 1 of 2: {out}",
        "Finished photos are kept: repeat the command to continue.",
        "nst: Stopped.",
    ]
    assert [path.name for path in out.iterdir()] == ["photo2.png"]
    assert [run.record().content for run in store.all_runs()] == ["photo2"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX terminals")
def test_one_bar_for_all_photos_on_a_terminal(on_terminal, photos, own_home, weights, model):
    text = on_terminal(command(photos, "waves", "-o", photos.parent / "out", *SMALL))
    assert re.search(r"1 of 2, photo2\.png: total \S+ +\S+ +\d/4 ", text)
    # Iterations of all photos, and the time left.
    assert re.search(r"2 of 2, photo10\.png: total \S+ +\S+ +4/4 +\S+ it/s +\d:\d\d:\d\d", text)
    assert f"Painted 2 of 2: {photos.parent / 'out'}" in text.replace("\r\n", "\n")
