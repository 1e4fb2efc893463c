"""Masks: where each style applies in the image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def blend(styles: int, weights: Sequence[float]) -> np.ndarray:
    """Return the weights of the styles, `(S,)`, with the sum 1; they are equal if none are given."""
    given = np.array(weights or [1.0] * styles, np.float32)
    return given / given.sum()


def regions(masks: Sequence[np.ndarray | None], weights: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the guides `(R, H, W)` of R regions, 0 … 1, and how each region mixes the S styles, `(R, S)`.

    Each style with a mask `(H, W)` has its own region. All styles without a mask share the region outside all masks,
    blended by their `weights` `(S,)`. If there are no masks, the whole image is one region, and the guides are `None`.
    """
    drawn = [number for number, mask in enumerate(masks) if mask is not None]
    if not drawn:
        return None, weights[np.newaxis]
    guides = [np.asarray(masks[number], np.float32) for number in drawn]
    mixes = list(np.eye(len(weights), dtype=np.float32)[drawn])
    rest = np.array([0 if number in drawn else weight for number, weight in enumerate(weights)], np.float32)
    if rest.any():
        guides.append(np.clip(1 - np.sum(guides, 0), 0, 1))
        mixes.append(rest / rest.sum())
    return np.stack(guides), np.stack(mixes)


def mask_at(mask: Image.Image | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the mask at the height and width in `shape`: `(H, W)`, float32 in 0 … 1."""
    if mask is None:
        return None
    grey = mask.convert("L").resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(grey, np.float32) / 255
