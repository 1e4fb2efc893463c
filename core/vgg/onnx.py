"""The exported network: run its ONNX model, also with changed pooling and padding, in ONNX Runtime."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from core import paths
from core.errors import StudioError
from core.vgg.layers import AS_TRAINED, AVERAGE_SCALES, Variant, channels, convolution

IMAGE_INPUT = "image"


def gram_output(layer: str) -> str:
    """Return the name of a layer's Gram matrix in the ONNX graph (its activations have the layer's name)."""
    return f"{layer}/gram"


class Manifest(BaseModel):
    """The JSON file of an ONNX model: its hash, weights and versions, and its accuracy."""

    file: str
    sha256: str
    weights_sha256: str
    provenance: str
    opset: int
    versions: dict[str, str]
    parity: dict[str, float]  # largest relative error by output, against TensorFlow
    parity_images: list[str]


@dataclass(frozen=True)
class FeatureModel:
    """The exported network with its manifest; the ONNX file is opened at the first computation."""

    path: Path
    manifest: Manifest
    _opened: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def load(path: Path) -> "FeatureModel":
        """Read the manifest of the model at this path.

        Raises:
            StudioError: If the manifest is missing or invalid.
        """
        try:
            return FeatureModel(path, Manifest.model_validate_json(path.with_suffix(".json").read_bytes()))
        except (OSError, ValidationError) as error:
            raise StudioError(f"The ONNX model {path} has no readable manifest: run nst export.") from error

    def session(self, providers: Sequence[str], outputs: Sequence[str], variant: Variant = AS_TRAINED) -> Any:
        """Return an ONNX Runtime session for these outputs; the last session is cached.

        The graph contains only what the outputs need, because ONNX Runtime would also compute the rest: only its
        training builds support `only_execute_path_to_fetches`.

        Args:
            providers: The ONNX Runtime providers, the preferred first; the session uses the first that works.
            outputs: The names of layers or Gram matrices to compute.
            variant: The changes to the trained network.

        Raises:
            StudioError: If the file is missing or its hash is wrong.
        """
        key = tuple(providers), tuple(outputs), variant
        session = self._opened.get(key)
        if session is None:
            session = self._open(providers, outputs, variant)
            self._opened.clear()
            self._opened[key] = session
        return session

    def _open(self, providers: Sequence[str], outputs: Sequence[str], variant: Variant) -> Any:
        import onnx
        import onnx.utils
        import onnxruntime

        try:
            model = self.path.read_bytes()
        except OSError as error:
            raise StudioError(f"The ONNX model {self.path} cannot be read: run nst export.") from error
        if hashlib.sha256(model).hexdigest() != self.manifest.sha256:
            raise StudioError(f"The ONNX model {self.path} is damaged (its hash is wrong): run nst export.")
        if "CUDAExecutionProvider" in providers:
            onnxruntime.preload_dlls()  # loads the CUDA libraries from the packages that TensorFlow uses too
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they keep the peak memory allocated
        whole = onnx.load_from_string(model)
        _expose_before_relu(whole.graph, outputs)
        graph = onnx.utils.Extractor(whole).extract_model([IMAGE_INPUT], list(outputs))
        _vary(graph.graph, variant)
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=list(providers))


def _expose_before_relu(graph: Any, outputs: Sequence[str]) -> None:
    """Add the requested activations before a ReLU to the outputs; the graph computes them without a name."""
    from onnx import TensorProto, helper

    makers = {output: node for node in graph.node for output in node.output}
    for name in outputs:
        if name not in makers:
            transposed = makers[convolution(name)]  # channels last, as in TensorFlow
            rectified = makers[transposed.input[0]]
            graph.node.append(helper.make_node("Transpose", rectified.input, [name], perm=(0, 2, 3, 1)))
            shape = [1, None, None, channels(name)]
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _vary(graph: Any, variant: Variant) -> None:
    """Apply the same changes to the graph as `feature_network` applies to Keras's network."""
    from onnx import helper, numpy_helper

    nodes, pools = [], iter(AVERAGE_SCALES)
    for node in graph.node:
        if node.op_type == "MaxPool" and variant.pooling == "average":
            node.op_type = "AveragePool"
            (pooled,) = node.output
            node.output[0] = f"{pooled}/average"
            scale = numpy_helper.from_array(np.array(next(pools), np.float32), f"{pooled}/scale")
            graph.initializer.append(scale)
            nodes += [node, helper.make_node("Mul", [node.output[0], scale.name], [pooled])]
            continue
        if node.op_type == "Conv" and variant.padding == "replicate" and not any(n.op_type == "Conv" for n in nodes):
            pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "edges")
            graph.initializer.append(pads)
            nodes.append(helper.make_node("Pad", [node.input[0], pads.name], ["image/padded"], mode="edge"))
            node.input[0] = "image/padded"
            kept = [attribute for attribute in node.attribute if attribute.name not in ("auto_pad", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("auto_pad", "VALID")])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def model_path(weights_sha256: str) -> Path:
    """Return the path for a model exported from these weights."""
    return paths.models() / f"vgg19-{weights_sha256[:12]}.onnx"


def find_model(weights_sha256: str) -> FeatureModel | None:
    """Return the model exported from these weights, here or shipped with the code, or `None`."""
    name = model_path(weights_sha256).name
    for folder in (paths.models(), paths.CHECKOUT / "models"):
        try:
            model = FeatureModel.load(folder / name)
        except StudioError:
            continue
        if model.path.is_file() and model.manifest.weights_sha256 == weights_sha256:
            return model
    return None
