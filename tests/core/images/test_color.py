"""Color modes: the colours of the style or of the photo, by luminance or by matching."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.images import codec, geometry, preprocessing
from core.images.color import COLOR_MODES, RGB, YCBCR
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.transfer.inputs import Inputs
from core.transfer.stylize import stylize

lightness, matched = COLOR_MODES["luminance"].convert, COLOR_MODES["matched"].convert_style
SHALLOW = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",), "content_weight": 1.0, "size": 96}


def pictures():
    return Inputs(*(codec.read_image(sample.path()) for sample in (PHOTOS[1],)), [
        codec.read_image(STYLES[1].path())
    ])  # fmt: skip


def random_picture(seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (40, 50, 3)).astype(np.uint8)


def chroma(rgb):
    """Return Cb and Cr, `(H, W, 2)`."""
    return (rgb.astype(np.float32) @ YCBCR.T)[..., 1:]


def statistics(rgb):
    pixels = rgb.reshape(-1, 3).astype(float)
    return pixels.mean(0), np.cov(pixels.T)


def test_lightness_equals_luma_of_jpeg():
    rgb = random_picture()
    luma = np.asarray(Image.fromarray(rgb).convert("YCbCr"), float)[..., 0]
    grey = lightness(rgb)
    assert grey.shape == rgb.shape and grey.dtype == np.float32
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all()
    assert np.abs(grey[..., 0] - luma).max() < 1.01  # Pillow rounds down
    np.testing.assert_allclose(lightness(grey), grey, atol=1e-3)
    np.testing.assert_allclose(YCBCR @ RGB, np.eye(3), atol=1e-6)


def test_luminance_combines_lightness_of_the_result_with_colours_of_the_photo():
    """The lightness is kept except for rounding; the chroma within half a grey level, for colours within 0 … 255."""
    photo, painted = random_picture(1, 100, 156), random_picture(2, 60, 196)
    found = COLOR_MODES["luminance"].finish(painted, photo)
    assert found.min() >= -1e-3 and found.max() <= 255 + 1e-3
    np.testing.assert_allclose(lightness(found), lightness(painted), atol=0.05)
    np.testing.assert_allclose(chroma(found), chroma(photo), atol=0.5)
    assert np.abs(chroma(painted) - chroma(photo)).mean() > 10  # the result had other colours before


def test_a_colour_out_of_range_gets_paler_and_keeps_its_hue():
    photo, painted = random_picture(1), random_picture(2)
    found = COLOR_MODES["luminance"].finish(painted, photo)
    assert found.min() >= -1e-3 and found.max() <= 255 + 1e-3
    np.testing.assert_allclose(lightness(found), lightness(painted), atol=0.05)
    ours, theirs = chroma(found), chroma(photo)
    assert (np.linalg.norm(ours, axis=-1) <= np.linalg.norm(theirs, axis=-1) + 0.05).all()
    cross = ours[..., 0] * theirs[..., 1] - ours[..., 1] * theirs[..., 0]  # 0 for equal hues
    assert np.abs(cross).max() < 0.05 * np.square(theirs).sum(-1).max() ** 0.5
    assert (ours * theirs).sum(-1).min() >= -0.5


def test_matched_has_the_photos_mean_and_covariance():
    random = np.random.default_rng(0)
    style = np.clip(random.normal((90, 130, 160), (20, 8, 14), (60, 80, 3)), 0, 255)
    photo = np.clip(random.normal(size=(50, 40, 3)) @ [[9, 4, 0], [0, 12, 3], [2, 0, 7]] + (150, 120, 100), 0, 255)
    mean, covariance = statistics(matched(style, photo))
    wanted_mean, wanted = statistics(photo)
    np.testing.assert_allclose(mean, wanted_mean, atol=0.05)
    np.testing.assert_allclose(covariance, wanted, atol=0.02 * np.abs(wanted).max())
    assert np.abs(statistics(style)[1] - wanted).max() > 0.5 * np.abs(wanted).max()


def test_matched_photos_have_nearly_the_statistics_after_clipping():
    photo, style = (geometry.resize(codec.read_image(s.path()), 128) for s in (PHOTOS[1], STYLES[1]))
    found = matched(style, photo)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 255
    (mean, covariance), (wanted_mean, wanted) = statistics(found), statistics(photo)
    assert np.abs(mean - wanted_mean).max() < 5
    assert np.linalg.norm(covariance - wanted) < 0.2 * np.linalg.norm(wanted)
    assert np.linalg.norm(covariance - wanted) < 0.5 * np.linalg.norm(statistics(style)[1] - wanted)


def test_matched_to_itself_changes_nothing():
    picture = random_picture(3)
    np.testing.assert_allclose(matched(picture, picture), picture, atol=0.05)


@pytest.mark.parametrize("grey", ["style", "photo"])
def test_a_grey_image_can_be_matched(grey):
    plain = np.repeat(random_picture()[..., :1], 3, axis=2)
    pair = (plain, random_picture(1)) if grey == "style" else (random_picture(1), plain)
    found = matched(*pair)
    assert np.isfinite(found).all()
    if grey == "photo":
        assert np.ptp(found, axis=-1).max() < 2  # matched to a grey photo, it is grey


# With the engine


def painted(engine, wanted):
    """Return the inputs and the step after a few iterations."""
    inputs = pictures().at(wanted, wanted.size)
    content, style = preprocessing.to_network(inputs.photo), preprocessing.to_network(inputs.styles[0])
    objective, _ = engine.objective(content, style, wanted)
    *_, last = stylize(objective, inputs.initial_image(inputs.photo_in_color), wanted)
    return inputs, last


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_luminance_keeps_the_photos_chroma(engine, optimizer):
    """The mean difference is below 2 levels where the colour is within range; the lightness is that of the result."""
    wanted = TransferSettings(**SHALLOW, colours="luminance", optimizer=optimizer, iterations=6)
    inputs, last = painted(engine, wanted)
    image = last.image()
    assert np.ptp(image, axis=-1).max() < 1e-2  # it is grey
    shown = preprocessing.to_uint8(inputs.finish(image))
    difference = np.linalg.norm(chroma(shown) - chroma(inputs.photo_in_color), axis=-1)
    assert np.median(difference) < 1 and difference.mean() < 2
    assert np.abs(lightness(shown) - lightness(inputs.photo_in_color)).mean() > 3  # the lightness has changed
    np.testing.assert_allclose(lightness(shown), image, atol=1.5)
    other, free = painted(engine, wanted.changed(colours="style"))
    shown = preprocessing.to_uint8(other.finish(free.image()))
    assert np.linalg.norm(chroma(shown) - chroma(other.photo_in_color), axis=-1).mean() > 4


def test_the_gradient_of_a_grey_image_is_the_gradient_of_its_lightness(engine):
    """Compare with finite differences along the grey of a pixel: the sum of its channels' gradients."""
    inputs = pictures().at(TransferSettings(**SHALLOW, colours="luminance"), 96)
    content, style = preprocessing.to_network(inputs.photo), preprocessing.to_network(inputs.styles[0])
    image = tf.constant(content * np.float32(0.9))
    free = engine.objective(content, style, TransferSettings(**SHALLOW))[0](image).gradient.numpy()
    grey = engine.objective(content, style, TransferSettings(**SHALLOW, colours="luminance"))[0](image).gradient.numpy()
    np.testing.assert_allclose(grey, np.repeat(free.mean(-1, keepdims=True), 3, -1), rtol=1e-4, atol=1e-4 * free.std())


def test_the_inputs_are_converted_by_the_color_mode():
    given = pictures()
    plain, grey, other = (given.at(TransferSettings(colours=word), 96) for word in ("style", "luminance", "matched"))
    photo = geometry.resize(given.photo, 96)
    for inputs in (plain, grey, other):
        np.testing.assert_array_equal(inputs.photo_in_color, photo)
    np.testing.assert_array_equal(plain.photo, photo)
    np.testing.assert_array_equal(grey.photo, lightness(photo))
    np.testing.assert_array_equal(grey.styles[0], lightness(plain.styles[0]))
    np.testing.assert_array_equal(other.photo, photo)
    np.testing.assert_array_equal(other.styles[0], matched(plain.styles[0], photo))
    np.testing.assert_array_equal(plain.finish(photo * 0.5), photo * 0.5)


@pytest.mark.parametrize(("scale", "longer"), [(1.0, 96), (0.5, 48), (2.0, 192), (0.1, 32)])
def test_the_style_is_scaled(scale, longer):
    given = pictures()
    square = Image.fromarray(random_picture()).resize((200, 200))
    inputs = Inputs(given.photo, [square]).at(TransferSettings(style_scale=scale), 96)
    assert inputs.styles[0].shape == (longer, longer, 3)
    assert max(inputs.photo.shape) == 96
