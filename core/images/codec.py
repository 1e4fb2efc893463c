"""Read image files of common formats as RGB in sRGB, and write them."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.PngImagePlugin import PngImageFile, PngInfo

from core import paths
from core.errors import InputError, StudioError
from core.images import color_profiles

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 100_000_000
MIN_SIDE = 32

READ_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
FORMAT_NAMES = {"WEBP": "WebP"}  # names that differ from Pillow's
WRITE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
SETTINGS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},  # 0 is 4:4:4
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}

TIFF_MODES = {(0, 1): "L", (1, 1): "L", (1, 2): "LA", (2, 3): "RGB", (2, 4): "RGBA"}  # by photometric and samples

# `_check_size` compares every image with MAX_PIXELS; Pillow's limit would only warn, or fail without the numbers.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about unusual files; users need only the InputErrors.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(
    source: Path | bytes,
    name: str | None = None,
    max_bytes: int | None = None,
    formats: tuple[str, ...] = READ_FORMATS,
    max_pixels: int = MAX_PIXELS,
    ground: str = "white",
) -> Image.Image:
    """Return the image in a file or in a file's bytes: 8-bit RGB in sRGB, upright, without metadata.

    Decodes in this process; use `sandbox.read` for files from outside. Reads JPEG, PNG, WebP, TIFF, BMP and the first
    frame of a GIF, in all their modes. 16-bit values are scaled to 8 bits; float values must lie in 0 … 1. Colours are
    converted from the embedded ICC profile; if the profile is sRGB, no value changes.

    Args:
        source: The file or its bytes.
        name: The image's name in messages, by default the file's name.
        max_bytes: The largest file size, by default MAX_BYTES.
        formats: The accepted formats.
        max_pixels: The largest number of pixels.
        ground: The colour under transparent parts.

    Raises:
        InputError: If the file is missing, unreadable, empty, damaged or of another format, if it exceeds a limit, or
            if a side has fewer than MIN_SIDE pixels.
    """
    label = label_of(source, name)
    with _decoding(label):
        data = bytes_of(source, label, MAX_BYTES if max_bytes is None else max_bytes)
        image = _decoded(data, label, formats, max_pixels)
        orientation, profile = _orientation(image), image.info.get("icc_profile")
        rgb = _over(ground, _eight_bit(image, label), profile)
        rgb.info = {}
        rgb.getexif()[Tag.Orientation] = orientation
        ImageOps.exif_transpose(rgb, in_place=True)
        rgb.getexif().clear()
    return rgb


def shrunk(path: Path, side: int) -> Image.Image:
    """Return an image of a run, a PNG or JPEG file, as RGB of at most `side` px.

    Raises:
        InputError: If the file cannot be read or is not such an image.
    """
    label = label_of(path, None)
    with _decoding(label), _opened(bytes_of(path, label, 4 * MAX_PIXELS), label, ("PNG", "JPEG")) as image:
        _check_size(*image.size, label)
        image.thumbnail((side, side), reducing_gap=2.0)
        return image.convert("RGB")


def read_exact(path: Path) -> np.ndarray:
    """Return the image in a run's .npy file: RGB float32 (H, W, 3) in 0 … 255.

    Raises:
        StudioError: If the file is missing or contains no such image.
    """
    kind = array_kind(path)
    if len(kind) != 4 or kind[2:] != (3, np.float32) or kind[0] * kind[1] > MAX_PIXELS:
        raise StudioError(f"The run {path.parent.name} has no usable result: {path.name} is missing or damaged.")
    return np.load(path, allow_pickle=False)


def array_kind(path: Path) -> tuple[Any, ...]:
    """Return the shape and the type of the array in a .npy file; an empty tuple if the file is missing or damaged."""
    if not paths.is_file(path):  # reading a pipe would block
        return ()
    try:
        with path.open("rb") as file:
            if file.read(8) != b"\x93NUMPY\1\0":  # in other versions the header can have 4 GiB, and NumPy reads it all
                return ()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return (*array.shape, array.dtype)
    except Exception:  # NumPy raises errors of many types for a damaged file
        return ()


def read_metadata(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, str]:
    """Return the metadata that `write_image` stored, or the text entries of another program's PNG.

    Raises:
        InputError: If the file is missing, unreadable, empty, over `max_bytes` or not an image.
    """
    label = label_of(path, None)
    with _decoding(label), _opened(bytes_of(path, label, max_bytes), label) as image:
        if isinstance(image, PngImageFile):
            _check_size(*image.size, label)  # Pillow decodes the pixels too, because entries may follow them
            return {key: str(text) for key, text in image.text.items()}
        return _parsed_description(image.getexif().get(Tag.ImageDescription))


def check_writable(path: Path) -> None:
    """Check early that `write_image` can write this file.

    Raises:
        InputError: If the suffix is unknown, or the folder is missing or not writable.
    """
    _write_format(path)
    paths.check_writable(path)


def write_image(path: Path, rgb: np.ndarray, metadata: Mapping[str, str] = {}) -> None:
    """Write an image file atomically; the suffix chooses the format.

    Args:
        path: The file: .png, .jpg, .jpeg, .webp, .tif or .tiff.
        rgb: The image in sRGB, uint8 (H, W, 3).
        metadata: Texts for `read_metadata`. A PNG stores them as text entries (keys of at most 79 Latin-1 characters),
            other formats as JSON in the EXIF tag ImageDescription.

    Raises:
        InputError: If the suffix is unknown.
        StudioError: If the image cannot be encoded or the file cannot be written.
    """
    file_format = _write_format(path)
    picture = _picture(rgb)
    try:
        data = _encoded(picture, file_format, metadata)
    except (OSError, ValueError) as error:  # for example, a side is too long for the format
        raise StudioError(f"{path} cannot be written as {file_format}: {error}.") from error
    try:
        paths.write(path, data)
    except OSError as error:
        raise StudioError(f"{path} could not be written: {error.strerror or error}.") from error


def encode(rgb: np.ndarray, suffix: str, metadata: Mapping[str, str] = {}) -> bytes:
    """Return the bytes of the file that `write_image` writes for this suffix."""
    return _encoded(_picture(rgb), _write_format(Path(f"picture{suffix}")), metadata)


def encode_tiff16(rgb: np.ndarray, metadata: Mapping[str, str] = {}) -> bytes:
    """Return a TIFF file in sRGB with 16 bits per channel, for float values (H, W, 3) in 0 … 255."""
    import tifffile  # rarely needed

    file = BytesIO()
    levels = np.rint(np.clip(rgb, 0, 255) * (65535 / 255)).astype(np.uint16)
    profile, description = color_profiles.srgb_profile(), json.dumps(dict(metadata))
    tifffile.imwrite(file, levels, photometric="rgb", iccprofile=profile, description=description, metadata=None)
    return file.getvalue()


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """Return a JPEG file with full colour resolution (4:4:4), for uint8 (H, W, 3)."""
    return _saved(_picture(rgb), "JPEG", quality=quality, subsampling=0)


def label_of(source: Path | bytes, name: str | None) -> str:
    """Return the image's name for messages."""
    if name is not None:
        return name
    return (source.name or str(source)) if isinstance(source, Path) else "the picture"


@contextmanager
def _decoding(label: str) -> Iterator[None]:
    """Turn all errors of a decoder into an InputError."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{label} does not fit into memory: use a smaller picture.") from error
    except Exception as error:  # decoders raise many types for damaged files: OSError, SyntaxError, struct.error
        raise InputError(f"{label} cannot be decoded: it is cut short, damaged or of an unusual kind.") from error


def bytes_of(source: Path | bytes, label: str, limit: int) -> bytes:
    """Return the file's bytes.

    Raises:
        InputError: If the file is missing, unreadable, empty or larger than `limit` bytes.
    """
    data = _file_bytes(source, label, limit) if isinstance(source, Path) else source
    if not data:
        raise InputError(f"{label} is empty (0 bytes).")
    if len(data) > limit:
        raise _too_many_bytes(len(data), label, limit)
    return data


def _file_bytes(path: Path, label: str, limit: int) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{label} is a folder, not a picture.")
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise InputError(f"{label} is not a file.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise _too_many_bytes(size, label, limit)
            return file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{label} does not exist in {path.absolute().parent}.") from error
    except OSError as error:
        raise InputError(f"{label} cannot be read: {error.strerror or error}.") from error


def _too_many_bytes(size: int, label: str, limit: int) -> InputError:
    return InputError(f"{label} has {size:,} bytes ({size / 2**20:.1f} MiB); the limit is {limit / 2**20:.4g} MiB.")


def _opened(data: bytes, label: str, formats: tuple[str, ...] = READ_FORMATS) -> Image.Image:
    """Read the image's header without decoding the pixels."""
    try:
        return Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        *others, last = (FORMAT_NAMES.get(name, name) for name in formats)
        kinds = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{label} is not a {kinds} picture, or is damaged.") from error


def _decoded(data: bytes, label: str, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """Return the image as stored, in any of Pillow's modes."""
    is_tiff = "TIFF" in formats and data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    try:
        image = _opened(data, label, formats)
    except InputError:
        if not is_tiff:
            raise
        return _decoded_by_tifffile(data, label, max_pixels)  # for example, 32-bit float RGB
    _check_size(*image.size, label, max_pixels)
    if is_tiff and _is_misread(image):
        return _decoded_by_tifffile(data, label, max_pixels)
    image.load()
    return image


def _check_size(width: int, height: int, label: str, max_pixels: int = MAX_PIXELS) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"{label} has {width} × {height} = {width * height:,} pixels; the limit is {max_pixels:,} pixels."
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{label} has {width} × {height} pixels; the shorter side must have at least {MIN_SIDE} pixels."
        )


def _tag(image: Image.Image, number: int, default: int) -> int:
    """Return the first value of a TIFF tag; the default for other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _is_misread(image: Image.Image) -> bool:
    """Return whether Pillow (13.0) misreads 16-bit values as bytes: in uncompressed files with a plane per channel."""
    planes, bits = _tag(image, Tag.PlanarConfiguration, 1), _tag(image, Tag.BitsPerSample, 1)
    return planes == 2 and bits > 8 and _tag(image, Tag.Compression, 1) == 1


def _decoded_by_tifffile(data: bytes, label: str, max_pixels: int) -> Image.Image:
    """Return the first page of a TIFF that Pillow cannot read, as 8-bit L, LA, RGB or RGBA."""
    import tifffile  # rarely needed

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        _check_size(page.imagewidth, page.imagelength, label, max_pixels)
        mode = TIFF_MODES.get((int(page.photometric), page.samplesperpixel))
        if mode is None or page.axes not in ("YX", "YXS", "SYX"):
            raise InputError(f"{label} is a TIFF of an unsupported kind: save it as a PNG.")
        levels = _levels(page.asarray(), label)
        tags = {tag: page.tags[tag].value for tag in (Tag.Orientation, Tag.InterColorProfile) if tag in page.tags}
        dark_is_high = int(page.photometric) == 0
        premultiplied = 1 in page.extrasamples
    if page.axes == "SYX":
        levels = np.moveaxis(levels, 0, -1)
    if dark_is_high:
        levels = 255 - levels
    stored = mode[:-1] + "a" if premultiplied else mode  # Pillow writes premultiplied alpha in lower case
    image = Image.frombytes(stored, levels.shape[1::-1], np.ascontiguousarray(levels).tobytes()).convert(mode)
    image.getexif()[Tag.Orientation] = tags.get(Tag.Orientation, 1)
    image.info["icc_profile"] = tags.get(Tag.InterColorProfile)
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation to apply, 1 to 8; for a TIFF it is 1, because Pillow has turned it."""
    try:
        return int(image.getexif().get(Tag.Orientation, 1))
    except Exception:  # a damaged EXIF block raises errors of many types, but the image itself is fine
        return 1


def _levels(values: np.ndarray, label: str, top: int = 65535) -> np.ndarray:
    """Scale samples to uint8: integers from 0 … top, floats from 0 … 1; uint8 samples stay the same."""
    if values.dtype == np.uint8:
        return values
    is_float = values.dtype.kind == "f"
    if not is_float and values.dtype.kind not in "iu":
        raise InputError(f"{label} has values of the unsupported type {values.dtype}: save it as a PNG.")
    low, high, most = values.min(), values.max(), 1 if is_float else top
    if not (low >= 0 and high <= most):  # true for NaN too
        raise InputError(f"{label} has values from {low:g} to {high:g}; only 0 to {most} is allowed.")
    if is_float:
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _eight_bit(image: Image.Image, label: str) -> Image.Image:
    """Return the image in a mode with 8 bits per channel; in Pillow, only grey images can have more."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    top = 4095 if _tag(image, Tag.BitsPerSample, 16) == 12 else 65535
    levels = _levels(values, label, top)
    if _tag(image, Tag.PhotometricInterpretation, 1) == 0:  # white is 0; Pillow inverts only 8-bit images
        levels = 255 - levels
    grey = Image.fromarray(levels)
    if "transparency" in image.info:  # the grey value that is transparent in a PNG
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _over(ground: str, image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert any 8-bit mode to RGB in sRGB; blend transparent parts with the ground in encoded values."""
    if not image.has_transparency_data:
        return color_profiles.in_srgb(image, profile)
    with_alpha = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    colours = color_profiles.in_srgb(with_alpha.convert("L" if with_alpha.mode == "LA" else "RGB"), profile)
    laid = Image.new("RGB", image.size, ground)
    laid.paste(colours, mask=with_alpha.getchannel("A"))
    return laid


def _write_format(path: Path) -> str:
    try:
        return WRITE_FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"{path} cannot be written: the name must end in {', '.join(WRITE_FORMATS)}.") from None


def _picture(rgb: np.ndarray) -> Image.Image:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")
    return Image.fromarray(rgb)


def _encoded(picture: Image.Image, file_format: str, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file in sRGB."""
    if file_format == "PNG":
        entries = PngInfo()
        entries.add(b"sRGB", b"\1")  # rendering intent: relative colorimetric
        for key, text in metadata.items():
            entries.add_itxt(key, text)
        return _saved(picture, "PNG", pnginfo=entries)
    settings = dict(SETTINGS[file_format])
    if metadata:
        exif = Image.Exif()
        exif[Tag.ImageDescription] = json.dumps(dict(metadata))  # the tag requires ASCII; JSON escapes the rest
        settings["exif"] = exif
    return _saved(picture, file_format, icc_profile=color_profiles.srgb_profile(), **settings)


def _saved(picture: Image.Image, file_format: str, **settings: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, file_format, **settings)
    return buffer.getvalue()


def _parsed_description(description: object) -> dict[str, str]:
    try:
        entries = json.loads(str(description))
    except ValueError:  # another program wrote the description
        return {}
    return {key: str(text) for key, text in entries.items()} if isinstance(entries, dict) else {}
