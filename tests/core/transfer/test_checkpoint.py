"""Checkpoints on disk load exactly, and a file that cannot be read gives a clear error."""

import dataclasses
import itertools
import pickle
import zipfile

import numpy as np
import pytest

from core.errors import StudioError
from core.settings import TransferSettings
from core.transfer.checkpoint import MOST_STATE_IMAGES, Checkpoint

SHAPE = (1, 5, 7, 3)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-120, 150, shape).astype(np.float32)


def checkpoint(**changes):
    state = {"s-0": noise(3), "s_y-0": np.float32(1 / 3), "count": np.int64(2**40), "move": np.float64(0.1)}
    return Checkpoint(
        **{
            "image": noise(1),
            "best_image": noise(2),
            "iteration": 12,
            "best_iteration": 9,
            "evaluations": 15,
            "seconds": 1 / 3,
            "optimizer": state,
            **changes,
        }
    )


def assert_same(found, expected):
    for name in ("iteration", "best_iteration", "evaluations", "seconds"):
        value = getattr(expected, name)
        assert getattr(found, name) == value and type(getattr(found, name)) is type(value), name
    pairs = {"image": (found.image, expected.image), "best": (found.best_image, expected.best_image)}
    assert set(found.optimizer) == set(expected.optimizer)
    pairs |= {name: (found.optimizer[name], value) for name, value in expected.optimizer.items()}
    for name, (array, wanted) in pairs.items():
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
        np.testing.assert_array_equal(array, wanted)


@pytest.fixture(scope="module")
def kept(engine, photo, painting):
    """Return the checkpoint of a real run of each optimizer after eight iterations."""
    from core.transfer.stylize import stylize

    found = {}
    for name in ("adam", "l-bfgs"):
        settings = TransferSettings(optimizer=name, iterations=8)
        *_, last = stylize(engine.objective(photo, painting, settings)[0], photo, settings)
        found[name] = last.checkpoint()
    return found


# Saving and loading


def test_a_saved_checkpoint_loads_exactly(tmp_path):
    checkpoint().save(tmp_path / "checkpoint.npz")
    assert_same(Checkpoint.load(tmp_path / "checkpoint.npz"), checkpoint())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_defaults_are_saved_and_loaded(tmp_path):
    Checkpoint(noise(1), noise(1)).save(tmp_path / "checkpoint.npz")
    found = Checkpoint.load(tmp_path / "checkpoint.npz")
    assert_same(found, Checkpoint(noise(1), noise(1), 0, 0, 1, 0.0, {}))


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_the_checkpoint_of_a_real_run_loads_exactly(kept, tmp_path, optimizer):
    kept[optimizer].save(tmp_path / "checkpoint.npz")
    assert_same(Checkpoint.load(tmp_path / "checkpoint.npz"), kept[optimizer])
    assert (kept[optimizer].iteration, kept[optimizer].image.shape) == (8, (1, 32, 48, 3))


def test_later_steps_do_not_change_a_checkpoint(engine, photo, painting):
    from core.transfer.stylize import stylize

    for name in ("adam", "l-bfgs"):
        settings = TransferSettings(optimizer=name, iterations=4)
        steps = stylize(engine.objective(photo, painting, settings)[0], photo, settings)
        *_, step = itertools.islice(steps, 3)
        taken = step.checkpoint()
        copy = dataclasses.replace(taken, image=taken.image.copy(), best_image=taken.best_image.copy())
        copy = dataclasses.replace(copy, optimizer={key: array.copy() for key, array in taken.optimizer.items()})
        assert len(list(steps)) == 2
        assert_same(taken, copy)


# Without large state


def test_without_large_state_keeps_adam_and_drops_a_long_l_bfgs_history(kept):
    assert kept["adam"].without_large_state() is kept["adam"] and kept["adam"].optimizer
    short = kept["l-bfgs"].without_large_state()
    assert len(kept["l-bfgs"].optimizer) > 1
    assert_same(short, dataclasses.replace(kept["l-bfgs"], optimizer={}))


def test_without_large_state_compares_bytes():
    fits = {str(number): noise(number) for number in range(MOST_STATE_IMAGES)}
    assert checkpoint(optimizer=fits).without_large_state().optimizer.keys() == fits.keys()
    assert checkpoint(optimizer={**fits, "more": np.float32(0)}).without_large_state().optimizer == {}


# Files that cannot be read


def refusal(path):
    """Return the error message of loading the file."""
    with pytest.raises(StudioError) as caught:
        Checkpoint.load(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


@pytest.fixture
def file(tmp_path):
    """Return the path of the checkpoint of a run called "a-run"."""
    (tmp_path / "a-run").mkdir()
    return tmp_path / "a-run" / "checkpoint.npz"


def test_missing_file(file):
    assert refusal(file) == "a-run has no checkpoint to resume from."
    assert refusal(file.parent / "gone" / "checkpoint.npz") == "gone has no checkpoint to resume from."


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(file, share):
    checkpoint().save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert refusal(file) == "The checkpoint of a-run is damaged."


def test_a_changed_byte_of_an_image(file):
    checkpoint().save(file)
    data = bytearray(file.read_bytes())
    where = data.index(noise(2).tobytes())
    data[where + 100] ^= 1
    file.write_bytes(data)
    assert refusal(file) == "The checkpoint of a-run is damaged."


def zipped(file, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_text("no checkpoint"),
        lambda file: file.mkdir(),
        lambda file: np.save(file.open("wb"), noise(1)),
        lambda file: np.savez(file, pictures=noise(1)),
        lambda file: np.savez(file, image=noise(1)),
        lambda file: np.savez(file, image=noise(1), best_image=noise(1), colour=3),
        lambda file: zipped(file),
        lambda file: zipped(file, words="no array"),
        lambda file: zipped(file, **{"image.npy": b"\x93NUMPY\x01\x00", "best_image.npy": b""}),
    ],
    ids=["words", "folder", "npy", "other arrays", "one missing", "one more", "empty ZIP", "ZIP of words", "stumps"],
)
def test_files_that_are_no_checkpoints(file, write):
    write(file)
    assert refusal(file) == "The checkpoint of a-run is damaged."


def test_a_damaged_compressed_archive(file):
    """A damaged file of `numpy.savez_compressed` raises another error."""
    np.savez_compressed(file, image=noise(1), best_image=noise(1))
    data = bytearray(file.read_bytes())
    data[len(data) // 4 : len(data) // 3] = bytes(len(data) // 3 - len(data) // 4)
    file.write_bytes(data)
    assert refusal(file) == "The checkpoint of a-run is damaged."


def test_pickles_are_not_loaded(file, tmp_path):
    sprung = tmp_path / "sprung"
    pickled = np.array([Trap(sprung)], object)
    for write in (
        lambda: file.write_bytes(pickle.dumps(Trap(sprung))),
        lambda: np.savez(file, image=noise(1), best_image=pickled),
        lambda: np.savez(file, image=noise(1), best_image=noise(1), **{"optimizer-move": pickled}),
    ):
        write()
        assert refusal(file) == "The checkpoint of a-run is damaged."
    assert not sprung.exists()


# Writing


def test_a_failed_write_leaves_the_old_checkpoint(file):
    checkpoint().save(file)

    class Unwritable:
        def __array__(self, dtype=None, copy=None):
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoint(iteration=13, optimizer={"s": Unwritable()}).save(file)
    assert_same(Checkpoint.load(file), checkpoint())
    assert [path.name for path in file.parent.iterdir()] == ["checkpoint.npz"]


def test_a_later_checkpoint_replaces_the_file(file):
    checkpoint().save(file)
    later = checkpoint(image=noise(8), iteration=13, optimizer={})
    later.save(file)
    assert_same(Checkpoint.load(file), later)
