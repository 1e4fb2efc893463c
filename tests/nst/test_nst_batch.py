"""nst batch as people use it, with the real engine."""

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
    """Return a folder with three photos and three paintings."""
    for number in range(6):
        path = tmp_path / ("photos", "art")[number // 3] / f"{'abcxyz'[number]}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(path)
    return tmp_path


@pytest.fixture
def rows(given):
    """Return a function that writes a file of runs."""

    def write(*lines, heading="content,style,preset,size,iterations"):
        (given / "jobs.csv").write_text("\n".join([heading, *lines]) + "\n")
        return given / "jobs.csv"

    return write


@pytest.mark.timeout(600)
def test_two_photos_two_paintings_and_two_presets_from_one_command_to_one_report(given, own_home, weights, model):
    (given / "photos" / "c.png").unlink()
    (given / "art" / "z.png").unlink()
    target = given / "all.html"
    asked = ("--contents", given / "photos", "--styles", given / "art", "--preset", "draft", "--preset", "reference")
    done = batch(*asked, *SMALL, "--optimizer", "adam", "--report", target, "--json")
    assert done.returncode == 0, done.stderr
    looked, count, *lines = done.stderr.splitlines()
    assert (looked, count) == ("Looking at 2 photos and 2 paintings …", "8 runs")
    ended = [
        re.match(r"(\d+) of 8, ([ab]) × ([xy]) \((draft|reference)\): loss \S+, [\d.]+ s$", line) for line in lines
    ]
    told = [match.groups() for match in ended if match]
    assert [int(number) for number, *_ in told] == [*range(1, 9)]
    assert [pair for _, *pair in told] == [
        [photo, painting, preset] for photo in "ab" for painting in "xy" for preset in ("draft", "reference")
    ]
    assert "Painted 8 of 8" in lines and lines[-1] == f"The report of 8 runs is in {target}"
    said = json.loads(done.stdout)
    assert len(said["painted"]) == 8 and (said["there already"], said["failed"]) == ([], {})
    text = target.read_text()
    assert text.count('<table class="sheet"') == 2 and "<h3>Preset draft</h3>" in text
    assert len(re.findall(r"Run \d+</a> · [ab], [xy], Preset (?:draft|reference)", text)) == 8
    assert "Evaluation:" in text and "have not been evaluated" not in text
    assert len(library.select(library.entries(), "photos × art")) == 8

    (given / "photos" / "b.png").unlink()
    done = batch(*asked, *SMALL, "--optimizer", "adam", "--report", target, "--json")
    assert (done.returncode, done.stderr.splitlines()[1]) == (0, "4 runs, 4 of them already painted")
    assert len(json.loads(done.stdout)["there already"]) == 4 and len(store.all_runs()) == 8
    assert "4 runs of Style Transfer Studio" in " ".join(target.read_text().split())


def test_a_repeated_file_of_runs_continues_and_the_report_is_beside_the_file(rows, own_home, weights, model):
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
        ((), r"Give a file of runs, or photos and paintings with --contents and --styles\."),
        (("--contents", "photos"), r"Give a file of runs, or photos and paintings"),
        (("jobs.csv", "--styles", "art"), r"With a file of runs, leave out --contents, --styles, "),
        (("jobs.csv", "--preset", "draft", "--preset", "fast"), r"With a file of runs, leave out "),
        (("jobs.csv",), r"jobs\.csv, line 3, column size: size = '3': .* Also wrong: line 4\."),
        (("jobs.csv", "--size", "1"), r"size = 1: should be greater than or equal to 64\."),
        (("none.csv",), r"none\.csv does not exist\."),
        (("jobs.yaml",), r"jobs\.yaml-report\.html is a folder: give the name of a file\."),
        ((".",), r"\. is not a file of runs: its name must end in "),
        (("jobs.csv", "--by", "oil"), r"'oil' is neither a preset"),
        ((*PAIRS, "--sweep", "size=64", "--sweep", "size=96"), r"size is given twice"),
        ((*PAIRS, "--sweep", "size"), r"'size' is not a sweep: give one such as"),
        ((*PAIRS, "--report", "out.pdf"), r"out\.pdf cannot be written: .* \.html or"),
        ((*PAIRS, "--sweep", f"seed={','.join(map(str, range(60)))}"), r"540 runs, but a b"),
        (("--contents", "empty", "--styles", "art"), r"There is no picture in empty: "),
    ],
)  # fmt: skip
def test_bad_input_is_reported_in_one_line_and_starts_nothing(rows, given, own_home, arguments, message):
    rows("chelsea,waves,draft,64,1", "chelsea,waves,draft,3,1", "chelsea,none.png,draft,64,1")
    (given / "empty").mkdir()
    (given / "jobs.yaml-report.html").mkdir()
    done = batch(*arguments, folder=given)
    *_, line = done.stderr.splitlines()
    assert done.returncode == 2 and re.match(f"nst: .*{message}", line), done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert not store.all_runs() and not queue.queued_runs()


def test_an_invalid_cluster_address_is_reported_before_anything_starts(given, own_home):
    done = batch(
        "--contents", given / "photos", "--styles", "waves", "--address", "ray://there", "--report", given / "r.zip"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "nst: 'ray://there' is not a Ray address: give one such as 10.0.0.1:6379."
    assert not store.all_runs()


def test_lines_from_the_cluster_are_printed_once_with_the_run_s_title(given, own_home, monkeypatch):
    """A stand-in for the cluster reports the lines."""

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


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_reports_the_waiting_runs_and_how_to_continue(rows, own_home, weights, model):
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
        "Active runs stop after the current step and keep their best picture …",
        "Painted 0 of 3",
        "3 are not painted yet. Finished runs are kept: repeat the command to continue.",
        "nst: Stopped.",
    ]
    (run,) = store.all_runs()
    assert run.record().status == "stopped" and run.result.is_file() and not queue.queued_runs()
    assert not (jobs_file.parent / "jobs.csv-report.html").exists()


def test_an_empty_address_is_refused(rows, own_home):
    """An unset variable may give an empty address, which must not mean this machine."""
    done = batch(rows("photos/a.png,waves,draft,64,1"), "--address", "")
    assert (done.returncode, done.stdout, store.all_runs()) == (2, "", [])
    assert done.stderr == "nst: '' is not a Ray address: give one such as 10.0.0.1:6379.\n"


def test_a_failed_run_is_reported_and_the_others_are_painted(rows, own_home, weights, model):
    jobs_file = rows("photos/a.png,waves,draft,64,1,", "photos/b.png,waves,draft,10000,100,100",
                     heading="content,style,preset,size,iterations,history")  # fmt: skip
    done = batch(jobs_file, "--no-measure", "--json")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "nst: 1 of 2 runs could not be painted: repeat the command to try them again."
    )
    said = json.loads(done.stdout)
    assert [each["content"] for each in said["painted"]] == ["a"]
    assert [*said["failed"].values()] == [["b × waves (draft)"]]
    assert "The report of 1 run is in" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX terminals")
def test_one_bar_for_all_runs_on_a_terminal(on_terminal, rows, own_home, weights, model):
    jobs_file = rows("photos/a.png,waves,draft,64,1", "photos/b.png,waves,draft,64,1")
    text = on_terminal(command(jobs_file, "--no-measure"))
    assert re.search(r"0 of 2 over, .* \d/2 ", text) and re.search(r"2 of 2 over +\S+ +2/2 ", text)
