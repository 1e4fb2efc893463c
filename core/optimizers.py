"""How the image moves: optimizers that take an evaluated image to the next one."""

import keras
import tensorflow as tf

from core import images
from core.objective import Evaluation, Objective
from core.settings import TransferSettings


class Adam:
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980) as Keras writes it: ε is added to the root of the uncorrected
    second moment (the paper's "epsilon hat"). After every step the image is clipped to the range of real pixels."""

    def __init__(self, image: tf.Tensor, settings: TransferSettings) -> None:
        self._image = tf.Variable(image)
        self._adam = keras.optimizers.Adam(
            settings.learning_rate, settings.beta_1, settings.beta_2, epsilon=settings.epsilon
        )
        self._adam.build([self._image])
        self._move = tf.function(self._descend)

    def step(self, objective: Objective, evaluation: Evaluation) -> Evaluation:
        """One iteration: move along the gradient of `evaluation`, evaluate where that leads."""
        self._move(evaluation.gradient)
        return objective(self._image.read_value())

    def _descend(self, gradient: tf.Tensor) -> None:
        self._adam.apply([gradient], [self._image])
        self._image.assign(tf.clip_by_value(self._image, images.NETWORK_MIN, images.NETWORK_MAX))
