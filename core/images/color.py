"""Color modes: the result has the colors of the style, or keeps those of the photo in one of two ways.

Gatys, Bethge, Hertzmann and Shechtman, 2016, Preserving color in neural artistic style transfer, arXiv:1606.05897.
Images are RGB, `(H, W, 3)`, 0 … 255; what a mode changes comes out as float32.
"""

from collections.abc import Mapping

import numpy as np

# Y, Cb and Cr of red, green and blue: ITU-R BT.601, as in JPEG. Y is the lightness, the others tell the colour.
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
RGB = np.linalg.inv(YCBCR).astype(np.float32)


def _statistics(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = rgb.reshape(-1, 3).astype(np.float64)
    return pixels.mean(0), np.cov(pixels.T)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


class ColorMode:
    """The colors of the style: no image is changed."""

    is_gray = False  # whether the image stays gray while it is optimized

    def convert(self, rgb: np.ndarray) -> np.ndarray:
        """Return an image as the mode optimizes and measures it."""
        return rgb

    def convert_style(self, style: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return a style image as the mode compares with it."""
        return self.convert(style)

    def finish(self, rgb: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return an optimized image in its final colors."""
        return rgb


class Luminance(ColorMode):
    """The colors of the photo: the lightness alone is optimized."""

    is_gray = True

    def convert(self, rgb: np.ndarray) -> np.ndarray:
        return np.repeat(rgb.astype(np.float32) @ YCBCR[0][:, np.newaxis], 3, axis=2)

    def finish(self, rgb: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return the lightness of `rgb` with the colors of the photo.

        Where the screen has no color so light or dark and so colorful, the lightness stays and the color is made paler:
        cut off at 0 and 255 it would be another.
        """
        light = self.convert(rgb)
        color = photo.astype(np.float32) @ YCBCR.T
        color[..., 0] = 0
        color = color @ RGB.T
        room = np.where(color > 0, 255 - light, light) / np.maximum(np.abs(color), 1e-6)
        return light + color * np.clip(room.min(-1, keepdims=True), 0, 1)


class Matched(ColorMode):
    """The colors of the photo: each style image gets them beforehand."""

    def convert_style(self, style: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return the style with the photo's mean color and covariance.

        Of the linear maps that do it this one moves the colors least: A = S^-½ (S^½ P S^½)^½ S^-½ for covariances S and
        P (Olkin and Pukelsheim, 1982).
        """
        (mean, covariance), (wanted_mean, wanted) = _statistics(style), _statistics(photo)
        covariance += 1e-3 * np.eye(3)  # a gray style has no color that could be turned into another
        root = _root(covariance)
        inverse = np.linalg.inv(root)
        turned = inverse @ _root(root @ wanted @ root) @ inverse
        return np.clip((style - mean) @ turned.T + wanted_mean, 0, 255).astype(np.float32)


COLOR_MODES: Mapping[str, ColorMode] = {"style": ColorMode(), "luminance": Luminance(), "matched": Matched()}
