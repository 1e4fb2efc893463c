"""Style targets agree with TensorFlow, and their cache works or is ignored."""

import hashlib
import os
import threading

import numpy as np
import onnx
import onnx.utils
import pytest

from core import paths
from core.errors import StudioError
from core.losses.style_losses import STYLE_LOSSES, gram_matrix
from core.machine import hardware
from core.timings import Timings
from core.transfer.style_targets import CACHE_BYTES, StyleTargets, mixed, style_targets
from core.vgg.layers import CONVOLUTIONS, Variant
from core.vgg.network import feature_network
from core.vgg.onnx import IMAGE_INPUT, FeatureModel, find_model, gram_output, model_path

CPU = ["CPUExecutionProvider"]
LAYERS = ["block1_conv1", "block2_conv1"]
STYLE_LAYERS = [f"block{block}_conv1" for block in range(1, 6)]


def noise(height=32, width=40, seed=0):
    return np.random.default_rng(seed).uniform(-120, 130, (1, height, width, 3)).astype(np.float32)


def entries():
    folder = paths.cache() / "targets"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def assert_equal(grams, expected):
    assert list(grams) == list(expected)
    for layer, gram in expected.items():
        assert grams[layer].dtype == np.float32
        np.testing.assert_array_equal(grams[layer], gram)


def without_file(model):
    """Return a model with the same manifest that fails when it is opened."""
    return FeatureModel(model.path.with_name("missing.onnx"), model.manifest)


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """Return a model with only the first layers, which opens quickly."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.utils.extract_model(str(model.path), str(path), [IMAGE_INPUT], [gram_output(layer) for layer in LAYERS])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return FeatureModel(path, model.manifest.model_copy(update={"file": path.name, "sha256": sha256}))


@pytest.fixture
def computed(small, own_home):
    """Compute the targets of `noise()` with an empty cache."""
    found = style_targets(noise(), LAYERS, small, CPU)
    assert found.source == "CPUExecutionProvider" and len(entries()) == 1
    return found


# The values


@pytest.fixture(scope="module")
def networks(weights, model):
    """Return TensorFlow's network and ONNX Runtime's session with the same weights."""
    return feature_network(weights, list(CONVOLUTIONS)), model.session(
        CPU, [gram_output(layer) for layer in CONVOLUTIONS]
    )


def compute_grams(session, image, layers):
    grams = session.run([gram_output(layer) for layer in layers], {IMAGE_INPUT: image})
    return dict(zip(layers, grams, strict=True))


def small_session(small):
    return small.session(CPU, [gram_output(layer) for layer in LAYERS])


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47), (101, 35)])
def test_targets_agree_with_tensorflow(networks, height, width):
    network, session = networks
    image = noise(height, width)
    grams, features = compute_grams(session, image, list(CONVOLUTIONS)), network(image)
    for layer, shape in CONVOLUTIONS.items():
        expected = gram_matrix(features[layer]).numpy()
        assert (grams[layer].shape, grams[layer].dtype) == ((shape[3], shape[3]), np.float32)
        assert np.linalg.norm(grams[layer] - expected) <= 1e-5 * np.linalg.norm(expected)


def test_targets_of_a_painting(networks, model, painting, own_home):
    found = style_targets(painting, STYLE_LAYERS, model, CPU)
    features = networks[0](painting)
    assert list(found.grams) == STYLE_LAYERS
    for layer in STYLE_LAYERS:
        expected = gram_matrix(features[layer]).numpy()
        assert np.linalg.norm(found.grams[layer] - expected) <= 1e-5 * np.linalg.norm(expected)
    again = style_targets(painting, STYLE_LAYERS, without_file(model), CPU)
    assert again.source == "cache"
    assert_equal(again.grams, found.grams)


@pytest.mark.parametrize("loss", STYLE_LOSSES.values(), ids=STYLE_LOSSES)
@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_targets_of_every_variant_agree_with_tensorflow(weights, model, own_home, pooling, padding, loss):
    layers = ["block1_conv1", "conv4_2", "block3_conv1", "block5_conv1", "conv1_2"]
    image, variant = noise(70, 53), Variant(pooling, padding)
    found = style_targets(image, layers, model, CPU, variant=variant, loss=loss)
    features = feature_network(weights, layers, variant=variant)(image)
    assert list(found.grams) == layers
    for layer in layers:
        expected = (loss.sum(features[layer]) / np.prod(features[layer].shape[1:3])).numpy()
        assert found.grams[layer].shape == expected.shape
        assert np.linalg.norm(found.grams[layer] - expected) <= 1e-5 * np.linalg.norm(expected), layer
    again = style_targets(image, layers, without_file(model), CPU, variant=variant, loss=loss)
    assert again.source == "cache"
    assert_equal(again.grams, found.grams)


def test_each_variant_has_its_own_cache_entry(model, own_home):
    layers = ["block1_conv2", "block2_conv1"]
    variants = [Variant(pooling, padding) for pooling in ("max", "average") for padding in ("zero", "replicate")]
    found = [
        style_targets(noise(), layers, model, CPU, variant=variant, loss=loss)
        for variant in variants
        for loss in STYLE_LOSSES.values()
    ]
    assert all(targets.source == "CPUExecutionProvider" for targets in found) and len(entries()) == len(found) == 8
    for number, one in enumerate(found[::2]):
        for other in found[::2][:number]:
            scale = np.linalg.norm(one.grams["block2_conv1"])
            assert np.linalg.norm(one.grams["block2_conv1"] - other.grams["block2_conv1"]) > 1e-4 * scale


def test_mixed_targets():
    one, two = ({"block1_conv1": np.full((64, 64), value, np.float32)} for value in (2, 10))
    styles = [StyleTargets(one, "cache", 0.25), StyleTargets(two, "CPUExecutionProvider", 1.0)]
    found = mixed(styles, np.array([[1, 0], [0.25, 0.75]], np.float32))
    np.testing.assert_allclose(found.grams["block1_conv1"][:, 0, 0], [2, 8])
    assert found.grams["block1_conv1"].shape == (2, 64, 64)
    assert (found.source, found.seconds) == ("cache, CPUExecutionProvider", 1.25)


def test_targets_do_not_depend_on_the_arrays_memory_layout(small, computed):
    image = noise()
    turned = np.asfortranarray(image)
    assert not turned.flags.c_contiguous
    found = style_targets(turned, LAYERS, without_file(small), CPU)
    assert found.source == "cache"
    assert_equal(found.grams, computed.grams)


# The cache


def test_only_what_the_targets_need_is_computed(model):
    cut = model.session(CPU, [gram_output("block2_conv1"), gram_output("block1_conv1")])
    assert {output.name for output in cut.get_outputs()} == {"block2_conv1/gram", "block1_conv1/gram"}


def test_the_last_session_is_kept(model, small, own_home):
    """A worker opens the model once for all its runs; another choice of layers replaces the session."""
    kept = FeatureModel(small.path, small.manifest)
    outputs = [gram_output(layer) for layer in LAYERS]
    opened = kept.session(CPU, outputs)
    assert kept.session(tuple(CPU), tuple(outputs)) is opened
    assert kept == FeatureModel(small.path, small.manifest)  # equality ignores the open session
    timings = Timings()
    for seed in range(2):
        style_targets(noise(seed=seed), LAYERS, kept, CPU, timings)
    assert kept.session(CPU, outputs) is opened
    assert timings["session"] < 0.05
    other = kept.session(CPU, outputs[:1])
    assert other is not opened and len(other.get_outputs()) == 1
    assert list(kept._opened.values()) == [other]  # only the last session is kept, because each holds the weights
    assert kept.session(CPU, outputs) is not opened


def test_a_failed_session_keeps_the_open_session(small, tmp_path):
    copy = FeatureModel(tmp_path / "copy.onnx", small.manifest)
    copy.path.write_bytes(small.path.read_bytes())
    outputs = [gram_output(layer) for layer in LAYERS]
    opened = copy.session(CPU, outputs)
    copy.path.write_bytes(b"damaged since")
    with pytest.raises(StudioError, match=r"is damaged"):
        copy.session(CPU, outputs[:1])
    assert copy.session(CPU, outputs) is opened


def test_second_time_comes_from_the_cache_and_opens_no_session(small, computed):
    timings = Timings()
    again = style_targets(noise(), LAYERS, without_file(small), CPU, timings)
    assert again.source == "cache"
    assert_equal(again.grams, computed.grams)
    assert list(timings) == ["style targets"]
    assert "[" not in repr(again)  # repr() shows no arrays


def test_another_image_size_layer_or_model_has_another_entry(small, computed):
    one_pixel = noise()
    one_pixel[0, 5, 5, 1] = np.nextafter(one_pixel[0, 5, 5, 1], np.float32(np.inf))
    turned = noise().reshape(1, 40, 32, 3)  # the same bytes in another shape
    other = FeatureModel(small.path.with_name("other.onnx"), small.manifest)
    loaded = onnx.load(small.path)
    loaded.doc_string = "another file of the same network"
    onnx.save(loaded, other.path)
    sha256 = hashlib.sha256(other.path.read_bytes()).hexdigest()
    other = FeatureModel(other.path, small.manifest.model_copy(update={"sha256": sha256}))
    asked = [
        (one_pixel, LAYERS, small),
        (turned, LAYERS, small),
        (noise(), LAYERS[:1], small),
        (noise(), LAYERS[1:], small),
        (noise(), LAYERS, other),
    ]
    for count, (image, layers, model) in enumerate(asked, start=2):
        assert style_targets(image, layers, model, CPU).source == "CPUExecutionProvider"
        assert len(entries()) == count
    for image, layers, model in asked:
        found = style_targets(image, layers, without_file(model), CPU)
        assert found.source == "cache" and list(found.grams) == layers


def test_the_models_path_is_not_part_of_the_key(small, computed, tmp_path):
    moved = FeatureModel(tmp_path / "moved.onnx", small.manifest)
    assert style_targets(noise(), LAYERS, moved, CPU).source == "cache"


def damage(entry, how):
    whole = entry.read_bytes()
    if how == "foreign names":
        np.savez(entry, other=np.zeros(3))
    elif how == "one layer missing":
        np.savez(entry, **{LAYERS[0]: np.zeros((64, 64), np.float32)})
    elif how == "objects":
        np.savez(entry, **dict.fromkeys(LAYERS, np.array([{}, "pickled"], object)))
    elif how == "a value":
        entry.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    elif how == "a shape":
        entry.write_bytes(whole.replace(b"(64, 64)", b"(24, 64)", 1))
    elif how == "a method":  # the compression method in the archive's directory
        place = whole.rindex(b"PK\x01\x02") + 10
        entry.write_bytes(whole[:place] + b"\x07" + whole[place + 1 :])
    elif how == "an array":
        with entry.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        entry.write_bytes({"empty": b"", "cut off": whole[:-100], "half": whole[:5000], "words": b"words\n"}[how])


@pytest.mark.parametrize(
    "how",
    [
        *("empty", "cut off", "half", "words", "foreign names", "one layer missing", "objects", "a value"),
        "a shape",
        "a method",
        "an array",
    ],
)
def test_damaged_entry_is_computed_again_and_repaired(small, computed, how):
    (entry,) = entries()
    damage(entry, how)
    found = style_targets(noise(), LAYERS, small, CPU)
    assert found.source == "CPUExecutionProvider"
    assert_equal(found.grams, computed.grams)
    assert entries() == [entry]
    again = style_targets(noise(), LAYERS, without_file(small), CPU)
    assert again.source == "cache"
    assert_equal(again.grams, computed.grams)


def test_folder_in_place_of_an_entry_is_ignored(small, computed):
    (entry,) = entries()
    entry.unlink()
    entry.mkdir()
    for _ in range(2):
        found = style_targets(noise(), LAYERS, small, CPU)
        assert found.source == "CPUExecutionProvider"
        assert_equal(found.grams, computed.grams)
    assert entries() == [entry]


@pytest.mark.parametrize("place", ["", "cache", "cache/targets"])
def test_cache_that_cannot_be_written_is_ignored(small, own_home, place):
    blocked = own_home / place
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_bytes(b"a file where a folder belongs")
    found = style_targets(noise(), LAYERS, small, CPU)
    assert found.source == "CPUExecutionProvider" and list(found.grams) == LAYERS
    assert blocked.read_bytes() == b"a file where a folder belongs"


def test_full_disk_is_ignored(small, own_home):
    resource = pytest.importorskip("resource", reason="the limit on file sizes is one of POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        found = style_targets(noise(), LAYERS, small, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.source == "CPUExecutionProvider"
    assert entries() == []


def make_entries(count, size):
    """Create entries of other images, the least recently used first."""
    folder = paths.cache() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{chr(ord('z') - number) * 40}.npz" for number in range(count)]
    for age, path in enumerate(made):
        path.write_bytes(bytes(size))
        os.utime(path, (1000 + age, 1000 + age))
    return made


def test_cache_stays_within_its_limit(small, own_home, monkeypatch):
    made = make_entries(5, 10_000)
    bystander = paths.cache() / "targets" / "README"
    bystander.write_bytes(bytes(100_000))
    style_targets(noise(seed=1), LAYERS, small, CPU)
    (own,) = set(entries()) - {*made, bystander}
    assert len(entries()) == 7  # nothing is dropped below the limit
    monkeypatch.setattr("core.transfer.style_targets.CACHE_BYTES", 2 * own.stat().st_size + 25_000)
    style_targets(noise(seed=2), LAYERS, small, CPU)
    left = set(entries())
    assert {*made, own} & left == {*made[3:], own}  # the two most recently used old entries stay
    assert len(left) == 5 and bystander in left
    assert sum(path.stat().st_size for path in left - {bystander}) <= CACHE_BYTES
    for seed in (1, 2):
        assert style_targets(noise(seed=seed), LAYERS, without_file(small), CPU).source == "cache"


def test_a_used_entry_is_kept_longer(small, computed, monkeypatch):
    (used,) = entries()
    made = make_entries(3, 10_000)
    os.utime(used, (1, 1))
    assert style_targets(noise(), LAYERS, without_file(small), CPU).source == "cache"
    monkeypatch.setattr("core.transfer.style_targets.CACHE_BYTES", 2 * used.stat().st_size)
    style_targets(noise(seed=1), LAYERS, small, CPU)
    assert used in entries() and len(entries()) == 2 and not set(made) & set(entries())


def test_threads_may_use_the_cache_at_once(small, own_home):
    """Five threads compute, read, damage and drop the same entries; all get the right matrices."""
    images = [noise(seed=seed) for seed in range(2)]
    expected = [compute_grams(small_session(small), image, LAYERS) for image in images]
    failures, sources = [], []
    start = threading.Barrier(5)

    def work(number):
        try:
            start.wait()
            for turn in range(8):
                which = (number + turn) % 2
                found = style_targets(images[which], LAYERS, small, CPU)
                sources.append(found.source)
                assert_equal(found.grams, expected[which])
                if number == 0:
                    for entry in entries()[:1]:
                        entry.unlink(missing_ok=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(sources) == {"cache", "CPUExecutionProvider"}
    assert all(entry.suffix == ".npz" for entry in entries())


# The model


def test_damaged_or_missing_model(small, own_home, tmp_path):
    whole = small.path.read_bytes()
    for content in (None, b"", whole[:-1], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        copy = FeatureModel(tmp_path / "copy.onnx", small.manifest)
        if content is not None:
            copy.path.write_bytes(content)
        with pytest.raises(StudioError) as caught:
            style_targets(noise(), LAYERS, copy, CPU)
        sentence = str(caught.value)
        assert sentence.startswith(f"The ONNX model {copy.path} ") and sentence.endswith(": run nst export.")
        assert ("cannot be read" if content is None else "damaged") in sentence
        assert entries() == []
    copy.path.write_bytes(whole)
    assert style_targets(noise(), LAYERS, copy, CPU).source == "CPUExecutionProvider"


def test_damaged_or_missing_manifest(small, tmp_path):
    path = tmp_path / "copy.onnx"
    path.write_bytes(small.path.read_bytes())
    manifest = small.manifest.model_dump_json()
    lacking = manifest.replace('"sha256"', '"sha512"')
    for content in (None, "", "{}", "words", manifest[:-1], "[]", "null", lacking, manifest.replace("18", '"many"')):
        if content is not None:
            path.with_suffix(".json").write_text(content)
        with pytest.raises(StudioError) as caught:
            FeatureModel.load(path)
        assert str(caught.value) == f"The ONNX model {path} has no readable manifest: run nst export."
    path.with_suffix(".json").write_text(manifest)
    assert FeatureModel.load(path) == FeatureModel(path, small.manifest)


@pytest.fixture
def installed(small, tmp_path, monkeypatch, own_home):
    """Return a function that copies the small model into the shipped folder or into the home."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "code")

    def put(folder, manifest=None):
        path = folder / "models" / model_path(small.manifest.weights_sha256).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small.path.read_bytes())
        path.with_suffix(".json").write_text(manifest or small.manifest.model_dump_json())
        return path

    return put


def test_find_model(small, installed, own_home, tmp_path):
    digest = small.manifest.weights_sha256
    assert find_model(digest) is None
    assert model_path(digest) == own_home.resolve() / "models" / f"vgg19-{digest[:12]}.onnx"
    shipped = installed(tmp_path / "code")
    assert find_model(digest).path == shipped
    assert find_model("0" * 64) is None
    own = installed(own_home)
    assert find_model(digest) == FeatureModel(own, small.manifest)
    shipped.unlink()
    own.with_suffix(".json").write_text("words")
    assert find_model(digest) is None
    own.with_suffix(".json").unlink()
    assert find_model(digest) is None


def test_the_shipped_model_replaces_a_model_without_manifest(small, installed, own_home, tmp_path):
    shipped = installed(tmp_path / "code")
    installed(own_home, "words")
    found = find_model(small.manifest.weights_sha256)
    assert found is not None and found.path == shipped


# Timings and source


def test_phases_and_seconds(small, own_home):
    timings = Timings(decoding=2.0)
    found = style_targets(noise(), LAYERS, small, CPU, timings)
    assert list(timings) == ["decoding", "style targets", "session"]
    assert timings["decoding"] == 2.0
    assert found.seconds == timings["style targets"] > 0 and timings["session"] > 0
    assert style_targets(noise(seed=1), LAYERS, small, CPU).seconds > 0  # without `timings` too


def test_source_is_the_provider_of_the_session(small, own_home):
    found = style_targets(noise(), LAYERS, small, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    if not hardware.survey().gpus:
        assert found.source == "CPUExecutionProvider"
    else:
        assert found.source in ("CUDAExecutionProvider", "CPUExecutionProvider")
    expected = compute_grams(small_session(small), noise(), LAYERS)
    for layer, gram in expected.items():
        assert np.linalg.norm(found.grams[layer] - gram) <= 1e-3 * np.linalg.norm(gram)  # a GPU may use TF32
