"""Estimate the memory and disk space of a run, and check before it starts that both suffice."""

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

# Peak memory of a run on a CPU, measured at 256, 512 and 1024 px in both precisions (figures in docs/reliability.md).
# On a GPU nothing was measured yet: the same figures serve as an estimate of the GPU's memory.
BASE_BYTES = 1.2e9
BYTES_PER_PIXEL = 2300.0
NUMBER_BYTES = 4.0  # of a float32
PICTURE_BYTES = 12.0  # of a float32 picture, per pixel
PICTURES_PER_STEP = 2  # L-BFGS keeps two pictures for each step in its history
FRAME_BYTES = 1.5  # of a JPEG, per pixel: a grainy picture

# Full-size pictures in memory during a run in tiles, beside the network's activations: content image, image, gradient,
# best image, Adam's moments, and the start of a stage while the last stage still exists. Measured at 2048 and 4096 px.
PICTURES_KEPT = 15
PAINTING_PICTURES = 3  # copies of a style image: as read, as the network's input, and one in between
TILES = (2048, 1536, 1024, 768, 512, 384, 256)  # px

CGROUP = Path("/sys/fs/cgroup")

Shape = tuple[int, int]  # height and width in px


def check_limit(settings: TransferSettings, shape: Shape, masks: int = 0) -> None:
    """Check a run, with `masks` masks of style images, against the memory limit in its settings.

    Raises:
        InputError: If the run needs more memory than its settings allow.
    """
    memory = partial(_least, settings, masks=masks)
    if settings.memory and memory(shape) > (limit := settings.memory * 1e9):
        there_is = f"the setting memory allows {_words(limit)}"
        raise InputError(_refusal("memory", there_is, "allow more", memory, limit, shape))


def check(
    settings: TransferSettings, shape: Shape, on_gpu: bool = False, still_to_be_taken: float = 0.0, masks: int = 0
) -> None:
    """Check that a run fits into memory and on the disk.

    Args:
        settings: The run's settings.
        shape: Height and width of the result in px.
        on_gpu: Whether to check the GPU's memory instead of the machine's.
        still_to_be_taken: Bytes of the machine's memory that other runs will still take.
        masks: How many style images have a mask.

    Raises:
        InputError: If the run does not fit. The message names the largest size that does.
    """
    memory = partial(_least, settings, masks=masks)
    disk = partial(_needed_on_disk, settings)
    check_limit(settings, shape, masks)
    if memory(shape) > (there := _allowed(settings, on_gpu, still_to_be_taken)):
        what, remedy = ("memory on the GPU", "end what else uses it") if on_gpu else ("memory", "close other programs")
        raise InputError(_refusal(what, f"{_words(there)} are available", remedy, memory, there, shape))
    if disk(shape) > (free := float(shutil.disk_usage(existing(paths.runs())).free)):
        remedy = f"free space in {paths.home()}"
        raise InputError(_refusal("disk space", f"{_words(free)} are available", remedy, disk, free, shape))


def estimate(settings: TransferSettings, shape: Shape) -> float:
    """Return the most bytes of memory that a process with such a run holds."""
    return min(_needed(settings, shape, max(shape)), settings.memory * 1e9 or math.inf)


def tile_sides(
    settings: TransferSettings,
    shape: Shape,
    paintings: Sequence[Shape],
    on_gpu: bool = False,
    still_to_be_taken: float = 0.0,
    masks: int = 0,
) -> tuple[int | None, int | None]:
    """Return the tile sides in px, for the image and for the style images, with which the run fits into memory.

    Args:
        settings: The run's settings.
        shape: Height and width of the result in px.
        paintings: Heights and widths of the style images in px.
        on_gpu: Whether the GPU's memory counts instead of the machine's.
        still_to_be_taken: Bytes of the machine's memory that other runs will still take.
        masks: How many style images have a mask.

    Returns:
        Both sides; `None` instead of a side if the whole picture fits.
    """
    allowed = _allowed(settings, on_gpu, still_to_be_taken)
    still = settings.changed(optimizer="adam", style_scale=1.0)  # style images need no optimizer memory
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
    """Return the fewest bytes that a run needs: whole or in tiles, since tiles cost a small picture more."""
    return min(_needed(settings, shape, side, masks) for side in (max(shape), TILES[-1]))


def _needed(settings: TransferSettings, shape: Shape, side: int, masks: int = 0) -> float:
    """Return the bytes of a run that computes in tiles of `side` px, or whole if the picture is not larger."""
    height, width = shape
    regions = masks + 1 if masks else 0
    network = BYTES_PER_PIXEL + regions * sum(map(_layer_bytes, settings.style_layers))  # a copy for each region
    history = 2 * _history_bytes(settings)  # a checkpoint copies it
    always = BASE_BYTES + height * width * (_beside_bytes(settings, regions) + history)
    if max(shape) <= side:
        return always + height * width * network
    border = 2 * reach((*settings.style_layers, *settings.content_layers))
    seen = min(height, side + border) * min(width, side + border)
    return always + seen * network + height * width * PICTURES_KEPT * PICTURE_BYTES


def _beside_bytes(settings: TransferSettings, regions: int) -> float:
    """Return the bytes per pixel that the measured runs did not need: content layers, larger style images, masks."""
    usual, content = (sum(map(_layer_bytes, each.content_layers)) for each in (TransferSettings(), settings))
    painting = PAINTING_PICTURES * PICTURE_BYTES * (settings.style_scale**2 - 1)
    guides = regions * NUMBER_BYTES * (2 + sum(1 / stride(layer) ** 2 for layer in settings.style_layers))
    return max(content - usual, 0.0) + max(painting, 0.0) + guides


def _layer_bytes(layer: str) -> float:
    """Return the bytes of a layer's float32 activations per pixel of the picture."""
    return NUMBER_BYTES * channels(layer) / stride(layer) ** 2


def available_memory() -> float:
    """Return how many bytes this process may hold in total, within the limits of the machine and the container."""
    own = psutil.Process().memory_info().rss
    return own + max(min(float(psutil.virtual_memory().available), _left_to_the_container()), 0.0)


def _needed_on_disk(settings: TransferSettings, shape: Shape) -> float:
    """Return the bytes of two checkpoints and two results (old and new), frames and inputs."""
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
    """Return the bytes left until the limit of this process's control group (version 2 or 1); infinite without one."""
    for limit, used, unneeded in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (float((CGROUP / name).read_text()) for name in (limit, used))  # "max" raises ValueError
            lines = (CGROUP / limit).with_name("memory.stat").read_text().splitlines()
            files = next((float(line.split()[1]) for line in lines if line.split()[0] == unneeded), 0.0)
            return most - now + files
        except (OSError, ValueError):
            continue
    return math.inf


def existing(folder: Path) -> Path:
    """Return the folder if it exists, otherwise its nearest existing parent."""
    return next(each for each in (folder, *folder.parents) if each.exists())
