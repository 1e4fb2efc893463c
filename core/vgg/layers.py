"""The frozen feature network: VGG19 (Simonyan and Zisserman, 2015, arXiv:1409.1556) as Keras builds and names it.

A layer is called as Keras calls it, `block4_conv2`, or `relu4_2`, which is the same: its activations after the ReLU.
`conv4_2` are the same layer's before the ReLU.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Precision = Literal["float32", "bfloat16"]
Pooling = Literal["max", "average"]
Padding = Literal["zero", "replicate"]

BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and channels of each block

#: Every convolution by Keras's name, first to last, with its kernel's shape (height, width, channels in, channels out).
CONVOLUTIONS: dict[str, tuple[int, int, int, int]] = {}
_channels = 3
for _block, (_count, _width) in enumerate(BLOCKS, start=1):
    for _index in range(1, _count + 1):
        CONVOLUTIONS[f"block{_block}_conv{_index}"] = (3, 3, _channels, _width)
        _channels = _width
FIRST = next(iter(CONVOLUTIONS))

#: An average of four activations is smaller than their largest, and all that follows would be too. With these factors
#: after the pools, the next convolution's activations have the root mean square that they have with max pooling
#: (median over the sample pictures at 320 px); nothing follows the fifth.
AVERAGE_SCALES = (1.26, 1.50, 1.35, 1.83, 1.0)


class Variant(NamedTuple):
    """What of the trained network is done otherwise."""

    pooling: Pooling = "max"
    padding: Padding = "zero"  # of the image alone: replicated edges are no dark frame for the first layer to see


AS_TRAINED = Variant()


def layer_name(name: str) -> str:
    """The one name that is used for a layer. Raises `ValueError` for one that VGG19 has not."""
    found = re.fullmatch(r"(relu|conv)([1-5])_([1-4])", name)
    keras_name = f"block{found[2]}_conv{found[3]}" if found else name
    if keras_name not in CONVOLUTIONS:
        raise ValueError(
            f"VGG19 has no layer {name!r}; it has relu1_1, also called block1_conv1 (and conv1_1, before the ReLU), to "
            f"relu5_4, with {', '.join(str(count) for count, _ in BLOCKS)} in its blocks"
        )
    return name if found and found[1] == "conv" else keras_name


def is_layer(name: str) -> bool:
    """Whether this is the one name that is used for a layer."""
    try:
        return layer_name(name) == name
    except ValueError:
        return False


def convolution(layer: str) -> str:
    """Keras's name of the convolution that a layer belongs to."""
    return layer if layer in CONVOLUTIONS else re.sub(r"conv(\d)_(\d)", r"block\1_conv\2", layer)


def before_relu(layer: str) -> str:
    """What a convolution's layer is called before its ReLU."""
    return re.sub(r"block(\d)_conv(\d)", r"conv\1_\2", layer)


def channels(layer: str) -> int:
    return CONVOLUTIONS[convolution(layer)][-1]


def stride(layer: str) -> int:
    """Pixels from one of its positions to the next."""
    return 2 ** (int(convolution(layer)[5]) - 1)


def reach(layers: Sequence[str]) -> int:
    """How many pixels beside a position's own square can change what any of the layers has there."""
    deepest = max((list(CONVOLUTIONS).index(convolution(layer)) for layer in layers), default=0)
    return sum(stride(layer) for layer in list(CONVOLUTIONS)[: deepest + 1])
