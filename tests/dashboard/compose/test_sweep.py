"""Sweeps: the form for several values, and the table of their runs."""

import json
import shutil

import pytest

from core import paths
from core.batches import plan
from core.jobs import queue, schedule
from core.machine import hardware
from core.presets import PRESETS, choose
from core.runs import store
from core.runs.run import Run, write_record
from core.samples.gallery import PHOTOS
from core.settings import SETTINGS
from dashboard.compose.sweep import MOST_VALUES, OFFERED, around

HOSTILE = '"><script>alert(1)</script>'


def button(page, label):
    return next(button for button in page.button if button.label == label)


def texts(page):
    found = [*page.markdown, *page.caption, *page.header, *page.subheader, *page.error, *page.warning]
    return " ".join(element.value for element in found)


def links(page, start=""):
    """Return label and query of the links whose label begins with `start`."""
    found = [(link.proto.label, link.proto.query_string) for link in page.get("page_link")]
    return [each for each in found if each[0].startswith(start)]


@pytest.fixture
def swept(kept):
    """Return a sweep of three finished runs and one that waits."""
    found = []
    for number, (weight, stages) in enumerate([(1.0, 1), (1.0, 2), (2.0, 1), (2.0, 2)]):
        run = Run(paths.runs() / f"20260101-00000{number}-swept")
        shutil.copytree(kept.done.path, run.path)
        record = run.record()
        wanted = record.settings.changed(style_weight=weight, stages=stages, size=128)
        changes = {"id": run.id, "settings": wanted, "batch": "sweep-1"}
        write_record(run, record.model_copy(update=changes))
        found.append(run)
    found[-1].result.unlink()
    found[-1].live.unlink()
    found[-1].change(status="queued", writer=None)
    schedule.submit(found[-1])
    return found


def test_a_sweep_starts_closed_and_queues_nothing(visit):
    page = visit("stylize")
    expander = next(each for each in page.expander if each.label == "Try several values")
    assert not expander.proto.expanded
    assert not store.all_runs() and not queue.queued_runs()


def test_two_settings_make_a_run_of_each_combination(visit, started):
    page = visit("stylize")
    page.number_input(key="fast-size").set_value(64)
    page.text_input(key="sweep-values-0-style_weight").set_value("1e-2, 0.1").run()
    page.selectbox(key="sweep-setting-1").set_value("optimizer").run()
    assert "4 runs: their time is known once this machine is measured" in texts(page)
    button(page, "Paint all 4").click().run()
    assert not page.exception
    found = store.all_runs()[::-1]
    told = [(run.record().settings.style_weight, run.record().settings.optimizer) for run in found]
    assert told == [(0.01, "adam"), (0.01, "l-bfgs"), (0.1, "adam"), (0.1, "l-bfgs")]
    assert queue.queued_runs() == found and started
    (name,) = {run.record().batch for run in found}
    assert {run.record().content for run in found} == {PHOTOS[0].title}
    assert page.query_params["batch"] == [name] or page.query_params["batch"] == name
    assert "0 of 4 runs have ended" in page.get("progress")[0].proto.text


def test_the_time_of_a_sweep_is_estimated(visit):
    pace = {"processor": hardware.processor(), "step_per_pixel": 1e-3 / (512 * 512), "start": 10.0}
    paths.home().mkdir(exist_ok=True)
    (paths.home() / "pace.json").write_text(json.dumps(pace))
    page = visit("stylize")
    assert "3 runs: about 31 s" in texts(page)  # 10 s and 200 steps of 1 ms each; the photo is square


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("1, many", "should be a valid number"),
        ("1, 1.0", "is given twice"),
        ("", "to sweep is empty"),
        (", ".join(map(str, range(1, MOST_VALUES + 2))), "has 7 values: give at most 6 here, or use nst batch"),
        ("-1, 1", "should be greater than or equal to 0"),
        (HOSTILE, "should be a valid number"),
    ],
)
def test_impossible_values_are_refused(visit, values, message):
    page = visit("stylize")
    page.text_input(key="sweep-values-0-style_weight").set_value(values).run()
    assert message in page.error[0].value.replace("\\", "") and not page.exception
    assert page.button(key="sweep").disabled and HOSTILE not in texts(page)
    assert not button(page, "Start").disabled


def test_impossible_combinations_are_refused_before_any_run(visit):
    page = visit("stylize")
    page.selectbox(key="sweep-setting-0").set_value("size").run()
    page.text_input(key="sweep-values-0-size").set_value("64, 512").run()
    page.selectbox(key="sweep-setting-1").set_value("stages").run()
    page.text_input(key="sweep-values-1-stages").set_value("1, 2").run()
    assert "2 stages to 64 px would start at 32 px" in page.error[0].value.replace("\\", "")
    assert page.button(key="sweep").disabled


@pytest.mark.parametrize("preset", PRESETS)
def test_every_offered_number_has_initial_values(preset):
    for name in OFFERED:
        setting, now = SETTINGS[name], getattr(PRESETS[preset].settings(), name)
        if not setting.choices:
            values = plan.values_of(name, around(setting, now).split(","))
            assert now in values and 2 <= len(values) <= MOST_VALUES, name


def test_the_table_has_a_cell_for_each_run(visit, swept):
    page = visit("stylize", batch="sweep-1")
    assert page.header[0].value == "coffee × glass"
    assert "3 of 4 runs have ended" in page.get("progress")[0].proto.text
    for words in ("**1 stage**", "**2 stages**", "**1**", "**2**"):
        assert words in [each.value for each in page.markdown]
    assert "Coarse to fine 2 stages, Style weight 1" in texts(page).replace("\\", "")
    assert len(page.image) == 4 and not links(page, "Compare")
    page.button(key=f"view-{swept[1].id}").click().run()
    assert page.query_params["run"] in (swept[1].id, [swept[1].id]) and "batch" not in page.query_params
    assert not page.exception


def test_waiting_runs_are_stopped_and_finished_runs_compared(visit, swept):
    page = visit("stylize", batch="sweep-1")
    button(page, "Stop all").click().run()
    assert not queue.queued_runs() and not page.exception
    page = visit("stylize", batch="sweep-1")
    assert not page.get("progress")
    painted = [run.id for run in swept if run.result.is_file()]
    assert len(painted) == 3
    ((_, query),) = links(page, "Compare them")
    assert query.replace("%2C", ",") == f"runs={','.join(painted)}"
    assert "Report (HTML)" in {each.label for each in page.get("download_button")}


def test_a_run_leads_to_its_batch(visit, swept, kept):
    assert "Whole batch" not in [each.label for each in visit("stylize", run=kept.done.id).button]
    page = visit("stylize", run=swept[0].id)
    button(page, "Whole batch").click().run()
    assert page.query_params["batch"] in ("sweep-1", ["sweep-1"]) and "run" not in page.query_params
    assert len(page.image) == 4 and not page.exception


@pytest.mark.parametrize("name", ["none", HOSTILE, "../../etc", "\u202e"])
def test_an_unknown_batch_in_the_url_is_reported(visit, swept, name):
    page = visit("stylize", batch=name)
    assert "There is no batch" in page.warning[0].value and HOSTILE not in texts(page)
    assert button(page, "New picture") and not page.exception


def test_a_hostile_name_in_a_batch_is_escaped(visit, swept):
    for run, name in zip(swept[:3], (HOSTILE, "a", "b"), strict=True):
        run.change(content=name, batch=HOSTILE, settings=choose("draft", size=128))
    page = visit("stylize", batch=HOSTILE)
    assert not page.exception and HOSTILE not in texts(page)
    assert len(page.image) == 3


def test_a_batch_with_only_deleted_runs_breaks_no_page(visit, swept):
    page = visit("stylize", batch="sweep-1")
    for run in swept:
        shutil.rmtree(run.path)
    page.run()
    assert not page.exception
