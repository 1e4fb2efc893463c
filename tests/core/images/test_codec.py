"""Image files: reading all formats, preprocessing, and writing."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from core.errors import InputError, StudioError
from core.images import codec
from core.images.codec import (
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    check_writable,
    encode,
    encode_jpeg,
    read_image,
    read_metadata,
    write_image,
)
from core.images.geometry import resize, resized_shape
from core.images.preprocessing import NETWORK_MAX, NETWORK_MIN, from_network, to_network, to_uint8

REFERENCE = Path(__file__).parents[3] / "../shared/reference/content.jpg"
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]
# The module ignores these warnings, but pytest enables them: see test_unusual_files_are_read_without_warnings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
METADATA = {"seed": "7", "Stil": "Größe 「富嶽」 🌊\nzwei Zeilen", "settings": '{"size": 512}'}


def noise(height: int = 40, width: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels)).astype(np.uint8)


def smooth(height: int = 40, width: int = 48) -> np.ndarray:
    """Return a smooth image, which lossy formats keep well."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 4 + 20, columns * 4 + 10, rows + columns + 60], axis=-1).astype(np.uint8)


def saved(image: Image.Image, file_format: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **settings)
    return buffer.getvalue()


def pixel(data: bytes) -> tuple[int, ...]:
    return tuple(np.asarray(read_image(data))[5, 5].tolist())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tiff(values: np.ndarray, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **settings)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in parts)


def icc_profile(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return a version 2 ICC profile with these tags (ICC.1:2001-04, section 6)."""
    table, content, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(content), b"\0\0\0\0", 0x02400000, device, space, connection)
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">iii", 63190, 65536, 54061)  # the D50 white, as s15Fixed16
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def description(text: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)


WHITE_POINT = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)


def linear_grey_profile() -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)  # no entries: the identity
    tags = {b"desc": description(b"Linear grey"), b"wtpt": WHITE_POINT, b"kTRC": curve, b"cprt": b"text\0\0\0\0-\0"}
    return icc_profile(b"mntr", b"GRAY", b"XYZ ", tags)


def black_ink_profile() -> bytes:
    """Return the profile of a printer whose cyan, magenta and yellow inks have no colour."""
    ramps = bytes(range(256))
    grid = b"".join(bytes([0 if black else 255, 128, 128]) for _ in range(8) for black in (0, 1))  # L*, a*, b*
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramps * 4 + grid + ramps * 3
    tags = {b"desc": description(b"Black ink"), b"wtpt": WHITE_POINT, b"A2B0": table, b"cprt": b"text\0\0\0\0-\0"}
    return icc_profile(b"prtr", b"CMYK", b"Lab ", tags)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile(called: str) -> bytes:
    """Return the sRGB profile with exchanged red and blue primaries."""
    profile = srgb_profile().replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), called.encode("utf-16-be"))


def rounded_srgb_profile(called: str) -> bytes:
    """Return the sRGB profile with a slightly different red primary, like the rounding of another program."""
    profile = bytearray(srgb_profile().replace("sRGB".encode("utf-16-be"), called.encode("utf-16-be")))
    (start,) = struct.unpack_from(">I", profile, profile.index(b"rXYZ") + 4)
    x, y, z = struct.unpack_from(">3i", profile, start + 8)
    struct.pack_into(">3i", profile, start + 8, x + 20, y + 20, z + 20)  # by 0.0003
    return bytes(profile)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drop the rights of root, who can read every file."""
    if os.name != "posix":
        pytest.skip("file permissions are those of POSIX")
    if os.getuid() != 0:
        yield
        return
    try:
        os.setresuid(65534, 65534, 0)
    except OSError:
        pytest.skip("this root may not become another user")
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


# Reading: formats and modes


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_keep_every_value(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(saved(Image.fromarray(noise()), file_format))
    image = read_image(path)
    assert (image.mode, image.size, image.info) == ("RGB", (48, 40), {})
    np.testing.assert_array_equal(np.asarray(image), noise())


def test_lossless_webp_keeps_every_value() -> None:
    data = saved(Image.fromarray(noise()), "WEBP", lossless=True)
    np.testing.assert_array_equal(np.asarray(read_image(data)), noise())


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_are_read_as_by_pillow(file_format: str) -> None:
    data = saved(Image.fromarray(noise()), file_format)
    plain = Image.open(io.BytesIO(data)).convert("RGB")
    assert read_image(data).tobytes() == plain.tobytes()


def test_file_without_suffix_and_bytes_give_the_same_image(tmp_path: Path) -> None:
    data = saved(Image.fromarray(noise()), "PNG")
    path = tmp_path / "photo"
    path.write_bytes(data)
    assert read_image(path).tobytes() == read_image(data).tobytes()


def test_other_formats_are_refused() -> None:
    for file_format in ("PPM", "ICO", "TGA"):
        with pytest.raises(InputError, match=r"^old is not a JPEG, PNG, WebP, TIFF, BMP or GIF picture, or is damaged"):
            read_image(saved(Image.fromarray(noise()), file_format), "old")


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 51), (224, 224, 224)),  # 100 × 0.2 + 255 × 0.8
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 100, 200, 102), (153, 193, 233)),  # 0.4 of it, and 0.6 × 255
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_and_alpha(mode: str, colour: int | tuple[int, ...], expected: tuple[int, ...], file_format: str) -> None:
    assert pixel(saved(Image.new(mode, (40, 40), colour), file_format)) == expected


def test_alpha_of_webp() -> None:
    data = saved(Image.new("RGBA", (40, 40), (0, 100, 200, 102)), "WEBP", lossless=True, exact=True)
    assert pixel(data) == (153, 193, 233)


def test_palettes() -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([1, 2, 3, 200, 100, 50])
    for file_format in ("PNG", "GIF", "BMP", "TIFF"):
        assert pixel(saved(image, file_format)) == (200, 100, 50)
    for file_format in ("PNG", "GIF"):
        assert pixel(saved(image, file_format, transparency=1)) == (255, 255, 255)
        assert pixel(saved(image, file_format, transparency=0)) == (200, 100, 50)
    assert pixel(saved(image, "PNG", transparency=bytes([255, 102]))) == (233, 193, 173)  # 0.4 of it, 0.6 × 255


def test_transparent_colour_of_rgb_and_grey_png() -> None:
    rgb = Image.new("RGB", (40, 40), (9, 8, 7))
    assert pixel(saved(rgb, "PNG", transparency=(9, 8, 7))) == (255, 255, 255)
    assert pixel(saved(rgb, "PNG", transparency=(9, 8, 6))) == (9, 8, 7)
    assert pixel(saved(Image.new("L", (40, 40), 9), "PNG", transparency=9)) == (255, 255, 255)


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_without_profile(file_format: str) -> None:
    settings = {"quality": 100} if file_format == "JPEG" else {}
    data = saved(Image.new("CMYK", (40, 40), (255, 0, 0, 51)), file_format, **settings)
    assert np.abs(np.subtract(pixel(data), (0, 204, 204))).max() <= 2


def test_ycbcr_and_lab_tiff() -> None:
    grey = np.full((40, 40, 3), (128, 0, 0), np.uint8)  # L* of 50.2, neutral: 119 or 120 in sRGB
    assert all(119 <= value <= 121 for value in pixel(tiff(grey, photometric="cielab")))
    jpeg_in_tiff = saved(Image.new("YCbCr", (48, 48), (128, 128, 128)), "TIFF")
    assert pixel(jpeg_in_tiff) == (128, 128, 128)


def test_first_frame_of_animations() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    for file_format in ("GIF", "TIFF", "PNG", "MPO"):  # MPO is a JPEG with several images, as written by phones
        data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
        assert pixel(data) == pytest.approx((255, 0, 0), abs=1)
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(data) == (255, 0, 0)


# Reading: more than 8 bits

RAMP = np.arange(40 * 48, dtype=np.uint32).reshape(40, 48) * 34  # 0 to 65246
RAMP_8 = np.array([[(int(value) * 255 * 2 + 65535) // (2 * 65535) for value in row] for row in RAMP], np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(saved(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), id="png"),
        pytest.param(saved(Image.fromarray(RAMP.astype(np.uint16)), "TIFF"), id="tiff by Pillow"),
        pytest.param(tiff(RAMP.astype(np.uint16), byteorder="<"), id="tiff"),
        pytest.param(tiff(RAMP.astype(np.uint16), byteorder=">"), id="tiff, big-endian"),
        pytest.param(tiff(RAMP.astype(np.uint16), compression="zlib"), id="tiff, deflate"),
        pytest.param(tiff(65535 - RAMP.astype(np.uint16), photometric="miniswhite"), id="tiff, white is 0"),
        pytest.param(
            tiff(65535 - RAMP.astype(np.uint16), photometric="miniswhite", byteorder=">"),
            id="tiff, white is 0, big-endian",
        ),
        pytest.param(tiff(RAMP.astype(np.int32)), id="tiff, mode I"),
        pytest.param(tiff((RAMP / 65535).astype(np.float32)), id="tiff, mode F"),
        pytest.param(tiff(RAMP / 65535), id="tiff, 64-bit float"),
    ],
)
def test_deep_grey_is_scaled(data: bytes) -> None:
    values = np.asarray(read_image(data))
    for channel in range(3):
        np.testing.assert_array_equal(values[..., channel], RAMP_8)


def test_16_bit_values_by_hand() -> None:
    for stored, expected in [(0, 0), (128, 0), (129, 1), (32768, 128), (65406, 254), (65407, 255), (65535, 255)]:
        data = saved(Image.fromarray(np.full((40, 40), stored, np.uint16)), "PNG")
        assert pixel(data) == (expected,) * 3


def test_12_bit_grey_is_scaled_from_12_bits() -> None:
    packed = bytes([0x80, 0x08, 0x00]) * (40 * 40 // 2)  # two values of 0x800
    tags = [(256, 40), (257, 40), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 40), (279, len(packed))]
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in tags) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory
    assert pixel(data) == (128, 128, 128)  # 2048 / 4095 × 255 = 127.5


def test_16_bit_grey_png_with_transparent_grey() -> None:
    rows = b"".join(b"\0" + struct.pack(">H", 1000 + row) * 40 for row in range(40))
    image = read_image(png(40, 40, 16, 0, rows, (b"tRNS", struct.pack(">H", 1005))))
    assert [image.getpixel((0, row)) for row in (4, 5, 6)] == [(4, 4, 4), (255, 255, 255), (4, 4, 4)]


DEEP_RGB = np.random.default_rng(2).integers(0, 65536, (40, 48, 3)).astype(np.uint16)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_16_bit_rgb_tiff(byteorder: str, compression: str | None, planes: str) -> None:
    values = DEEP_RGB if planes == "contig" else np.moveaxis(DEEP_RGB, -1, 0).copy()
    data = tiff(values, photometric="rgb", planarconfig=planes, byteorder=byteorder, compression=compression)
    assert np.abs(np.asarray(read_image(data)) - DEEP_RGB / 257).max() <= 1


def test_16_bit_rgb_png() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP_RGB)
    assert np.abs(np.asarray(read_image(png(48, 40, 16, 2, rows))) - DEEP_RGB / 257).max() <= 1


def test_16_bit_grey_and_alpha() -> None:
    values = np.full((40, 40, 2), (25700, 13107), np.uint16)
    expected = (224, 224, 224)  # 100 × 0.2 + 255 × 0.8
    assert pixel(tiff(values, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])) == expected
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    assert pixel(png(40, 40, 16, 4, rows)) == expected


def test_float_colour_tiff() -> None:
    values = np.full((40, 40, 3), (0.0, 0.2, 1.0), np.float32)
    assert pixel(tiff(values, photometric="rgb")) == (0, 51, 255)
    values = np.full((40, 40, 4), (0.0, 0.04, 0.2, 0.2), np.float32)  # premultiplied: 0, 0.2 and 1 at 0.2
    assert pixel(tiff(values, photometric="rgb", extrasamples=["assocalpha"])) == (204, 214, 255)


def test_tiff_by_tifffile_is_upright_and_in_srgb() -> None:
    values = np.zeros((40, 50, 3), np.float32)
    values[0, 0] = (1, 0, 0)
    extra = [(274, "H", 1, 6, True), (34675, "B", None, swapped_profile("swap"), True)]
    image = read_image(tiff(values, photometric="rgb", extratags=extra))
    assert image.size == (40, 50)
    assert image.getpixel((39, 0)) == pytest.approx((0, 0, 255), abs=1)


@pytest.mark.parametrize(
    ("values", "range_"),
    [
        (np.full((40, 40), 70000, np.int32), "70000 to 70000; only 0 to 65535"),
        (np.full((40, 40), -5, np.int16), "-5 to -5; only 0 to 65535"),
        (np.full((40, 40), 3.5, np.float32), "3.5 to 3.5; only 0 to 1"),
        (np.full((40, 40), np.nan, np.float32), "nan to nan; only 0 to 1"),
    ],
)
def test_values_out_of_range_are_refused_with_their_range(values: np.ndarray, range_: str) -> None:
    with pytest.raises(InputError, match=f"^scan.tif has values from {range_} is allowed"):
        read_image(tiff(values), "scan.tif")


def test_tiff_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"^scan\.tif is a TIFF of an unsupported kind"):
        read_image(tiff(np.zeros((40, 40, 7), np.float32), photometric="minisblack", planarconfig="contig"), "scan.tif")
    with pytest.raises(InputError, match=r"^scan\.tif has values of the unsupported type complex64"):
        read_image(tiff(np.zeros((40, 40), np.complex64)), "scan.tif")


# Reading: orientation

CORNERS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}


@pytest.mark.parametrize(
    ("orientation", "upright"),  # top left, top right, bottom left, bottom right once upright, by the table of EXIF
    list(enumerate(["rgbw", "grwb", "wbgr", "bwrg", "rbgw", "brwg", "wgbr", "gwrb"], start=1)),
)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation(orientation: int, upright: str, file_format: str) -> None:
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:32, :48], stored[:32, 48:], stored[32:, :48], stored[32:, 48:] = (CORNERS[name] for name in "rgbw")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(saved(Image.fromarray(stored), file_format, exif=exif))
    assert image.size == ((96, 64) if orientation < 5 else (64, 96))
    right, bottom = image.width - 9, image.height - 9
    for name, position in zip(upright, [(8, 8), (right, 8), (8, bottom), (right, bottom)], strict=True):
        assert image.getpixel(position) == pytest.approx(CORNERS[name], abs=3)
    assert dict(image.getexif()) == {}


DAMAGED_EXIF = b"Exif\0\0II*\0\xff\xff\xff\xff\xff"


def test_damaged_exif_is_ignored() -> None:
    data = saved(Image.fromarray(noise()), "PNG", exif=DAMAGED_EXIF)
    np.testing.assert_array_equal(np.asarray(read_image(data)), noise())


# Reading: colour profiles


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_colours_are_converted_from_the_profile(file_format: str) -> None:
    exact: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    image = Image.new("RGB", (40, 40), (255, 0, 0))
    data = saved(image, file_format, icc_profile=swapped_profile("swap"), **exact.get(file_format, {}))
    assert pixel(data) == pytest.approx((0, 0, 255), abs=3)


def test_other_profile_with_srgb_in_its_name_is_converted() -> None:
    data = saved(Image.new("RGB", (40, 40), (255, 0, 0)), "PNG", icc_profile=swapped_profile("sRGB"))
    assert pixel(data) == pytest.approx((0, 0, 255), abs=1)


@pytest.mark.parametrize("called", ["sRGB", "SRGB", "srgb"])
def test_srgb_profile_changes_nothing(called: str) -> None:
    profile = rounded_srgb_profile(called)
    image = Image.fromarray(noise(128, 128))
    converted = ImageCms.profileToProfile(image, io.BytesIO(profile), io.BytesIO(srgb_profile()))
    assert converted is not None and 1 <= np.abs(np.asarray(converted, int) - np.asarray(image)).max() <= 4
    data = saved(image, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(np.asarray(read_image(data)), noise(128, 128))


def test_reference_photo_is_read_as_by_pillow() -> None:
    if not REFERENCE.is_file():
        pytest.skip("the reference picture is not beside this checkout")
    with Image.open(REFERENCE) as plain:
        assert b"IEC61966-2.1" in plain.info["icc_profile"]
        assert read_image(REFERENCE).tobytes() == plain.convert("RGB").tobytes()


@pytest.mark.parametrize("profile", [b"nonsense", srgb_profile()[:200], bytes(600)])
def test_broken_profile_is_ignored(profile: bytes) -> None:
    data = saved(Image.fromarray(noise()), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(np.asarray(read_image(data)), noise())


def test_grey_profile() -> None:
    linear = linear_grey_profile()
    for file_format in ("PNG", "TIFF"):
        grey = saved(Image.new("L", (40, 40), 55), file_format, icc_profile=linear)
        assert pixel(grey) == pytest.approx((128, 128, 128), abs=1)  # ((128 / 255 + 0.055) / 1.055) ** 2.4 × 255 = 55.0
        with_alpha = saved(Image.new("LA", (40, 40), (55, 51)), file_format, icc_profile=linear)
        assert pixel(with_alpha) == pytest.approx((230, 230, 230), abs=1)  # 128 × 0.2 + 255 × 0.8
    deep = saved(Image.fromarray(np.full((40, 40), 55 * 257, np.uint16)), "PNG", icc_profile=linear)
    assert pixel(deep) == pytest.approx((128, 128, 128), abs=1)


def test_grey_picture_with_colour_profile_and_the_other_way_round() -> None:
    assert pixel(saved(Image.new("L", (40, 40), 55), "PNG", icc_profile=swapped_profile("swap"))) == pytest.approx(
        (55, 55, 55), abs=1
    )
    assert pixel(saved(Image.new("RGB", (40, 40), (1, 2, 3)), "PNG", icc_profile=linear_grey_profile())) == (1, 2, 3)


def test_cmyk_profile() -> None:
    for inks, expected in [((255, 255, 255, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))]:
        data = saved(Image.new("CMYK", (40, 40), inks), "TIFF", icc_profile=black_ink_profile())
        assert pixel(data) == pytest.approx(expected, abs=2)


# Reading: errors


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "photo.jpg")
    assert str(caught.value) == f"photo.jpg does not exist in {tmp_path}."
    (tmp_path / "holiday").mkdir()
    with pytest.raises(InputError, match=r"^holiday is a folder, not a picture\.$"):
        read_image(tmp_path / "holiday")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^photo\.jpg does not exist in .*file\.$"):
        read_image(tmp_path / "file" / "photo.jpg")
    with pytest.raises(InputError, match=r"^The content does not exist in "):
        read_image(tmp_path / "photo.jpg", "The content")
    with pytest.raises(InputError, match=r"x\.png cannot be read: File name too long\.$"):
        read_image(tmp_path / ("x" * 300 + "x.png"))


def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encode(noise(), ".png"))
    path.chmod(0)
    with as_nobody(), pytest.raises(InputError, match=r"^secret\.png cannot be read: Permission denied\.$"):
        read_image(path)


def test_empty_file_and_text(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.touch()
    with pytest.raises(InputError, match=r"^photo\.png is empty \(0 bytes\)\.$"):
        read_image(path)
    with pytest.raises(InputError, match=r"^the picture is empty"):
        read_image(b"")
    path.write_text("a thousand words")
    with pytest.raises(InputError, match=r"^photo\.png is not a JPEG, PNG, WebP, TIFF, BMP or GIF picture"):
        read_image(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_damaged_files(file_format: str) -> None:
    data = saved(Image.fromarray(noise(64, 64)), file_format)
    for length in (3, 10, 30, len(data) // 3, len(data) // 2, len(data) - 60):
        with pytest.raises(InputError, match=r"^photo (cannot be decoded: it is cut short|is not a JPEG)"):
            read_image(data[:length], "photo")
    rng = np.random.default_rng(3)
    for _ in range(60):  # a decoder may accept some of these; it must raise no other exception
        spoilt = bytearray(data)
        for position in rng.integers(0, 200, 8):
            spoilt[position] = rng.integers(0, 256)
        try:
            assert read_image(bytes(spoilt)).mode == "RGB"
        except InputError as error:
            assert str(error).startswith("the picture ")


def test_truncated_file_has_a_clear_message() -> None:
    data = saved(Image.fromarray(noise()), "PNG")
    with pytest.raises(InputError, match=r"^a\.png cannot be decoded: it is cut short, damaged or of an unusual kind"):
        read_image(data[:2000], "a.png")
    deep = tiff(DEEP_RGB.astype(np.float32) / 65535, photometric="rgb")
    with pytest.raises(InputError, match=r"^a\.tif cannot be decoded"):
        read_image(deep[:5000], "a.tif")


def test_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 2**20)
    with pytest.raises(InputError, match=r"^huge\.png has 68,157,440 bytes \(65\.0 MiB\); the limit is 64 MiB\.$"):
        read_image(path)
    with pytest.raises(InputError, match=r"^upload has 67,108,865 bytes \(64\.0 MiB\); the limit is 64 MiB\.$"):
        read_image(bytes(MAX_BYTES + 1), "upload")


def test_too_many_pixels_without_warnings_of_pillow(recwarn: pytest.WarningsRecorder) -> None:
    assert MAX_PIXELS == 100_000_000
    for side, figure in [(10_001, "100,020,001"), (20_000, "400,000,000")]:
        message = f"^wall.png has {side} × {side} = {figure} pixels; the limit is 100,000,000 pixels\\.$"
        with pytest.raises(InputError, match=message):
            read_image(png(side, side, 8, 2, b""), "wall.png")
    assert not recwarn.list


def test_too_many_pixels_of_a_tiff_for_tifffile() -> None:
    small = tiff(np.zeros((40, 40, 3), np.float32), photometric="rgb")
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        places = [file.pages.first.tags[number].valueoffset for number in (256, 257)]
    large = bytearray(small)
    for place in places:
        large[place : place + 2] = struct.pack("<H", 60_000)
    with pytest.raises(InputError, match=r"^wall\.tif has 60000 × 60000 = 3,600,000,000 pixels; the limit is 100,000"):
        read_image(bytes(large), "wall.tif")


def test_too_small() -> None:
    assert MIN_SIDE == 32
    assert read_image(encode(noise(32, 40), ".png")).size == (40, 32)
    with pytest.raises(InputError, match=r"^icon has 40 × 31 pixels; the shorter side must have at least 32 pixels\.$"):
        read_image(encode(noise(31, 40), ".png"), "icon")


# Sizes


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (3367, 2525, 512, (384, 512)),  # 383.96
        (2525, 3367, 512, (512, 384)),
        (100, 100, 64, (64, 64)),
        (40, 30, 400, (300, 400)),
        (1000, 1, 500, (1, 500)),  # 0.5 rounds to 0
        (8, 5, 4, (2, 4)),  # 2.5 rounds to even
        (8, 7, 4, (4, 4)),  # as does 3.5
    ],
)
def test_resized_shape(width: int, height: int, size: int, expected: tuple[int, int]) -> None:
    assert resized_shape(width, height, size) == expected


def test_resize() -> None:
    image = Image.fromarray(noise(120, 160))
    rgb = resize(image, 64)
    assert (rgb.dtype, rgb.shape) == (np.uint8, (48, 64, 3))
    np.testing.assert_array_equal(rgb, np.asarray(image.resize((64, 48), Image.Resampling.LANCZOS)))
    np.testing.assert_array_equal(resize(image, 160), noise(120, 160))
    assert resize(image, 320).shape == (240, 320, 3)
    rgb[0, 0] = 0  # the array is writable


def test_resize_to_too_small() -> None:
    image = Image.new("RGB", (400, 100))
    assert resize(image, 128).shape == (32, 128, 3)
    with pytest.raises(InputError) as caught:
        resize(image, 100, "wide.png")
    expected = "wide.png would be only 100 × 25 pixels at size 100, and the shorter side must have at least 32: "
    assert str(caught.value) == expected + "choose a larger size."
    with pytest.raises(InputError, match=r"no size helps, so crop it to a less narrow part\.$"):
        resize(Image.new("RGB", (20_000, 40)), 4096)  # only 8 pixels high
    with pytest.raises(InputError, match=r"^the picture would be only 1 × 1 pixels at size 0"):
        resize(image, 0)


# Preprocessing


def test_to_network_by_hand() -> None:
    rgb = np.array([[[255, 0, 0], [10, 20, 30]]], np.uint8)
    image = to_network(rgb)
    assert (image.dtype, image.shape, image.flags.c_contiguous) == (np.float32, (1, 1, 2, 3), True)
    expected = np.array([[[[-103.939, -116.779, 131.32], [-73.939, -96.779, -113.68]]]])
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(to_network(rgb.astype(np.float64)), image)


def test_network_round_trip_of_every_value() -> None:
    rgb = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], axis=-1)[np.newaxis].astype(np.uint8)
    back = from_network(to_network(rgb))
    assert (back.dtype, back.shape, back.flags.c_contiguous) == (np.float32, rgb.shape, True)
    np.testing.assert_allclose(back, rgb, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(to_uint8(back), rgb)
    fractions = np.full((2, 2, 3), (0.25, 100.5, 254.75), np.float32)
    np.testing.assert_allclose(from_network(to_network(fractions)), fractions, rtol=0, atol=2e-5)


def test_network_limits() -> None:
    assert NETWORK_MIN.dtype == NETWORK_MAX.dtype == np.float32
    np.testing.assert_array_equal(NETWORK_MIN, to_network(np.zeros((1, 1, 3), np.uint8))[0, 0, 0])
    np.testing.assert_array_equal(NETWORK_MAX, to_network(np.full((1, 1, 3), 255, np.uint8))[0, 0, 0])
    np.testing.assert_allclose(NETWORK_MIN, (-103.939, -116.779, -123.68), rtol=1e-7)
    np.testing.assert_allclose(NETWORK_MAX, (151.061, 138.221, 131.32), rtol=1e-6)


def test_from_network_clips() -> None:
    np.testing.assert_array_equal(from_network(np.full((1, 2, 2, 3), 500, np.float32)), np.full((2, 2, 3), 255))
    np.testing.assert_array_equal(from_network(np.full((1, 2, 2, 3), -500, np.float32)), np.zeros((2, 2, 3)))


def test_to_uint8_rounds_and_clips() -> None:
    values = to_uint8(np.array([-3.0, 0.4, 0.6, 127.5, 254.4, 254.6, 300.0], np.float32))
    assert values.dtype == np.uint8
    assert values.tolist() == [0, 0, 1, 128, 254, 255, 255]


# Writing


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG", ".JPG"])
def test_written_image_and_metadata_are_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    write_image(path, smooth(), METADATA)
    assert read_metadata(path) == METADATA
    largest = 0 if suffix.lower() in (".png", ".tif", ".tiff") else 12
    assert np.abs(np.asarray(read_image(path), int) - smooth()).max() <= largest
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_pictures_are_marked_as_srgb_and_reproducible(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    write_image(path, noise())
    assert read_metadata(path) == {}
    with Image.open(path) as image:
        if suffix == ".png":
            assert "srgb" in image.info
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            assert "sRGB" in ImageCms.getProfileDescription(profile)
            assert profile.profile.creation_date is not None and profile.profile.creation_date.year == 2000
        assert read_image(path).tobytes() == image.convert("RGB").tobytes()


def test_jpeg_has_full_colour_resolution(tmp_path: Path) -> None:
    write_image(tmp_path / "picture.jpg", noise())
    for data in ((tmp_path / "picture.jpg").read_bytes(), encode_jpeg(noise())):
        with Image.open(io.BytesIO(data)) as image:
            assert isinstance(image, JpegImageFile)
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_metadata_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(saved(Image.fromarray(noise()), "BMP"))
    assert read_metadata(path) == {}
    exif = Image.Exif()
    for text in ("A sunny day", "[1, 2]", "17"):
        exif[0x010E] = text
        path.write_bytes(saved(Image.fromarray(noise()), "JPEG", exif=exif))
        assert read_metadata(path) == {}
    with pytest.raises(InputError, match=r"^none\.png does not exist"):
        read_metadata(tmp_path / "none.png")
    path.write_bytes(b"words")
    with pytest.raises(InputError, match=r"^foreign is not a JPEG"):
        read_metadata(path)


@pytest.mark.parametrize("name", ["picture.gif", "picture", "picture.txt", "picture.png.exe"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    for refuse in (check_writable, lambda path: write_image(path, noise())):
        with pytest.raises(InputError) as caught:
            refuse(tmp_path / name)
        expected = "cannot be written: the name must end in .png, .jpg, .jpeg, .webp, .tif, .tiff."
        assert str(caught.value) == f"{tmp_path / name} {expected}"
    assert names(tmp_path) == []


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.png")
    (tmp_path / "old.png").touch()
    check_writable(tmp_path / "old.png")
    check_writable(Path("here.jpg"))
    with pytest.raises(InputError, match=r"new\.png cannot be written: there is no folder .*none\.$"):
        check_writable(tmp_path / "none" / "new.png")
    with pytest.raises(InputError, match=r"new\.png cannot be written: there is no folder .*old\.png\.$"):
        check_writable(tmp_path / "old.png" / "new.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png is a folder: give the name of a file\.$"):
        check_writable(tmp_path / "folder.png")
    assert names(tmp_path) == ["folder.png", "old.png"]


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that everybody can enter and only root can write to."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "old.png").write_bytes(b"old")
    folder.chmod(0o555)
    # `as_nobody` starts as root, and only root can enter pytest's folders.
    shut = [above for above in tmp_path.parents if above.owner() == tmp_path.owner() and not above.stat().st_mode & 1]
    modes = {above: above.stat().st_mode & 0o7777 for above in (tmp_path, *shut)}
    for above, mode in modes.items():
        above.chmod(mode | 0o011)
    yield folder
    for above, mode in modes.items():
        above.chmod(mode)
    folder.chmod(0o755)


def test_folder_without_permission(closed_folder: Path) -> None:
    with as_nobody():
        with pytest.raises(InputError, match=r"new\.png cannot be written: the folder .*closed is not writable"):
            check_writable(closed_folder / "new.png")
        with pytest.raises(StudioError, match=r"old\.png could not be written: Permission denied\.$"):
            write_image(closed_folder / "old.png", noise())
    assert (closed_folder / "old.png").read_bytes() == b"old"
    assert names(closed_folder) == ["old.png"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource", reason="the limit on file sizes is one of POSIX")
    path = tmp_path / f"picture{suffix}"
    write_image(path, smooth())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # ends the write midway, like a full disk
    try:
        with pytest.raises(StudioError) as caught:
            write_image(path, noise(200, 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"{path} could not be written: File too large."
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


def test_write_onto_a_folder_and_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(StudioError, match=r"folder\.png could not be written: Is a directory\.$"):
        write_image(tmp_path / "folder.png", noise())
    (tmp_path / "file").touch()
    with pytest.raises(StudioError, match=r"new\.png could not be written: "):
        write_image(tmp_path / "file" / "new.png", noise())
    assert names(tmp_path) == ["file", "folder.png"]


def test_image_too_large_for_a_format(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"long\.webp cannot be written as WEBP: .*16383 pixels"):
        write_image(tmp_path / "long.webp", np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(StudioError, match=r"photo\.jpg cannot be written as JPEG: "):
        write_image(tmp_path / "photo.jpg", noise(), {"log": "x" * 70_000})
    with pytest.raises(StudioError, match=r"photo\.png cannot be written as PNG: "):
        write_image(tmp_path / "photo.png", noise(), {"「富嶽」": "x"})
    assert names(tmp_path) == []


def test_only_8_bit_rgb_is_written(tmp_path: Path) -> None:
    for rgb in (noise().astype(np.float32), noise(channels=4), noise()[..., 0]):
        with pytest.raises(ValueError, match=r"^an image must be uint8 \(H, W, 3\), not "):
            write_image(tmp_path / "picture.png", rgb)
        with pytest.raises(ValueError, match=r"^an image must be uint8 \(H, W, 3\), not "):
            encode_jpeg(rgb)


def test_encoded_bytes() -> None:
    np.testing.assert_array_equal(np.asarray(read_image(encode(noise(), ".png"))), noise())
    assert np.abs(np.asarray(read_image(encode_jpeg(smooth())), int) - smooth()).max() <= 12
    assert len(encode_jpeg(noise(), quality=30)) < len(encode_jpeg(noise()))


def in_fresh_python(code: str) -> str:
    """Return what the code prints to standard output and standard error."""
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    return subprocess.run(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


def test_import_loads_no_heavy_packages() -> None:
    heavy = "{'tensorflow', 'keras', 'tifffile', 'skimage', 'scipy'}"
    assert in_fresh_python(f"import sys, core.images.codec; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_unusual_files_are_read_without_warnings(tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(saved(Image.fromarray(noise()), "PNG", exif=DAMAGED_EXIF))
    code = "from pathlib import Path; from core.images.codec import read_image; "
    code += f"print(read_image(Path({str(path)!r})).size)"
    assert in_fresh_python(code) == "(48, 40)\n"


def test_a_tiff_of_16_bits_keeps_what_8_bits_round(tmp_path):
    exact = np.random.default_rng(3).uniform(-5, 260, (40, 50, 3)).astype(np.float32)
    data = codec.encode_tiff16(exact, {"Title": "é"})
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        levels, profile = page.asarray(), page.tags["InterColorProfile"].value
    assert levels.dtype == np.uint16
    np.testing.assert_allclose(levels / 65535 * 255, np.clip(exact, 0, 255), atol=0.5 * 255 / 65535 + 1e-4)
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    path = tmp_path / "picture.tif"
    path.write_bytes(data)
    assert codec.read_metadata(path) == {"Title": "é"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_encode_gives_the_file_that_write_image_writes(tmp_path, suffix):
    rgb = np.random.default_rng(4).integers(0, 256, (33, 44, 3), np.uint8)
    codec.write_image(tmp_path / f"x{suffix}", rgb, {"Title": "a"})
    assert codec.encode(rgb, suffix, {"Title": "a"}) == (tmp_path / f"x{suffix}").read_bytes()
