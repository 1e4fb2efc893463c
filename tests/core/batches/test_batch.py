"""Batches: jobs from files and from combinations, refused input, and the runs of the jobs."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from core import paths
from core.batches import jobs_file, plan, progress
from core.batches.progress import BatchProgress
from core.errors import InputError
from core.images import codec
from core.jobs import control, queue, schedule, workers
from core.machine.processes import ProcessId
from core.presets import PRESETS, choose
from core.runs import store
from core.runs.record import Steering
from core.runs.run import Run

SMALL = {"size": "64", "iterations": "3"}


@pytest.fixture(autouse=True)
def started(own_home, monkeypatch):
    """Count the starts of workers without starting any."""
    calls = []
    monkeypatch.setattr(workers, "start_worker", lambda: calls.append("worker"))
    return calls


@pytest.fixture
def folder(tmp_path):
    """Create photos a and b, paintings x and y, a damaged picture and one that is too narrow."""
    for number, name in enumerate(("photos/a", "photos/b", "art/x", "art/y")):
        path = tmp_path / "given" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(number).integers(0, 256, (60, 80, 3))
        Image.fromarray(picture.astype(np.uint8)).save(path)
    (tmp_path / "given" / "words.jpg").write_text("no picture")
    Image.new("RGB", (400, 40)).save(tmp_path / "given" / "narrow.png")
    return tmp_path / "given"


@pytest.fixture
def read(folder):
    """Return a function that writes a text to a file and reads its jobs."""

    def of_text(text, name="jobs.csv", **more):
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return jobs_file.from_file(folder / name, **more)

    return of_text


def product(folder, **changes):
    asked = {"contents": [str(folder / "photos")], "styles": [str(folder / "art")], "common": SMALL, **changes}
    return plan.from_product(**asked)


def ended(run, status="done", **changes):
    """Give a run the end that a worker would record."""
    if status == "done":
        height, width = run.record().shape
        codec.write_image(run.result, np.zeros((height, width, 3), np.uint8))
    run.change(status=status, writer=None, best_total=1.5, **changes)


# --- files


def test_digests_are_stable_so_that_an_earlier_batch_can_continue(read, folder):
    for name, colour in (("photo", (10, 20, 30)), ("one", "red"), ("two", "blue")):
        Image.new("RGB", (70, 66), colour).save(folder / f"{name}.bmp")
    jobs = read("content,style,size\nphoto.bmp,one.bmp,64\nphoto.bmp,one.bmp;two.bmp,64\n")
    assert [job.digest for job in jobs] == [
        "3b7fd77bb7d5a5cbf1ba6c074fe9f91ed16d272880bfc0454a582fbcb390357f",
        "2b971dc578079ed0127ef35ec707256f9c0279d9c9b57b294bd05eef3180458e",
    ]


def test_a_row_is_a_run_and_empty_cells_use_the_preset(read, folder):
    text = "\ufeffContent, style ,preset,style-weight,style_layers\r\n"
    text += 'photos/a.png,art/x.png,draft,1e4,"relu1_1,relu2_1"\r\n\r\nphotos/b.png,art/x.png;waves\r\n'
    first, second = read(text, common={"size": 64})
    assert first.content.path == folder / "photos" / "a.png" and first.title == "a × x"
    assert first.settings == choose("draft", size=64, style_weight=1e4, style_layers="relu1_1,relu2_1")
    assert (second.preset, second.title) == ("fast", "b × x + waves")
    assert second.settings == choose("fast", size=64)


def test_yaml_and_csv_give_the_same_jobs(read):
    rows = 'content,style,preset,style_weight,style_blend\nphotos/a.png,art/x.png;art/y.png,draft,1e4,"2,1"\n'
    rows += "chelsea,waves,,,\n"
    text = """
- content: photos/a.png
  styles: [art/x.png, art/y.png]
  preset: draft
  style weight: 1e4      # a word in YAML 1.1
  style_blend: [2, 1]
- {content: chelsea, style: waves, preset: , size: ~}
"""
    assert read(text, "jobs.yaml") == read(rows) == read(text.replace("- {", "# …\n- {"), "jobs.YML")


def test_paths_are_relative_to_the_file_and_a_row_overrides_common_settings(read, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (job,) = read("content,style,size\nphotos/a.png,art/x.png,96\n", preset="draft", common={"size": 64, "seed": 3})
    assert (job.settings.size, job.settings.seed, job.preset) == (96, 3, "draft")


def test_common_settings_must_fit_each_row(read):
    (job,) = read("content,style,size\nchelsea,waves,1024\n", preset="draft", common={"stages": 5})
    assert (job.settings.size, job.settings.stages) == (1024, 5)
    with pytest.raises(InputError, match=r"^jobs\.csv, line 2: 5 stages to 256 px would start at 16 px"):
        read("content,style\nchelsea,waves\n", preset="draft", common={"stages": 5})
    with pytest.raises(InputError, match=r"^stages = 7: should be less than or equal to 6\.$"):
        read("content,style\nchelsea,waves\nchelsea,waves\n", common={"stages": 7})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"jobs\.csv contains no run\.$"),
        ("content;style;size\r\n", r"^jobs\.csv, line 1: the cells are separated by semicolons: use commas"),
        ("content\tstyle\n", r"^jobs\.csv, line 1: the cells are separated by tabs: use commas\.$"),
        ("content,style\n", r"jobs\.csv contains no run\.$"),
        ("content\nphotos/a.png\n", r"^jobs\.csv, line 2: style is missing\.$"),
        ("content,stile\n", r"^jobs\.csv, line 1: there is no column 'stile' \(did you mean style\?\)\.$"),
        ("content,zzz\n", r"line 1: there is no column 'zzz'; nst stylize --help lists the settings\.$"),
        ("content,style,Style\n", r"^jobs\.csv, line 1: there are two columns style\.$"),
        ("content,style\nphotos/a.png,art/x.png,9\n", r"line 2: it has 3 cells, but there are only 2 columns\.$"),
        ("content,style\nnone.png,art/x.png\n", r"^jobs\.csv, line 2: none\.png does not exist in "),
        ("content,style\nwords.jpg,art/x.png\n", r"^jobs\.csv, line 2: words\.jpg is not a JPEG, "),
        ("content,style\nphotos,art/x.png\n", r"line 2, column content: There is no sample named “photos”"),
        ("content,style\nphotos/a.png,wavs\n", r"line 2, column style: There is no sample named “wavs”"),
        ("content,style\nphotos/a.png,art/x.png;\n", r"line 2, column style: a painting is missing before or"),
        ("content,style,size\nnarrow.png,waves,256\n", r"line 2: narrow would be only 256 × 26 pixels at size 256"),
        ("content,style,preset\nchelsea,waves,oil\n", r"line 2, column preset: there is no preset 'oil'; there are d"),
        ("content,style,size\nchelsea,waves,63\n", r"line 2, column size: size = '63': should be greater than or equa"),
        ("content,style,size\nchelsea,waves,big\n", r"line 2, column size: size = 'big': should be a valid integer"),
        ("content,style,style_weight\nchelsea,waves,nan\n", r"line 2, column style_weight: style_weight = .*finite"),
        ("content,style,init\nchelsea,waves,\u202epreview\n", r"line 2, column init: init = "),
        ("content,style,style_blend\nchelsea,waves,\"1,2\"\n", r"line 2: style_blend has 2 numbers for 1 paintings"),
        ("content,style\nchelsea,\0waves\n", r"^jobs\.csv, line 2: there is a NUL character"),
        ('content,style\nchelsea,"waves\n', r"^jobs\.csv, line \d: this is not valid CSV \(unexpected end of data"),
        (f"content,style\nchelsea,{'w' * 200_000}\n", r"^jobs\.csv, line \d: this is not valid CSV \(field larger"),
        ("content,style\n" + 501 * "chelsea,waves\n", r"^These are 501 runs, but a batch has at most 500: split it"),
        ("content,style\nchelsea,waves\nchelsea,waves\n", r"^jobs\.csv, line 3: this is the same run as in line 2\.$"),
        ("content,style,memory\nchelsea,waves,8\nchelsea,waves,9\n", r"line 3: this is the same run as in line 2\.$"),
        (b"content,style\nchelsea,\xff\xfe\n", r"jobs\.csv is not text in UTF-8\.$"),
        (" " * (2**20 + 1), r"jobs\.csv cannot be read: it has more than 1,048,576 bytes\.$"),
    ],
)  # fmt: skip
def test_an_invalid_csv_file_is_refused(read, text, message):
    with pytest.raises(InputError, match=message):
        read(text)
    assert not store.all_runs() and not queue.queued_runs()


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"jobs\.yaml contains no run\.$"),
        ("[]", r"jobs\.yaml contains no run\.$"),
        ("content: chelsea", r"^jobs\.yaml, line 1: write a list of runs, each starting with “- content:”\.$"),
        ("- chelsea", r"^jobs\.yaml, line 1: this is not a run\. Write "),
        ("- content: chelsea\n  style: [waves", r"^jobs\.yaml, line 2: this is not valid YAML \("),
        ("- content: chelsea\n\n  stile: waves", r"^jobs\.yaml, line 3: there is no column 'stile'"),
        ("- content: chelsea\n  content: coffee", r"^jobs\.yaml, line 2: content is given twice\.$"),
        ("- content: [chelsea, coffee]\n  style: waves", r"line 1, column content: there are 2 values, but a run has"),
        ("- content: {a: b}\n  style: waves", r"line 1, column content: give a word or a number\.$"),
        ("- content: chelsea\n  style: [[waves]]", r"line 2, column style: give a word or a number\.$"),
        ("- content: chelsea\n  style: !!python/object/apply:os.system [ls]", r"column style: the tag tag:\S+ is"),
        ("- content: chelsea\n  style: !!python/name:os.system waves", r"column style: the tag tag:\S+ is not"),
        ("- content: !own chelsea\n  style: waves", r"column content: the tag !own is not allowed\.$"),
        ("- content: chelsea\n  style: waves\n  size: yes", r"line 3, column size: size = 'yes': should be a valid"),
        ("- content: chelsea\n  style: waves\n  size: 2026-01-01", r"line 3, column size: size = '2026-01-01': "),
        ("- ? [a, b]\n  : c", r"line 1: give a word or a number\.$"),
        ("- &a {content: chelsea, style: waves}\n- *a", r"^jobs\.yaml, line 2: aliases \(\*\) are not allowed\.$"),
        ("- !own {content: chelsea, style: waves}", r"^jobs\.yaml, line 1: the tag !own is not allowed\.$"),
        (LAUGHS, r"^jobs\.yaml, line 2: aliases \(\*\) are not allowed\.$"),
        ("- &a [*a]", r"^jobs\.yaml, line 1: aliases \(\*\) are not allowed\.$"),
        ("[" * 20_000, r"^jobs\.yaml: the lists are nested too deeply\.$"),
        ("- content: chelsea\n  style: wa\x07ves", r"^jobs\.yaml: this is not valid YAML \(.*#x0007"),
        ("--- []\n--- []", r"^jobs\.yaml, line 2: this is not valid YAML \(but found another document\)\.$"),
        ("- {content: chelsea, style: waves, size: " + "9" * 5000 + "}", r"column size: size = '9+…: .* exceeded"),
    ],
)  # fmt: skip
def test_an_invalid_yaml_file_is_refused(read, text, message):
    with pytest.raises(InputError, match=message):
        read(text, "jobs.yaml")
    assert not store.all_runs()


def test_the_message_names_every_bad_row(read):
    rows = ["content,style,size", *["chelsea,waves,1"] * 13]
    with pytest.raises(InputError) as raised:
        read("\n".join(rows))
    assert str(raised.value).startswith("jobs.csv, line 2, column size: size = '1': ")
    assert str(raised.value).endswith(" Also wrong: lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, and 2 more.")


def test_another_kind_of_file_is_refused(folder):
    with pytest.raises(InputError, match=r"jobs\.txt is not a file of runs: its name must end in "):
        jobs_file.from_file(folder / "jobs.txt")
    with pytest.raises(InputError, match=r"jobs\.csv does not exist\."):
        jobs_file.from_file(folder / "jobs.csv")
    (folder / "jobs.csv").mkdir()
    with pytest.raises(InputError, match=r"jobs\.csv cannot be read: "):
        jobs_file.from_file(folder / "jobs.csv")


def test_a_huge_file_is_not_read(folder):
    with (folder / "jobs.yaml").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(InputError, match=r"cannot be read: it has more than 1,048,576 bytes"):
        jobs_file.from_file(folder / "jobs.yaml")


@pytest.mark.skipif(os.name != "posix", reason="pipes with a name are POSIX's")
def test_a_pipe_does_not_block(folder):
    os.mkfifo(folder / "jobs.csv")
    with pytest.raises(InputError, match=r"cannot be read: it is not a file"):
        jobs_file.from_file(folder / "jobs.csv")


def test_names_with_direction_marks_are_made_legible(read, folder):
    (folder / "photos" / "a.png").rename(folder / "photos" / "a\u202eb.png")
    (job,) = read("content,style,size\nphotos/a\u202eb.png,art/x.png,64\n")
    (run,) = progress.begin(progress.batch_items([job]), "jobs\u202e.csv")
    assert (run.record().content, run.record().batch) == ("a\ufffdb", "jobs\ufffd.csv")
    assert progress.batch_items([job])[0].run == run


# --- combinations


def test_every_photo_with_every_painting_preset_and_value(folder):
    sweeps = plan.sweeps(["style_weight=1e4,1e5", "stages=1,2"])
    found = product(folder, presets=["draft", "fast"], sweeps=sweeps, common={"iterations": "3"})
    assert len(found) == 2 * 2 * 2 * 4 and len({job.digest for job in found}) == len(found)
    assert [job.title for job in found[::8]] == ["a × x", "a × y", "b × x", "b × y"]
    assert [job.preset for job in found[:8:4]] == ["draft", "fast"]
    told = [(job.settings.style_weight, job.settings.stages) for job in found[:4]]
    assert told == [(1e4, 1), (1e4, 2), (1e5, 1), (1e5, 2)]
    assert {job.settings.iterations for job in found} == {3}


def test_a_file_a_sample_and_a_folder_may_be_named_together(folder):
    found = product(
        folder, contents=["chelsea", str(folder / "photos" / "b.png")], styles=["waves", str(folder / "art")]
    )
    assert [job.title for job in found] == [f"{a} × {b}" for a in ("chelsea", "b") for b in ("waves", "x", "y")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contents": ["none"]}, "There is no sample named “none”"),
        ({"contents": ["none.png"]}, r"none\.png does not exist in "),
        ({"contents": ["waves", "waves"]}, r"^The photo \S+ is given twice\.$"),
        ({"presets": ["draft", "draft"]}, r"^The preset draft is given twice\.$"),
        ({"presets": ["oil"]}, r"^There is no preset 'oil'; there are "),
        ({"sweeps": {"size": [64]}}, r"^size has both values to sweep and a single value: leave out"),
        ({"sweeps": {"seed": [*range(126)]}}, r"^These are 504 runs, but a batch has at most 500"),
        ({"sweeps": {"style_layer_weights": ["1,1,1,1,2", "1,1,1,1,2.0"]}}, r"^a × x \(fast\) is given twice: two"),
        ({"sweeps": {"stages": [1, 2]}}, r"^2 stages to 64 px would start at 32 px; the minimum is 64 px\.$"),
    ],
)  # fmt: skip
def test_an_invalid_combination_is_refused(folder, changes, message):
    with pytest.raises(InputError, match=message):
        product(folder, **changes)
    assert not store.all_runs()


def test_too_many_combinations_are_refused_before_pictures_are_read(folder):
    (folder / "photos" / "c.png").write_text("no picture")
    with pytest.raises(InputError, match=r"^These are 6,000,000 runs, but "):
        product(folder, sweeps={"seed": range(1_000_000)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style_weight=1e4,1e5", ("style_weight", [1e4, 1e5])),
        (" style-weight = 1 , 2.5", ("style_weight", [1.0, 2.5])),
        ("optimizer=adam,l-bfgs", ("optimizer", ["adam", "l-bfgs"])),
        ("style_layers=relu1_1,relu2_1;conv3_1", ("style_layers", [("block1_conv1", "block2_conv1"), None])),
        ("style_layer_weights=1,2,3,4,5;1,1,1,1,9", ("style_layer_weights", [tuple("12345"), tuple("11119")])),
        ("content_weight=0", ("content_weight", [0.0])),
        ("stages=1,6", ("stages", [1, 6])),
    ],
)
def test_a_sweep(text, expected):
    name, values = plan.swept(text)
    assert name == expected[0] and len(values) == len(expected[1])
    assert all(wanted in (None, value) for value, wanted in zip(values, expected[1], strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("style_weight", r"^'style_weight' is not a sweep: give one such as style_weight=1e4,1e5\.$"),
        ("=1,2", r"is not a sweep: give one such as"),
        ("stile_weight=1", r"^There is no setting 'stile_weight' to sweep \(did you mean style_weight\?\)\.$"),
        ("preset=draft", r"^There is no setting 'preset' to sweep"),
        ("frame_every=1,2", r"^frame_every does not change the picture: sweep another setting\.$"),
        ("memory=8,9", r"^memory does not change the picture: sweep another setting\.$"),
        ("style_weight=", r"^One of the values of style_weight to sweep is empty\.$"),
        ("style_weight=1,,2", r"^One of the values of style_weight to sweep is empty"),
        ("style_weight=1,1.0", r"^style_weight = 1\.0 is given twice\.$"),
        ("style_weight=-1", r"^style_weight = '-1': should be greater than or equal to 0\.$"),
        ("size=64,many", r"^size = 'many': should be a valid integer"),
        ("optimizer=sgd", r"^optimizer = 'sgd': should be 'adam' or 'l-bfgs'\.$"),
    ],
)
def test_an_invalid_sweep_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        plan.swept(text)


# --- runs


def test_a_run_records_its_job_and_an_older_record_has_none(folder):
    (job, *_) = product(folder)
    (run,) = progress.begin(progress.batch_items([job]), "photos × art")
    record = run.record()
    assert (record.batch, record.job, record.status) == ("photos × art", job.digest, "queued")
    said = json.loads((run.path / "run.json").read_text())
    for name in ("batch", "job"):
        said.pop(name)
    (run.path / "run.json").write_text(json.dumps(said))
    assert (run.record().batch, run.record().job) == ("", "")


def test_a_finished_run_is_reused_and_an_interrupted_one_resumed(folder):
    wanted = product(folder)
    first, second, third, fourth = progress.begin(progress.batch_items(wanted), "it")
    schedule.submit(first, second, third)
    for run in (first, second):
        control.cancel(run)
    ended(first)
    found = progress.batch_items(wanted)
    assert [item.run for item in found] == [first, second, third, fourth]
    assert [item.state for item in found] == ["painted", "interrupted", "under way", "under way"]
    fourth.change(writer=ProcessId(pid=2**22 + 1))
    assert progress.batch_items(wanted)[3].state == "interrupted"
    assert progress.begin(found[1:2], "it") == [second] and second.record().status == "queued"
    assert [item.state for item in progress.batch_items(wanted, again=True)] == ["new"] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"settings": choose("fast", **{**SMALL, "iterations": 4})},
        {"steering": [Steering(iteration=1, changes={"style_weight": 2.0})]},
        {"owner": "someone who logged in"},
        {"job": ""},
        {"status": "failed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_that_no_longer_matches_its_job_is_not_reused(folder, change):
    (job, *_) = product(folder)
    (run,) = progress.begin(progress.batch_items([job]), "it")
    ended(run, **{"status": "done", **{name: value for name, value in change.items() if name == "status"}})
    assert progress.batch_items([job])[0].state == ("interrupted" if "status" in change else "painted")
    run.change(**change)
    assert progress.batch_items([job])[0].state == ("interrupted" if "status" in change else "new")


def test_of_several_runs_of_a_job_the_finished_one_is_reused(folder):
    (job, *_) = product(folder)
    (older,) = progress.begin(progress.batch_items([job]), "it")
    (newer,) = progress.begin(progress.batch_items([job], again=True), "it")
    ended(older)
    assert progress.batch_items([job])[0].run == older
    ended(newer)
    newer.result.unlink()
    assert progress.batch_items([job])[0].run == older


def test_settings_that_do_not_change_the_picture_do_not_change_the_job(folder):
    before = product(folder, common={**SMALL, "memory": 20, "frame_every": 1})[:2]
    after = product(folder, common={**SMALL, "memory": 30, "frame_every": 2})[:2]
    painted, failed = progress.begin(progress.batch_items(before), "it")
    ended(painted)
    ended(failed, "failed")
    found = progress.batch_items(after)
    assert [(item.run, item.state) for item in found] == [(painted, "painted"), (failed, "interrupted")]
    assert progress.begin(found[1:], "it") == [failed]
    assert failed.record().settings == after[1].settings and failed.record().status == "queued"


@pytest.mark.parametrize("what", ["photo", "painting", "name"])
def test_another_picture_is_another_job(folder, what):
    (job, *_) = product(folder)
    path = folder / ("art/x.png" if what == "painting" else "photos/a.png")
    if what == "name":
        path.rename(folder / "photos" / "aa.png")
    else:
        Image.new("RGB", (80, 60), "green").save(path)
    assert product(folder)[0].digest != job.digest
    assert product(folder)[0].settings == job.settings


def test_a_run_that_cannot_resume_is_replaced_by_a_new_one(folder):
    (job, *_) = product(folder)
    (run,) = progress.begin(progress.batch_items([job]), "it")
    ended(run, "interrupted", iteration=2)
    run.checkpoint.write_bytes(b"no checkpoint")
    (other,) = progress.begin(progress.batch_items([job]), "it")
    assert other != run and other.record().status == "queued"


def test_submitting_many_runs_starts_one_worker_per_slot(folder, started, monkeypatch):
    monkeypatch.setenv("NST_WORKERS", "3")
    schedule.submit(*progress.begin(progress.batch_items(product(folder)), "it"))
    assert len(queue.queued_runs()) == 4 and len(started) == 3
    schedule.submit()
    assert len(started) == 3


def test_many_runs_enter_the_queue_in_order_with_one_read(folder, monkeypatch):
    looks, places = [], queue._entries
    monkeypatch.setattr(queue, "_entries", lambda: looks.append(1) or places())
    first, *others = progress.begin(progress.batch_items(product(folder)), "it")
    schedule.submit(first)
    looks.clear()
    schedule.submit(*others)
    assert len(looks) == 1 and queue.queued_runs() == [first, *others]


def test_the_runs_of_a_sweep_have_different_titles(folder):
    sweeps = {"style_weight": [0.5, 2.0], "style_layers": ["relu1_1", "relu1_1,relu2_1"]}
    found = progress.batch_items(product(folder, contents=["chelsea"], sweeps=sweeps))
    assert [item.title for item in found[:2]] == [
        "chelsea × x (fast, style_weight=0.5, style_layers=block1_conv1)",
        "chelsea × x (fast, style_weight=0.5, style_layers=block1_conv1,block2_conv1)",
    ]
    assert len({item.title for item in found}) == 8


def test_a_batch_is_watched_until_all_runs_have_ended(folder):
    found = progress.batch_items(product(folder))
    first, second, third, fourth = progress.begin(found, "it")
    schedule.submit(first, second, third, fourth)
    watch = BatchProgress(found)
    seen = watch.snapshot()
    assert (seen.over, seen.runs, seen.iterations, seen.seconds_left) == (0, 4, 0, None)
    assert seen.words == "0 of 4 over, waiting for a worker"
    for run in (first, second, third):
        queue.dequeue(run)
    ended(first, timings={"total": 2.0})
    ended(second, "failed", message="Memory ran out.")
    third.change(status="running", writer=ProcessId.this_process())
    (third.path / "metrics.csv").write_text(
        "iteration,evaluations,seconds,total,style,content,total_variation\n1,1,0.1,1,1,1,1\n2,2,0.2,1,1,1,1\n"
    )
    seen = watch.snapshot()
    assert (seen.over, seen.iterations) == (2, 3 + 3 + 2)
    assert seen.words == "2 of 4 over, b × x (fast): 2/3"
    assert watch.endings() == ["1 of 4, a × x (fast): loss 1.5, 2.0 s", "2 of 4, a × y (fast): Memory ran out."]
    assert watch.failed() == {"Memory ran out.": ["a × y (fast)"]}
    assert [item.run for item in watch.painted()] == [first] and watch.unfinished() == [third, fourth]
    ended(third)
    (fourth.path / "run.json").unlink()
    queue.dequeue(fourth)
    assert [seen.over for seen in watch.until_over()] == [4]


def test_cancelling_empties_the_queue_and_keeps_started_runs(folder):
    found = progress.batch_items(product(folder))
    first, second, third, fourth = progress.begin(found, "it")
    schedule.submit(first, second, third)
    queue.dequeue(first)
    other = ProcessId.this_process().model_copy(update={"pid": os.getppid()})
    first.change(status="running", writer=other)
    third.change(iteration=2)
    assert progress.cancel_waiting([first, second, third, fourth]) == [first]
    assert first.request().stop and not queue.queued_runs()
    assert [run.path.is_dir() for run in (second, third, fourth)] == [False, True, False]
    assert third.record().status == "stopped"


def test_a_run_of_another_process_is_not_removed(folder, other_process):
    (run,) = progress.begin(progress.batch_items(product(folder)[:1]), "it")
    run.change(writer=other_process.id)
    assert progress.cancel_waiting([run]) == [run]
    assert run.request().stop and run.record().writer == other_process.id


def test_an_earlier_run_is_not_removed_even_without_a_checkpoint(folder):
    """The user's note about the run is in its folder."""
    (run,) = progress.begin(progress.batch_items(product(folder)[:1]), "it")
    run.change(status="failed", timings={"total": 3.0}, writer=None)
    assert progress.begin(progress.batch_items(product(folder)[:1]), "it") == [run]
    assert progress.cancel_waiting([run]) == []
    assert run.record().status == "stopped"


def test_the_expected_end_of_several_runs(folder):
    first, second, third, _ = progress.begin(progress.batch_items(product(folder)), "it")
    schedule.submit(first, second, third)
    assert schedule.seconds_until_over([first]) is None
    from core.machine import hardware

    pace = {"processor": hardware.processor(), "step_per_pixel": 1 / (48 * 64), "start": 1.0}
    (paths.home() / "pace.json").write_text(json.dumps(pace))
    assert [schedule.seconds_until_over([run]) for run in (first, third)] == pytest.approx([4.0, 12.0])
    assert schedule.seconds_until_over([]) == 0


def test_an_imported_run_belongs_to_no_batch(folder, tmp_path):
    from core.runs import archive

    (job, *_) = product(folder)
    (run,) = progress.begin(progress.batch_items([job]), "it")
    ended(run)
    with (tmp_path / "run.zip").open("wb") as file:
        archive.export_run(run, file)
    imported = archive.import_run(tmp_path / "run.zip")
    assert isinstance(imported, Run) and (imported.record().batch, imported.record().job) == ("", "")


def test_every_preset_is_allowed(read):
    rows = ["content,style,preset", *(f"chelsea,waves,{name}" for name in PRESETS)]
    assert [job.preset for job in read("\n".join(rows))] == list(PRESETS)


@pytest.mark.skipif(os.name != "posix", reason="only there a name is any bytes")
def test_a_file_name_may_be_invalid_utf_8(folder):
    for path in ("photos/a.png", "art/x.png"):
        (folder / path).rename(folder / os.fsdecode(path.encode().replace(b".png", b"\xff.png")))
    job = product(folder)[0]
    assert job.title == "a\ufffd × x\ufffd"
    (run,) = progress.begin(progress.batch_items([job]), "it")
    assert run.record().content == "a\ufffd" and progress.batch_items([job])[0].run == run
