"""Where a run stands, on disk: from there it goes on as if it had never stopped."""

import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core import paths
from core.errors import StudioError

# Pictures' worth of optimizer state that is kept of a run that is done: Adam's fits, L-BFGS's history may not.
BRIEF = 8
PREFIX = "optimizer-"  # of the optimizer's arrays in the file


@dataclass(frozen=True)
class Checkpoint:
    """Images are preprocessed, `(1, H, W, 3)`, float32; iterations and evaluations count from the run's beginning."""

    image: np.ndarray
    best_image: np.ndarray
    iteration: int = 0
    best_iteration: int = 0
    evaluations: int = 1  # this image's counted in
    seconds: float = 0.0
    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict)

    def brief(self) -> "Checkpoint":
        """The checkpoint of a run that may well be over: without optimizer state that is large (it begins anew)."""
        small = sum(array.nbytes for array in self.optimizer.values()) <= BRIEF * self.image.nbytes
        return self if small else dataclasses.replace(self, optimizer={})

    def save(self, path: Path) -> None:
        """Write it whole, or leave what was there."""
        own = {name: value for name, value in vars(self).items() if name != "optimizer"}
        state = {PREFIX + name: array for name, array in self.optimizer.items()}
        with paths.replacing(path) as file:
            np.savez(file, **own, **state)  # type: ignore[arg-type]

    @staticmethod
    def load_best(path: Path) -> tuple[np.ndarray, int]:
        """The best image of a checkpoint and its iteration, without the rest, which may be large. Raises as `load`."""
        with _opened(path) as kept:
            best, iteration = kept["best_image"], kept["best_iteration"].item()
            _check_image(best)
            _check_count(iteration)
            return best, iteration

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Raises `StudioError` when there is none, or it is damaged."""
        with _opened(path) as kept:
            arrays = dict(kept)
            state = {name.removeprefix(PREFIX): arrays.pop(name) for name in list(arrays) if name.startswith(PREFIX)}
            scalars = {name: value.item() for name, value in arrays.items() if value.ndim == 0}
            return Checkpoint(**{**arrays, **scalars}, optimizer=state)._checked()

    def _checked(self) -> "Checkpoint":
        """Itself, if it holds what its fields say. Raises `ValueError`."""
        for image in (self.image, self.best_image):
            _check_image(image)
        if self.image.shape != self.best_image.shape:
            raise ValueError("images of two sizes")
        for count in (self.iteration, self.best_iteration, self.evaluations):
            _check_count(count)
        if not 0 <= self.seconds < float("inf"):
            raise ValueError("a time of another kind")
        return self


def _check_image(image: np.ndarray) -> None:
    """Raise `ValueError` for anything else than a preprocessed picture."""
    if image.dtype != np.float32 or image.ndim != 4 or (image.shape[0], image.shape[3]) != (1, 3) or not image.size:
        raise ValueError("an image of another kind")
    if not np.isfinite(image).all():
        raise ValueError("an image with pixels that are no numbers")


def _check_count(count: object) -> None:
    if type(count) is not int or count < 0:
        raise ValueError("a count of another kind")


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a checkpoint, told in a sentence what is wrong with it, also while they are read."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a pipe would be waited for")
        with zipfile.ZipFile(path) as packed:
            if any(info.compress_type != zipfile.ZIP_STORED for info in packed.infolist()):
                raise ValueError("packed, so it may be larger in memory than it is")
        with np.load(path, allow_pickle=False) as kept:
            yield kept
    except FileNotFoundError as error:
        raise StudioError(f"{path.parent.name} has no checkpoint to go on from.") from error
    except Exception as error:  # a damaged archive makes NumPy raise nearly anything
        raise StudioError(f"The checkpoint of {path.parent.name} is damaged.") from error
