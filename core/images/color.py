"""Color modes: the result has the colors of the style or of the photo.

Gatys, Bethge, Hertzmann and Shechtman, 2016, Preserving color in neural artistic style transfer, arXiv:1606.05897.
Images are RGB `(H, W, 3)`, 0 … 255; a changed image is float32.
"""

from collections.abc import Mapping

import numpy as np

# From RGB to Y (lightness), Cb and Cr (color): ITU-R BT.601, as in JPEG
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
RGB = np.linalg.inv(YCBCR).astype(np.float32)


def _statistics(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = rgb.reshape(-1, 3).astype(np.float64)
    return pixels.mean(0), np.cov(pixels.T)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


class ColorMode:
    """The colors of the style image; this mode changes no image."""

    is_gray = False  # whether the image is gray during the optimization

    def convert(self, rgb: np.ndarray) -> np.ndarray:
        """Convert an image for the optimization."""
        return rgb

    def convert_style(self, style: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Convert a style image for the optimization."""
        return self.convert(style)

    def finish(self, rgb: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return an optimized image in its final colors."""
        return rgb


class Luminance(ColorMode):
    """The colors of the photo: only the lightness is optimized."""

    is_gray = True

    def convert(self, rgb: np.ndarray) -> np.ndarray:
        """Return the lightness as a gray image."""
        return np.repeat(rgb.astype(np.float32) @ YCBCR[0][:, np.newaxis], 3, axis=2)

    def finish(self, rgb: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return the lightness of `rgb` with the colors of the photo.

        Where a color is outside 0 … 255 at this lightness, reduce its saturation; clipping would change its hue.
        """
        light = self.convert(rgb)
        color = photo.astype(np.float32) @ YCBCR.T
        color[..., 0] = 0
        color = color @ RGB.T
        room = np.where(color > 0, 255 - light, light) / np.maximum(np.abs(color), 1e-6)
        return light + color * np.clip(room.min(-1, keepdims=True), 0, 1)


class Matched(ColorMode):
    """The colors of the photo: each style image is recolored before the optimization."""

    def convert_style(self, style: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Return the style image with the mean color and the color covariance of the photo.

        The linear map with the smallest change of the colors is A = S^-½ (S^½ P S^½)^½ S^-½ for the covariances S of
        the style and P of the photo (Olkin and Pukelsheim, 1982).
        """
        (mean, covariance), (wanted_mean, wanted) = _statistics(style), _statistics(photo)
        covariance += 1e-3 * np.eye(3)  # the covariance of a gray style cannot be inverted
        root = _root(covariance)
        inverse = np.linalg.inv(root)
        turned = inverse @ _root(root @ wanted @ root) @ inverse
        return np.clip((style - mean) @ turned.T + wanted_mean, 0, 255).astype(np.float32)


COLOR_MODES: Mapping[str, ColorMode] = {"style": ColorMode(), "luminance": Luminance(), "matched": Matched()}
