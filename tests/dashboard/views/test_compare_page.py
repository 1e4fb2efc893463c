"""The page Compare: the choice of runs, their tables, and their evaluations."""

import pytest

from core.runs import evaluation, library
from core.runs.run import Run
from dashboard.common.text import plain

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def measured(engine, kept):
    """Evaluate the runs with the preset `reference`, the page's default."""
    by = evaluation.settings_of("reference")
    return {run.id: evaluation.evaluate(engine, run, run.record(), by) for run in vars(kept).values()}


def texts(page):
    return " ".join(element.value for element in [*page.markdown, *page.caption, *page.header, *page.error])


def button(page, label):
    return next(button for button in page.button if button.label == label)


def address(*chosen):
    return ",".join(run.id for run in chosen)


@pytest.mark.parametrize("chosen", [[], ["done"]])
def test_fewer_than_two_runs_are_not_compared(visit, kept, commands, chosen):
    page = visit("compare", runs=address(*(getattr(kept, name) for name in chosen)))
    assert "Choose two to six runs" in page.info[0].value
    assert not page.dataframe and commands == []


@pytest.mark.parametrize("unknown", ["20260101-000000-nobody", "../../etc", HOSTILE, "%00"])
def test_an_unknown_run_in_the_url_is_reported(visit, kept, commands, unknown):
    page = visit("compare", runs=f"{kept.done.id},{unknown},{kept.stopped.id}")
    assert page.warning[0].value == f"There is no finished run {plain(unknown)} here."
    assert page.multiselect[0].value == [kept.done.id, kept.stopped.id]
    assert list(page.dataframe[0].value["Iterations"]) == [6, 3]


def test_the_url_follows_the_choice(visit, kept, commands):
    page = visit("compare")
    page.multiselect[0].set_value([kept.stopped.id, kept.done.id]).run()
    assert page.query_params["runs"] == address(kept.stopped, kept.done)
    assert visit("compare", **page.query_params).multiselect[0].value == [kept.stopped.id, kept.done.id]


def test_a_run_named_twice_is_compared_once(visit, kept, commands):
    page = visit("compare", runs=",".join([kept.done.id] * 9))
    assert page.multiselect[0].value == [kept.done.id]


def test_settings_that_differ_are_shown_and_no_others(visit, kept, commands):
    page = visit("compare", runs=address(kept.done, kept.steered))
    table = page.dataframe[1].value
    assert {"Optimizer", "Photo", "Painting", "Changed while painting"} <= set(table.index)
    assert "Size" not in table.index and "Iterations" not in table.index
    assert list(table.loc["Photo"]) == ["coffee", HOSTILE]
    assert list(table.loc["Changed while painting"]) == ["–", "after 2: Style weight 0.1"]


def test_runs_with_the_same_settings_have_numbers(visit, kept, new_run, commands):
    import shutil

    twin = Run(kept.done.path.with_name(f"{kept.done.id}-twin"))
    shutil.copytree(kept.done.path, twin.path)
    page = visit("compare", runs=address(kept.done, twin))
    assert "None: all runs have the same settings." in texts(page)
    assert list(page.dataframe[0].value["Run"]) == ["1 · coffee × glass · draft", "2 · coffee × glass · draft"]


def test_a_runs_given_name_is_used(visit, kept, commands):
    library.mark(kept.done, name=HOSTILE)
    page = visit("compare", runs=address(kept.done, kept.stopped))
    assert page.dataframe[0].value["Run"][0] == f"1 · {HOSTILE} · draft"
    assert HOSTILE not in texts(page)


def test_saved_evaluations_are_shown(visit, kept, measured, commands):
    page = visit("compare", runs=address(kept.done, kept.steered))
    table = page.dataframe[0].value
    for name, column in (("total", "Total"), ("style", "Style"), ("content", "Content"), ("similarity", "Likeness")):
        assert list(table[column]) == [getattr(measured[run.id], name) for run in (kept.done, kept.steered)]
    assert commands == [] and not page.status


def test_missing_evaluations_are_made(visit, kept, commands):
    page = visit("compare", runs=address(kept.done, kept.steered))
    assert commands == [("yardstick", "compare", kept.done.id, kept.steered.id, "--by", "reference")]
    assert page.dataframe[0].value["Total"].isna().all()


def test_only_missing_evaluations_are_made(visit, kept, measured, commands):
    (kept.done.path / "result.npy").touch()  # a new result: its evaluation belongs to another picture
    visit("compare", runs=address(kept.done, kept.steered))
    assert commands == [("yardstick", "compare", kept.done.id, "--by", "reference")]


def test_other_losses_need_new_evaluations(visit, kept, measured, commands):
    kept.done.change(settings=kept.done.record().settings.changed(style_weight=5.0))
    page = visit("compare", runs=address(kept.done, kept.steered))
    page.selectbox[0].set_value(kept.steered.id).run()
    assert commands == []  # its weights are those of its preset
    page.selectbox[0].set_value(kept.done.id).run()
    assert [words[-1] for words in commands] == [kept.done.id]


def test_one_command_runs_at_a_time_and_its_progress_is_shown(visit, kept, commands, set_command):
    set_command("yardstick", ["compare", "other"], "Computing the losses of [another] …", running=True)
    page = visit("compare", runs=address(kept.done, kept.steered))
    assert r"Evaluating: Computing the losses of \[another\]" in page.status[0].label and commands == []


def test_a_failed_command_is_reported_and_repeated_only_on_demand(visit, kept, commands, set_command):
    wanted = ["compare", kept.done.id, kept.steered.id, "--by", "reference"]
    set_command("yardstick", wanted, "nst: It is broken [badly].", running=False)
    page = visit("compare", runs=address(kept.done, kept.steered))
    assert r"It is broken \[badly\]\." in page.error[0].value and commands == []
    button(page, "Try again").click().run()
    assert ("yardstick", *wanted) in commands


def test_two_runs_can_be_seen_under_a_slider(visit, kept, measured, commands):
    page = visit("compare", runs=address(kept.done, kept.steered))
    next(group for group in page.button_group if "Slider" in group.options).set_value("Slider").run()
    assert not page.exception
    assert not any(
        "Slider" in group.options for group in visit("compare", runs=address(*vars(kept).values())).button_group
    )


def test_the_page_says_that_curves_have_different_weights(visit, kept, measured, commands):
    page = visit("compare", runs=address(kept.done, kept.steered))
    assert "compare only the shapes" in texts(page)
    next(group for group in page.button_group if "seconds" in group.options).set_value("seconds").run()
    assert not page.exception
    assert "compare only the shapes" not in texts(visit("compare", runs=address(kept.done, kept.stopped)))
