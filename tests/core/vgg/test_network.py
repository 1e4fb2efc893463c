"""The feature network: the first layers of Keras's VGG19, frozen."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from core.images import codec, geometry, preprocessing
from core.samples.gallery import PHOTOS
from core.vgg.layers import AVERAGE_SCALES, CONVOLUTIONS, FIRST, Variant, channels, is_layer, layer_name, stride
from core.vgg.network import feature_network


def noise(height, width):
    return np.random.default_rng(3).uniform(-120, 130, (1, height, width, 3)).astype(np.float32)


def shape_at(layer, height, width):
    """Return the shape of the activations: each earlier block halves the sides and drops an odd row or column."""
    block = int(layer[5])
    return 1, height >> block - 1, width >> block - 1, CONVOLUTIONS[layer][3]


def plain_convolution(image, kernel, bias):
    """Return a same-padded 3 × 3 convolution with ReLU of `(H, W, C)`, in float64."""
    height, width, _ = image.shape
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    result = np.zeros((height, width, kernel.shape[3])) + bias
    for row in range(3):
        for column in range(3):
            result += padded[row : row + height, column : column + width] @ kernel[row, column].astype(float)
    return np.maximum(result, 0)


@pytest.fixture(scope="module")
def whole(weights):
    return feature_network(weights, list(CONVOLUTIONS))


@pytest.fixture(scope="module")
def shallow(weights):
    return feature_network(weights, ["block1_conv1", "block1_conv2"])


def test_convolutions_equal_those_of_keras():
    vgg19 = keras.applications.VGG19(weights=None, include_top=False)
    convolutions = [layer for layer in vgg19.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.name for layer in convolutions] == list(CONVOLUTIONS)
    assert [tuple(layer.kernel.shape) for layer in convolutions] == list(CONVOLUTIONS.values())
    assert all(tuple(layer.bias.shape) == CONVOLUTIONS[layer.name][3:] for layer in convolutions)
    assert len(CONVOLUTIONS) == 16


def test_the_names_can_be_imported_without_tensorflow():
    code = "import sys, core.vgg.layers; print(sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("height", "width"), [(32, 48), (37, 50)])
def test_every_layer_has_its_name_and_shape(whole, height, width):
    features = whole(noise(height, width))
    assert set(features) == set(CONVOLUTIONS)
    for layer, activations in features.items():
        values = activations.numpy()
        assert (values.shape, values.dtype) == (shape_at(layer, height, width), np.float32)
        assert values.min() == 0 and values.max() > 0  # after the ReLU, with some active values


@pytest.mark.parametrize("layers", [["block1_conv1"], ["block3_conv2", "block2_conv1"]])
def test_the_network_ends_at_the_deepest_layer(weights, layers):
    network = feature_network(weights, layers)
    order = list(CONVOLUTIONS)
    wanted = order[: max(map(order.index, layers)) + 1]
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.name for layer in convolutions] == wanted
    assert network.layers[-1].name == wanted[-1]  # there is no pooling after it
    assert set(network.output) == set(layers)


def test_the_network_has_the_given_weights(weights, whole):
    for layer, given in weights.layers.items():
        for held, array in zip(whole.get_layer(layer).get_weights(), given, strict=True):
            np.testing.assert_array_equal(held, array)


def test_the_network_is_frozen(shallow):
    assert shallow.trainable_variables == []
    assert len(shallow.variables) == 4  # two kernels, two biases
    assert not any(layer.trainable for layer in shallow.layers)


def test_any_size_and_number_of_images(shallow):
    for batch, height, width in ((1, 5, 9), (2, 8, 3)):
        features = shallow(np.zeros((batch, height, width, 3), np.float32))
        assert features["block1_conv2"].shape == (batch, height, width, 64)


def test_activations_agree_with_a_plain_convolution(weights, shallow):
    image = noise(7, 9)
    features = shallow(image)
    first = plain_convolution(image[0], *weights.layers["block1_conv1"])
    np.testing.assert_allclose(features["block1_conv1"][0], first, rtol=1e-5, atol=1e-3)
    second = plain_convolution(first, *weights.layers["block1_conv2"])
    np.testing.assert_allclose(features["block1_conv2"][0], second, rtol=1e-5, atol=1e-2)


def test_max_pooling_takes_the_largest_of_four(weights, whole):
    features = whole(noise(17, 23))
    before = features["block1_conv2"].numpy()[0, :16, :22]
    pooled = before.reshape(8, 2, 11, 2, 64).max((1, 3))
    expected = plain_convolution(pooled, *weights.layers["block2_conv1"])
    np.testing.assert_allclose(features["block2_conv1"][0], expected, rtol=1e-4, atol=1e-2)


def test_two_networks_share_no_weights(weights, shallow):
    other = feature_network(weights, ["block1_conv1"])
    kernel, bias = weights.layers["block1_conv1"]
    other.get_layer("block1_conv1").set_weights([kernel * 0, bias * 0])
    assert shallow(noise(4, 4))["block1_conv1"].numpy().max() > 0
    assert np.abs(weights.layers["block1_conv1"][0]).max() > 0


# Names and variants


def test_every_layer_has_one_canonical_name():
    for keras_name in CONVOLUTIONS:
        block, index = keras_name[5], keras_name[-1]
        assert layer_name(keras_name) == layer_name(f"relu{block}_{index}") == keras_name
        assert layer_name(f"conv{block}_{index}") == f"conv{block}_{index}"
        assert is_layer(keras_name) and is_layer(f"conv{block}_{index}") and not is_layer(f"relu{block}_{index}")
        for layer in (keras_name, f"conv{block}_{index}"):
            assert (channels(layer), stride(layer)) == (CONVOLUTIONS[keras_name][3], 2 ** (int(block) - 1))
    for wrong in ("relu3_5", "conv1_3", "block1_conv3", "relu6_1", "pool1", "", "relu1_1 "):
        with pytest.raises(ValueError, match="VGG19 has no layer"):
            layer_name(wrong)
        assert not is_layer(wrong)


def test_a_layer_before_its_relu(weights, whole):
    features = feature_network(weights, ["conv4_2", "block4_conv2", "conv1_1", "block4_conv3"])(noise(37, 50))
    assert set(features) == {"conv4_2", "block4_conv2", "conv1_1", "block4_conv3"}
    expected = whole(noise(37, 50))
    assert features["conv4_2"].numpy().min() < 0
    np.testing.assert_allclose(np.maximum(features["conv4_2"], 0), features["block4_conv2"])
    for layer in ("block4_conv2", "block4_conv3"):  # later layers do not change
        np.testing.assert_allclose(features[layer], expected[layer], rtol=1e-4, atol=1e-2)


def test_average_pooling_takes_the_scaled_mean_of_four(weights):
    network = feature_network(weights, ["block1_conv2", "block2_conv1"], variant=Variant(pooling="average"))
    features = network(noise(17, 23))
    before = features["block1_conv2"].numpy()[0, :16, :22]
    pooled = before.reshape(8, 2, 11, 2, 64).mean((1, 3)) * AVERAGE_SCALES[0]
    expected = plain_convolution(pooled, *weights.layers["block2_conv1"])
    np.testing.assert_allclose(features["block2_conv1"][0], expected, rtol=1e-4, atol=1e-2)


def test_average_pooling_keeps_the_activations_about_as_large(weights, whole):
    """The test compares activations after each pooling on a photo; without the factors the last would be a fifth."""
    photo = preprocessing.to_network(geometry.resize(codec.read_image(PHOTOS[1].path()), 192))
    averaged = feature_network(weights, list(CONVOLUTIONS), variant=Variant(pooling="average"))(photo)
    expected = whole(photo)
    for block in range(2, 6):
        layer = f"block{block}_conv1"
        ratio = np.sqrt(np.mean(np.square(averaged[layer])) / np.mean(np.square(expected[layer])))
        assert 0.7 < ratio < 1.4, layer


def test_replicate_padding_repeats_the_edge_for_the_first_layer(weights, shallow):
    image = noise(7, 9)
    features = feature_network(weights, ["conv1_1"], variant=Variant(padding="replicate"))(image)["conv1_1"]
    larger = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    expected = shallow(larger)["block1_conv1"][:, 1:-1, 1:-1]
    np.testing.assert_allclose(np.maximum(features, 0), expected, rtol=1e-5, atol=1e-3)
    black = shallow(image)["block1_conv1"]
    np.testing.assert_allclose(expected[:, 1:-1, 1:-1], black[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-3)
    assert np.abs(expected - black)[:, 0].max() > 1


# In bfloat16


@pytest.fixture(scope="module")
def rough(weights):
    return feature_network(weights, list(CONVOLUTIONS), "bfloat16")


def test_only_the_first_layer_of_a_bfloat16_network_is_float32(rough):
    computing = {layer.name: layer.compute_dtype for layer in rough.layers}
    exact = {name for name, precision in computing.items() if precision == "float32"}
    assert FIRST in exact and not exact & set(list(CONVOLUTIONS)[1:])
    assert {computing[name] for name in computing if name.endswith("_pool")} == {"bfloat16"}
    features = rough(noise(37, 50))
    assert set(features) == set(CONVOLUTIONS)
    for layer, activations in features.items():
        assert activations.shape == shape_at(layer, 37, 50)
        assert activations.dtype == (tf.float32 if layer == FIRST else tf.bfloat16)


def test_float32_is_the_default_and_float32_throughout(weights, shallow):
    network = feature_network(weights, ["block1_conv1", "block1_conv2"], "float32")
    assert {layer.compute_dtype for layer in (*network.layers, *shallow.layers)} == {"float32"}


def test_a_bfloat16_network_has_the_given_weights_and_is_frozen(weights, rough):
    assert rough.trainable_variables == []
    for layer, given in weights.layers.items():
        for held, array in zip(rough.get_layer(layer).weights, given, strict=True):
            expected = array if layer == FIRST else tf.cast(array, tf.bfloat16).numpy().astype(np.float32)
            np.testing.assert_array_equal(tf.cast(held, tf.float32), expected)


def test_bfloat16_activations_are_close_to_those_of_float32(whole, rough):
    image = noise(64, 96)
    exact, close = whole(image), rough(image)
    np.testing.assert_allclose(close[FIRST], exact[FIRST], rtol=1e-6, atol=1e-4)
    for layer in list(CONVOLUTIONS)[1:]:
        values, expected = tf.cast(close[layer], tf.float32).numpy(), exact[layer].numpy()
        error = np.linalg.norm(values - expected) / np.linalg.norm(expected)
        assert 0 < error < 0.03, layer  # bfloat16 has 8 bits: each layer adds up to 0.4 %


def test_networks_that_share_convolutions_keep_their_own_kinds(weights, photo):
    """A shared convolution has the same weights; another precision, padding or activation needs another one."""
    shared = {}
    kinds = [
        (["block1_conv2", "block2_conv1"], "float32", Variant()),
        (["block2_conv1", "conv1_2"], "float32", Variant()),
        (["block2_conv1"], "bfloat16", Variant()),
        (["block2_conv1"], "float32", Variant(padding="replicate", pooling="average")),
    ]
    networks = [feature_network(weights, layers, precision, kind, shared) for layers, precision, kind in kinds]
    for network, (layers, precision, kind) in zip(networks, kinds, strict=True):
        expected = feature_network(weights, layers, precision, kind)(photo)
        for layer, features in network(photo).items():
            np.testing.assert_array_equal(np.asarray(features, np.float32), np.asarray(expected[layer], np.float32))

    def layers_of(name):
        return [id(network.get_layer(name)) for network in networks]

    plain, same, rounded, padded = layers_of("block2_conv1")
    assert plain == same == padded != rounded
    assert len(set(layers_of("block1_conv2"))) == 3  # without ReLU, and in bfloat16
    assert len(set(layers_of("block1_conv1"))) == 2  # exact in bfloat16 too, but padded in another way
