"""Time lapses: the frames in order, then the result for longer."""

import io

import numpy as np
import pytest
from PIL import Image

from core import presets
from core.errors import InputError
from core.images import codec
from core.runs import store
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from export import timelapse


@pytest.fixture
def run(own_home):
    content, style = (codec.read_image(sample.path()) for sample in (PHOTOS[1], STYLES[1]))
    made = store.create(RunSpec([Style("waves", style)], presets.choose("draft", size=64), "draft"), content, "me")
    (made.path / "frames").mkdir()
    return made


def flat(level):
    return np.full((48, 64, 3), level, np.uint8)


def levels(film):
    with Image.open(io.BytesIO(film)) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            found.append((round(float(np.asarray(image.convert("RGB")).mean())), image.info["duration"]))
        return image.size, found


def test_the_frames_come_in_order_and_then_the_result_for_longer(run):
    for iteration, level in ((0, 0), (10, 80), (100, 160)):
        (run.path / "frames" / f"{iteration:06d}.jpg").write_bytes(codec.encode_jpeg(flat(level)))
    codec.write_image(run.result, flat(240))
    size, found = levels(timelapse.animate(run))
    assert size == (64, 48)
    assert [duration for _, duration in found] == [timelapse.FRAME_MILLISECONDS] * 3 + [timelapse.LAST_MILLISECONDS]
    assert [level for level, _ in found] == pytest.approx([0, 80, 160, 240], abs=4)
    assert levels(timelapse.animate(run, longest=32))[0] == (32, 24)


def test_many_frames_are_thinned_evenly(run):
    for iteration in range(300):
        picture = codec.encode_jpeg(flat(40 * (iteration % 7)))
        (run.path / "frames" / f"{iteration:06d}.jpg").write_bytes(picture)
    _, found = levels(timelapse.animate(run, longest=16))
    assert len(found) <= timelapse.FRAMES
    assert [level for level, _ in found[:4]] == pytest.approx([0, 120, 240, 80], abs=3)


def test_a_run_without_frames_has_no_time_lapse(run):
    with pytest.raises(InputError, match="has no intermediate pictures"):
        timelapse.animate(run)
