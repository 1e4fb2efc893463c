"""The published run after its description, in plain eager TensorFlow, to compare the engine with.

It uses no code of the product, so that a mistake there cannot appear here too.
"""

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

STYLE_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
CONTENT_LAYER = "block5_conv2"
STYLE_WEIGHT = 1e-2
CONTENT_WEIGHT = 1e3
MEANS = (103.939, 116.779, 123.68)  # blue, green, red


def read_picture(path, longer_side):
    """Return a picture file as the input of the network, `(1, H, W, 3)` float32."""
    picture = Image.open(path).convert("RGB")
    factor = longer_side / max(picture.size)
    picture = picture.resize([round(side * factor) for side in picture.size], Image.Resampling.LANCZOS)
    return keras.applications.vgg19.preprocess_input(np.array(picture, np.float32)[np.newaxis])


def painting_loop(content, style, arrays, iterations):
    """Yield `(style, content, total)` and the image `(1, H, W, 3)` before each of `iterations` updates, and at the end.

    `arrays` holds kernel and bias of every convolution by its name."""
    vgg = keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3))
    for name, kernel_and_bias in arrays.items():
        vgg.get_layer(name).set_weights(kernel_and_bias)
    vgg.trainable = False
    network = keras.Model(vgg.input, [vgg.get_layer(name).output for name in (*STYLE_LAYERS, CONTENT_LAYER)])
    *style_features, _ = network(tf.constant(style))
    wanted_grams = [_gram(features) for features in style_features]
    *_, wanted_content = network(tf.constant(content))

    image = tf.Variable(content)
    adam = keras.optimizers.Adam(learning_rate=5.0, beta_1=0.99, beta_2=0.999, epsilon=1e-1)
    low, high = (tf.constant([value - mean for mean in MEANS], tf.float32) for value in (0.0, 255.0))
    for update in range(iterations + 1):
        with tf.GradientTape() as tape:
            *features, content_features = network(image)
            misses = [
                tf.reduce_mean((_gram(has) - wants) ** 2) for has, wants in zip(features, wanted_grams, strict=True)
            ]
            style_loss = STYLE_WEIGHT * sum(misses) / len(misses)
            content_loss = CONTENT_WEIGHT * tf.reduce_mean((content_features - wanted_content) ** 2)
            total = style_loss + content_loss
        yield tuple(float(loss) for loss in (style_loss, content_loss, total)), image.numpy()
        if update < iterations:
            adam.apply_gradients([(tape.gradient(total, image), image)])
            image.assign(tf.clip_by_value(image, low, high))


def best_of(steps):
    """Return the lowest total loss, the number of its image and the image."""
    best = None
    for number, ((_, _, total), image) in enumerate(steps):
        if best is None or total < best[0]:
            best = total, number, image
    return best


def _gram(features):
    """Return FᵀF / N of a feature map, with its N positions as rows of F."""
    rows = tf.reshape(features, (-1, features.shape[-1]))
    return tf.transpose(rows) @ rows / rows.shape[0]
