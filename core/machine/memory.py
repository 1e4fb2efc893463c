"""Whether there is memory and disk for a run, told before it begins."""

import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

from core import paths
from core.errors import InputError
from core.images.geometry import resized_shape
from core.machine import hardware
from core.settings import SETTINGS, TransferSettings
from core.vgg.layers import channels, reach, stride

# What a process that paints holds on a processor, at its peak, measured at 256, 512 and 1024 px in both precisions
# (docs/reliability.md has the figures). On a GPU nothing was measured yet: there the same figures are an estimate of
# what lies in the card's memory.
BASE_BYTES = 1.2e9
BYTES_PER_PIXEL = 2300.0
NUMBER_BYTES = 4.0  # of a float32
PICTURE_BYTES = 12.0  # of a float32 picture, per pixel
PICTURES_PER_STEP = 2  # that L-BFGS keeps of each step that it remembers
FRAME_BYTES = 1.5  # of a JPEG, per pixel: a picture full of grain

# Of the picture's own size, beside the network's activations, where it is computed in tiles: photo, image, gradient,
# best, Adam's moments, and what a stage begins with while the one before is kept. Measured at 2048 and 4096 px.
PICTURES_KEPT = 15
PAINTING_PICTURES = 3  # of a painting's own size: as it is read, as the network takes it, and what is between
TILES = (2048, 1536, 1024, 768, 512, 384, 256)  # px

CGROUP = Path("/sys/fs/cgroup")

Shape = tuple[int, int]  # height and width in px


def check_limit(settings: TransferSettings, shape: Shape, masks: int = 0) -> None:
    """Raise `InputError` if a run needs more memory than its settings allow. `masks`: how many paintings have one."""
    memory = partial(_least, settings, masks=masks)
    if settings.memory and memory(shape) > (limit := settings.memory * 1e9):
        there_is = f"the setting memory allows {_words(limit)}"
        raise InputError(_refusal("memory", there_is, "allow more", memory, limit, shape))


def check(
    settings: TransferSettings, shape: Shape, on_gpu: bool = False, still_to_be_taken: float = 0.0, masks: int = 0
) -> None:
    """Raise `InputError` if a run does not fit into memory (a GPU's own) or on the disk, with the size that would.
    `still_to_be_taken`: bytes of the machine's memory that other runs will take yet."""
    memory = partial(_least, settings, masks=masks)
    disk = partial(_needed_on_disk, settings)
    check_limit(settings, shape, masks)
    if memory(shape) > (there := _allowed(settings, on_gpu, still_to_be_taken)):
        what, remedy = ("memory on the GPU", "end what else uses it") if on_gpu else ("memory", "close other programs")
        raise InputError(_refusal(what, f"{_words(there)} are there", remedy, memory, there, shape))
    if disk(shape) > (free := float(shutil.disk_usage(existing(paths.runs())).free)):
        remedy = f"make room in {paths.home()}"
        raise InputError(_refusal("disk", f"{_words(free)} are there", remedy, disk, free, shape))


def estimate(settings: TransferSettings, shape: Shape) -> float:
    """Bytes that a process holds at most that paints such a run."""
    return min(_needed(settings, shape, max(shape)), settings.memory * 1e9 or math.inf)


def tile_sides(
    settings: TransferSettings,
    shape: Shape,
    paintings: Sequence[Shape],
    on_gpu: bool = False,
    still_to_be_taken: float = 0.0,
    masks: int = 0,
) -> tuple[int | None, int | None]:
    """Return the sides in px of the tiles for a photo and for paintings of such shapes, so that the run holds no more
    than it may; `None` if the whole picture fits."""
    allowed = _allowed(settings, on_gpu, still_to_be_taken)
    still = settings.changed(optimizer="adam", style_scale=1.0)  # no optimizer moves a painting
    largest = max(paintings, key=math.prod)
    return _tile_side(settings, shape, allowed, masks), _tile_side(still, largest, allowed)


def _tile_side(settings: TransferSettings, shape: Shape, allowed: float, masks: int = 0) -> int | None:
    if _needed(settings, shape, max(shape), masks) <= allowed:
        return None
    return next((side for side in TILES if _needed(settings, shape, side, masks) <= allowed), TILES[-1])


def _allowed(settings: TransferSettings, on_gpu: bool, still_to_be_taken: float) -> float:
    there = hardware.card_memory() if on_gpu else available_memory() - still_to_be_taken
    return max(min(settings.memory * 1e9 or math.inf, math.inf if there is None else there), 0.0)


def _least(settings: TransferSettings, shape: Shape, masks: int = 0) -> float:
    """Bytes that a run needs at least: of a small picture, tiles would need more than all of it."""
    return min(_needed(settings, shape, side, masks) for side in (max(shape), TILES[-1]))


def _needed(settings: TransferSettings, shape: Shape, side: int, masks: int = 0) -> float:
    """Bytes of a run that computes in tiles of `side` px, or in one piece where none is larger."""
    height, width = shape
    regions = masks + 1 if masks else 0
    network = BYTES_PER_PIXEL + regions * sum(map(_layer_bytes, settings.style_layers))  # each region has its own
    history = 2 * _history_bytes(settings)  # a checkpoint copies it
    always = BASE_BYTES + height * width * (_beside_bytes(settings, regions) + history)
    if max(shape) <= side:
        return always + height * width * network
    border = 2 * reach((*settings.style_layers, *settings.content_layers))
    seen = min(height, side + border) * min(width, side + border)
    return always + seen * network + height * width * PICTURES_KEPT * PICTURE_BYTES


def _beside_bytes(settings: TransferSettings, regions: int) -> float:
    """Bytes per pixel beyond the measured runs': of content layers, a larger painting and guides."""
    usual, content = (sum(map(_layer_bytes, each.content_layers)) for each in (TransferSettings(), settings))
    painting = PAINTING_PICTURES * PICTURE_BYTES * (settings.style_scale**2 - 1)
    guides = regions * NUMBER_BYTES * (2 + sum(1 / stride(layer) ** 2 for layer in settings.style_layers))
    return max(content - usual, 0.0) + max(painting, 0.0) + guides


def _layer_bytes(layer: str) -> float:
    """Of a layer's activations in float32, for each pixel of the picture."""
    return NUMBER_BYTES * channels(layer) / stride(layer) ** 2


def available_memory() -> float:
    """Bytes that this process may hold in all, with what it holds already: of the machine's, or its container's."""
    own = psutil.Process().memory_info().rss
    return own + max(min(float(psutil.virtual_memory().available), _left_to_the_container()), 0.0)


def _needed_on_disk(settings: TransferSettings, shape: Shape) -> float:
    """Bytes of a checkpoint and the one that takes its place, the result and the one before it, frames and inputs."""
    frames = settings.iterations // settings.frame_every + 1
    per_pixel = 2 * (4 * PICTURE_BYTES + _history_bytes(settings)) + 3 * PICTURE_BYTES + frames * FRAME_BYTES
    return math.prod(shape) * per_pixel


def _history_bytes(settings: TransferSettings) -> float:
    if settings.optimizer != "l-bfgs":
        return 0.0
    return PICTURES_PER_STEP * PICTURE_BYTES * min(settings.history, settings.iterations)


def _refusal(
    what: str, there_is: str, remedy: str, needed: Callable[[Shape], float], there: float, shape: Shape
) -> str:
    height, width = shape
    sizes = range(max(shape) // 16 * 16, int(SETTINGS["size"].minimum or 1) - 1, -16)
    fits = next((size for size in sizes if needed(resized_shape(width, height, size)) <= there), None)
    smaller = f"choose {fits} px or less, or " if fits else ""
    return (
        f"A run of {width} × {height} pixels needs about {_words(needed(shape))} of {what}, and {there_is}: "
        f"{smaller}{remedy}."
    )


def _words(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _left_to_the_container() -> float:
    """Bytes until the limit of this process's control group (version 2, or 1), where there is one."""
    for limit, used, unneeded in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (float((CGROUP / name).read_text()) for name in (limit, used))  # "max" is no number
            lines = (CGROUP / limit).with_name("memory.stat").read_text().splitlines()
            files = next((float(line.split()[1]) for line in lines if line.split()[0] == unneeded), 0.0)
            return most - now + files
        except (OSError, ValueError):
            continue
    return math.inf


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())
