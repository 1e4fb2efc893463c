"""Checkpoints: the state of a run on disk, from which it resumes exactly."""

import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core import paths
from core.errors import StudioError

# A finished run keeps optimizer state of at most this many images: Adam's fits, L-BFGS's history may not.
MOST_STATE_IMAGES = 8
PREFIX = "optimizer-"  # of the optimizer's arrays in the file


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run: preprocessed float32 images `(1, H, W, 3)`, counts since the start, the optimizer's state."""

    image: np.ndarray
    best_image: np.ndarray
    iteration: int = 0
    best_iteration: int = 0
    evaluations: int = 1  # includes the evaluation of `image`
    seconds: float = 0.0
    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict)

    def without_large_state(self) -> "Checkpoint":
        """Return the checkpoint to keep of a finished run: without the optimizer's state if that is large."""
        small = sum(array.nbytes for array in self.optimizer.values()) <= MOST_STATE_IMAGES * self.image.nbytes
        return self if small else dataclasses.replace(self, optimizer={})

    def save(self, path: Path) -> None:
        """Write the file atomically: on a failure, the old file stays."""
        own = {name: value for name, value in vars(self).items() if name != "optimizer"}
        state = {PREFIX + name: array for name, array in self.optimizer.items()}
        with paths.replacing(path) as file:
            np.savez(file, **own, **state)  # type: ignore[arg-type]

    @staticmethod
    def load_best(path: Path) -> tuple[np.ndarray, int]:
        """Return the best image of a checkpoint file and its iteration, without reading the rest.

        Raises:
            StudioError: If the file is missing or damaged.
        """
        with _opened(path) as kept:
            best, iteration = kept["best_image"], kept["best_iteration"].item()
            _check_image(best)
            _check_count(iteration)
            return best, iteration

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Read a checkpoint file.

        Raises:
            StudioError: If the file is missing or damaged.
        """
        with _opened(path) as kept:
            arrays = dict(kept)
            state = {name.removeprefix(PREFIX): arrays.pop(name) for name in list(arrays) if name.startswith(PREFIX)}
            scalars = {name: value.item() for name, value in arrays.items() if value.ndim == 0}
            return Checkpoint(**{**arrays, **scalars}, optimizer=state)._checked()

    def _checked(self) -> "Checkpoint":
        """Return the checkpoint, or raise `ValueError` if a field has a wrong type, shape or value."""
        for image in (self.image, self.best_image):
            _check_image(image)
        if self.image.shape != self.best_image.shape:
            raise ValueError("the images differ in size")
        for count in (self.iteration, self.best_iteration, self.evaluations):
            _check_count(count)
        if not 0 <= self.seconds < float("inf"):
            raise ValueError("the time is not a finite number of seconds")
        return self


def _check_image(image: np.ndarray) -> None:
    """Raise `ValueError` if the array is not a preprocessed image."""
    if image.dtype != np.float32 or image.ndim != 4 or (image.shape[0], image.shape[3]) != (1, 3) or not image.size:
        raise ValueError("an image has a wrong type or shape")
    if not np.isfinite(image).all():
        raise ValueError("an image has pixels that are not finite")


def _check_count(count: object) -> None:
    if type(count) is not int or count < 0:
        raise ValueError("a count is not a whole number of 0 or more")


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Open the arrays of a checkpoint; turn errors into `StudioError`, also those raised while arrays are read."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a regular file")  # reading a pipe would block
        with zipfile.ZipFile(path) as packed:
            if any(info.compress_type != zipfile.ZIP_STORED for info in packed.infolist()):
                raise ValueError("the archive is compressed")  # it could fill the memory when unpacked
        with np.load(path, allow_pickle=False) as kept:
            yield kept
    except FileNotFoundError as error:
        raise StudioError(f"{path.parent.name} has no checkpoint to resume from.") from error
    except Exception as error:  # NumPy raises errors of many types for a damaged archive
        raise StudioError(f"The checkpoint of {path.parent.name} is damaged.") from error
