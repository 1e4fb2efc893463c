"""Convert Keras VGG19 with Gram matrices to ONNX by tf2onnx, and check that both compute the same."""

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from filelock import FileLock

from core import paths
from core.errors import StudioError
from core.images import codec, geometry, preprocessing
from core.losses.style_losses import gram_matrix
from core.samples.gallery import PHOTOS
from core.vgg.layers import CONVOLUTIONS
from core.vgg.network import feature_network
from core.vgg.onnx import IMAGE_INPUT, FeatureModel, Manifest, find_model, gram_output, model_path
from core.vgg.weights import Weights

OPSET = 18
TOLERANCE = 1e-5  # the largest allowed relative error (L2) of an output against TensorFlow

Report = Callable[[str], None]


class ParityError(StudioError):
    """The exported graph and TensorFlow compute different values."""


def ensure_model(weights: Weights, report: Report = lambda line: None) -> FeatureModel:
    """Return the exported model of these weights; export it first if it is missing or unusable."""
    if model := find_model(weights.sha256):
        return model
    path = model_path(weights.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of two processes that start at once, only the first exports
        return find_model(weights.sha256) or export(weights, report)


def export(weights: Weights, report: Report = lambda line: None) -> FeatureModel:
    """Convert VGG19 to ONNX, compare it with TensorFlow, and then put the model in place with its manifest.

    The graph maps `image` `(1, H, W, 3)`, preprocessed, of any height and width, to every convolution's activations
    `(1, H/2^b, W/2^b, C)` under Keras's layer name and their Gram matrices `(C, C)` under `<layer>/gram`.

    Raises:
        ParityError: If an output differs by more than `TOLERANCE`. A model in place stays unchanged.
    """
    path = model_path(weights.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        report("Converting VGG19 to ONNX …")
        function = _features_and_grams(weights)
        tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET, output_path=str(draft))
        report("Checking the ONNX model …")
        onnx.checker.check_model(str(draft), full_check=True)
        report("Comparing ONNX Runtime with TensorFlow …")
        errors, compared = parity(draft, function)
        if worst := [name for name, error in errors.items() if not error <= TOLERANCE]:
            raise ParityError(
                f"The exported model differs from TensorFlow at {worst[0]} by {errors[worst[0]]:.1e} "
                f"(at most {TOLERANCE:.0e} is allowed); a model in place stays unchanged."
            )
        manifest = Manifest(
            file=path.name,
            sha256=hashlib.sha256(draft.read_bytes()).hexdigest(),
            weights_sha256=weights.sha256,
            provenance=weights.provenance,
            opset=OPSET,
            versions={name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "tf2onnx", "onnx")},
            parity=errors,
            parity_images=compared,
        )
        draft.replace(path)  # until the new manifest follows, the hash in the old manifest refuses the new model
        paths.write(path.with_suffix(".json"), manifest.model_dump_json(indent=2).encode())
    return FeatureModel(path, manifest)


def parity(model: Path, function: Callable[[Any], dict[str, Any]]) -> tuple[dict[str, float], list[str]]:
    """Return the largest relative error of each output over all test images, and the names of the images.

    The error is ‖onnx − tf‖₂ / ‖tf‖₂, or NaN if it is NaN for any image.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    errors = dict.fromkeys(outputs, 0.0)
    compared = []
    for name, image in _test_images():
        compared.append(f"{name} {image.shape[2]} × {image.shape[1]}")
        expected = function(image)
        for output, actual in zip(outputs, session.run(outputs, {IMAGE_INPUT: image}), strict=True):
            reference = expected[output].numpy()
            error = float(np.linalg.norm(actual - reference) / np.linalg.norm(reference))
            errors[output] = error if np.isnan(error) else max(errors[output], error)
    return errors, compared


def _test_images() -> Iterator[tuple[str, np.ndarray]]:
    """Yield random and real images, preprocessed, of several even and odd sizes."""
    random = np.random.default_rng(19)
    for height, width in ((64, 64), (97, 131), (33, 200)):
        yield "random", preprocessing.to_network(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    for sample, size in zip(PHOTOS, (224, 255, 301), strict=False):
        yield sample.name, preprocessing.to_network(geometry.resize(codec.read_image(sample.path()), size))


def _features_and_grams(weights: Weights) -> Any:
    network = feature_network(weights, list(CONVOLUTIONS))

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32, name=IMAGE_INPUT)], autograph=False)
    def features_and_grams(image: tf.Tensor) -> dict[str, tf.Tensor]:
        features = network(image)
        return features | {gram_output(layer): gram_matrix(features[layer]) for layer in features}

    return features_and_grams
