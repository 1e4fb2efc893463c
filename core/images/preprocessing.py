"""Convert between RGB images and the input of VGG19: BGR minus the ImageNet means."""

import numpy as np

# Mean blue, green and red of the ImageNet training images (Simonyan and Zisserman, 2015, arXiv:1409.1556, section 2.1).
# The numbers are from Keras's preprocess_input in mode "caffe".
MEANS_BGR = np.array([103.939, 116.779, 123.68], np.float32)
NETWORK_MIN = np.float32(0) - MEANS_BGR
NETWORK_MAX = np.float32(255) - MEANS_BGR


def to_network(rgb: np.ndarray) -> np.ndarray:
    """Preprocess an RGB image (H, W, 3), 0 … 255, for the network: float32 (1, H, W, 3), BGR minus the means."""
    return (np.ascontiguousarray(rgb[..., ::-1], np.float32) - MEANS_BGR)[np.newaxis]


def from_network(image: np.ndarray) -> np.ndarray:
    """Invert `to_network`: return RGB float32 (H, W, 3), clipped to 0 … 255, from (1, H, W, 3)."""
    rgb = (image[0].astype(np.float32) + MEANS_BGR)[..., ::-1]
    return np.ascontiguousarray(np.clip(rgb, 0, 255))


def to_uint8(rgb: np.ndarray) -> np.ndarray:
    """Round float values to uint8; clip them to 0 … 255 first."""
    return np.rint(np.clip(rgb, 0, 255)).astype(np.uint8)
