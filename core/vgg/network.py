"""Build the frozen VGG19 (Simonyan and Zisserman, 2015, arXiv:1409.1556) as a Keras model of named layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.vgg.layers import AS_TRAINED, AVERAGE_SCALES, FIRST, Precision, Variant, before_relu, convolution

if TYPE_CHECKING:
    import keras

    from core.vgg.weights import Weights


def feature_network(
    weights: Weights, layers: Sequence[str], precision: Precision = "float32", variant: Variant = AS_TRAINED
) -> keras.Model:
    """The part of VGG19 up to the deepest of `layers`, frozen.

    Maps preprocessed images `(N, H, W, 3)`, float32, to a dict of the named layers' activations,
    `(N, H/2^b, W/2^b, C)`. In bfloat16 all is computed and returned in it but for the first convolution: a picture
    rounded to its 8 bits would lose half a grey level, and that layer is the smallest of all.
    """
    import keras  # here, so that the names above can be had without TensorFlow

    features: dict[str, Any] = {}
    split = {convolution(layer) for layer in layers if convolution(layer) != layer}

    def made(layer: keras.Layer) -> keras.Layer:
        exact = layer.name == FIRST or isinstance(layer, keras.layers.InputLayer)
        config = {**layer.get_config(), "dtype": "float32" if exact else precision}
        if layer.name == FIRST and variant.padding == "replicate":
            config["padding"] = "valid"
        if layer.name in split:
            config["activation"] = None
        if isinstance(layer, keras.layers.MaxPooling2D) and variant.pooling == "average":
            return keras.layers.AveragePooling2D.from_config(config)
        return layer.from_config(config)

    def applied(layer: keras.Layer, image: Any, *rest: Any, **named: Any) -> Any:
        if layer.name == FIRST and variant.padding == "replicate":
            image = keras.ops.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), "symmetric")  # of one pixel: its own value
        activations = layer(image, *rest, **named)
        if isinstance(layer, keras.layers.AveragePooling2D):
            return activations * AVERAGE_SCALES[int(layer.name[5]) - 1]
        if layer.name in split:
            features[before_relu(layer.name)] = activations
            activations = keras.ops.relu(activations)
        features[layer.name] = activations
        return activations

    trained = keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3))
    vgg19 = keras.models.clone_model(trained, clone_function=made, call_function=applied)
    for name, (kernel, bias) in weights.layers.items():
        vgg19.get_layer(name).set_weights([kernel, bias])
    vgg19.trainable = False
    return keras.Model(vgg19.input, {name: features[name] for name in layers})
