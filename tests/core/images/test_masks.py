"""Masks: their guides, and the statistics of each region."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.images import codec, preprocessing
from core.images.masks import blend, regions
from core.jobs import execution
from core.losses.style_losses import gram_matrix
from core.runs import store
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.transfer.inputs import Inputs
from core.transfer.optimizers import Limits
from core.transfer.stylize import stylize
from core.vgg.network import feature_network

SHALLOW = {
    "style_layers": ("block1_conv1", "block2_conv1", "block3_conv1"),
    "content_layers": ("block3_conv2",),
    "content_weight": 1.0,
}
SIZE = 96


@pytest.fixture(scope="module")
def given(home):
    """Return a photo and two different paintings."""
    photo, *styles = (codec.read_image(s.path()) for s in (PHOTOS[1], STYLES[0], STYLES[2]))
    return Inputs(photo, styles)


@pytest.fixture(scope="module")
def content(given):
    return preprocessing.to_network(given.at(TransferSettings(), SIZE).photo)


@pytest.fixture(scope="module")
def styles(given):
    return [preprocessing.to_network(style) for style in given.at(TransferSettings(), SIZE).styles]


def halves(shape):
    """Return a mask that is white on the left."""
    mask = np.zeros(shape, np.float32)
    mask[:, : shape[1] // 2] = 1
    return mask


# Guides and mixes


@pytest.mark.parametrize(
    ("styles", "weights", "expected"),
    [(1, (), [1]), (2, (), [0.5, 0.5]), (2, (1, 0), [1, 0]), (3, (1, 2, 1), [0.25, 0.5, 0.25]), (1, (7,), [1])],
)
def test_the_weights_of_a_blend_add_up_to_1(styles, weights, expected):
    np.testing.assert_allclose(blend(styles, weights), expected)


def test_without_a_mask_the_whole_picture_is_one_region():
    for masks in ((), (None, None)):
        guides, mixes = regions(masks, blend(2, (1, 3)))
        assert guides is None
        np.testing.assert_allclose(mixes, [[0.25, 0.75]])


def test_a_style_without_a_mask_applies_outside_all_masks():
    mask = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    guides, mixes = regions([None, mask, None], blend(3, (1, 5, 3)))
    np.testing.assert_allclose(guides, [mask, 1 - mask], atol=1e-6)
    np.testing.assert_allclose(mixes, [[0, 1, 0], [0.25, 0, 0.75]])


def test_overlapping_masks_give_no_negative_guide():
    one, two = np.full((2, 2), 0.8, np.float32), np.full((2, 2), 0.7, np.float32)
    guides, mixes = regions([one, two, None], blend(3, ()))
    np.testing.assert_allclose(guides, [one, two, np.zeros((2, 2))])
    np.testing.assert_allclose(mixes, np.eye(3))


def test_if_every_style_has_a_mask_the_rest_has_no_style():
    guides, mixes = regions([halves((4, 4))], blend(1, ()))
    assert guides.shape == (1, 4, 4) and mixes.tolist() == [[1]]
    guides, _ = regions([halves((4, 4)), None], blend(2, (1, 0)))  # the other style has weight 0
    assert guides.shape == (1, 4, 4)


# A blend


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
def test_a_blend_with_weights_1_and_0_equals_the_single_style(engine, content, styles, style_loss):
    settings = TransferSettings(**SHALLOW, style_loss=style_loss)
    alone, single = engine.objective(content, styles[0], settings)
    blended, targets = engine.objective(content, styles, settings.changed(style_blend=(1, 0)))
    for layer in settings.style_layers:
        np.testing.assert_array_equal(targets.grams[layer], single.grams[layer])
    image = tf.constant(content[:, ::-1].copy())
    expected, found = alone(image), blended(image)
    assert found.losses.total == pytest.approx(expected.losses.total, rel=1e-6)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-4, atol=1e-4 * np.std(expected.gradient))


@pytest.mark.parametrize(("counts", "share"), [((1, 1), 0.5), ((), 0.5), ((3, 1), 0.75)])
def test_a_blend_has_the_mean_target(engine, content, styles, counts, share):
    settings = TransferSettings(**SHALLOW)
    one, two = (engine.objective(content, style, settings)[1].grams for style in styles)  # with one region each
    _, targets = engine.objective(content, styles, settings.changed(style_blend=counts))
    for layer in settings.style_layers:
        expected = share * one[layer] + (1 - share) * two[layer]
        np.testing.assert_allclose(targets.grams[layer], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        assert np.linalg.norm(one[layer] - two[layer]) > 0.1 * np.linalg.norm(one[layer])


def test_blended_targets_use_the_cache_of_each_style(engine, content, styles, own_home):
    settings = TransferSettings(**SHALLOW)
    engine.objective(content, styles[0], settings)
    again = engine.objective(content, styles[:1], settings.changed(style_blend=(3,)))[1]
    assert again.source == "cache"
    assert engine.objective(content, styles, settings)[1].source.startswith("cache, ")
    assert engine.objective(content, styles, settings.changed(style_blend=(1, 5)))[1].source == "cache"


# Regions


def distance(network, image, style):
    """Return the mean squared difference of the Gram matrices, relative to those of the style."""
    total = 0.0
    for layer in SHALLOW["style_layers"]:
        gram, wanted = gram_matrix(network(image)[layer]).numpy(), gram_matrix(network(style)[layer]).numpy()
        total += np.mean((gram - wanted) ** 2) / np.mean(wanted**2)
    return total


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
@pytest.mark.parametrize("masked", ["the first", "the second", "both"])
def test_a_mask_confines_its_style(engine, content, styles, style_loss, masked):
    """After some steps, each half is closer to its own style; with exchanged masks, to the other style."""
    network = feature_network(engine.weights, list(SHALLOW["style_layers"]))
    settings = TransferSettings(**SHALLOW, style_loss=style_loss, optimizer="l-bfgs", iterations=12)
    left = halves(content.shape[1:3])
    masks = {"the first": [left, None], "the second": [None, 1 - left], "both": [left, 1 - left]}[masked]
    middle, margin = content.shape[2] // 2, 8
    near = {}
    for turned in (False, True):
        there = masks[::-1] if turned else masks
        objective, _ = engine.objective(content, styles, settings, masks=there)
        *_, last = stylize(objective, content, settings)
        image = last.best.image
        sides = image[:, :, : middle - margin], image[:, :, middle + margin :]
        near[turned] = [[distance(network, side, style) for style in styles] for side in sides]
    for side, own in ((0, 0), (1, 1)):
        assert near[False][side][own] < 0.8 * near[True][side][own]
        assert near[True][side][1 - own] < 0.8 * near[False][side][1 - own]
    if style_loss == "gram":  # the test measures with Gram matrices
        for turned, ((left_first, left_second), (right_first, right_second)) in near.items():
            assert (left_first < left_second) != turned
            assert (right_first > right_second) != turned


def test_without_a_style_only_the_content_loss_applies(engine, content, styles):
    """A style on the left does not change the right, beyond the reach of the network."""
    settings = TransferSettings(**SHALLOW, iterations=5)
    left = halves(content.shape[1:3])
    objective, _ = engine.objective(content, styles[:1], settings, masks=[left])
    *_, last = stylize(objective, content, settings)
    moved = np.abs(last.evaluated.image.numpy() - content).max(-1)[0]
    middle = content.shape[2] // 2
    assert moved[:, middle + 40 :].max() < 1e-3
    assert moved[:, : middle - 8].mean() > 3


def test_the_losses_of_a_run_use_its_masks(own_home, engine, given):
    """A run reads its masks from the disk."""
    settings = TransferSettings(**SHALLOW, size=SIZE, iterations=1)
    left = Image.fromarray((255 * halves((given.photo.height, given.photo.width))).astype(np.uint8))
    one, two = given.styles
    run = store.create(RunSpec([Style("one", one), Style("two", two, left)], settings, "draft"), given.photo, "photo")
    first, *_ = execution.perform(run, lambda *_: engine)
    inputs = dataclasses.replace(given, masks=[None, left]).at(settings, SIZE)
    content, styles = (
        preprocessing.to_network(inputs.photo),
        [preprocessing.to_network(style) for style in inputs.styles],
    )
    expected, without, turned = (
        engine.objective(content, styles, settings, masks=masks)[0].losses(tf.constant(content)).style
        for masks in (inputs.masks, (), inputs.masks[::-1])
    )
    assert first.losses.style == pytest.approx(expected, rel=1e-4)
    assert abs(without - expected) > 1e-3 * expected and abs(turned - expected) > 1e-3 * expected


def test_a_region_is_weighted_by_its_area(engine, content, styles):
    """With the same style everywhere, the losses of two regions add up to nearly the loss of one region."""
    settings = TransferSettings(**SHALLOW)
    left = halves(content.shape[1:3])
    whole, _ = engine.objective(content, styles[0], settings)
    double = np.concatenate([content, content[:, :, ::-1]], 2)  # both halves have nearly the same statistics
    masks = [halves(double.shape[1:3]), None]
    parts, _ = engine.objective(double, [styles[0], styles[0]], settings, masks=masks)
    expected = whole.losses(tf.constant(content)).style
    assert parts.losses(tf.constant(double)).style == pytest.approx(expected, rel=0.1)
    empty, _ = engine.objective(content, styles, settings, masks=[np.zeros_like(left), None])
    other, _ = engine.objective(content, styles[1], settings)
    found, wanted = (each.losses(tf.constant(content)).style for each in (empty, other))
    assert found == pytest.approx(wanted, rel=1e-5)  # an empty mask


def test_a_white_mask_equals_no_mask(engine, content, styles):
    settings = TransferSettings(**SHALLOW)
    plain, _ = engine.objective(content, styles[0], settings)
    guided, _ = engine.objective(content, styles, settings, masks=[np.ones(content.shape[1:3], np.float32), None])
    image = tf.constant(content[:, ::-1].copy())
    expected, found = plain(image), guided(image)
    assert found.losses.total == pytest.approx(expected.losses.total, rel=1e-5)
    difference = np.linalg.norm(found.gradient - expected.gradient)
    assert difference < 1e-4 * np.linalg.norm(expected.gradient)


# Kept parts of the photo


def kept_at(given, mask):
    return dataclasses.replace(given, kept=Image.fromarray((mask * 255).round().astype(np.uint8)))


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_kept_parts_equal_the_photo_if_white_and_are_close_to_it_if_grey(engine, given, optimizer):
    settings = TransferSettings(**SHALLOW, optimizer=optimizer, iterations=8, learning_rate=40.0, init="style")
    shape = given.at(settings, SIZE).photo.shape[:2]
    mask = np.zeros(shape, np.float32)
    mask[:, : shape[1] // 3], mask[:, shape[1] // 3 : shape[1] // 2] = 1, 0.8
    inputs = kept_at(given, mask).at(settings, SIZE)
    np.testing.assert_allclose(inputs.kept, mask, atol=1 / 255)
    content, styles = (
        preprocessing.to_network(inputs.photo),
        [preprocessing.to_network(style) for style in inputs.styles],
    )
    objective, _ = engine.objective(content, styles, settings)
    start = np.asarray(Image.fromarray(inputs.styles[0]).resize(shape[::-1]))
    begun = inputs.initial_image(start)
    for step in stylize(objective, begun, settings, Limits(*inputs.limits())):
        moved = np.abs(step.image() - inputs.photo).max(-1)
        assert moved[mask == 1].max() <= 1e-3
        assert moved[mask == np.float32(0.8)].max() <= 255 * 0.2 + 0.5
    assert moved[mask == np.float32(0.8)].max() > 10 and moved[mask == 0].max() > 60  # each changes as far as allowed
    np.testing.assert_array_equal(preprocessing.to_uint8(step.image())[mask == 1], inputs.photo[mask == 1])


def test_without_a_kept_region_there_are_no_limits(given):
    assert given.at(TransferSettings(), SIZE).limits() is None


def test_masks_are_resized_to_the_photo_with_soft_edges(given):
    drawn = np.zeros((400, 600), np.uint8)
    drawn[:, 301:] = 255
    inputs = dataclasses.replace(given, masks=[Image.fromarray(drawn), None]).at(TransferSettings(), SIZE)
    mask, none = inputs.masks
    assert none is None and mask.shape == inputs.photo.shape[:2] and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1
    assert mask.mean() == pytest.approx(drawn.mean() / 255, abs=0.01)
