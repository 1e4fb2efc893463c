"""The sample gallery: images are readable, reproducible, repaired if damaged, and different."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import paths
from core.errors import InputError
from core.samples import gallery, synthetic
from core.samples.gallery import EDITION, PHOTOS, STYLES, Sample, find

PHOTO_SIZES = {"astronaut": (512, 512), "chelsea": (451, 300), "coffee": (600, 400)}
every = pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return one home for all tests here, so that each painting is created once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("NST_HOME", str(folder))
        yield folder


def pixels(sample: Sample) -> np.ndarray:
    with Image.open(sample.path()) as image:
        return np.asarray(image)


def palette(picture: np.ndarray) -> np.ndarray:
    """Return the share of the pixels in each of 8×8×8 colours."""
    index = (picture // 32).reshape(-1, 3) @ [64, 8, 1]
    return np.bincount(index, minlength=512) / len(index)


def patch_deviations(picture: np.ndarray, side: int = 32) -> np.ndarray:
    """Return the standard deviation of the lightness in each patch of `side` px."""
    grey = picture.mean(axis=2)
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    patches = grey[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return patches.std(axis=(1, 3))


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_photo_opens_at_its_size(photo: Sample) -> None:
    with Image.open(photo.path()) as image:
        assert (image.mode, image.size) == ("RGB", PHOTO_SIZES[photo.name])
        image.load()


@every
def test_style_is_cached_at_its_size(style: Sample) -> None:
    file = style.path()
    assert file == paths.cache() / "samples" / f"{style.name}-{EDITION}.png"
    with Image.open(file) as image:
        assert (image.mode, image.size) == ("RGB", (synthetic.WIDTH, synthetic.HEIGHT))
        image.load()


@every
def test_paintings_are_reproducible(style: Sample) -> None:
    assert style.paint().tobytes() == pixels(style).tobytes()


@every
def test_style_has_texture_nearly_everywhere(style: Sample) -> None:
    deviations = patch_deviations(pixels(style))
    assert np.quantile(deviations, 0.05) > 5, "a twentieth of the picture at most may be this calm"
    assert np.median(deviations) > 12


def test_styles_differ_in_palette() -> None:
    palettes = {style.name: palette(pixels(style)) for style in STYLES}
    for one, other in combinations(palettes, 2):
        shared = np.minimum(palettes[one], palettes[other]).sum()
        assert shared < 0.6, f"{one} and {other} share {shared:.0%} of their colours"


def test_a_painting_is_cached_until_it_is_damaged(home: Path) -> None:
    style = find("woodcut")
    file = style.path()
    sound, written = file.read_bytes(), file.stat().st_mtime_ns
    assert style.path().stat().st_mtime_ns == written
    altered = bytearray(sound)
    altered[len(sound) // 2] ^= 0xFF
    for damaged in (b"", b"not a picture", sound[: len(sound) // 2], bytes(altered)):
        file.write_bytes(damaged)
        assert style.path().read_bytes() == sound
    Image.new("RGB", (8, 8)).save(file)
    assert style.path().read_bytes() == sound


def test_names_are_unique() -> None:
    names = [sample.name for sample in PHOTOS + STYLES]
    assert len(set(names)) == len(names)


def test_find_knows_every_sample_and_lists_them_for_a_wrong_name() -> None:
    assert [find(sample.name) for sample in PHOTOS + STYLES] == [*PHOTOS, *STYLES]
    with pytest.raises(InputError, match="no sample named “mona-lisa”") as caught:
        find("mona-lisa")
    assert all(sample.name in str(caught.value) for sample in PHOTOS + STYLES)


@pytest.mark.parametrize("name", ["chelsea", "waves"])
def test_thumbnail_is_the_middle_square(name: str) -> None:
    thumbnail = gallery.thumbnail(find(name), side=96)
    assert (thumbnail.shape, thumbnail.dtype) == ((96, 96, 3), np.uint8)
    picture = pixels(find(name))
    left = (picture.shape[1] - picture.shape[0]) // 2
    square = picture[:, left : left + picture.shape[0]]
    assert np.allclose(thumbnail.mean(axis=(0, 1)), square.mean(axis=(0, 1)), atol=1)


def test_import_and_photos_need_no_heavy_package() -> None:
    probe = (
        "import sys; from core.samples import gallery; [photo.path() for photo in gallery.PHOTOS];"
        "print([name for name in ('tensorflow', 'scipy', 'skimage') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT)}
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "[]"
