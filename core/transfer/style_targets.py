"""Style targets, computed by ONNX Runtime and cached on disk by the image's content."""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core import paths
from core.losses.style_losses import GRAM, StyleLoss
from core.timings import Timings
from core.vgg.layers import AS_TRAINED, CONVOLUTIONS, Variant, channels, reach
from core.vgg.onnx import IMAGE_INPUT, FeatureModel, gram_output

CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class StyleTargets:
    """The statistics of a style loss by layer, and their source: "cache" or the ONNX Runtime provider."""

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
    loss: StyleLoss = GRAM,
    side: int | None = None,
) -> StyleTargets:
    """Return the style targets, from the cache if possible.

    Args:
        style: The preprocessed style image `(1, H, W, 3)`.
        layers: The layers to compute targets for.
        model: The exported network.
        providers: The ONNX Runtime providers, the preferred first.
        timings: Collects the phases "session" and "style targets"; the result's `seconds` is the second phase.
        variant: The changes to the trained network.
        loss: The style loss.
        side: The largest side in px of an image that is computed without tiles, and the tiles' side.
    """
    timings = Timings() if timings is None else timings
    with timings.phase("style targets"):
        entry = _entry(style, layers, model, variant, loss)
        grams = _read(entry, layers, loss)
    if grams is not None:
        return StyleTargets(grams, "cache", timings["style targets"])
    tiled = side is not None and max(style.shape[1:3]) > side
    in_graph = not tiled and loss.target_is_exported and all(layer in CONVOLUTIONS for layer in layers)
    with timings.phase("session"):
        outputs = [gram_output(layer) for layer in layers] if in_graph else list(layers)
        session = model.session(providers, outputs, variant)
    with timings.phase("style targets"):
        if in_graph:
            grams = dict(zip(layers, session.run(outputs, {IMAGE_INPUT: style}), strict=True))
        else:
            grams = _grams_of_activations(session, style, layers, loss, side if tiled else None)
        _write(entry, grams)
    return StyleTargets(grams, session.get_providers()[0], timings["style targets"])


def mixed(styles: Sequence[StyleTargets], mixes: np.ndarray) -> StyleTargets:
    """Return the targets `(R, C, C)` of R regions: each mixes S styles by its row of `mixes` `(R, S)`.

    The loss against a mean of Gram matrices has the same gradient as the mean of the losses, so blending the targets
    blends the styles. For matrices with a channel of ones, the mean describes the mixture of the styles' features: its
    covariance is wider than that of each style if their means differ.
    """
    grams = {
        layer: np.tensordot(mixes, np.stack([style.grams[layer] for style in styles]), 1) for layer in styles[0].grams
    }
    source = ", ".join(dict.fromkeys(style.source for style in styles))
    return StyleTargets(grams, source, sum(style.seconds for style in styles))


def _grams_of_activations(
    session: Any, style: np.ndarray, layers: Sequence[str], loss: StyleLoss, side: int | None
) -> dict[str, np.ndarray]:
    """Compute the Gram matrices from the activations of the whole image, or tile by tile."""
    from core.transfer.tiles import tiles

    height, width = style.shape[1:3]
    sums, counts = dict.fromkeys(layers, np.zeros(())), dict.fromkeys(layers, 0)
    for tile in tiles(height, width, side or max(height, width), reach(layers)):
        activations = session.run(list(layers), {IMAGE_INPUT: np.ascontiguousarray(tile.of(style))})
        for layer, values in zip(layers, activations, strict=True):
            positions = tile.core_at(layer, values).reshape(-1, values.shape[-1])
            sums[layer] = sums[layer] + loss.sum_of_array(positions).astype(np.float64)
            counts[layer] += len(positions)
    return {layer: (total / counts[layer]).astype(np.float32) for layer, total in sums.items()}


def _entry(style: np.ndarray, layers: Sequence[str], model: FeatureModel, variant: Variant, loss: StyleLoss) -> Path:
    key = hashlib.blake2b(digest_size=20)
    unlike = () if variant == AS_TRAINED and loss.target_is_exported else (*variant, loss.name)
    key.update(repr((model.manifest.sha256, tuple(layers), style.shape, style.dtype.str, *unlike)).encode())
    key.update(np.ascontiguousarray(style).data)
    return paths.cache() / "targets" / f"{key.hexdigest()}.npz"


def _read(entry: Path, layers: Sequence[str], loss: StyleLoss) -> dict[str, np.ndarray] | None:
    """Return the cached matrices, or `None` if the entry is missing or damaged (the archive has checksums)."""
    try:
        with np.load(entry) as arrays:
            grams = {layer: arrays[layer] for layer in layers}
        os.utime(entry)  # _shrink drops the entries that were not used for the longest time
    except Exception:  # NumPy raises errors of many types for a damaged archive
        return None
    whole = all(
        gram.shape == 2 * (loss.width(channels(layer)),) and gram.dtype == np.float32 for layer, gram in grams.items()
    )
    return grams if whole else None


def _write(entry: Path, grams: Mapping[str, np.ndarray]) -> None:
    """Write the matrices to the cache; ignore a failure, since the run does not need the cache."""
    with contextlib.suppress(OSError):
        with paths.replacing(entry) as file:
            np.savez(file, **grams)  # type: ignore[arg-type]
        _shrink(entry.parent)


def _shrink(folder: Path) -> None:
    """Drop the least recently used entries until the cache fits its limit; other processes may drop some too."""
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
