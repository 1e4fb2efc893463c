"""Folders of photos: their order, the files of the results, and the reuse of earlier results."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from core.batches.folder import MADE_OF, FolderBatch
from core.errors import InputError
from core.images import codec
from core.runs import store
from core.runs.record import SOFTWARE, Steering
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

RED = Image.new("RGB", (64, 64), "red")


@pytest.fixture
def folder(tmp_path):
    """Return a function that creates a folder of pictures with given names."""

    def make(*names, size=(80, 60)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        for number, name in enumerate(names):
            picture = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3))
            Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "photos" / name)
        return tmp_path / "photos"

    return make


@pytest.fixture
def spec():
    return RunSpec([Style("red", RED)], TransferSettings(size=64), "draft")


def painted(item):
    """Write a result as `FolderBatch.keep` does."""
    item.output.parent.mkdir(exist_ok=True)
    made_of = {"Software": SOFTWARE, MADE_OF: item.made_of}
    codec.write_image(item.output, np.zeros((48, 64, 3), np.uint8), made_of)


def test_frames_are_in_natural_order_and_other_files_are_ignored(folder, tmp_path, spec):
    photos = folder("frame10.png", "frame2.png", "Frame1.JPG", ".hidden.png")
    (photos / "notes.txt").write_text("no picture")
    (photos / "more.png").mkdir()
    batch = FolderBatch.of(photos, tmp_path / "out", spec)
    assert [photo.name for photo in batch.photos] == ["Frame1.JPG", "frame2.png", "frame10.png"]


def test_results_are_named_like_their_photos_and_a_film_has_png_frames(folder, tmp_path, spec):
    photos = folder("a.jpg", "b.gif", "c.TIF")
    names = [item.output.name for item in FolderBatch.of(photos, tmp_path / "out", spec).items()]
    assert names == ["a.jpg", "b.png", "c.TIF"]
    film = FolderBatch.of(photos, tmp_path / "out", spec, spec.settings)
    assert [item.output.name for item in film.items()] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("photos", "is the folder of the photos: give another folder"),
        ("file", "is a file: give a folder for the results of a folder of pictures"),
        ("out.png", "is the name of a picture: give a folder"),
        ("none/out", "cannot be written: there is no folder "),
    ],
)
def test_an_invalid_target_is_refused(folder, tmp_path, spec, target, message):
    photos = folder("a.png")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        FolderBatch.of(photos, tmp_path / target, spec)


def test_a_folder_without_a_picture_is_refused(tmp_path, spec):
    with pytest.raises(InputError, match=r"There is no picture in .*: no file name ends in \.jpg, "):
        FolderBatch.of(tmp_path, tmp_path / "out", spec)


def test_two_photos_with_the_same_result_file_are_refused(folder, tmp_path, spec):
    with pytest.raises(InputError, match=r"^a\.bmp and a\.gif would both become a\.png: rename one\.$"):
        FolderBatch.of(folder("a.gif", "a.bmp"), tmp_path / "out", spec)


def test_another_program_s_file_is_not_replaced(folder, tmp_path, spec):
    batch = FolderBatch.of(folder("a.png"), tmp_path, spec)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png exists, but this program has not made it"):
        batch.items()
    codec.write_image(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8), {"Software": SOFTWARE})
    assert [item.is_painted for item in batch.items()] == [False]  # the result of a single run


@pytest.mark.parametrize(
    "change",
    [
        {"settings": TransferSettings(size=64, style_weight=1)},
        {"styles": [Style("red", Image.new("RGB", (64, 64), "blue"))]},
        {"styles": [Style("blue", RED)]},
        {"styles": [Style("red", RED)] * 2},
        {"styles": [Style("red", RED, Image.new("L", (64, 64), 9))]},
        {"kept": Image.new("L", (64, 64), 9)},
        {"start": Image.new("RGB", (64, 64), 9)},
        {"steering": [Steering(iteration=1, changes={"style_weight": 1.0})]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_result_with_other_inputs_is_computed_again(folder, tmp_path, spec, change):
    photos = folder("a.png", "b.png")
    batch = FolderBatch.of(photos, tmp_path / "out", spec)
    for item in batch.items():
        painted(item)
    assert [item.is_painted for item in batch.items()] == [True, True]
    other = FolderBatch.of(photos, tmp_path / "out", dataclasses.replace(spec, **change))
    assert [item.is_painted for item in other.items()] == [False, False]


def test_digests_are_stable_so_that_an_earlier_folder_can_continue(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (70, 66), (10, 20, 30)).save(tmp_path / "photos" / "photo.bmp")
    one, two, mask = (
        Image.new("RGB", (70, 66), "red"),
        Image.new("RGB", (70, 66), "blue"),
        Image.new("L", (70, 66), 255),
    )
    steering = [Steering(iteration=1, changes={"style_weight": 0.5})]
    settings = TransferSettings(size=64)
    plain = RunSpec([Style("one", one)], settings, "draft")
    full = RunSpec([Style("one", one), Style("two", two, mask)], settings, "draft", mask, two, "start", steering)
    found = [FolderBatch.of(tmp_path / "photos", tmp_path / "out", spec).items()[0].made_of for spec in (plain, full)]
    assert found == [
        "104c15e5e418f451931d35edb360823b0026171865fdf26847f53c68bec2d086",
        "c4b873cdd939fef818b270351f06c2ab1d78670bd7b28240aedd937dcd8598a9",
    ]


def test_settings_that_do_not_change_the_result_keep_it(folder, tmp_path, spec):
    photos = folder("a.png")
    for item in FolderBatch.of(photos, tmp_path / "out", spec).items():
        painted(item)
    settings = spec.settings.changed(memory=3.0, frame_every=7)
    other = FolderBatch.of(photos, tmp_path / "out", dataclasses.replace(spec, settings=settings))
    assert [item.is_painted for item in other.items()] == [True]


def test_a_changed_photo_is_computed_again_and_in_a_film_all_later_frames(folder, tmp_path, spec):
    photos = folder("1.png", "2.png", "3.png")
    alone = FolderBatch.of(photos, tmp_path / "alone", spec)
    film = FolderBatch.of(photos, tmp_path / "film", spec, spec.settings)
    for item in (*alone.items(), *film.items()):
        painted(item)
    Image.new("RGB", (80, 60), "green").save(photos / "2.png")
    assert [item.is_painted for item in alone.items()] == [True, False, True]
    assert [item.is_painted for item in film.items()] == [True, False, False]


def test_the_frames_of_a_film_must_have_the_same_size(folder, tmp_path, spec):
    photos = folder("1.png", "2.png", "10.png")
    Image.new("RGB", (60, 80)).save(photos / "10.png")
    film = FolderBatch.of(photos, tmp_path / "film", spec, spec.settings)
    with pytest.raises(InputError, match=r"^10\.png has 60 × 80 pixels, but the first frame, 1\.png, has 80 × 60: "):
        film.items()
    (photos / "10.png").write_text("no picture")
    with pytest.raises(InputError, match=r"10\.png is not a JPEG, "):
        film.items()
    assert len(FolderBatch.of(photos, tmp_path / "out", spec).items()) == 3  # without a film, sizes may differ


def test_a_film_s_frames_start_from_the_last_result_and_only_the_first_keeps_its_run(folder, tmp_path, spec, own_home):
    later = spec.settings.changed(iterations=7)
    film = FolderBatch.of(folder("1.png", "2.png"), tmp_path / "film", spec, later)
    first, second = film.items()
    run = film.begin(first)
    assert not run.start.exists() and run.record().settings == spec.settings
    painted(first)
    another = film.begin(second)
    record = another.record()
    assert (record.start, record.settings.iterations) == ("1", 7)
    assert codec.read_image(another.start).tobytes() == codec.read_image(first.output).tobytes()
    film.forget(first, run)
    film.forget(second, another)
    assert store.all_runs() == [run]
