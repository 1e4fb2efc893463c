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
from core.vgg import CONVOLUTIONS

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
    _opened: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def load(path: Path) -> "FeatureModel":
        """Raises `StudioError` when there is no model or its manifest cannot be read."""
        try:
            return FeatureModel(path, Manifest.model_validate_json(path.with_suffix(".json").read_bytes()))
        except (OSError, ValidationError) as error:
            raise StudioError(f"The ONNX model {path} lacks a readable manifest: run nst export.") from error

    def session(self, providers: Sequence[str], outputs: Sequence[str]) -> Any:
        """An ONNX Runtime session for these outputs on the first of `providers` that works; the last one is kept.

        The model's hash is checked first. The graph is cut to what the outputs need: ONNX Runtime would compute the
        rest too (its option `only_execute_path_to_fetches` is obeyed in training builds alone).

        Raises `StudioError` when the file is missing or damaged.
        """
        key = tuple(providers), tuple(outputs)
        session = self._opened.get(key)
        if session is None:
            session = self._open(providers, outputs)
            self._opened.clear()
            self._opened[key] = session
        return session

    def _open(self, providers: Sequence[str], outputs: Sequence[str]) -> Any:
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
        graph = onnx.utils.Extractor(onnx.load_from_string(model)).extract_model([IMAGE_INPUT], list(outputs))
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=list(providers))


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
) -> StyleTargets:
    """The Gram matrices of a preprocessed style image `(1, H, W, 3)` at the named layers, from the cache or computed.

    Adds the phases "session" and "style targets" to `timings`; `seconds` is the latter, without opening the session.
    """
    timings = Timings() if timings is None else timings
    with timings.phase("style targets"):
        entry = _entry(style, layers, model)
        grams = _read(entry, layers)
    if grams is not None:
        return StyleTargets(grams, "cache", timings["style targets"])
    with timings.phase("session"):
        outputs = [gram_output(layer) for layer in layers]
        session = model.session(providers, outputs)
    with timings.phase("style targets"):
        grams = dict(zip(layers, session.run(outputs, {IMAGE_INPUT: style}), strict=True))
        _write(entry, grams)
    return StyleTargets(grams, session.get_providers()[0], timings["style targets"])


def _entry(style: np.ndarray, layers: Sequence[str], model: FeatureModel) -> Path:
    key = hashlib.blake2b(digest_size=20)
    key.update(repr((model.manifest.sha256, tuple(layers), style.shape, style.dtype.str)).encode())
    key.update(np.ascontiguousarray(style).data)
    return paths.cache() / "targets" / f"{key.hexdigest()}.npz"


def _read(entry: Path, layers: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The cached matrices; `None` where there are none or the entry is damaged (the archive carries checksums)."""
    try:
        with np.load(entry) as arrays:
            grams = {layer: arrays[layer] for layer in layers}
        os.utime(entry)  # what was used last is dropped last
    except Exception:  # there is none, or it is damaged: in how many ways, only zip and pickle know
        return None
    whole = all(
        gram.shape == 2 * CONVOLUTIONS[layer][-1:] and gram.dtype == np.float32 for layer, gram in grams.items()
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
