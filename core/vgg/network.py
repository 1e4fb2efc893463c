"""Build the frozen VGG19 (Simonyan and Zisserman, 2015, arXiv:1409.1556) as a Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.vgg.layers import AS_TRAINED, AVERAGE_SCALES, FIRST, Precision, Variant, before_relu, convolution

if TYPE_CHECKING:
    import keras

    from core.vgg.weights import Weights


#: Convolutions that several networks share, by name, precision, padding and activation.
Convolutions = dict[tuple[str, ...], Any]


def feature_network(
    weights: Weights,
    layers: Sequence[str],
    precision: Precision = "float32",
    variant: Variant = AS_TRAINED,
    shared: Convolutions | None = None,
) -> keras.Model:
    """Return VGG19 up to the deepest of `layers`, frozen.

    The model maps preprocessed float32 images `(N, H, W, 3)` to a dict of the layers' activations
    `(N, H/2^b, W/2^b, C)`. With bfloat16, it computes and returns everything in bfloat16 except the first convolution:
    rounding the image to 8 bits would lose half a grey level, and that layer is the smallest.

    Networks with the same `shared` hold each convolution's weights, up to 80 MB in all, only once. TensorFlow never
    frees a traced network (tensorflow issue 124972), so each would otherwise occupy them until the process ends.
    """
    import keras  # local, so that other modules can import this one without TensorFlow

    features: dict[str, Any] = {}
    shared = {} if shared is None else shared
    new: set[str] = set()
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
        if layer.name not in weights.layers:
            return layer.from_config(config)
        key = layer.name, str(config["dtype"]), config["padding"], str(config["activation"])
        if key not in shared:
            shared[key] = layer.from_config(config)
            new.add(layer.name)
        return shared[key]

    def applied(layer: keras.Layer, image: Any, *rest: Any, **named: Any) -> Any:
        if layer.name == FIRST and variant.padding == "replicate":
            image = keras.ops.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), "symmetric")  # repeats the edge pixel
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
    for name in new:
        vgg19.get_layer(name).set_weights(weights.layers[name])
    vgg19.trainable = False
    return keras.Model(vgg19.input, {name: features[name] for name in layers})
