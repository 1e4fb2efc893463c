"""The page of a run: steer it, continue it, start again from it, reuse its settings, and the queue."""

import json
import os
import re
import shutil
import time

import pytest
from filelock import FileLock
from PIL import Image

from core import paths
from core.images import codec
from core.jobs import control, queue, schedule
from core.machine import hardware
from core.machine.processes import ProcessId
from core.runs import library, recovery, store
from core.runs.record import Steering
from core.runs.recorder import Recorder
from core.samples.gallery import PHOTOS
from dashboard.compose.crop import Crop


def button(page, label):
    return next(button for button in page.button if button.label == label)


def slider(page, name):
    """Return the slider that steers this weight."""
    return next(each for each in (*page.select_slider, *page.slider) if re.search(rf"-{name}-\d+$", each.key))


def the_new_run(*known):
    (run,) = [run for run in store.all_runs() if run.id not in {each.id for each in known}]
    return run


@pytest.fixture
def running(kept, new_run):
    """Return a run at iteration 0 that this process claims to paint."""
    run = new_run("photo", "painting", style_weight=0.5)
    recorder = Recorder(run)
    recorder.__enter__()
    recorder.update(status="running")
    return run


def test_moving_a_slider_requests_the_weight(visit, running):
    page = visit("stylize", run=running.id)
    began = running.record().settings
    slider(page, "style_weight").set_value(4).run()
    assert running.request().weights == {"style_weight": 4 * began.style_weight}  # and no other weight
    slider(page, "block3_conv1").set_value(0.5).run()
    asked = running.request().weights
    assert asked["style_layer_weights"] == [1, 1, 0.5, 1, 1] and asked["style_weight"] == 4 * began.style_weight
    assert not page.exception and not running.request().stop


def test_two_pages_steer_one_run_together(visit, running):
    page, other = (visit("stylize", run=running.id) for _ in range(2))
    began = running.record().settings
    slider(page, "style_weight").set_value(4).run()
    slider(other, "total_variation_weight").set_value(10).run()
    slider(page, "block1_conv1").set_value(0.5).run()
    slider(other, "block2_conv1").set_value(2.0).run()
    assert running.request().weights == {
        "style_weight": 4 * began.style_weight,
        "total_variation_weight": 10,
        "style_layer_weights": [0.5, 2.0, 1, 1, 1],
    }


def test_steering_from_another_page_is_shown_but_not_planned_steering(visit, running):
    page = visit("stylize", run=running.id)
    weight = running.record().settings.style_weight
    planned = [Steering(iteration=0, changes={"style_weight": 8 * weight}),
               Steering(iteration=400, changes={"content_weight": 1.0})]  # fmt: skip
    running.change(steering=planned)
    page.run()
    assert slider(page, "style_weight").value == 8
    assert slider(page, "content_weight").value == 1


def test_sliders_are_replaced_instead_of_moved(visit, running):
    """A browser that must move a slider may send the slider's old value or its minimum as a user's change."""
    page = visit("stylize", run=running.id)
    change = Steering(iteration=0, changes={"content_weight": 2.0, "style_layer_weights": [0.5, 1, 1, 1, 1]})
    running.change(steering=[change])
    page.run()
    sliders = [each for each in (*page.select_slider, *page.slider) if each.key.startswith("steer-")]
    assert len(sliders) == 8 and slider(page, "block1_conv1").value == 0.5
    assert not any(each.proto.set_value for each in sliders)
    assert [each.proto.default for each in page.slider] == [[each.value] for each in page.slider]


def test_a_slider_moved_twice_stays_while_the_first_move_takes_effect(visit, running):
    page = visit("stylize", run=running.id)
    weight = running.record().settings.style_weight
    slider(page, "style_weight").set_value(4).run()
    slider(page, "style_weight").set_value(8).run()
    running.change(steering=[Steering(iteration=0, changes={"style_weight": 4 * weight})])
    page.run()
    assert slider(page, "style_weight").value == 8
    running.change(steering=[Steering(iteration=0, changes={"style_weight": 2 * weight})])
    running.ask(weights={"style_weight": 2 * weight})  # a later request of another person
    page.run()
    assert slider(page, "style_weight").value == 2


def test_marking_a_deleted_run_breaks_no_page(visit, kept):
    page = visit("stylize", run=kept.done.id)
    favourite = button(page, "Favourite")
    shutil.rmtree(kept.done.path)
    favourite.click().run()
    assert not page.exception


def test_continuing_queues_the_run_for_more_iterations(visit, kept, started):
    page = visit("stylize", run=kept.done.id)
    page.number_input(key=f"more-{kept.done.id}").set_value(30)
    button(page, "Go on painting").click().run()
    record = kept.done.record()
    assert record.status == "queued" and record.settings.iterations == 6 + 30
    assert (paths.queue() / kept.done.id).exists() and started
    assert not page.exception


def test_starting_again_begins_with_the_result(visit, kept):
    page = visit("stylize", run=kept.done.id)
    button(page, "Start again from this").click().run()
    assert "Starts from the result of" in " ".join(caption.value for caption in page.caption)
    button(page, "Start").click().run()
    run = the_new_run(*vars(kept).values())
    record = run.record()
    assert (record.content, record.style, record.start) == ("coffee", "glass", "the result of coffee × glass")
    assert record.settings == kept.done.record().settings
    with Image.open(run.start) as start, Image.open(kept.done.result) as result:
        assert start.tobytes() == result.tobytes()
    assert not page.exception


def test_the_same_settings_with_another_picture(visit, kept):
    page = visit("stylize", run=kept.steered.id)
    button(page, "Same settings, other picture").click().run()
    button(page, PHOTOS[1].title).click().run()
    button(page, "Start").click().run()
    run = the_new_run(*vars(kept).values())
    record, before = run.record(), kept.steered.record()
    assert (record.settings, record.preset) == (before.settings, before.preset)
    assert (record.content, record.style) == (PHOTOS[1].title, before.style)
    with Image.open(run.style(1)) as style, Image.open(kept.steered.style(1)) as own:
        assert style.tobytes() == own.tobytes()
    assert record.steering == []  # of the other run


def test_the_picture_from_a_run_can_be_replaced_by_another(visit, kept):
    page = visit("stylize", run=kept.done.id)
    button(page, "Same settings, other picture").click().run()
    button(page, "Choose another").click().run()
    assert not [each for each in page.button if each.label == "Choose another"]
    assert not page.exception


def test_a_favourite_is_marked_and_unmarked(visit, kept):
    page = visit("stylize", run=kept.done.id)
    button(page, "Favourite").click().run()
    assert library.marks(kept.done).favourite
    button(page, "Favourite").click().run()
    assert not library.marks(kept.done).favourite


def test_a_picture_is_rotated_and_cropped_before_it_is_painted(visit):
    page = visit("stylize")
    button(page, "Turn right").click().run()
    across = next(slider for slider in page.slider if slider.label == "From left to right")
    across.set_value((25, 75)).run()
    button(page, "Start").click().run()
    (run,) = store.all_runs()
    photo = codec.read_image(PHOTOS[0].path())
    expected = Crop(turns=1, across=(25, 75)).of(photo)
    assert expected.size == (photo.height // 2, photo.width)
    with Image.open(run.content) as content:
        assert content.tobytes() == expected.tobytes()


def test_crop():
    image = Image.new("RGB", (40, 20))
    image.putpixel((0, 0), (255, 0, 0))  # the upper left corner
    assert Crop().of(image) is image
    right = Crop(turns=1).of(image)
    assert right.size == (20, 40) and right.getpixel((19, 0)) == (255, 0, 0)  # turned clockwise: upper right now
    left = Crop(turns=3).of(image)
    assert left.size == (20, 40) and left.getpixel((0, 39)) == (255, 0, 0)
    assert Crop(across=(50, 100), down=(0, 50)).of(image).size == (20, 10)


def test_a_crop_that_is_too_small_is_refused(visit):
    page = visit("stylize")
    across = next(slider for slider in page.slider if slider.label == "From left to right")
    across.set_value((50, 51)).run()
    assert f"keep at least {codec.MIN_SIDE} pixels" in " ".join(warning.value for warning in page.warning)
    assert not button(page, "Start").disabled


def test_the_time_lapse_is_made_on_demand(visit, kept):
    page = visit("stylize", run=kept.done.id)
    films = "Download the time-lapse (WebP)"
    assert films not in {each.label for each in page.get("download_button")}
    page.toggle(key=f"film-{kept.done.id}").set_value(True).run()
    assert films in {each.label for each in page.get("download_button")}
    assert not page.exception


def test_a_continued_run_is_shown_as_unfinished(visit, kept):
    """Its first result still exists, but must not be shown as finished."""
    recovery.resume(kept.done, 5)
    schedule.submit(kept.done)
    page = visit("stylize", run=kept.done.id)
    assert button(page, "Stop") and not page.exception
    assert not page.button_group


def waiting_titles(page):
    return [each.value for each in page.markdown if each.value[:1].isdigit()]


def test_the_queue_is_shown_and_its_order_changed(visit, new_run):
    found = [new_run(name) for name in ("ant", "bee", "cat")]
    for run in found:
        schedule.submit(run)
    page = visit("stylize", run=found[2].id)
    assert [title.split("**")[1] for title in waiting_titles(page)] == [
        "ant × painting",
        "bee × painting",
        "cat × painting",
    ]
    assert "Number 3 in the queue" in page.get("progress")[0].proto.text
    page.button(key=f"First-{found[2].id}").click().run()
    assert queue.queued_runs() == [found[2], found[0], found[1]]
    page.button(key=f"Sooner-{found[1].id}").click().run()
    assert queue.queued_runs() == [found[2], found[1], found[0]]
    page.button(key=f"Cancel-{found[1].id}").click().run()
    assert queue.queued_runs() == [found[2], found[0]] and found[1].record().status == "stopped"
    assert [title.split("**")[1] for title in waiting_titles(page)] == ["cat × painting", "ant × painting"]
    assert not page.exception


def test_a_run_that_has_begun_is_not_moved_in_the_queue(visit, new_run):
    found = [new_run(name) for name in ("ant", "bee")]
    for run in found:
        schedule.submit(run)
    page = visit("stylize", run=found[0].id)
    queue.dequeue(found[1])
    page.button(key=f"First-{found[1].id}").click().run()
    assert "is not in the queue" in " ".join(each.value for each in page.warning).replace("\\", "")
    assert not page.exception


def test_the_queue_shows_when_runs_begin_once_measured(visit, new_run):
    pace = {"processor": hardware.processor(), "step_per_pixel": 1.0, "start": 1.0}
    (paths.home() / "pace.json").write_text(json.dumps(pace))
    found = [new_run(name) for name in ("ant", "bee")]
    for run in found:
        schedule.submit(run)
    page = visit("stylize", run=found[1].id)
    assert waiting_titles(page)[0].endswith("begins now") and "begins in about " in waiting_titles(page)[1]
    assert "begins in about 5.1 h" in page.get("progress")[0].proto.text


def test_an_interrupted_run_says_why_and_continues(visit, kept, started):
    record = kept.stopped.record()
    gone = ProcessId.this_process().model_copy(update={"boot": "an earlier one", "lock": ""})
    kept.stopped.change(status="running", writer=gone, iteration=None)
    page = visit("stylize", run=kept.stopped.id)
    assert "The machine was restarted during the run" in page.warning[0].value.replace("\\", "")
    assert page.number_input(key=f"more-{kept.stopped.id}").value == 0
    button(page, "Go on painting").click().run()
    assert queue.queued_runs() == [kept.stopped] and kept.stopped.record().settings == record.settings


def test_a_run_interrupted_before_its_first_checkpoint_can_continue(visit, new_run, started):
    run = new_run()
    run.change(status="preparing", writer=ProcessId(pid=2**22 + 1))
    page = visit("stylize", run=run.id)
    button(page, "Go on painting").click().run()
    assert queue.queued_runs() == [run] and run.record().status == "queued"


def test_a_stuck_process_is_noticed_and_can_be_ended(visit, new_run, other_process):
    run = new_run()
    run.change(status="running", writer=other_process.id)
    assert not visit("stylize", run=run.id).warning
    long_ago = time.time() - 1000
    os.utime(run.path / "run.json", (long_ago, long_ago))
    page = visit("stylize", run=run.id)
    assert "is alive but has not reported" in page.warning[0].value
    assert f"number {other_process.pid}" in page.warning[0].value and "17 min" in page.warning[0].value
    button(page, "End it").click().run()
    assert other_process.wait(10) != 0
    assert visit("stylize", run=run.id).warning[0].value.startswith("The run's process is gone")


def test_a_run_with_slow_steps_does_not_count_as_stuck(visit, running):
    (running.path / "metrics.csv").write_text(
        "iteration,evaluations,seconds,total,style,content,total_variation\n0,1,1,5,5,0,0\n1,2,61,4,4,0,0\n"
    )
    for age, stuck in ((1000, False), (1300, True), (-1000, False)):  # the clock may have been set back
        at = time.time() - age
        for name in ("run.json", "metrics.csv"):
            os.utime(running.path / name, (at, at))
        assert (control.silent_for(running, running.record()) is not None) == stuck, age


def test_a_second_server_says_so_and_only_shows_the_runs(visit, kept):
    """It becomes a normal page when the first server ends."""
    lock = FileLock(paths.home() / "server.lock")
    with lock:
        page = visit("stylize", run=kept.done.id)
        assert "Another server works on" in page.warning[0].value
        assert [each.label for each in page.button] == ["Look again"]
        assert "coffee × glass" in [each.value for each in page.markdown]
        names = {path: path.stat().st_mtime_ns for path in paths.runs().rglob("*")}
        button(page, "Look again").click().run()
        assert names == {path: path.stat().st_mtime_ns for path in paths.runs().rglob("*")}
    button(page, "Look again").click().run()
    assert not page.warning and button(page, "New picture")
    assert not page.exception


def test_a_second_server_shows_all_runs_despite_a_damaged_picture(visit, kept):
    whole = kept.done.result.read_bytes()
    kept.done.result.write_bytes(b"no picture")
    try:
        with FileLock(paths.home() / "server.lock"):
            page = visit("stylize")
            assert not page.exception
            assert "The file of the picture is damaged." in [each.value for each in page.caption]
            assert len(page.markdown) >= len(store.all_runs())
    finally:
        kept.done.result.write_bytes(whole)
