"""Read and write image files: RGB arrays in sRGB on the inside, and the formats that people use on the outside."""

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
FORMAT_NAMES = {"WEBP": "WebP"}  # where it is written otherwise than Pillow does
WRITE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
SETTINGS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},  # 0 is 4:4:4
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}

TIFF_MODES = {(0, 1): "L", (1, 1): "L", (1, 2): "LA", (2, 3): "RGB", (2, 4): "RGBA"}  # by photometric and samples

# `_check_size` compares every picture with MAX_PIXELS; Pillow's own limit would only warn, or fail without the figure.
Image.MAX_IMAGE_PIXELS = None
# Pillow's remarks on odd files are not for the person at the keyboard: what matters ends in an InputError.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(
    source: Path | bytes,
    name: str | None = None,
    max_bytes: int | None = None,
    formats: tuple[str, ...] = READ_FORMATS,
    max_pixels: int = MAX_PIXELS,
    ground: str = "white",
) -> Image.Image:
    """A picture from a file, or from a file's bytes: 8-bit RGB in sRGB, upright, over the ground, without metadata.

    In this process: for a file that may mean harm there is `decoding.read`, which takes and gives the same.

    JPEG, PNG, WebP, TIFF, BMP and the first frame of a GIF are read, in any of their modes. 16-bit values are
    scaled to 8 bit, float values are taken to lie in 0..1. Colours are converted from the embedded ICC profile,
    except where this is sRGB: then not a single value changes.

    `name` stands for the picture in messages; without it the file's name does. Raises InputError for a file that is
    missing, unreadable, empty, not such a picture or damaged, not in one of the `formats`, and for one over `max_bytes`
    (MAX_BYTES) or `max_pixels` or with a side under MIN_SIDE pixels.
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
    """Return a run's picture, a PNG or JPEG, as RGB of at most `side` px. Raises InputError as `read_image` does."""
    label = label_of(path, None)
    with _decoding(label), _opened(bytes_of(path, label, 4 * MAX_PIXELS), label, ("PNG", "JPEG")) as image:
        _check_size(*image.size, label)
        image.thumbnail((side, side), reducing_gap=2.0)
        return image.convert("RGB")


def read_exact(path: Path) -> np.ndarray:
    """Return the picture in a run's .npy file: RGB float32 (H, W, 3) in 0..255. Raises StudioError if it is none."""
    kind = array_kind(path)
    if len(kind) != 4 or kind[2:] != (3, np.float32) or kind[0] * kind[1] > MAX_PIXELS:
        raise StudioError(
            f"The run {path.parent.name} has no result that can be used: {path.name} is none, or damaged."
        )
    return np.load(path, allow_pickle=False)


def array_kind(path: Path) -> tuple[Any, ...]:
    """Shape and type of the array in a .npy file that is as long as it says; nothing where there is none."""
    if not paths.is_file(path):  # such as a pipe, which would be waited for
        return ()
    try:
        with path.open("rb") as file:
            if file.read(8) != b"\x93NUMPY\1\0":  # a header of the other versions may be 4 GiB, and is read whole
                return ()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return (*array.shape, array.dtype)
    except Exception:  # NumPy raises nearly anything, and may find an archive of arrays
        return ()


def read_metadata(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, str]:
    """Return what `write_image` stored in a picture, or the text entries of another program's PNG.

    Raises InputError for a file that is missing, unreadable, empty, over `max_bytes` or not a picture.
    """
    label = label_of(path, None)
    with _decoding(label), _opened(bytes_of(path, label, max_bytes), label) as image:
        if isinstance(image, PngImageFile):
            _check_size(*image.size, label)  # entries may follow the pixels, so these are decoded too
            return {key: str(text) for key, text in image.text.items()}
        return _parsed_description(image.getexif().get(Tag.ImageDescription))


def check_writable(path: Path) -> None:
    """Raise InputError if `write_image` is bound to fail there: for the suffix, the folder or the permissions."""
    _write_format(path)
    paths.check_writable(path)


def write_image(path: Path, rgb: np.ndarray, metadata: Mapping[str, str] = {}) -> None:
    """Write uint8 (H, W, 3) in sRGB; the suffix decides: .png, .jpg or .jpeg, .webp, .tif or .tiff.

    The file appears whole or not at all. `metadata` goes into text entries of a PNG (keys of at most 79 Latin-1
    characters), else as JSON into the EXIF tag ImageDescription; `read_metadata` gives it back. Raises InputError
    for another suffix, StudioError when the picture cannot be encoded or the file not be written.
    """
    file_format = _write_format(path)
    picture = _picture(rgb)
    try:
        data = _encoded(picture, file_format, metadata)
    except (OSError, ValueError) as error:  # such as more pixels a side than the format can hold
        raise StudioError(f"{path} cannot be written as {file_format}: {error}.") from error
    try:
        paths.write(path, data)
    except OSError as error:
        raise StudioError(f"{path} could not be written: {error.strerror or error}.") from error


def encode(rgb: np.ndarray, suffix: str, metadata: Mapping[str, str] = {}) -> bytes:
    """The file that `write_image` writes under a name with that suffix."""
    return _encoded(_picture(rgb), _write_format(Path(f"picture{suffix}")), metadata)


def encode_tiff16(rgb: np.ndarray, metadata: Mapping[str, str] = {}) -> bytes:
    """A TIFF file of 16 bits a channel, marked as sRGB, of (H, W, 3) with float values in 0..255."""
    import tifffile  # seldom needed

    file = BytesIO()
    levels = np.rint(np.clip(rgb, 0, 255) * (65535 / 255)).astype(np.uint16)
    profile, description = color_profiles.srgb_profile(), json.dumps(dict(metadata))
    tifffile.imwrite(file, levels, photometric="rgb", iccprofile=profile, description=description, metadata=None)
    return file.getvalue()


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """A JPEG file of uint8 (H, W, 3), with full colour resolution (4:4:4)."""
    return _saved(_picture(rgb), "JPEG", quality=quality, subsampling=0)


def label_of(source: Path | bytes, name: str | None) -> str:
    """What stands for the picture in messages."""
    if name is not None:
        return name
    return (source.name or str(source)) if isinstance(source, Path) else "the picture"


@contextmanager
def _decoding(label: str) -> Iterator[None]:
    """Turn whatever a decoder throws at a damaged file into an InputError."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{label} does not fit into memory: use a smaller picture.") from error
    except Exception as error:  # damaged files make decoders raise nearly anything: OSError, SyntaxError, struct.error
        raise InputError(f"{label} cannot be decoded: it is cut short, damaged or of an unusual kind.") from error


def bytes_of(source: Path | bytes, label: str, limit: int) -> bytes:
    """The file's bytes, at most `limit`. Raises InputError for a file that is missing, unreadable, empty or larger."""
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
        if path.exists() and not path.is_file():  # a pipe would be waited for
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
    """The picture behind its header; the pixels are not yet decoded."""
    try:
        return Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        *others, last = (FORMAT_NAMES.get(name, name) for name in formats)
        kinds = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{label} is not a {kinds} picture, or is damaged.") from error


def _decoded(data: bytes, label: str, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """The picture as it is stored, in any of Pillow's modes."""
    is_tiff = "TIFF" in formats and data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    try:
        image = _opened(data, label, formats)
    except InputError:
        if not is_tiff:
            raise
        return _decoded_by_tifffile(data, label, max_pixels)  # such as 32-bit float RGB
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
    """A TIFF tag's first value; the default for other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _is_misread(image: Image.Image) -> bool:
    """Whether Pillow (13.0) takes the halves of 16-bit values for pixels: uncompressed, one plane a channel."""
    planes, bits = _tag(image, Tag.PlanarConfiguration, 1), _tag(image, Tag.BitsPerSample, 1)
    return planes == 2 and bits > 8 and _tag(image, Tag.Compression, 1) == 1


def _decoded_by_tifffile(data: bytes, label: str, max_pixels: int) -> Image.Image:
    """The first page of a TIFF that Pillow does not read, as 8-bit L, LA, RGB or RGBA."""
    import tifffile  # seldom needed

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        _check_size(page.imagewidth, page.imagelength, label, max_pixels)
        mode = TIFF_MODES.get((int(page.photometric), page.samplesperpixel))
        if mode is None or page.axes not in ("YX", "YXS", "SYX"):
            raise InputError(f"{label} is a TIFF of a kind that is not supported: save it as a PNG.")
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
    """The EXIF orientation, 1 to 8, that is still to be applied; Pillow itself has turned a TIFF upright."""
    try:
        return int(image.getexif().get(Tag.Orientation, 1))
    except Exception:  # a damaged EXIF block, in one of the many ways: the picture itself is fine
        return 1


def _levels(values: np.ndarray, label: str, top: int = 65535) -> np.ndarray:
    """Samples of any kind as uint8: integers from 0..top, floats from 0..1, bytes as they are."""
    if values.dtype == np.uint8:
        return values
    is_float = values.dtype.kind == "f"
    if not is_float and values.dtype.kind not in "iu":
        raise InputError(f"{label} holds values of type {values.dtype}, which are not supported: save it as a PNG.")
    low, high, most = values.min(), values.max(), 1 if is_float else top
    if not (low >= 0 and high <= most):  # so put that a NaN fails too
        raise InputError(f"{label} holds values from {low:g} to {high:g}, and only 0 to {most} can be shown.")
    if is_float:
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _eight_bit(image: Image.Image, label: str) -> Image.Image:
    """The picture in a mode of 8 bits a channel; only grey has other ones in Pillow."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    top = 4095 if _tag(image, Tag.BitsPerSample, 16) == 12 else 65535
    levels = _levels(values, label, top)
    if _tag(image, Tag.PhotometricInterpretation, 1) == 0:  # white is zero: Pillow heeds this in 8-bit pictures alone
        levels = 255 - levels
    grey = Image.fromarray(levels)
    if "transparency" in image.info:  # of a PNG: the one grey that is not painted
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _over(ground: str, image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB from any 8-bit mode, with what is transparent laid over the ground, in encoded values as browsers
    do."""
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
        raise ValueError(f"a picture is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")
    return Image.fromarray(rgb)


def _encoded(picture: Image.Image, file_format: str, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes, marked as sRGB."""
    if file_format == "PNG":
        entries = PngInfo()
        entries.add(b"sRGB", b"\1")  # rendering intent: relative colorimetric
        for key, text in metadata.items():
            entries.add_itxt(key, text)
        return _saved(picture, "PNG", pnginfo=entries)
    settings = dict(SETTINGS[file_format])
    if metadata:
        exif = Image.Exif()
        exif[Tag.ImageDescription] = json.dumps(dict(metadata))  # ASCII, as the tag demands: other characters as \uXXXX
        settings["exif"] = exif
    return _saved(picture, file_format, icc_profile=color_profiles.srgb_profile(), **settings)


def _saved(picture: Image.Image, file_format: str, **settings: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, file_format, **settings)
    return buffer.getvalue()


def _parsed_description(description: object) -> dict[str, str]:
    try:
        entries = json.loads(str(description))
    except ValueError:  # another program's description, or none
        return {}
    return {key: str(text) for key, text in entries.items()} if isinstance(entries, dict) else {}
