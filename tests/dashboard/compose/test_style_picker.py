"""Several paintings with weights and masks, and the brush."""

import io

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from core.images import codec
from core.presets import choose
from core.runs import store
from core.runs.recorder import Recorder
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.vgg import layers
from dashboard.compose import brush, settings_form
from dashboard.compose.brush import Drawing, Stroke
from dashboard.run import inputs


def button(page, label, number=0):
    return [button for button in page.button if button.label == label][number]


def labels(page):
    """Return the labels of the paintings, over their sliders or without one."""
    said = {each.label for each in page.slider if each.key.startswith("blend-")}
    said |= {each.value for each in page.markdown if each.value.endswith("in its part")}
    return sorted(label.replace("\\", "") for label in said)


def the_new_run(*known):
    (run,) = [run for run in store.all_runs() if run.id not in {each.id for each in known}]
    return run


def half(side="left", size=(60, 40)):
    """Return a mask as a PNG, white on one side."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = 255
    png = io.BytesIO()
    Image.fromarray(mask if side == "left" else mask[:, ::-1]).save(png, "PNG")
    return png.getvalue()


@pytest.fixture
def blended(ready, pictures):
    """Return a run of two paintings: the second one has a mask, and a part of the photo stays as it is."""
    settings = choose("draft", size=64, style_blend=(2, 1), content_layers="relu4_2,conv5_2",
                      content_layer_weights="0.5,2", style_layers="conv1_1,relu2_1")  # fmt: skip
    mask, kept = (Image.open(io.BytesIO(half(side, (96, 72)))) for side in ("left", "right"))
    styles = [Style("waves", pictures[1]), Style("glass", pictures[0], mask)]
    return store.create(RunSpec(styles, settings, "draft", kept), pictures[0], "me")


def test_one_painting_needs_no_weights_and_masks(visit):
    page = visit("stylize")
    assert labels(page) == [] and not page.tabs[4:]
    assert [header.value for header in page.header] == ["Photo", "Painting", "Settings"]
    button(page, "Start").click().run()
    run = the_new_run()
    assert len(run.record().styles) == 1 and not run.mask(1).exists() and not run.kept.exists()
    assert run.record().settings == choose()


def test_several_paintings_are_added_and_weighted(visit):
    page = visit("stylize")
    button(page, "Add a painting").click().run()
    button(page, "Add a painting").click().run()
    first, second, third = (sample.title for sample in STYLES[:3])
    assert labels(page) == [f"1 · {first}: 33 %", f"2 · {second}: 33 %", f"3 · {third}: 33 %"]
    page.slider(key="blend-style-2").set_value(2.0).run()
    page.button(key=f"choose-style-3-{STYLES[3].name}").click().run()
    assert labels(page) == [f"1 · {first}: 25 %", f"2 · {second}: 50 %", f"3 · {STYLES[3].title}: 25 %"]
    button(page, "Start").click().run()
    assert not page.exception
    run = the_new_run()
    record = run.record()
    assert record.settings.style_blend == (1, 2, 1)
    assert record.style == " + ".join([first, second, STYLES[3].title])
    for number, sample in enumerate([*STYLES[:2], STYLES[3]], 1):
        assert codec.read_image(run.style(number)).tobytes() == codec.read_image(sample.path()).tobytes()


def test_a_click_that_arrives_twice_adds_one_painting():
    def script():
        import streamlit as st

        from dashboard.compose import style_picker

        seen = style_picker._places()
        for _ in range(2):
            style_picker._add(seen)
        st.markdown(str(len(style_picker._places())))

    assert AppTest.from_function(script).run(timeout=60).markdown[0].value == "2"


def test_paintings_are_removed_and_six_is_the_limit(visit):
    page = visit("stylize")
    for _ in range(5):
        button(page, "Add a painting").click().run()
    assert len(labels(page)) == 6 and "Add a painting" not in {each.label for each in page.button}
    for place in ("style", "style-3", "style-4", "style-5"):
        page.button(key=f"remove-{place}").click().run()
    assert [label.partition(":")[0] for label in labels(page)] == [
        f"1 · {STYLES[1].title}",
        f"2 · {STYLES[5 % len(STYLES)].title}",
    ]
    page.button(key="remove-style-6").click().run()
    assert labels(page) == [] and not page.exception
    button(page, "Start").click().run()
    assert the_new_run().record().style == STYLES[1].title


def test_weights_that_are_all_zero_are_refused(visit):
    page = visit("stylize")
    button(page, "Add a painting").click().run()
    for place in ("style", "style-2"):
        page.slider(key=f"blend-{place}").set_value(0.0).run()
    assert "there would be no style" in page.error[0].value and button(page, "Start").disabled
    assert not page.exception


def test_masks_are_uploaded_for_a_painting_and_the_photo(visit):
    page = visit("stylize")
    button(page, "Add a painting").click().run()
    page.toggle(key="part-style-2").set_value(True).run()
    assert "Nothing is marked yet" in " ".join(caption.value for caption in page.caption)
    page.file_uploader(key="upload-part-style-2").set_value(("left.png", half(), "image/png")).run()
    page.toggle(key="part-photo").set_value(True).run()
    page.file_uploader(key="upload-part-photo").set_value(("right.png", half("right"), "image/png")).run()
    assert [label.partition(": ")[2] for label in labels(page)] == ["100 % elsewhere", "in its part"]
    button(page, "Start").click().run()
    assert not page.exception
    run = the_new_run()
    assert not run.mask(1).exists()
    mask, kept = (np.asarray(Image.open(path)) for path in (run.mask(2), run.kept))
    far = mask.shape[1] // 8
    assert mask[:, :far].min() == 255 and mask[:, -far:].max() == 0
    assert kept[:, :far].max() == 0 and kept[:, -far:].min() == 255


def test_an_uploaded_mask_is_not_changed(visit):
    page = visit("stylize")
    page.toggle(key="part-photo").set_value(True).run()  # before the upload: a drawing without a mask is soft
    given = half("left", Image.open(PHOTOS[0].path()).size)
    page.file_uploader(key="upload-part-photo").set_value(("left.png", given, "image/png")).run()
    button(page, "Start").click().run()
    assert not page.exception
    assert Image.open(the_new_run().kept).tobytes() == Image.open(io.BytesIO(given)).tobytes()


def test_another_mask_resets_the_softness():
    drawn = Drawing(strokes=[Stroke(points=[(0.5, 0.5)], width=0.1)], soft=0.05)
    assert drawn.over(0) == drawn
    assert drawn.over(7).soft == 0 and drawn.over(7).strokes == drawn.strokes
    assert drawn.over(7).over(0).soft == brush.SOFT


def test_choices_survive_a_visit_to_another_page(visit):
    page = visit("stylize")
    page.number_input(key="fast-size").set_value(128).run()
    button(page, "Add a painting").click().run()
    page.slider(key="blend-style-2").set_value(2.0).run()
    page.toggle(key="part-photo").set_value(True).run()
    page.file_uploader(key="upload-part-photo").set_value(("left.png", half(), "image/png")).run()
    page.file_uploader(key="upload-style").set_value(("mine.png", half(), "image/png")).run()
    for name in ("library", "library", "timings", ""):
        page._page_hash = calc_hash(name)
        page.run()
    assert page.number_input(key="fast-size").value == 128 and page.toggle(key="part-photo").value
    assert [label.partition(":")[0] for label in labels(page)] == ["1 · mine", f"2 · {STYLES[1].title}"]
    button(page, "Start").click().run()
    assert not page.exception
    run = the_new_run()
    assert run.record().settings.size == 128 and run.record().settings.style_blend == (1, 2)
    assert np.asarray(Image.open(run.kept))[:, :100].min() == 255

    button(page, "New picture").click().run()
    assert not page.toggle(key="part-photo").value


def test_an_upload_can_be_removed_after_a_visit_to_another_page(visit):
    page = visit("stylize")
    page.file_uploader(key="upload-photo").set_value(("mine.png", half(), "image/png")).run()
    for name in ("library", ""):
        page._page_hash = calc_hash(name)
        page.run()
    page.button(key="disown-photo").click().run()
    button(page, "Start").click().run()
    assert the_new_run().record().content == PHOTOS[0].title


def test_a_mask_that_is_no_picture_is_refused(visit):
    page = visit("stylize")
    page.toggle(key="part-style").set_value(True).run()
    page.file_uploader(key="upload-part-style").set_value(("a[b].png", b"nothing", "image/png")).run()
    assert r"a\[b\]\.png" in page.error[0].value and not page.exception


def test_starting_again_brings_paintings_weights_masks_and_every_setting(visit, blended, pictures):
    blended.change(status="done", writer=None)
    pictures[0].save(blended.result)
    page = visit("stylize", run=blended.id)
    button(page, "Start again from this").click().run()
    assert [label.partition(":")[0] for label in labels(page)] == ["1 · waves", "2 · glass"]
    button(page, "Start").click().run()
    assert not page.exception
    run, before = the_new_run(blended), blended.record()
    assert (run.record().settings, run.record().style) == (before.settings, before.style)
    same = [path.name for path in blended.input_files()]
    assert [path.name for path in run.input_files()] == [*same, "start.png"]
    for own, other in ((run.path / name, blended.path / name) for name in same):
        assert Image.open(own).tobytes() == Image.open(other).tobytes(), own.name
    assert not run.mask(1).exists()


def test_another_picture_keeps_the_paintings_but_not_the_masks(visit, blended, pictures):
    blended.change(status="done", writer=None)
    pictures[0].save(blended.result)
    page = visit("stylize", run=blended.id)
    button(page, "Same settings, other picture").click().run()
    button(page, "Start").click().run()
    run = the_new_run(blended)
    assert run.record().settings == blended.record().settings and len(run.record().styles) == 2
    assert not run.mask(2).exists() and not run.kept.exists()
    button(page, "New picture").click().run()
    assert labels(page) == [] and not page.exception


def test_every_layer_is_offered_after_and_before_its_relu(visit):
    assert len(settings_form.LAYERS) == 32 and all(map(layers.is_layer, settings_form.LAYERS))
    page = visit("stylize")
    page.multiselect(key="fast-content_layers").set_value(["block4_conv2", "conv5_2"]).run()
    page.slider(key="fast-content_layer_weights-conv5_2").set_value(2.0).run()
    button(page, "Start").click().run()
    assert the_new_run().record().settings == choose("fast", content_layers="relu4_2,conv5_2",
                                                     content_layer_weights=(1, 2))  # fmt: skip


def test_content_layers_are_steered_like_style_layers(visit, blended):
    recorder = Recorder(blended)
    recorder.__enter__()
    recorder.update(status="running")
    page = visit("stylize", run=blended.id)
    keys = {name: next(each for each in page.slider if f"-{name}-0" in each.key)
            for name in ("content-conv5_2", "conv1_1")}  # fmt: skip
    keys["content-conv5_2"].set_value(4.0).run()
    assert blended.request().weights == {"content_layer_weights": [0.5, 4]}
    assert keys["conv1_1"].value == 1.0 and not page.exception


def test_a_mask_is_white_where_it_was_drawn_and_not_erased():
    across = Stroke(points=[(0.0, 0.5), (1.0, 0.5)], width=0.2)
    hole = Stroke(points=[(0.5, 0.5)], width=0.1, erases=True)
    mask = np.asarray(Drawing(strokes=[across, hole]).mask((400, 200)))
    assert mask.shape == (200, 400) and set(np.unique(mask)) == {0, 255}
    assert mask[100, 20] == 255 and mask[100, 200] == 0 and mask[20, 20] == 0
    assert abs(int((mask[:, 50] > 0).sum()) - 80) <= 2  # a fifth of the longer side
    soft = np.asarray(Drawing(strokes=[across], soft=0.02).mask((400, 200)))
    assert 0 < soft[60, 200] < 255 and soft[100, 200] == 255
    based = np.asarray(Drawing(strokes=[hole]).mask((400, 200), Image.new("L", (10, 10), 255)))
    assert based[100, 200] == 0 and based[100, 20] == 255
    assert max(Drawing(strokes=[across]).mask((8000, 4000)).size) == brush.MOST_SIDE


@pytest.mark.parametrize(
    "said",
    [None, "no", {"strokes": 3}, {"strokes": [{"points": [], "width": 0.1}]},
     {"strokes": [{"points": [[float("nan"), 0]], "width": 0.1}]},
     {"strokes": [{"points": [[0, 0]], "width": 9}]}, {"soft": 1e9}],
)  # fmt: skip
def test_an_invalid_drawing_is_ignored(said):
    assert brush._parse(said) is None


def test_a_runs_page_and_card_show_its_paintings_and_masks(visit, blended, pictures):
    blended.change(status="done", writer=None)
    pictures[0].save(blended.result)
    page = visit("stylize", run=blended.id)
    captions = [each.captions[0] for each in page.image]
    assert captions[:3] == ["Photo, partly left as it is", "Painting 1, 100 % elsewhere", "Painting 2, in its part"]
    told = " ".join(each.value.replace("\\", "") for each in page.caption)
    assert "Different from the preset: Size: 64 px" in told and "Style blend: 2, 1" in told
    card = " ".join(each.value.replace("\\", "") for each in visit("library").caption)
    assert "Style layers" not in card.partition("Style blend 2, 1")[0] and "glass in its part" in card
    assert "a part stays as it is" in card


def test_a_mask_is_shown_in_the_corner_of_its_picture(blended):
    photo, (first, second) = inputs.photo(blended, blended.record()), inputs.paintings(blended, blended.record())
    plain = codec.read_image(blended.style(2))
    assert first.mask is None and first.drawn(96).tobytes() == codec.read_image(blended.style(1)).tobytes()
    drawn = np.asarray(second.drawn(96))
    assert drawn.shape == (72, 96, 3) and (drawn[:40] == np.asarray(plain)[:40]).all()
    assert (drawn[60, 68] == 255).all() and (drawn[60, 90] == 0).all()  # its left half is white
    assert photo.mask == blended.kept
