"""Reports: correct, safe for any names, and self-contained."""

import csv
import io
import itertools
import json
import re
import shlex
import shutil
import zipfile
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import typer
from contrast import contrast
from PIL import Image

from core.errors import InputError
from core.images import codec
from core.presets import PRESETS, choose
from core.runs import library, store
from core.runs.evaluation import Evaluation
from core.runs.record import RecordedStyle, Steering
from core.runs.run import Run, write_record
from core.runs.spec import RunSpec, Style
from core.settings import SETTINGS, TransferSettings
from export.describe import command
from export.report import bundle
from export.report.content import check
from export.report.page import FEW, check_writable, html
from nst.main import app as nst_app

VOID = {"meta", "img", "br", "hr", "link", "input"}
NASTY = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """A parsed page; fails if elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open, self.styles = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, attributes=dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, attributes=dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open[-1:] == ["style"] else self.words).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [element.attributes for element in self.elements if element.tag == tag]


def assert_self_contained(text):
    """Check that a page has no script, loads nothing and links to nothing outside; return it parsed."""
    page = Page(text)
    assert not {element.tag for element in page.elements} & {"script", "iframe", "object", "embed", "link", "base"}
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), value[:80]
            if name == "style":
                assert re.fullmatch(r"--(aspect|columns): [0-9.]+", value)
            if name not in ("aria-label", "alt"):
                assert "url(" not in (value or "")
    assert "url(" not in "".join(page.styles) and "@import" not in "".join(page.styles)
    return page


@pytest.fixture(scope="module")
def found(painted):
    return list(painted.values())


@pytest.fixture(scope="module")
def evaluations(painted):
    """Return evaluations of the runs with a result."""
    return {
        painted[name].id: Evaluation(
            run=painted[name].id,
            total=total,
            style=0.6 * total,
            content=0.4 * total,
            total_variation=0,
            similarity=0.25,
        )
        for name, total in (("done", 1234.5), ("steered", 9876.5))
    }


@pytest.fixture(scope="module")
def text(found, evaluations):
    return html(found, evaluations, "Five runs", "the preset reference")


@pytest.fixture(scope="module")
def page(text):
    return assert_self_contained(text)


@pytest.fixture
def renamed(painted, tmp_path):
    """Return a function that copies a run and changes its record."""

    def make(name="copy", of="done", **changes):
        run = Run(tmp_path / name)
        shutil.copytree(painted[of].path, run.path)
        write_record(run, run.record().model_copy(update=changes))
        return run

    return make


# The page


def test_the_page_is_accessible(page, text):
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert page.words[page.words.index("Five runs")] and page.text.startswith("Five runs Five runs 5 runs of")
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    pictures = page.all("img")
    assert pictures and all(picture["alt"] and picture["width"] and picture["height"] for picture in pictures)
    assert page.all("svg") and all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))
    names = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(names)) == len(names)
    targets = {link["href"][1:] for link in page.all("a")}
    assert targets == {f"run-{number}" for number in range(1, 6)} <= set(names)
    style = "".join(page.styles)
    assert "@media print" in style and "prefers-color-scheme: dark" in style and "break-inside: avoid" in style


def test_texts_have_enough_contrast_in_every_theme(page):
    style = "".join(page.styles)
    themes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(themes) == 3
    for theme in themes:
        full = {name: "#" + "".join(c * 2 for c in v[1:]) if len(v) == 4 else v for name, v in theme.items()}
        for name in ("text", "quiet", "link", "good", "bad"):
            assert contrast(full[name], full["page"]) >= 4.5, (name, theme)
        assert contrast(full["text"], full["raised"]) >= 4.5


def test_the_page_shows_how_every_run_ended(page, painted):
    told = page.text
    for run in painted.values():
        assert run.id in told
    for status in ("Done", "Stopped", "Failed", "Interrupted"):
        assert status in told
    assert "The run was stopped after 3 of 500 iterations; the best picture so far was kept." in told
    assert painted["failed"].record().message in told
    assert "The process that painted the run ended unexpectedly; 2 of 2 iterations are recorded." in told
    for run in (painted["done"], painted["steered"], painted["stopped"]):
        record = run.record()
        assert f"{record.best_total:.4g}" in told and f"{record.timings['total']:.1f}" in told
        assert record.weights_sha256 in told and record.weights in told
    alternatives = [picture["alt"] for picture in page.all("img")]
    assert sum(alternative.startswith("The result: photo in the style of") for alternative in alternatives) == 3
    assert sum(alternative.startswith("Not finished") for alternative in alternatives) == 2
    assert "No result; the last picture" in told
    assert "after iteration 2: Style weight 0.1; Style layer weights 1, 2, 1, 1, 0.5" in told


def test_the_evaluation_is_explained_and_its_lowest_total_is_bold(page, found, text):
    assert "those of the preset reference" in page.text
    assert "1234" in page.text and "9876" in page.text and "0.250" in page.text
    assert "<strong>1234</strong>" in text and "<strong>9876</strong>" not in text
    assert "cannot be compared; the evaluations can" in page.text
    unmeasured = Page(html(found))
    assert "have not been evaluated with the same settings" in unmeasured.text and "likeness" not in unmeasured.text


def rows_of(text, heading):
    """Return the cells of the first table after a heading, by the first cell of each row."""
    after = text[text.index(f'<h2 id="{heading}">') :]
    table = after[after.index("<tbody>") : after.index("</tbody>")]
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in table.split("<tr>")[1:]]
    return {name: values for name, *values in lines}


def test_only_differences_are_listed(text, found, painted):
    rows = rows_of(text, "settings")
    settings = [run.record().settings for run in found]
    differing = {
        setting.label for setting in SETTINGS.values() if len({getattr(each, setting.name) for each in settings}) > 1
    }
    assert (
        {setting.label for setting in SETTINGS.values()} & set(rows)
        == differing
        == {"Iterations", "Optimizer", "Precision"}
    )
    assert rows["Iterations"] == ["6", "6", "500", "6", "2"]
    assert rows["Preset"] == ["reference", "reference", "draft", "reference", "reference"]
    assert rows["Started from"][1] == "beginning"
    assert "Photo" not in rows and "Style weight" not in rows
    alone = rows_of(html([painted["stopped"]]), "settings")
    assert alone == {
        "Size": ["64 px", "256 px"],
        "Iterations": ["500", "20"],
        "Start from": ["content", "preview"],
    }
    same = html([painted["done"], painted["done"]])
    assert "None: all runs have the same settings and pictures." in Page(same).text


def test_all_settings_are_there(page):
    for setting in SETTINGS.values():
        assert page.words.count(setting.label) >= 5


def test_timings_add_up(text, painted):
    rows = rows_of(text, "timings")
    total = painted["done"].record().timings["total"]
    assert float(rows["Total"][0]) == pytest.approx(total, abs=0.01)
    phases = [float(values[0]) for name, values in rows.items() if name not in ("Total", "Median step")]
    assert sum(phases) == pytest.approx(total, abs=0.005 * len(phases) + 0.01)
    assert rows["Total"][4] == "–"  # the process could not record it


def test_a_page_of_one_run_and_of_no_run(painted):
    alone = assert_self_contained(html([painted["failed"]]))
    assert "No run reached a second iteration" in alone.text
    assert "1 run of Style Transfer Studio" in alone.text
    with pytest.raises(InputError, match="at least one run"):
        html([])


def test_a_run_that_waits_has_no_picture(new_run):
    page = assert_self_contained(html([new_run()]))
    assert "Queued · The run had not ended when this report was written: 0 of 6 iterations." in page.text
    assert "No picture yet" in page.text and "No result" not in page.text


def test_text_from_users_is_not_markup(renamed):
    run = renamed(NASTY.replace("/", ":"), of="steered", content=NASTY, message="<i>it</i>", status="failed",
                  styles=[RecordedStyle(name="<b>&amp;</b>")], weights="<u>w</u>", start="</code>{{ 7 * 7 }}",
                  preset="<em>", environment={"<s>": ["<q>", {"a": "</dd>"}]})  # fmt: skip
    library.mark(run, name=f"{NASTY} \x07", note=f"<marquee>{NASTY}\n\ud7ff")
    text = html([run, renamed("plain")], {}, title=f"{NASTY}\udcff", measured_by=NASTY)
    page = assert_self_contained(text)
    tags = {element.tag for element in page.elements}
    assert not tags & {"b", "i", "u", "s", "q", "em", "marquee", "script"}
    assert page.text.startswith(f"{NASTY}\ufffd {NASTY}\ufffd")
    for shown in (NASTY, "<b>&amp;</b>", "<i>it</i>", "<u>w</u>", "</code>{{ 7 * 7 }}", "<marquee>", "<q>; a </dd>"):
        assert shown in page.text, shown
    assert any(NASTY in picture["alt"] for picture in page.all("img"))
    text.encode()


def test_names_and_notes_are_shown(renamed):
    run = renamed()
    library.mark(run, name="My best cat", note="With more\nblue")
    page = Page(html([run]))
    assert "Run 1 · My best cat" in page.text and "With more\nblue" in page.words


def test_pictures_are_large_enough_and_a_report_small_enough(new_run, pair):
    """JPEG compresses noise worst, so real pictures are smaller."""
    found = []
    for number in range(4):
        run = new_run(name=f"noise {number}", size=512)
        for path in (run.content, run.style(1), run.result):
            Image.effect_noise((512, 384), 60).convert("RGB").save(path)
        run.change(shape=(384, 512), status="done", best_total=1.0, writer=None)
        found.append(run)
    text = html(found)
    assert len(text.encode()) < 5_000_000
    sizes = {(picture["width"], picture["height"]) for picture in Page(text).all("img")}
    assert sizes == {("512", "384")}
    Image.effect_noise((3000, 1500), 20).convert("RGB").save(found[0].result)
    assert ("1024", "512") in {(p["width"], p["height"]) for p in Page(html(found[:1])).all("img")}


def test_the_same_runs_give_the_same_report(found, evaluations, text):
    assert html(found, evaluations, "Five runs", "the preset reference") == text
    first, second = io.BytesIO(), io.BytesIO()
    for target in (first, second):
        bundle.write_zip(target, found, evaluations)
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", b"{", r"The record of the run copy is damaged\."),
        ("run.json", None, r"The run copy cannot be read"),
        ("metrics.csv", b"iteration,total\n1,2\n", r"The metrics of the run copy are damaged\."),
        ("metrics.csv", b'"\n\xff\n', r"The metrics of the run copy are damaged\."),
        ("content.png", b"no picture", r"content\.png of the run copy is not a JPEG, PNG"),
        ("style-1.png", None, r"style-1\.png of the run copy "),
    ],
)
def test_an_unreadable_run_is_refused(renamed, file, content, message):
    run = renamed()
    if content is None:
        (run.path / file).unlink()
    else:
        (run.path / file).write_bytes(content)
    for write in (html, lambda found: bundle.write_zip(io.BytesIO(), found)):
        with pytest.raises(InputError, match=message):
            write([run])
    if file in ("run.json", "metrics.csv"):
        with pytest.raises(InputError, match=message):
            check([run])


# The command


def parsed(line):
    """Parse a command line as nst does, into settings, steering and other arguments."""
    words = shlex.split(line)
    assert words[:2] == ["nst", "stylize"]
    stylize = typer.main.get_command(nst_app).commands["stylize"]
    given = stylize.make_context("stylize", words[2:]).params
    settings = choose(given["preset"], **{name: given[name] for name in SETTINGS})
    return settings, [Steering.parse(text, settings) for text in given["steer"] or ()], given


def weights_over(settings, steering):
    """Return the loss weights by the iterations at which they change."""
    found = []
    for change in sorted(steering, key=lambda change: change.iteration):
        settings = settings.changed(**change.changes)
        found.append((change.iteration, settings.loss_weights()))
    return dict(found)


def test_the_command_matches_the_record(painted):
    for run in painted.values():
        record = run.record()
        settings, steering, given = parsed(command(run, record))
        assert settings == record.settings
        assert weights_over(settings, steering) == weights_over(record.settings, record.steering)
        assert given["preset"] == record.preset
        assert (given["start_from"] == "start.png") == run.start.is_file()
        assert (given["content"], given["styles"]) == ("content.png", ["style-1.png"])
        assert (given["keep"], str(given["output"])) == (None, "result.png")
        assert not given["mask"]


def test_the_command_and_the_page_have_every_style_and_mask(pair, own_home):
    settings = choose("draft", size=64, style_blend="2,1")
    mask = Image.new("L", (40, 40), 255)
    styles = [Style("b", pair[1]), Style("c", pair[0], mask)]
    run = store.create(RunSpec(styles, settings, "draft", mask), pair[0], "a")
    found, _, given = parsed(command(run, run.record()))
    assert found == settings
    assert given["styles"] == ["style-1.png", "style-2.png"]
    assert (given["mask"], given["keep"]) == (["2:mask-2.png"], "kept.png")
    text = html([run])
    captions = (
        "Painting 1: b",
        "Painting 2: c, in its part",
        "Painting 2 is used where white",
        "Unchanged where white",
    )
    assert all(caption in text for caption in captions)
    assert "Painting 1 is used where white" not in text
    archive = io.BytesIO()
    bundle.write_zip(archive, [run])
    inside = {name.partition("/")[2] for name in zipfile.ZipFile(archive).namelist()}
    assert {"content.png", "style-1.png", "style-2.png", "mask-2.png", "kept.png", "repeat.sh"} <= inside


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("fast", {}),
        ("reference", {"optimizer": "l-bfgs", "epsilon": 1e-8, "style_weight": 1e12, "beta_1": 1 / 3}),
        ("draft", {"style_layers": ("block1_conv2", "block4_conv4"), "style_layer_weights": (0.1, 3)}),
        ("an older one", {"content_layers": ("block4_conv2",), "total_variation_weight": 2.5e-7}),
    ],
)
def test_the_command_names_only_settings_that_differ_from_the_preset(painted, preset, changes):
    record = painted["done"].record()
    usual = PRESETS[preset].settings() if preset in PRESETS else TransferSettings()
    told = record.model_copy(update={"preset": preset, "settings": usual.changed(**changes)})
    line = command(painted["done"], told)
    assert parsed(line)[0] == told.settings
    named = {word[2:].replace("-", "_") for word in shlex.split(line) if word.startswith("--")}
    assert named == {"preset", *changes}


def test_steering_back_to_equal_layers_can_be_repeated(painted):
    """A command line cannot express an empty list."""
    change = Steering(iteration=3, changes={"style_layer_weights": (), "style_weight": 0.5})
    record = painted["done"].record().model_copy(update={"steering": [change]})
    settings, steering, _ = parsed(command(painted["done"], record))
    assert weights_over(settings, steering) == weights_over(record.settings, [change])


# The ZIP


@pytest.fixture(scope="module")
def archive(found, evaluations):
    file = io.BytesIO()
    bundle.write_zip(file, found, evaluations, "Five runs", "the preset reference")
    return zipfile.ZipFile(file)


def test_the_zip_holds_the_runs_in_full(archive, found, painted, text):
    assert archive.testzip() is None
    assert archive.read("report.html").decode() == text
    names = set(archive.namelist())
    for run in found:
        record = run.record()
        whole = {"content.png", "style-1.png", "run.json", "metrics.csv", "repeat.sh"}
        whole |= {path.name for path in (run.start, run.result) if path.is_file()}
        if run == painted["failed"]:
            whole.remove("metrics.csv")
        assert {name.partition("/")[2] for name in names if name.startswith(f"{run.id}/")} == whole
        for name in whole - {"run.json", "repeat.sh"}:
            assert archive.read(f"{run.id}/{name}") == (run.path / name).read_bytes()
        told = json.loads(archive.read(f"{run.id}/run.json"))
        assert "writer" not in told
        assert told["settings"] == record.settings.model_dump(mode="json")
        assert told["timings"] == record.timings and told["environment"] == record.environment
        script = archive.read(f"{run.id}/repeat.sh").decode()
        assert script.startswith("#!/bin/sh\n") and command(run, record, output="repeated.png") in script
        assert archive.getinfo(f"{run.id}/repeat.sh").external_attr >> 16 == 0o100755
    assert {name for name in names if "/" not in name} == {"report.html", "runs.csv", "runs.json"}
    assert {name.partition("/")[0] for name in names if "/" in name} == {run.id for run in found}
    assert codec.read_image(archive.read(f"{painted['done'].id}/result.png")).size == (64, 51)


def test_the_summaries_agree_with_the_records(archive, found, evaluations):
    told = json.loads(archive.read("runs.json"))
    lines = list(csv.DictReader(io.StringIO(archive.read("runs.csv").decode())))
    for run, summary, line in zip(found, told, lines, strict=True):
        record = run.with_progress(run.record())
        assert summary["id"] == line["id"] == run.id
        assert "writer" not in summary and not any("writer" in name for name in line)
        assert summary["best_total"] == record.best_total
        assert line["best_total"] == ("" if record.best_total is None else str(record.best_total))
        assert line["setting: iterations"] == str(record.settings.iterations)
        assert line["status"] == record.status
        evaluation = evaluations.get(run.id)
        assert (summary["reading"] or {}).get("total") == (evaluation.total if evaluation else None)
        assert line["yardstick: total"] == (str(evaluation.total) if evaluation else "")
        assert line["seconds: total"] == str(record.timings.get("total", ""))


def test_names_are_not_formulas_in_a_spreadsheet(renamed):
    run = renamed("=1+1", content="=HYPERLINK(1)", styles=[RecordedStyle(name="@x")])
    file = io.BytesIO()
    bundle.write_zip(file, [run])
    with zipfile.ZipFile(file) as archive:
        (line,) = csv.DictReader(io.StringIO(archive.read("runs.csv").decode()))
        assert (line["content"], line["style"]) == ("'=HYPERLINK(1)", "'@x")
        assert json.loads(archive.read("runs.json"))[0]["content"] == "=HYPERLINK(1)"
        assert "run-1/run.json" in archive.namelist()  # an invalid run ID is not used as a folder name


# The output file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", r"the name of a report must end in \.html or \.zip\."),
        ("report", r"must end in \.html or \.zip\."),
        ("none/report.html", r"there is no folder .*none\."),
        ("folder.zip", r"is a folder: give the name of a file\."),
    ],
)
def test_a_report_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(InputError, match=message):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "report.HTML")


def test_measured_times_are_shown_in_charts_and_tables(found):
    def timed(way, median, size):
        return {"machine": "<here>", "way": way, "size": size, "median": median, "low": 0.9, "high": 4.1, "times": 3}

    rows = [timed("slow & sure", 4.0, 256), timed("quick", 1.0, 256), timed("quick", 2.0, 512)]
    text = html(found, timings={"One step": rows})
    assert_self_contained(text)
    assert "One step, 256 px" in text and "One step, 512 px" in text
    assert "slow &amp; sure" in text and "&lt;here&gt;" in text and "<here>" not in text
    assert "4 ×" in text  # the speedup of the quick way
    assert "Measured times" not in html(found)


# Several paintings and masks


@pytest.fixture
def blended(own_home, pair, painted):
    """Return a run of two paintings, one with a mask, and a part of the photo that stays as it is."""
    half = Image.new("L", (60, 48))
    half.paste(255, (0, 0, 30, 48))
    settings = choose("reference", size=64, style_blend=(2, 1), stages=1)
    styles = [Style("waves", pair[1]), Style("<b>glass</b>", pair[0], half)]
    run = store.create(RunSpec(styles, settings, "reference", half), pair[0], "photo")
    shutil.copyfile(painted["done"].result, run.result)
    return run


def test_every_painting_is_shown_with_its_share_and_its_mask(blended):
    page = assert_self_contained(html([blended]))
    assert [picture["alt"] for picture in page.all("img")] == [
        "The photo photo",
        "The mask of the unchanged part",
        "The painting waves",
        "The painting <b>glass</b>",
        "The mask of <b>glass</b>",
        "The result: photo in the style of waves + <b>glass</b>",
    ]
    assert "Painting 1: waves, 100 % elsewhere" in page.text and "Painting 2: <b>glass</b>, in its part" in page.text
    blended.change(styles=[RecordedStyle(name=style.name) for style in blended.record().styles])
    assert "Painting 1: waves, 67 %" in Page(html([blended])).text


def test_the_zip_and_the_command_hold_everything_to_repeat_a_run(blended, painted):
    packed = io.BytesIO()
    bundle.write_zip(packed, [blended, painted["done"]])
    with zipfile.ZipFile(packed) as archive:
        held = {name.partition("/")[2] for name in archive.namelist() if name.startswith(blended.id)}
        script = archive.read(f"{blended.id}/repeat.sh").decode()
        plain = archive.read(f"{painted['done'].id}/repeat.sh").decode()
    assert {"content.png", "style-1.png", "style-2.png", "mask-2.png", "kept.png"} < held and "mask-1.png" not in held
    words = shlex.split(script.splitlines()[-1])
    assert words[1:6] == ["nst", "stylize", "content.png", "style-1.png", "style-2.png"]
    options = dict(zip(words[6::2], words[7::2], strict=True))
    assert options["--style-blend"] == "2.0,1.0" and options["--mask"] == "2:mask-2.png"
    assert options["--keep"] == "kept.png"
    assert "--mask" not in plain and "--keep" not in plain and "style-2" not in plain


# Many runs


@pytest.fixture
def many(painted, own_home):
    """Return copies of a run as from a batch: two photos, three paintings, two weights; one failed."""
    found = []
    for photo, painting, weight in itertools.product(("a", NASTY), ("x", "y", "z"), (1.0, 2.0)):
        run = Run(own_home / "runs" / f"20260101-000000-{len(found):02}")
        shutil.copytree(painted["done"].path, run.path)
        record = run.record()
        changes = {"styles": [RecordedStyle(name=painting)], "settings": record.settings.changed(style_weight=weight)}
        write_record(run, record.model_copy(update={**changes, "content": photo, "id": run.id}))
        found.append(run)
    found[-1].result.unlink()
    found[-1].live.unlink(missing_ok=True)
    found[-1].change(status="failed", message="Memory ran out.")
    return found


def test_many_runs_are_shown_on_a_contact_sheet(many):
    text = html(many)
    page = assert_self_contained(text)
    assert text.count('<table class="sheet"') == 2
    assert "<h3>Style weight 1</h3>" in text and "<h3>Style weight 2</h3>" in text
    for number in range(1, 13):
        links = [link for link in page.all("a") if link["href"] == f"#run-{number}"]
        assert len(links) >= 3, number  # from its picture, its caption and its results
    assert "Run 12 · Failed · " in page.text and "No picture" in page.text and "Memory ran out." in page.text
    assert NASTY not in text
    assert sum(picture["alt"].startswith("a in the style of x") for picture in page.all("img")) == 4  # each also large
    assert "Run 4 · a, y, Style weight 2" in page.text


def test_each_of_many_runs_has_a_row_in_the_tables(many):
    text = html(many)
    table = text[text.index('aria-label="Settings that differ"') :]
    heading, *lines = re.findall("<tr>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)
    assert re.findall('<th scope="col">(.*?)</th>', heading) == ["Run", "Style weight", "Photo", "Painting"]
    assert len(lines) == 12 and re.findall('<td class="text">(.*?)</td>', lines[1]) == ["2", "a", "x"]
    table = text[text.index('aria-label="Seconds of each phase"') :]
    assert table[: table.index("</table>")].count("<tr>") == 13


def test_many_runs_of_one_pair_show_the_pair_once_and_no_table(many, painted):
    found = many[:7]
    for weight, run in enumerate(found, 1):
        settings = run.record().settings.changed(style_weight=weight)
        run.change(content="a", styles=[RecordedStyle(name="x")], settings=settings)
    text = html(found)
    page = assert_self_contained(text)
    assert '<table class="sheet"' not in text and 'class="many-pictures"' in text
    assert "Photo: a" in page.text and "Painting: x" in page.text
    assert "Run 7 · Style weight 7" in page.text
    few = html(found[:FEW])
    assert 'class="many-pictures"' not in few and "Photo: a" in Page(few).text


def test_too_many_curves_are_not_drawn(many, monkeypatch):
    monkeypatch.setattr("export.report.page.MOST_CURVES", 7)
    monkeypatch.setattr("export.report.page.MOST_LARGE", 7)
    text = html(many)
    assert "There are too many curves to tell apart" in text and "<svg" not in text
    assert "a in the style of x, a, x" in text  # on the contact sheet
