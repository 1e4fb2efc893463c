"""nst batch, with the real engine, as a person meets it."""

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

from core.batches import plan, progress
from core.jobs import queue, ray_head
from core.runs import library, store
from nst import batch as batch_command

ROOT = Path(__file__).parents[2]
SMALL = ("--size", "64", "--iterations", "1")


def command(*arguments):
    return [sys.executable, "-m", "nst", "batch", *map(str, arguments)]


def batch(*arguments, folder=None):
    return nst("batch", *arguments, folder=folder)


@pytest.fixture
def given(tmp_path):
    """Folders of three photos and of three paintings."""
    for number in range(6):
        path = tmp_path / ("photos", "art")[number // 3] / f"{'abcxyz'[number]}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(path)
    return tmp_path


@pytest.fixture
def rows(given):
    """Writes a file of runs."""

    def write(*lines, heading="content,style,preset,size,iterations"):
        (given / "jobs.csv").write_text("\n".join([heading, *lines]) + "\n")
        return given / "jobs.csv"

    return write


@pytest.mark.timeout(600)
def test_three_photos_three_paintings_and_two_presets_from_one_command_to_one_report(given, own_home, weights, model):
    target = given / "all.html"
    asked = ("--contents", given / "photos", "--styles", given / "art", "--preset", "draft", "--preset", "reference")
    done = batch(*asked, *SMALL, "--optimizer", "adam", "--report", target, "--json")
    assert done.returncode == 0, done.stderr
    looked, count, *lines = done.stderr.splitlines()
    assert (looked, count) == ("Looking at 3 photos and 3 paintings …", "18 runs")
    ended = [
        re.match(r"(\d+) of 18, ([abc]) × ([xyz]) \((draft|reference)\): loss \S+, [\d.]+ s$", line) for line in lines
    ]
    told = [match.groups() for match in ended if match]
    assert [int(number) for number, *_ in told] == [*range(1, 19)]
    assert [pair for _, *pair in told] == [
        [photo, painting, preset] for photo in "abc" for painting in "xyz" for preset in ("draft", "reference")
    ]
    assert "Painted 18 of 18" in lines and lines[-1] == f"The report of 18 runs is in {target}"
    said = json.loads(done.stdout)
    assert len(said["painted"]) == 18 and (said["there already"], said["failed"]) == ([], {})
    text = target.read_text()
    assert text.count('<table class="sheet"') == 2 and "<h3>Preset draft</h3>" in text
    assert len(re.findall(r"Run \d+</a> · [abc], [xyz], Preset (?:draft|reference)", text)) == 18
    assert "Yardstick" in text and "have not been measured" not in text
    assert len(library.select(library.entries(), "photos × art")) == 18

    (given / "photos" / "b.png").unlink()
    done = batch(*asked, *SMALL, "--optimizer", "adam", "--report", target, "--json")
    assert (done.returncode, done.stderr.splitlines()[1]) == (0, "12 runs, 12 of them painted already")
    assert len(json.loads(done.stdout)["there already"]) == 12 and len(store.all_runs()) == 18
    assert "12 runs of Style Transfer Studio" in " ".join(target.read_text().split())


def test_a_file_of_runs_goes_on_where_it_was_and_its_report_lies_beside_it(rows, own_home, weights, model):
    jobs_file = rows("photos/a.png,art/x.png,draft,64,2", "photos/a.png,waves,draft,64,1")
    done = batch(jobs_file, "--no-measure", "--init", "content")
    assert done.returncode == 0, done.stderr
    assert (jobs_file.parent / "jobs.csv-report.html").is_file()
    assert {run.record().batch for run in store.all_runs()} == {"jobs.csv"}
    newest, older = store.all_runs()
    assert (older.record().iteration, newest.record().settings.init) == (2, "content")

    newest.change(status="interrupted")
    rows("photos/a.png,waves,draft,64,1", "photos/a.png,art/x.png,draft,64,2", "photos/b.png,waves,draft,64,1")
    done = batch(jobs_file, "--no-measure", "--init", "content", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["there already"] == [older.id]
    assert [each["content"] for each in said["painted"]] == ["a", "b"] and said["painted"][0]["id"] == newest.id
    assert len(store.all_runs()) == 3


PAIRS = ("--contents", "photos", "--styles", "art")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"Name a file of runs, or photos and paintings by --contents and --styles\."),
        (("--contents", "photos"), r"Name a file of runs, or photos and paintings"),
        (("jobs.csv", "--styles", "art"), r"The runs are those of a file: leave out --contents, --styles, "),
        (("jobs.csv", "--preset", "draft", "--preset", "fast"), r"The runs are those of a file"),
        (("jobs.csv",), r"jobs\.csv, line 3, column size: size = '3': .* Also wrong: line 4\."),
        (("jobs.csv", "--size", "1"), r"size = 1: should be greater than or equal to 64\."),
        (("none.csv",), r"none\.csv does not exist\."),
        (("jobs.yaml",), r"jobs\.yaml-report\.html is a folder: give the name of a file\."),
        ((".",), r"\. is no file of runs: its name must end in "),
        (("jobs.csv", "--by", "oil"), r"'oil' is neither a preset"),
        ((*PAIRS, "--sweep", "size=64", "--sweep", "size=96"), r"size is to be swept twice"),
        ((*PAIRS, "--sweep", "size"), r"'size' is no sweep such as"),
        ((*PAIRS, "--report", "out.pdf"), r"out\.pdf cannot be written: .* \.html or"),
        ((*PAIRS, "--sweep", f"seed={','.join(map(str, range(60)))}"), r"540 runs; a b"),
        (("--contents", "empty", "--styles", "art"), r"There is no picture in empty: "),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_begun(rows, given, own_home, arguments, message):
    rows("chelsea,waves,draft,64,1", "chelsea,waves,draft,3,1", "chelsea,none.png,draft,64,1")
    (given / "empty").mkdir()
    (given / "jobs.yaml-report.html").mkdir()
    done = batch(*arguments, folder=given)
    *_, line = done.stderr.splitlines()
    assert done.returncode == 2 and re.match(f"nst: .*{message}", line), done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert not store.all_runs() and not queue.queued_runs()


def test_what_is_no_cluster_is_told_before_anything_begins(given, own_home):
    done = batch(
        "--contents", given / "photos", "--styles", "waves", "--address", "ray://there", "--report", given / "r.zip"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "nst: 'ray://there' is no address of a Ray cluster such as 10.0.0.1:6379."
    assert not store.all_runs()


def test_what_a_cluster_tells_of_a_run_is_told_once_and_by_its_title(given, own_home, monkeypatch):
    """In the cluster's place, who says what it says."""

    def paint_all(begun, address, report, make_engine):
        report("Fetching the weights …")
        for run in begun:
            report(f"{run.id} begins on the node 0123.")
            report(f"{run.id} is queued: It goes on elsewhere.")
            run.change(status="failed", message="Memory ran out.", writer=None)
            report(f"{run.id} is failed: Memory ran out.")

    lines = []
    monkeypatch.setattr(ray_head, "paint_all", paint_all)
    monkeypatch.setattr("nst.console.tell", lines.append)
    asked = plan.from_product([str(given / "photos")], ["waves"], common={"size": 64})
    watch = progress.BatchProgress(progress.batch_items(asked[:2]))
    batch_command._run_batch(watch, "it", "auto")
    assert lines[-7:] == ["Fetching the weights …"] + [
        line
        for number, name in enumerate("ab", 1)
        for line in (
            f"{name} × waves (fast) begins on the node 0123.",
            f"{name} × waves (fast) is queued: It goes on elsewhere.",
            f"{number} of 2, {name} × waves (fast): Memory ran out.",
        )
    ]


@pytest.mark.skipif(os.name != "posix", reason="the signal is one of POSIX")
def test_ctrl_c_says_what_still_waits_and_the_same_command_goes_on(rows, own_home, weights, model):
    jobs_file = rows(
        "photos/a.png,waves,draft,64,20000", "photos/b.png,waves,draft,64,1", "photos/c.png,waves,draft,64,1"
    )
    process = subprocess.Popen(
        command(jobs_file), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while not ((found := store.all_runs()) and len(found[-1].metrics()) > 2):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, lines = process.communicate(timeout=100)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (130, "")
    assert lines.splitlines()[-4:] == [
        "What is being painted stops after its step, and keeps its best picture …",
        "Painted 0 of 3",
        "3 are not painted yet. What is done stays; the same command goes on from there.",
        "nst: Stopped.",
    ]
    (run,) = store.all_runs()
    assert run.record().status == "stopped" and run.result.is_file() and not queue.queued_runs()
    assert not (jobs_file.parent / "jobs.csv-report.html").exists()


def test_an_empty_address_is_none(rows, own_home):
    """As of a variable that is not set: it does not mean this machine."""
    done = batch(rows("photos/a.png,waves,draft,64,1"), "--address", "")
    assert (done.returncode, done.stdout, store.all_runs()) == (2, "", [])
    assert done.stderr == "nst: '' is no address of a Ray cluster such as 10.0.0.1:6379.\n"


def test_what_cannot_be_painted_is_told_and_the_others_are_painted(rows, own_home, weights, model):
    jobs_file = rows("photos/a.png,waves,draft,64,1,", "photos/b.png,waves,draft,10000,100,100",
                     heading="content,style,preset,size,iterations,history")  # fmt: skip
    done = batch(jobs_file, "--no-measure", "--json")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "nst: 1 of 2 runs could not be painted; the same command tries them once more."
    )
    said = json.loads(done.stdout)
    assert [each["content"] for each in said["painted"]] == ["a"]
    assert [*said["failed"].values()] == [["b × waves (draft)"]]
    assert "The report of 1 run is in" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="terminals are made as POSIX does")
def test_one_bar_for_all_runs_on_a_terminal(on_terminal, rows, own_home, weights, model):
    jobs_file = rows("photos/a.png,waves,draft,64,1", "photos/b.png,waves,draft,64,1")
    text = on_terminal(command(jobs_file, "--no-measure"))
    assert re.search(r"0 of 2 over, .* \d/2 ", text) and re.search(r"2 of 2 over +\S+ +2/2 ", text)
