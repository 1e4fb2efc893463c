"""The exported network: its manifest, its values compared with TensorFlow, and failed exports."""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from core import paths
from core.samples.gallery import PHOTOS
from core.vgg.layers import CONVOLUTIONS
from core.vgg.network import feature_network
from core.vgg.onnx import IMAGE_INPUT, find_model, gram_output, model_path
from export import onnx_model
from export.onnx_model import ParityError, ensure_model, export, parity

CPU = ["CPUExecutionProvider"]
OUTPUTS = {output for layer in CONVOLUTIONS for output in (layer, gram_output(layer))}


def noise(height, width):
    return np.random.default_rng(4).uniform(-120, 130, (1, height, width, 3)).astype(np.float32)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def sizes(dimensions):
    """Return a tensor's dimensions in ONNX: numbers, or None for any size."""
    return [dimension.dim_value if dimension.HasField("dim_value") else None for dimension in dimensions.shape.dim]


@pytest.fixture(scope="module")
def session(model):
    return onnxruntime.InferenceSession(str(model.path), providers=CPU)


@pytest.fixture(scope="module")
def graph(model):
    return onnx.load(model.path)


# The model in place


def test_manifest_is_complete(weights, model):
    manifest = model.manifest
    assert model.path == model_path(weights.sha256)
    assert manifest.file == model.path.name
    assert manifest.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert (manifest.weights_sha256, manifest.provenance) == (weights.sha256, weights.provenance)
    assert set(manifest.versions) == {"tensorflow", "keras", "tf2onnx", "onnx"} and all(manifest.versions.values())
    assert set(manifest.parity) == OUTPUTS and len(OUTPUTS) == 32
    assert all(0 < error <= 1e-5 for error in manifest.parity.values())
    assert manifest.parity_images
    assert json.loads(model.path.with_suffix(".json").read_bytes()) == manifest.model_dump()


def test_model_is_valid_onnx_of_the_promised_opset(model, graph):
    onnx.checker.check_model(str(model.path), full_check=True)
    opsets = {opset.domain: opset.version for opset in graph.opset_import}
    assert opsets[""] == model.manifest.opset == onnx_model.OPSET
    assert {node.domain for node in graph.graph.node} == {""}  # only standard operators


def test_inputs_and_outputs_by_name(graph):
    (image,) = graph.graph.input
    assert image.name == IMAGE_INPUT
    assert sizes(image.type.tensor_type) == [1, None, None, 3]
    assert {output.name for output in graph.graph.output} == OUTPUTS
    for value in (image, *graph.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_model_holds_the_weights(weights, graph):
    held = {array.tobytes() for array in map(onnx.numpy_helper.to_array, graph.graph.initializer)}
    for kernel, _ in weights.layers.values():
        assert np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)).tobytes() in held


@pytest.mark.parametrize(("height", "width"), [(37, 53), (65, 31)])
def test_any_height_and_width(session, height, width):
    names = sorted(OUTPUTS)
    values = dict(zip(names, session.run(names, {IMAGE_INPUT: noise(height, width)}), strict=True))
    for layer, (*_, channels) in CONVOLUTIONS.items():
        halvings = int(layer[5]) - 1
        features = values[layer]
        assert features.shape == (1, height >> halvings, width >> halvings, channels)
        assert features.min() == 0 and features.max() > 0
        positions = features.reshape(-1, channels).astype(float)
        expected = positions.T @ positions / len(positions)
        gram = values[gram_output(layer)]
        assert gram.shape == (channels, channels)
        assert np.linalg.norm(gram - expected) <= 1e-5 * np.linalg.norm(expected)


def test_features_are_those_of_tensorflow(weights, session):
    image = noise(35, 49)
    layers = ["block1_conv2", "block3_conv4", "block5_conv4"]
    expected = feature_network(weights, layers)(image)
    for layer, features in zip(layers, session.run(layers, {IMAGE_INPUT: image}), strict=True):
        assert np.linalg.norm(features - expected[layer]) <= 1e-5 * np.linalg.norm(expected[layer])


# Exporting only the first two convolutions takes seconds; the tests above use the whole model.


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Make exports go to the test's folder and end after the first block; return the folder."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "code")
    monkeypatch.setenv("NST_HOME", str(tmp_path / "home"))
    first = {layer: shape for layer, shape in CONVOLUTIONS.items() if layer.startswith("block1")}
    monkeypatch.setattr(onnx_model, "CONVOLUTIONS", first)
    return tmp_path.resolve() / "home" / "models"


def test_a_model_is_exported_once_and_a_bad_export_is_refused(weights, short, monkeypatch):
    # A missing model is exported, and compared on random and real pictures.
    lines = []
    made = ensure_model(weights, lines.append)
    first = contents(short)
    assert made.path.parent == short
    assert set(first) == {made.path.name, made.path.with_suffix(".json").name}
    assert [line.split()[0] for line in lines] == ["Converting", "Checking", "Comparing"]
    assert made == find_model(weights.sha256)
    assert made.manifest.sha256 == hashlib.sha256(first[made.path.name]).hexdigest()
    assert set(made.manifest.parity) == {"block1_conv1", "block1_conv1/gram", "block1_conv2", "block1_conv2/gram"}
    compared = [line.split(maxsplit=1) for line in made.manifest.parity_images]
    assert {"random", *(photo.name for photo in PHOTOS)} == {name for name, _ in compared}
    assert any(int(side) % 2 for _, size in compared for side in size.split(" × "))

    # An existing model is used as it is.
    assert ensure_model(weights, lines.append) == made
    assert len(lines) == 3 and contents(short) == first

    # An export that differs from TensorFlow leaves the model unchanged.
    with monkeypatch.context() as patch:
        patch.setattr(onnx_model, "TOLERANCE", 0.0)
        with pytest.raises(ParityError) as caught:
            export(weights)
    sentence = str(caught.value)
    assert sentence.startswith("The exported model differs from TensorFlow at block1_conv")
    assert sentence.endswith("a model in place stays unchanged.")
    assert contents(short) == first

    # Without a readable manifest the model is exported again.
    manifest = made.path.with_suffix(".json")
    manifest.unlink()
    assert find_model(weights.sha256) is None
    manifest.write_bytes(first[manifest.name][:-5])
    assert find_model(weights.sha256) is None
    again = ensure_model(weights, lines.append)
    assert len(lines) == 6
    assert again.session(CPU, [gram_output("block1_conv1")]).get_inputs()[0].name == IMAGE_INPUT
    assert set(contents(short)) == set(first)
    assert json.loads(manifest.read_bytes()) == again.manifest.model_dump()


def test_parity_is_the_largest_relative_error(weights, model, session, monkeypatch):
    """The expected values are ONNX Runtime's own, changed by known factors."""
    images = [("small", noise(32, 32)), ("odd", noise(35, 33))]
    monkeypatch.setattr(onnx_model, "_test_images", lambda: iter(images))
    names = [output.name for output in session.get_outputs()]
    calls = []

    def changed(image):
        values = dict(zip(names, session.run(names, {IMAGE_INPUT: image}), strict=True))
        calls.append(image.shape)
        if len(calls) == 1:
            values["block1_conv1"] = values["block1_conv1"] * np.float32(1.25)
            values["block5_conv4"] = values["block5_conv4"] * np.float32(np.nan)
        else:
            values["block2_conv1/gram"] = values["block2_conv1/gram"] * np.float32(0.5)
        return {name: tf.constant(value) for name, value in values.items()}

    errors, compared = parity(model.path, changed)
    assert compared == ["small 32 × 32", "odd 33 × 35"]
    assert set(errors) == OUTPUTS
    assert errors.pop("block1_conv1") == pytest.approx(0.2, rel=1e-5)
    assert errors.pop("block2_conv1/gram") == pytest.approx(1, rel=1e-5)
    assert np.isnan(errors.pop("block5_conv4"))  # a later good picture does not hide it
    assert max(errors.values()) <= 1e-6
