"""Style Gram targets from ONNX Runtime, cached on disk by content."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from core import paths
from core.errors import StudioError
from core.timings import Timings
from core.vgg import AS_TRAINED, AVERAGE_SCALES, CONVOLUTIONS, Variant, channels, convolution, reach

CACHE_BYTES = 512 * 2**20
IMAGE_INPUT = "image"


def gram_output(layer: str) -> str:
    """The name that the ONNX graph gives to a layer's Gram matrix (its activations bear the layer's own name)."""
    return f"{layer}/gram"


class Manifest(BaseModel):
    """What lies beside an ONNX model: what it is, what it was made of and by, and how exactly it computes."""

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
    """The exported network, by its manifest; the model itself is opened only when it has something to compute."""

    path: Path
    manifest: Manifest
    _opened: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def load(path: Path) -> "FeatureModel":
        """Raises `StudioError` when there is no model or its manifest cannot be read."""
        try:
            return FeatureModel(path, Manifest.model_validate_json(path.with_suffix(".json").read_bytes()))
        except (OSError, ValidationError) as error:
            raise StudioError(f"The ONNX model {path} lacks a readable manifest: run nst export.") from error

    def session(self, providers: Sequence[str], outputs: Sequence[str], variant: Variant = AS_TRAINED) -> Any:
        """An ONNX Runtime session for these outputs on the first of `providers` that works; the last one is kept.

        The model's hash is checked first. The graph is cut to what the outputs need: ONNX Runtime would compute the
        rest too (its option `only_execute_path_to_fetches` is obeyed in training builds alone).

        Raises `StudioError` when the file is missing or damaged.
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
            onnxruntime.preload_dlls()  # finds the CUDA libraries in the wheels that TensorFlow uses too
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they keep the most that ever was needed
        whole = onnx.load_from_string(model)
        _expose_before_relu(whole.graph, outputs)
        graph = onnx.utils.Extractor(whole).extract_model([IMAGE_INPUT], list(outputs))
        _vary(graph.graph, variant)
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=list(providers))


def _expose_before_relu(graph: Any, outputs: Sequence[str]) -> None:
    """Give the graph the outputs among these that are a layer's activations before its ReLU, which it computes but
    does not name."""
    from onnx import TensorProto, helper

    makers = {output: node for node in graph.node for output in node.output}
    for name in outputs:
        if name not in makers:
            transposed = makers[convolution(name)]  # as TensorFlow has it, channels last
            rectified = makers[transposed.input[0]]
            graph.node.append(helper.make_node("Transpose", rectified.input, [name], perm=(0, 2, 3, 1)))
            shape = [1, None, None, channels(name)]
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _vary(graph: Any, variant: Variant) -> None:
    """Change the graph as `vgg.feature_network` changes Keras's network."""
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
    """Where the model made of these weights belongs."""
    return paths.models() / f"vgg19-{weights_sha256[:12]}.onnx"


def find_model(weights_sha256: str) -> FeatureModel | None:
    """The model made of these weights: the one made here, or one shipped beside the code; `None` if there is none."""
    name = model_path(weights_sha256).name
    for folder in (paths.models(), paths.CHECKOUT / "models"):
        try:
            model = FeatureModel.load(folder / name)
        except StudioError:
            continue
        if model.path.is_file() and model.manifest.weights_sha256 == weights_sha256:
            return model
    return None


@dataclass(frozen=True)
class StyleTargets:
    """Gram matrices `(C, C)` by layer, and where they came from: "cache" or the ONNX Runtime provider used."""

    grams: Mapping[str, np.ndarray] = field(repr=False)
    source: str
    seconds: float


def style_targets(
    style: np.ndarray,
    layers: Sequence[str],
    model: FeatureModel,
    providers: Sequence[str],
    timings: Timings | None = None,
    variant: Variant = AS_TRAINED,
    with_one: bool = False,
    side: int | None = None,
) -> StyleTargets:
    """The Gram matrices of a preprocessed style image `(1, H, W, 3)` at the named layers, from the cache or computed.

    `with_one` has them computed of the activations and one more channel of ones, `(C + 1, C + 1)`: see `core.losses`.
    A picture longer than `side` is computed in tiles of so many px. Adds the phases "session" and "style targets" to
    `timings`; `seconds` is the latter, without opening the session.
    """
    timings = Timings() if timings is None else timings
    with timings.phase("style targets"):
        entry = _entry(style, layers, model, variant, with_one)
        grams = _read(entry, layers, with_one)
    if grams is not None:
        return StyleTargets(grams, "cache", timings["style targets"])
    tiled = side is not None and max(style.shape[1:3]) > side
    in_graph = not tiled and not with_one and all(layer in CONVOLUTIONS for layer in layers)
    with timings.phase("session"):
        outputs = [gram_output(layer) for layer in layers] if in_graph else list(layers)
        session = model.session(providers, outputs, variant)
    with timings.phase("style targets"):
        if in_graph:
            grams = dict(zip(layers, session.run(outputs, {IMAGE_INPUT: style}), strict=True))
        else:
            grams = _grams_of_activations(session, style, layers, with_one, side if tiled else None)
        _write(entry, grams)
    return StyleTargets(grams, session.get_providers()[0], timings["style targets"])


def mixed(styles: Sequence[StyleTargets], mixes: np.ndarray) -> StyleTargets:
    """The targets of R regions, `(R, C, C)`, each of which mixes the S styles by its row of `mixes` `(R, S)`.

    The loss against a mean of Gram matrices has the gradient of the mean of the losses: to blend targets is to blend
    styles, and costs nothing. Of matrices computed with a channel of ones the mean is that of the positions of all
    styles taken together, in their shares: its normal distribution is the mixture's mean and covariance, which is
    wider than either style's where their means differ.
    """
    grams = {
        layer: np.tensordot(mixes, np.stack([style.grams[layer] for style in styles]), 1) for layer in styles[0].grams
    }
    source = ", ".join(dict.fromkeys(style.source for style in styles))
    return StyleTargets(grams, source, sum(style.seconds for style in styles))


def _grams_of_activations(
    session: Any, style: np.ndarray, layers: Sequence[str], with_one: bool, side: int | None
) -> dict[str, np.ndarray]:
    """The Gram matrices, from the activations of the whole picture or of one tile after another."""
    from core.tiling import tiles

    height, width = style.shape[1:3]
    sums, counts = dict.fromkeys(layers, np.zeros(())), dict.fromkeys(layers, 0)
    for tile in tiles(height, width, side or max(height, width), reach(layers)):
        activations = session.run(list(layers), {IMAGE_INPUT: np.ascontiguousarray(tile.of(style))})
        for layer, values in zip(layers, activations, strict=True):
            positions = tile.core_at(layer, values).reshape(-1, values.shape[-1])
            if with_one:
                positions = np.pad(positions, ((0, 0), (0, 1)), constant_values=1)
            sums[layer] = sums[layer] + (positions.T @ positions).astype(np.float64)
            counts[layer] += len(positions)
    return {layer: (total / counts[layer]).astype(np.float32) for layer, total in sums.items()}


def _entry(style: np.ndarray, layers: Sequence[str], model: FeatureModel, variant: Variant, with_one: bool) -> Path:
    key = hashlib.blake2b(digest_size=20)
    unlike = (*variant, with_one) if variant != AS_TRAINED or with_one else ()
    key.update(repr((model.manifest.sha256, tuple(layers), style.shape, style.dtype.str, *unlike)).encode())
    key.update(np.ascontiguousarray(style).data)
    return paths.cache() / "targets" / f"{key.hexdigest()}.npz"


def _read(entry: Path, layers: Sequence[str], with_one: bool = False) -> dict[str, np.ndarray] | None:
    """The cached matrices; `None` where there are none or the entry is damaged (the archive carries checksums)."""
    try:
        with np.load(entry) as arrays:
            grams = {layer: arrays[layer] for layer in layers}
        os.utime(entry)  # what was used last is dropped last
    except Exception:  # there is none, or it is damaged: in how many ways, only zip and pickle know
        return None
    whole = all(
        gram.shape == 2 * (channels(layer) + with_one,) and gram.dtype == np.float32 for layer, gram in grams.items()
    )
    return grams if whole else None


def _write(entry: Path, grams: Mapping[str, np.ndarray]) -> None:
    """Keep the matrices; a cache that cannot be written costs time later, not the run."""
    try:
        with paths.replacing(entry) as file:
            np.savez(file, **grams)  # type: ignore[arg-type]
        _shrink(entry.parent)
    except OSError:
        return


def _shrink(folder: Path) -> None:
    """Drop the entries used longest ago until the cache is within its bound; another process may do so too."""
    entries = []
    for path in folder.glob("*.npz"):
        try:
            entries.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:
            continue
    excess = sum(size for _, size, _ in entries) - CACHE_BYTES
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
