"""The specification of a run, and the digest of everything that its result depends on."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from core.names import SEPARATOR
from core.runs.record import Steering
from core.settings import TransferSettings


@dataclass(frozen=True)
class Style:
    """A style of a run. Its weight is in the setting `style_blend`."""

    name: str
    picture: Image.Image
    mask: Image.Image | None = None  # white where the style applies; `None`: where no other style's mask is white


@dataclass(frozen=True)
class RunSpec:
    """The styles and settings of a run. All pictures are RGB and upright, as `codec.read_image` returns them."""

    styles: Sequence[Style]
    settings: TransferSettings
    preset: str
    kept: Image.Image | None = None  # white where the photo stays unchanged
    start: Image.Image | None = None  # the picture to start from; it overrides the settings
    start_name: str = ""
    steering: Sequence[Steering] = ()  # changes of weights to repeat

    @property
    def style_name(self) -> str:
        """Return the names of all style images, joined."""
        return SEPARATOR.join(style.name for style in self.styles)

    def digest(self) -> bytes:
        """Return a digest of the pictures and the steering, without the settings: they differ between film frames."""
        pictures, masks = [style.picture for style in self.styles], [style.mask for style in self.styles]
        return pictures_digest(self.style_name, (*pictures, None, *masks, None, self.kept, self.start), self.steering)


def pictures_digest(name: str, pictures: Iterable[Image.Image | None], steering: Sequence[Steering] = ()) -> bytes:
    """Return the SHA-256 of the name, of the pictures' pixels and of the steering; `None` is a missing picture."""
    digest = hashlib.sha256(name.encode())
    for picture in pictures:
        digest.update(f"{picture.size} {picture.mode}".encode() + picture.tobytes() if picture else b"none")
    for change in steering:
        digest.update(change.model_dump_json().encode())
    return digest.digest()


def made_of(spec: bytes, settings: TransferSettings, photo: bytes, before: str = "") -> str:
    """Return the digest of everything that a result depends on.

    Args:
        spec: `RunSpec.digest`.
        settings: The run's settings.
        photo: The bytes of the photo's file.
        before: For a film's frame, the `made_of` of the frame before.
    """
    digest = hashlib.sha256(spec + settings.shaping_result().encode())
    digest.update(before.encode())
    digest.update(photo)
    return digest.hexdigest()
