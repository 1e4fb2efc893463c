"""Optimizers: update the image step by step and keep each pixel within its limits."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from core.errors import StudioError
from core.images import preprocessing
from core.settings import LossWeights, TransferSettings
from core.transfer.objective import EvaluatedImage, Objective


class Optimizer(ABC):
    """An optimizer of an image `(1, H, W, 3)`."""

    @abstractmethod
    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """Do one iteration: return the next image, evaluated."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return the state as arrays, for `restore`."""

    @abstractmethod
    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Set the state to what `state` of the same class returned."""

    def average(self) -> tf.Tensor | None:
        """Return the mean of the last images, or `None` if the optimizer computes none."""
        return None

    def state_at(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Return the state for the image at another size in px, or nothing if it does not apply there."""
        return {}


def optimizer(
    image: tf.Tensor,
    settings: TransferSettings,
    state: Mapping[str, np.ndarray] | None = None,
    limits: "Limits | None" = None,
) -> Optimizer:
    """Return the optimizer that the settings choose.

    Args:
        image: The initial image `(1, H, W, 3)`, preprocessed.
        settings: The optimizer's settings.
        state: The state of an earlier optimizer for the same image, to restore.
        limits: The range of each pixel, by default 0 … 255 in RGB.

    Raises:
        StudioError: If the state does not fit the optimizer or the image.
    """
    made: Optimizer = (LBFGS if settings.optimizer == "l-bfgs" else Adam)(image, settings, limits or REAL_PIXELS)
    if settings.averaging:
        made = Averaged(made, image, settings.averaging)
    if state:
        try:
            made.restore(state)
        except (LookupError, TypeError, ValueError, OverflowError, tf.errors.OpError) as error:
            raise StudioError("The checkpoint is damaged: the state of its optimizer is invalid.") from error
    return made


class Limits(NamedTuple):
    """The smallest and largest preprocessed value of each pixel, `(1, H, W, 3)`, or of each channel, `(3,)`."""

    least: np.ndarray
    greatest: np.ndarray

    def clip(self, image: tf.Tensor) -> tf.Tensor:
        """Return the image with each value clipped to the limits."""
        return tf.clip_by_value(image, self.least, self.greatest)


REAL_PIXELS = Limits(preprocessing.NETWORK_MIN, preprocessing.NETWORK_MAX)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980) as in Keras; each step clips the image to its limits.

    Keras adds ε to the root of the uncorrected second moment (the paper's "epsilon hat").
    """

    def __init__(self, image: tf.Tensor, settings: TransferSettings, limits: Limits = REAL_PIXELS) -> None:
        self._limits = limits
        self._image = tf.Variable(image)
        self._adam = keras.optimizers.Adam(
            settings.learning_rate, settings.beta_1, settings.beta_2, epsilon=settings.epsilon
        )
        self._adam.build([self._image])
        self._move = tf.function(self._descend)

    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """Move against the gradient, and evaluate the clipped image."""
        self._move(evaluation.gradient)
        return objective(self._image.read_value(), evaluation.weights)

    def state(self) -> dict[str, np.ndarray]:
        """Return Keras' variables: the number of steps, the learning rate and both moments."""
        return {
            f"adam-{number}": np.asarray(variable.value.read_value())  # a view
            for number, variable in enumerate(self._adam.variables)
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Set Keras' variables to those of an earlier `state`."""
        for number, variable in enumerate(self._adam.variables):
            variable.assign(state[f"adam-{number}"])

    def _descend(self, gradient: tf.Tensor) -> None:
        self._adam.apply([gradient], [self._image])
        self._image.assign(self._limits.clip(self._image))

    def state_at(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Return the state with both moments resized like images, and scaled.

        The losses are means over pixels, so each pixel of a larger image has a smaller gradient.
        """
        share = self._image.shape[1] * self._image.shape[2] / (height * width)
        state = self.state()
        moments = {name: array for name, array in state.items() if array.ndim == 4}
        for (name, array), power in zip(moments.items(), (1, 2), strict=True):
            larger = tf.image.resize(array, (height, width)).numpy()
            state[name] = larger * np.float32(share**power)
        return state


class Averaged(Optimizer):
    """Another optimizer, and the exponential mean of its images: a ← d a + (1 - d) x, divided by 1 - dⁿ after n steps.

    Near the end Adam oscillates around the minimum; the mean does not (Polyak and Juditsky, 1992). Adam corrects its
    moments by the same division.
    """

    def __init__(self, moved: Optimizer, image: tf.Tensor, decay: float) -> None:
        self._moved, self._decay = moved, decay
        self._sum, self._steps = tf.zeros_like(image), 0

    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """Do a step of the other optimizer, and add its image to the mean."""
        found = self._moved.step(objective, evaluation)
        self._sum = self._decay * self._sum + (1 - self._decay) * found.image
        self._steps += 1
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Return the other optimizer's state, the weighted sum of the images and the number of steps."""
        return {**self._moved.state(), "mean-sum": self._sum.numpy(), "mean-steps": np.int64(self._steps)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Set both states; without a sum in `state`, the mean starts anew."""
        self._moved.restore(state)
        if "mean-sum" in state:
            self._sum, self._steps = _of_shape(self._sum.shape, state["mean-sum"]), int(state["mean-steps"])

    def average(self) -> tf.Tensor | None:
        """Return the mean `(1, H, W, 3)`, or `None` before the first step."""
        return self._sum / (1 - self._decay**self._steps) if self._steps else None

    def state_at(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Return the other optimizer's state at another size in px; the mean starts anew."""
        return self._moved.state_at(height, width)


class _Pair(NamedTuple):
    """A step s and the change y of the gradient over it, from which L-BFGS estimates the curvature."""

    s: tf.Tensor
    y: tf.Tensor
    s_y: tf.Tensor  # their inner product


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal, 1989; Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.4).

    Differences from the book:

    - The line search requires only sufficient decrease. The full step nearly always gives it, so an iteration usually
      costs one evaluation.
    - The direction is 0 for pixels at a limit if a step downhill would push them beyond it (the two-metric projection
      of Bertsekas, 1982).
    - The initial inverse Hessian falls with spatial frequency instead of being a multiple of the identity, see
      `spectral_scale`.

    If the line search fails, for example through rounding, the optimizer drops its history and restarts with steepest
    descent. It also drops the history when the image size changes, because the curvature changes too.
    """

    TRIALS = 6  # step lengths to try before the line search fails
    SUFFICIENT = 1e-4  # required share of the decrease that the slope predicts (Nocedal and Wright's c₁)
    FIRST_MOVE = 2.0  # root mean square of the first steepest-descent step to try, in grey levels
    SHORTEST_MOVE = 1e-3  # in grey levels: a shorter step does not change the 8-bit image

    def __init__(self, image: tf.Tensor, settings: TransferSettings, limits: Limits = REAL_PIXELS) -> None:
        self._limits, self._shape = limits, image.shape
        self._style_layers = len(settings.style_layers)
        self._pairs: deque[_Pair] = deque(maxlen=settings.history)
        self._scale = spectral_scale(image.shape[1], image.shape[2], settings.preconditioning)
        self._move = self.FIRST_MOVE
        self._weights: LossWeights | None = None  # of the losses when the pairs were recorded

    def state(self) -> dict[str, np.ndarray]:
        """Return the first move, the weights of the losses and the pairs."""
        pairs = {
            f"{name}-{number}": getattr(pair, name).numpy()
            for number, pair in enumerate(self._pairs)
            for name in _Pair._fields
        }
        weights = {} if self._weights is None else {"weights": np.hstack(self._weights)}
        return {"move": np.float64(self._move), **weights, **pairs}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Set the state to that of an earlier `state`.

        Raises:
            ValueError: If the first move is not a positive number, or an array does not fit the image.
        """
        self._move = float(state["move"])
        if not 0 < self._move < np.inf:
            raise ValueError("the first move is not a positive number")
        if "weights" in state:
            style, content, variation, *layers = state["weights"].tolist()
            each = tuple(layers[: self._style_layers]), tuple(layers[self._style_layers :])
            self._weights = LossWeights(style, content, variation, *each)
        for number in range(sum(name.startswith("s_y-") for name in state)):
            shapes = self._shape, self._shape, tf.TensorShape(())
            parts = (state[f"{name}-{number}"] for name in _Pair._fields)
            self._pairs.append(_Pair(*map(_of_shape, shapes, parts)))

    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """Take a quasi-Newton step; without pairs, or if its search fails, take a steepest-descent step."""
        if self._weights not in (None, evaluation.weights):  # the pairs describe the old losses
            self._pairs.clear()
        self._weights = evaluation.weights
        if self._pairs and (found := self._search(objective, evaluation, *self._quasi_newton(evaluation))):
            return found
        self._pairs.clear()
        return self._steepest_descent(objective, evaluation)

    def _steepest_descent(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """Take a step without the history; if no step decreases the loss, keep the image and shorten the next try."""
        free = self._free(evaluation)
        direction = -free * self._precondition(free * evaluation.gradient)
        length = float(tf.sqrt(tf.reduce_mean(tf.square(direction))))
        if not 0 < length < np.inf:
            return evaluation
        found = self._search(objective, evaluation, direction, self._move / length)
        self._move = self.FIRST_MOVE if found else max(self._move / 10, self.SHORTEST_MOVE)
        return found or evaluation

    def _quasi_newton(self, evaluation: EvaluatedImage) -> tuple[tf.Tensor, float]:
        """Return the direction from the history, and the first step length to try."""
        free = self._free(evaluation)
        direction = evaluation.gradient * free
        alphas = []
        for s, y, s_y in reversed(self._pairs):
            alphas.append(_dot(s, direction) / s_y)
            direction -= alphas[-1] * y
        _, y, s_y = self._pairs[-1]
        direction = self._precondition(direction) * (s_y / _dot(y, self._precondition(y)))
        for (s, y, s_y), alpha in zip(self._pairs, reversed(alphas), strict=True):
            direction += s * (alpha - _dot(y, direction) / s_y)
        return -free * direction, 1.0

    def _search(
        self, objective: Objective, evaluation: EvaluatedImage, direction: tf.Tensor, length: float
    ) -> EvaluatedImage | None:
        """Backtrack from `length` until the loss decreases enough; return `None` after `TRIALS` failures."""
        slope = float(_dot(evaluation.gradient, direction))
        if not slope < 0:
            return None
        before = evaluation.losses.total
        for _ in range(self.TRIALS):
            found = objective(self._limits.clip(evaluation.image + length * direction), evaluation.weights)
            move = found.image - evaluation.image
            rise = found.losses.total - before
            if rise <= self.SUFFICIENT * float(_dot(evaluation.gradient, move)) and rise < 0:
                self._remember(move, found.gradient - evaluation.gradient)
                return found
            # Try the minimum of the parabola through both losses and the slope at the start.
            curvature = rise - length * slope
            vertex = -slope * length**2 / (2 * curvature) if np.isfinite(curvature) and curvature > 0 else 0.0
            length = min(max(vertex, 0.1 * length), 0.5 * length)
        return None

    def _remember(self, s: tf.Tensor, y: tf.Tensor) -> None:
        """Add the pair to the history if its curvature is clearly positive, as L-BFGS requires."""
        s_y = _dot(s, y)
        if s_y > 1e-8 * tf.norm(s) * tf.norm(y):
            self._pairs.append(_Pair(s, y, s_y))

    def _free(self, evaluation: EvaluatedImage) -> tf.Tensor:
        """Return 0 for values at a limit that a step downhill would push beyond it, and 1 for the others."""
        image, gradient = evaluation.image, evaluation.gradient
        low = (image <= self._limits.least) & (gradient > 0)
        high = (image >= self._limits.greatest) & (gradient < 0)
        return tf.cast(~(low | high), image.dtype)

    def _precondition(self, image: tf.Tensor) -> tf.Tensor:
        channels = tf.transpose(image[0], (2, 0, 1))
        scaled = tf.signal.irfft2d(tf.signal.rfft2d(channels) * self._scale, channels.shape[1:])
        return tf.transpose(scaled, (1, 2, 0))[tf.newaxis]


def spectral_scale(height: int, width: int, exponent: float) -> tf.Tensor:
    """Return the factor of each spatial frequency f of a step: f⁻²ᵖ for the exponent p, `(H, W/2 + 1)`, mean 1.

    The effect is that of optimizing the image in a Fourier basis of amplitude f⁻ᵖ (Olah, Mordvintsev and Schubert,
    Feature Visualization, Distill 2017): large shapes and fine grain then develop at the same speed.
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width))
    scale = np.maximum(frequency, 1 / max(height, width)) ** (-2 * exponent)
    return tf.constant(scale / scale.mean(), tf.complex64)


def _of_shape(shape: tf.TensorShape, array: np.ndarray) -> tf.Tensor:
    """Return the array as a tensor; raise `ValueError` if its shape, type or values are wrong."""
    if tuple(shape) != array.shape or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"not {tuple(shape)} finite float32 values")
    return tf.constant(array)


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.tensordot(a, b, 4)
