"""Tiles: the same losses and gradient as without tiles, for all losses and networks."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from core.images import codec, preprocessing
from core.losses.style_losses import STYLE_LOSSES
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings
from core.transfer.style_targets import style_targets
from core.transfer.stylize import stylize
from core.transfer.tiled_objective import TiledObjective
from core.transfer.tiles import GRID, tiles
from core.vgg.layers import reach

SHALLOW = {"style_layers": ("relu1_1", "relu2_1", "relu3_1"), "content_layers": ("relu3_2",)}


def picture(sample, width, height):
    """Return a preprocessed sample, cropped instead of resized to keep its grain."""
    rgb = np.asarray(codec.read_image(sample.path()).resize((max(width, 600), max(height, 600))))
    return preprocessing.to_network(rgb[:height, :width])


@pytest.fixture(scope="module")
def pair(home):
    return picture(PHOTOS[1], 192, 128), picture(STYLES[1], 128, 100)


def both(engine, content, style, settings, side, **named):
    """Return the objective without tiles and with tiles of `side` px."""
    whole, _ = engine.objective(content, style, settings, **named)
    tiled, _ = engine.objective(content, style, settings, side=side, **named)
    assert isinstance(tiled, TiledObjective) and not isinstance(whole, TiledObjective)
    return whole, tiled


def on_the_way(content, seed=0):
    """Return an image with a large loss."""
    noise = np.random.default_rng(seed).normal(0, 25, content.shape)
    return tf.constant(
        (0.8 * content + noise).clip(preprocessing.NETWORK_MIN, preprocessing.NETWORK_MAX).astype(np.float32)
    )


def agree(whole, tiled, image, within=1e-4):
    """Check that the losses agree, and return the relative L2 difference of the gradients."""
    expected, found = whole(image), tiled(image)
    for name in ("total", "style", "content", "total_variation"):
        assert getattr(found.losses, name) == pytest.approx(getattr(expected.losses, name), rel=within), name
    assert dict(found.losses.style_layers) == pytest.approx(dict(expected.losses.style_layers), rel=within)
    scale = np.linalg.norm(expected.gradient)
    assert scale > 0
    difference = np.linalg.norm(found.gradient - expected.gradient) / scale
    assert difference <= within
    assert tiled.losses(image).total == pytest.approx(expected.losses.total, rel=within)
    return difference


# The tiles


@pytest.mark.parametrize(("height", "width"), [(64, 64), (389, 511), (33, 47), (160, 97), (32, 1000)])
@pytest.mark.parametrize("side", [16, 48, 256])
def test_tiles_cover_every_pixel_exactly_once(height, width, side):
    counted = np.zeros((height, width), int)
    for tile in tiles(height, width, side, border=20):
        top, left, bottom, right = tile.core
        assert 0 < bottom - top <= side and 0 < right - left <= side
        assert top % GRID == left % GRID == 0
        counted[top:bottom, left:right] += 1
    assert (counted == 1).all()


@pytest.mark.parametrize("border", [2, 20, 86])
def test_a_tile_has_its_border_and_starts_on_the_grid(border):
    for tile in tiles(389, 511, 48, border):
        (top, left, bottom, right), (above, before, below, after) = tile.core, tile.seen
        assert above % GRID == before % GRID == 0
        assert above <= max(0, top - border) and before <= max(0, left - border)
        assert below == min(389, bottom + border) and after == min(511, right + border)
        rows, columns = tile.core_within()[[0, 2]], tile.core_within()[[1, 3]]
        numbered = np.arange(389 * 511).reshape(1, 389, 511)
        seen = tile.of(numbered)
        np.testing.assert_array_equal(seen[:, slice(*rows), slice(*columns)], numbered[:, top:bottom, left:right])


@pytest.mark.parametrize("layer", ["block5_conv2", "block3_conv1", "block1_conv1", "conv4_2"])
def test_the_reach_is_how_far_a_pixel_has_an_effect(engine, layer):
    """A pixel beyond the reach has no effect on a position; at the reach of the first layer, one pixel, it has."""
    from core.vgg.layers import stride
    from core.vgg.network import feature_network

    network = feature_network(engine.weights, [layer])
    side, place = 256, 128
    image = np.random.default_rng(0).uniform(-100, 100, (1, side, side, 3)).astype(np.float32)
    moved = image.copy()
    moved[0, place, place] += 100
    felt = np.abs(network(moved)[layer] - network(image)[layer])[0].max(-1) > 1e-3
    rows = np.nonzero(felt.any(1))[0]
    step, far = stride(layer), reach([layer])
    assert rows.min() * step >= place - far - step + 1 and rows.max() * step <= place + far
    if layer == "block1_conv1":
        assert (rows.min(), rows.max()) == (place - 1, place + 1) and far == 1


# The same losses and gradient


@pytest.mark.parametrize("side", [64, 96])
def test_gradient_of_the_published_losses_in_tiles(engine, pair, side):
    """131 × 101 px is no multiple of any tile size."""
    content, style = pair[0][:, :101, :131], pair[1]
    whole, tiled = both(engine, content, style, TransferSettings(), side)
    assert agree(whole, tiled, on_the_way(content)) < 1e-5  # measured: 7e-7


@pytest.mark.parametrize(("height", "width"), [(79, 81), (144, 53), (33, 127)])
def test_gradient_in_tiles_for_odd_sizes(engine, pair, height, width):
    content = picture(PHOTOS[0], width, height)
    agree(*both(engine, content, pair[1], TransferSettings(), 64), on_the_way(content))


def test_gradient_in_tiles_of_a_deeper_and_a_linear_layer(engine, pair):
    settings = TransferSettings(style_layers=("conv5_4", "relu1_2"), content_layers=("conv4_2", "relu2_2"))
    content = pair[0][:, :76, :93]
    agree(*both(engine, content, pair[1], settings, 64), on_the_way(content))


VARIANTS = {
    "wasserstein": {"style_loss": "wasserstein"},
    "average pooling": {"pooling": "average"},
    "replicate padding": {"padding": "replicate"},
    "total variation": {"total_variation_weight": 50.0},
    "grey": {"colours": "luminance"},
    "style only": {"content_weight": 0.0},
    "content only": {"style_weight": 0.0},
    "layer weights": {
        "style_layer_weights": (2, 0, 1),
        "content_layers": ("relu3_2", "relu2_2"),
        "content_layer_weights": (0.5, 3),
    },
    "all at once": {
        "style_loss": "wasserstein",
        "pooling": "average",
        "padding": "replicate",
        "total_variation_weight": 5.0,
        "colours": "luminance",
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_gradient_in_tiles_for_all_settings(engine, pair, changes):
    content = pair[0][:, :81, :103]
    whole, tiled = both(engine, content, pair[1], TransferSettings(**{**SHALLOW, **changes}), 64)
    agree(whole, tiled, on_the_way(content))


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
def test_gradient_in_tiles_with_regions(engine, pair, style_loss):
    """A soft mask ends within tiles; the other style applies outside it."""
    content, styles = pair[0][:, :81, :103], [pair[1], picture(STYLES[2], 128, 144)]
    mask = np.clip(np.linspace(-1, 2, 103, dtype=np.float32)[np.newaxis] * np.ones((81, 1), np.float32), 0, 1)
    settings = TransferSettings(**SHALLOW, style_loss=style_loss)
    whole, tiled = both(engine, content, styles, settings, 64, masks=[mask, None])
    agree(whole, tiled, on_the_way(content))


def test_gradient_in_tiles_has_no_seam(engine, pair):
    """The rounding differences at the edges of tiles are no larger than inside them."""
    content = pair[0][:, :128, :192]
    whole, tiled = both(engine, content, pair[1], TransferSettings(**SHALLOW), 64)
    image = on_the_way(content)
    expected = whole(image).gradient.numpy()
    off = np.abs(tiled(image).gradient.numpy() - expected)[0].max(-1) / np.abs(expected).max()
    columns = np.arange(192) % 64
    at_edges = off[:, (columns < 2) | (columns > 61)]
    assert at_edges.max() < 1e-4 and off.max() < 1e-4


def test_an_image_no_larger_than_a_tile_is_computed_at_once(engine, photo, painting):
    objective, _ = engine.objective(photo, painting, TransferSettings(**SHALLOW), side=48)
    assert not isinstance(objective, TiledObjective)


def test_evaluations_in_tiles_are_counted_and_have_their_image(engine, pair):
    content = pair[0][:, :72, :96]
    _, tiled = both(engine, content, pair[1], TransferSettings(**SHALLOW), 64)
    image = on_the_way(content)
    tiled.losses(image)
    assert tiled.evaluations == 0
    evaluation = tiled(image)
    assert tiled.evaluations == 1 and evaluation.weights == tiled.weights
    np.testing.assert_array_equal(evaluation.image, image)


# Runs


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_losses_of_a_run_in_tiles_equal_those_without_tiles(engine, pair, optimizer):
    content = pair[0][:, :72, :97]
    settings = TransferSettings(**SHALLOW, optimizer=optimizer, iterations=6, content_weight=1.0)
    courses = [
        [step.losses for step in stylize(objective, content, settings)]
        for objective in both(engine, content, pair[1], settings, 64)
    ]
    for expected, found in zip(*courses, strict=True):
        assert found.total == pytest.approx(expected.total, rel=1e-3)
        assert found.style == pytest.approx(expected.style, rel=1e-3)
        assert found.content == pytest.approx(expected.content, rel=1e-3, abs=1e-4 * expected.total)
    assert courses[1][-1].total < 0.9 * courses[1][0].total


def test_weights_of_a_run_in_tiles_can_change(engine, pair):
    content = pair[0][:, :72, :96]
    settings = TransferSettings(**SHALLOW, iterations=3)
    courses = []
    for objective in both(engine, content, pair[1], settings, 64):
        weights = [settings.loss_weights(), settings.changed(style_weight=1.0).loss_weights()]
        _, *steps = stylize(objective, content, settings, weights=lambda iteration, w=weights: w[iteration > 0])
        courses.append([step.losses.total for step in steps])
    assert courses[1] == pytest.approx(courses[0], rel=1e-3)
    plain, _ = engine.objective(content, pair[1], settings)
    unsteered = [step.losses.total for step in itertools.islice(stylize(plain, content, settings), 1, 4)]
    assert courses[1][-1] > 5 * unsteered[-1]


# The style in tiles


@pytest.mark.parametrize(
    ("layers", "loss"), [(("block1_conv1", "block4_conv1"), "gram"), (("block3_conv2", "conv4_2"), "wasserstein")]
)
@pytest.mark.parametrize("side", [64, 144])
def test_style_targets_in_tiles(engine, pair, own_home, monkeypatch, layers, loss, side):
    style, providers = picture(STYLES[1], 251, 187), engine.choice(TransferSettings()).onnx_providers
    asked = {"model": engine.model, "providers": providers, "loss": STYLE_LOSSES[loss]}
    whole = style_targets(style, layers, **asked)
    monkeypatch.setenv("NST_HOME", str(own_home / "another cache"))
    tiled = style_targets(style, layers, **asked, side=side)
    assert tiled.source != "cache"
    for layer in layers:
        difference = np.linalg.norm(tiled.grams[layer] - whole.grams[layer])
        assert difference <= 1e-5 * np.linalg.norm(whole.grams[layer]), layer
