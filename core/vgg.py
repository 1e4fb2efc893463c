"""The frozen feature network: VGG19 (Simonyan and Zisserman, 2015, arXiv:1409.1556) as Keras builds and names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import keras

    from core.weights import Weights

Precision = Literal["float32", "bfloat16"]

BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and channels of each block

#: Every convolution by Keras's name, first to last, with its kernel's shape (height, width, channels in, channels out).
CONVOLUTIONS: dict[str, tuple[int, int, int, int]] = {}
_channels = 3
for _block, (_count, _width) in enumerate(BLOCKS, start=1):
    for _index in range(1, _count + 1):
        CONVOLUTIONS[f"block{_block}_conv{_index}"] = (3, 3, _channels, _width)
        _channels = _width
FIRST = next(iter(CONVOLUTIONS))


def feature_network(weights: Weights, layers: Sequence[str], precision: Precision = "float32") -> keras.Model:
    """The part of VGG19 up to the deepest of `layers`, frozen.

    Maps preprocessed images `(N, H, W, 3)`, float32, to a dict of the named layers' activations after the ReLU,
    `(N, H/2^b, W/2^b, C)`. In bfloat16 all is computed and returned in it but for the first convolution: a picture
    rounded to its 8 bits would lose half a grey level, and that layer is the smallest of all.
    """
    import keras  # here, so that the names above can be had without TensorFlow

    def of_precision(layer: keras.Layer) -> keras.Layer:
        exact = layer.name == FIRST or isinstance(layer, keras.layers.InputLayer)
        return layer.from_config({**layer.get_config(), "dtype": "float32" if exact else precision})

    vgg19 = keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3))
    if precision != "float32":
        vgg19 = keras.models.clone_model(vgg19, clone_function=of_precision)
    for name, (kernel, bias) in weights.layers.items():
        vgg19.get_layer(name).set_weights([kernel, bias])
    vgg19.trainable = False
    return keras.Model(vgg19.input, {name: vgg19.get_layer(name).output for name in layers})
