"""Convert images from their ICC colour profile to sRGB."""

import re
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms


def in_srgb(image: Image.Image, profile_bytes: bytes | None) -> Image.Image:
    """Return the image as RGB in sRGB, converted from its profile, or by Pillow if the profile does not fit."""
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transform_to_srgb(lab, "LAB").apply(image)
    colours = image if image.mode in ("L", "CMYK") else image.convert("L" if image.mode == "1" else "RGB")
    if profile_bytes:
        try:
            return _converted(colours, ImageCms.ImageCmsProfile(BytesIO(profile_bytes)))
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # ignore a damaged profile
    return colours.convert("RGB")


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Convert L, RGB or CMYK to RGB; ignore a profile for another colour space."""
    mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip())
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if mode != image.mode:
        return image.convert("RGB")
    transform = _transform_to_srgb(profile, mode)
    if _is_srgb(profile, transform, mode):
        return image.convert("RGB")
    return transform.apply(image)


def _transform_to_srgb(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        profile,
        ImageCms.ImageCmsProfile(BytesIO(srgb_profile())),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _is_srgb(profile: ImageCms.ImageCmsProfile, transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether the profile has sRGB in its name and behaves so; linear sRGB profiles have the same name."""
    called = re.search(r"\bsrgb", profile.profile.profile_description or "", re.IGNORECASE)
    if called is None or mode == "CMYK":
        return False
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[np.newaxis])
    shown = np.asarray(transform.apply(probe), np.int16)
    # Common sRGB profiles differ by 1 through rounding; 4 also accepts less exact profiles.
    return bool(np.abs(shown - np.asarray(probe.convert("RGB"), np.int16)).max() <= 4)


@cache
def srgb_profile() -> bytes:
    """Return Pillow's sRGB profile with a fixed date, so that the same image always gives the same file."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    date = b"".join(number.to_bytes(2, "big") for number in (2000, 1, 1, 0, 0, 0))
    return profile[:24] + date + profile[36:]  # ICC.1:2022, 7.2.1: the creation date fills bytes 24 to 35
