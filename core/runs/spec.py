"""What a run is asked to paint, and the digest of everything that its result depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from core.runs import store
from core.runs.record import Steering
from core.runs.run import Run
from core.settings import TransferSettings


@dataclass(frozen=True)
class RunSpec:
    """How photos are painted: all of a run but its photo. The pictures are as `runs.create` takes them."""

    settings: TransferSettings
    preset: str
    styles: Sequence[Image.Image]
    style_name: str
    masks: Sequence[Image.Image | None] = ()
    kept: Image.Image | None = None
    start: Image.Image | None = None
    start_name: str = ""
    steering: Sequence[Steering] = ()

    def new_run(self, photo: Image.Image, name: str, owner: str = "", batch: str = "", job: str = "") -> Run:
        """Takes and raises what `runs.create` does."""
        return store.create(
            photo,
            self.styles[0],
            self.settings,
            self.preset,
            name,
            self.style_name,
            self.start,
            self.start_name,
            self.steering,
            owner,
            more_styles=self.styles[1:],
            masks=self.masks,
            kept=self.kept,
            batch=batch,
            job=job,
        )

    def digest(self) -> bytes:
        """The same for the same pictures and steering. The settings are not in it: a film's frames differ in them."""
        digest = hashlib.sha256(self.style_name.encode())
        for picture in (*self.styles, None, *self.masks, None, self.kept, self.start):
            digest.update(f"{picture.size} {picture.mode}".encode() + picture.tobytes() if picture else b"none")
        for change in self.steering:
            digest.update(change.model_dump_json().encode())
        return digest.digest()


def made_of(spec: bytes, settings: TransferSettings, photo: bytes, before: str = "") -> str:
    """The digest of all that a result depends on: `Manner.digest`, the settings, the photo as a file has it, and of a
    film's frame what the frame before it was made of."""
    digest = hashlib.sha256(spec + settings.shaping_result().encode())
    digest.update(before.encode())
    digest.update(photo)
    return digest.hexdigest()
