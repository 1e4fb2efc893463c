"""The layers of VGG19 (Simonyan and Zisserman, 2015, arXiv:1409.1556) and their names.

`block4_conv2` (Keras's name) and `relu4_2` both mean a layer's activations after the ReLU; `conv4_2` means its
activations before the ReLU.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Precision = Literal["float32", "bfloat16"]
Pooling = Literal["max", "average"]
Padding = Literal["zero", "replicate"]

BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and channels of each block

#: Each convolution by Keras's name, from first to last: the kernel's shape (height, width, channels in, channels out).
CONVOLUTIONS: dict[str, tuple[int, int, int, int]] = {}
_channels = 3
for _block, (_count, _width) in enumerate(BLOCKS, start=1):
    for _index in range(1, _count + 1):
        CONVOLUTIONS[f"block{_block}_conv{_index}"] = (3, 3, _channels, _width)
        _channels = _width
FIRST = next(iter(CONVOLUTIONS))

#: Factors after average pooling. An average is smaller than a maximum, which would shrink all later activations. With
#: these factors, the next convolution's activations have the same root mean square as with max pooling (median over the
#: sample pictures at 320 px). No layer follows the fifth pooling.
AVERAGE_SCALES = (1.26, 1.50, 1.35, 1.83, 1.0)


class Variant(NamedTuple):
    """Changes to the trained network."""

    pooling: Pooling = "max"
    padding: Padding = "zero"  # of the first layer: zeros look like a dark frame there, replicated edges do not


AS_TRAINED = Variant()


def layer_name(name: str) -> str:
    """Return the canonical name of a layer: `block4_conv2` for `relu4_2`; others stay the same.

    Raises:
        ValueError: If VGG19 has no such layer.
    """
    found = re.fullmatch(r"(relu|conv)([1-5])_([1-4])", name)
    keras_name = f"block{found[2]}_conv{found[3]}" if found else name
    if keras_name not in CONVOLUTIONS:
        raise ValueError(
            f"VGG19 has no layer {name!r}; its layers are relu1_1 (also called block1_conv1; conv1_1 before the ReLU) "
            f"to relu5_4, and its blocks have {', '.join(str(count) for count, _ in BLOCKS)} layers"
        )
    return name if found and found[1] == "conv" else keras_name


def is_layer(name: str) -> bool:
    """Return whether this is the canonical name of a layer."""
    try:
        return layer_name(name) == name
    except ValueError:
        return False


def convolution(layer: str) -> str:
    """Return Keras's name of a layer's convolution."""
    return layer if layer in CONVOLUTIONS else re.sub(r"conv(\d)_(\d)", r"block\1_conv\2", layer)


def before_relu(layer: str) -> str:
    """Return the name of a convolution's activations before the ReLU."""
    return re.sub(r"block(\d)_conv(\d)", r"conv\1_\2", layer)


def channels(layer: str) -> int:
    """Return the number of channels of a layer."""
    return CONVOLUTIONS[convolution(layer)][-1]


def stride(layer: str) -> int:
    """Return the distance between neighbouring positions of a layer, in px of the image."""
    return 2 ** (int(convolution(layer)[5]) - 1)


def reach(layers: Sequence[str]) -> int:
    """Return how far, in px, pixels outside a position's square can influence the activations of these layers."""
    deepest = max((list(CONVOLUTIONS).index(convolution(layer)) for layer in layers), default=0)
    return sum(stride(layer) for layer in list(CONVOLUTIONS)[: deepest + 1])
