"""How the image moves: optimizers that take an evaluated image to the next one, within the range of real pixels."""

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
    """Moves the image by iterations."""

    @abstractmethod
    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """Do one iteration: from an evaluated image to the next one, evaluated."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return what it has learnt so far."""

    @abstractmethod
    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on with what another of its kind had learnt."""

    def average(self) -> tf.Tensor | None:
        """Return the mean of the last images, if it keeps one."""
        return None

    def state_at(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Return the state for the same image at another size, as far as it helps there."""
        return {}


def optimizer(
    image: tf.Tensor,
    settings: TransferSettings,
    state: Mapping[str, np.ndarray] | None = None,
    limits: "Limits | None" = None,
) -> Optimizer:
    """The settings' optimizer for an image `(1, H, W, 3)` within limits, by default a real pixel's; with the state of
    one that had come to this image. Raises `StudioError` for a state that is not such a one's."""
    made: Optimizer = (LBFGS if settings.optimizer == "l-bfgs" else Adam)(image, settings, limits or REAL_PIXELS)
    if settings.averaging:
        made = Averaged(made, image, settings.averaging)
    if state:
        try:
            made.restore(state)
        except (LookupError, TypeError, ValueError, OverflowError, tf.errors.OpError) as error:
            raise StudioError("The checkpoint is damaged: what its optimizer had learnt is not whole.") from error
    return made


class Limits(NamedTuple):
    """The least and greatest value of each pixel, as the network counts, `(1, H, W, 3)`, or of each channel, `(3,)`."""

    least: np.ndarray
    greatest: np.ndarray

    def clip(self, image: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(image, self.least, self.greatest)


REAL_PIXELS = Limits(preprocessing.NETWORK_MIN, preprocessing.NETWORK_MAX)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980) as Keras writes it: ε is added to the root of the uncorrected
    second moment (the paper's "epsilon hat"). After every step the image is clipped to its limits."""

    def __init__(self, image: tf.Tensor, settings: TransferSettings, limits: Limits = REAL_PIXELS) -> None:
        self._limits = limits
        self._image = tf.Variable(image)
        self._adam = keras.optimizers.Adam(
            settings.learning_rate, settings.beta_1, settings.beta_2, epsilon=settings.epsilon
        )
        self._adam.build([self._image])
        self._move = tf.function(self._descend)

    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        self._move(evaluation.gradient)
        return objective(self._image.read_value(), evaluation.weights)

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"adam-{number}": np.asarray(variable.value.read_value())  # not copied
            for number, variable in enumerate(self._adam.variables)
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        for number, variable in enumerate(self._adam.variables):
            variable.assign(state[f"adam-{number}"])

    def _descend(self, gradient: tf.Tensor) -> None:
        self._adam.apply([gradient], [self._image])
        self._image.assign(self._limits.clip(self._image))

    def state_at(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Both moments are smooth enough to be enlarged like pictures. The losses are means over pixels: of more of
        them, each has the smaller gradient."""
        share = self._image.shape[1] * self._image.shape[2] / (height * width)
        state = self.state()
        moments = {name: array for name, array in state.items() if array.ndim == 4}
        for (name, array), power in zip(moments.items(), (1, 2), strict=True):
            larger = tf.image.resize(array, (height, width)).numpy()
            state[name] = larger * np.float32(share**power)
        return state


class Averaged(Optimizer):
    """Another optimizer and the exponential mean of its images: a ← d a + (1 - d) x, divided by 1 - dⁿ as Adam divides
    its moments. Near the end Adam moves to and fro about the minimum; the mean does not (Polyak and Juditsky, 1992)."""

    def __init__(self, moved: Optimizer, image: tf.Tensor, decay: float) -> None:
        self._moved, self._decay = moved, decay
        self._sum, self._steps = tf.zeros_like(image), 0

    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        found = self._moved.step(objective, evaluation)
        self._sum = self._decay * self._sum + (1 - self._decay) * found.image
        self._steps += 1
        return found

    def state(self) -> dict[str, np.ndarray]:
        return {**self._moved.state(), "mean-sum": self._sum.numpy(), "mean-steps": np.int64(self._steps)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._moved.restore(state)
        if "mean-sum" in state:
            self._sum, self._steps = _of_shape(self._sum.shape, state["mean-sum"]), int(state["mean-steps"])

    def average(self) -> tf.Tensor | None:
        return self._sum / (1 - self._decay**self._steps) if self._steps else None

    def state_at(self, height: int, width: int) -> dict[str, np.ndarray]:
        return self._moved.state_at(height, width)


class _Pair(NamedTuple):
    """A step s and how the gradient changed over it, y: what L-BFGS knows of the curvature."""

    s: tf.Tensor
    y: tf.Tensor
    s_y: tf.Tensor  # their inner product


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal, 1989; Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.4).

    Differences from the book: the line search asks only for sufficient decrease (a full step nearly always gives it,
    so that an iteration costs one evaluation); pixels at the end of their range that the gradient pushes outward are
    left out of the direction (the two-metric projection of Bertsekas, 1982); and the first guess of the inverse
    Hessian is not a multiple of the identity but falls with spatial frequency, see `spectral_scale`.

    A line search that fails, as rounding can make it, forgets the history and starts from steepest descent. So does
    another size of the image, at which the losses' curvature is another.
    """

    TRIALS = 6  # step lengths tried before the direction is given up
    SUFFICIENT = 1e-4  # of the decrease that the slope promises (Nocedal and Wright's c₁)
    FIRST_MOVE = 2.0  # grey levels (root mean square) that steepest descent tries, knowing no curvature
    SHORTEST_MOVE = 1e-3  # below this, a step changes no picture

    def __init__(self, image: tf.Tensor, settings: TransferSettings, limits: Limits = REAL_PIXELS) -> None:
        self._limits, self._shape = limits, image.shape
        self._style_layers = len(settings.style_layers)
        self._pairs: deque[_Pair] = deque(maxlen=settings.history)
        self._scale = spectral_scale(image.shape[1], image.shape[2], settings.preconditioning)
        self._move = self.FIRST_MOVE
        self._weights: LossWeights | None = None  # of the losses that the pairs tell of

    def state(self) -> dict[str, np.ndarray]:
        pairs = {
            f"{name}-{number}": getattr(pair, name).numpy()
            for number, pair in enumerate(self._pairs)
            for name in _Pair._fields
        }
        weights = {} if self._weights is None else {"weights": np.hstack(self._weights)}
        return {"move": np.float64(self._move), **weights, **pairs}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._move = float(state["move"])
        if not 0 < self._move < np.inf:
            raise ValueError("a first move that is none")
        if "weights" in state:
            style, content, variation, *layers = state["weights"].tolist()
            each = tuple(layers[: self._style_layers]), tuple(layers[self._style_layers :])
            self._weights = LossWeights(style, content, variation, *each)
        for number in range(sum(name.startswith("s_y-") for name in state)):
            shapes = self._shape, self._shape, tf.TensorShape(())
            parts = (state[f"{name}-{number}"] for name in _Pair._fields)
            self._pairs.append(_Pair(*map(_of_shape, shapes, parts)))

    def step(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        if self._weights not in (None, evaluation.weights):  # what is known of the old losses misleads
            self._pairs.clear()
        self._weights = evaluation.weights
        if self._pairs and (found := self._search(objective, evaluation, *self._quasi_newton(evaluation))):
            return found
        self._pairs.clear()
        return self._steepest_descent(objective, evaluation)

    def _steepest_descent(self, objective: Objective, evaluation: EvaluatedImage) -> EvaluatedImage:
        """A step without history. Where no step lessens the loss, the image stays: it is as good as rounding lets it
        be, or the next step tries less far."""
        free = self._free(evaluation)
        direction = -free * self._precondition(free * evaluation.gradient)
        length = float(tf.sqrt(tf.reduce_mean(tf.square(direction))))
        if not 0 < length < np.inf:
            return evaluation
        found = self._search(objective, evaluation, direction, self._move / length)
        self._move = self.FIRST_MOVE if found else max(self._move / 10, self.SHORTEST_MOVE)
        return found or evaluation

    def _quasi_newton(self, evaluation: EvaluatedImage) -> tuple[tf.Tensor, float]:
        """The direction that the history gives, and the step length to try first."""
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
        """Backtrack from `length` until the loss falls enough; `None` if it does not within `TRIALS`."""
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
            # the minimum of the parabola through the loss here, its slope here and the loss there
            curvature = rise - length * slope
            vertex = -slope * length**2 / (2 * curvature) if np.isfinite(curvature) and curvature > 0 else 0.0
            length = min(max(vertex, 0.1 * length), 0.5 * length)
        return None

    def _remember(self, s: tf.Tensor, y: tf.Tensor) -> None:
        """Keep the pair if the curvature along it is surely positive, as the method needs."""
        s_y = _dot(s, y)
        if s_y > 1e-8 * tf.norm(s) * tf.norm(y):
            self._pairs.append(_Pair(s, y, s_y))

    def _free(self, evaluation: EvaluatedImage) -> tf.Tensor:
        """1 where a pixel may follow the gradient downhill, 0 where it stands at the end of its range already."""
        image, gradient = evaluation.image, evaluation.gradient
        low = (image <= self._limits.least) & (gradient > 0)
        high = (image >= self._limits.greatest) & (gradient < 0)
        return tf.cast(~(low | high), image.dtype)

    def _precondition(self, image: tf.Tensor) -> tf.Tensor:
        channels = tf.transpose(image[0], (2, 0, 1))
        scaled = tf.signal.irfft2d(tf.signal.rfft2d(channels) * self._scale, channels.shape[1:])
        return tf.transpose(scaled, (1, 2, 0))[tf.newaxis]


def spectral_scale(height: int, width: int, exponent: float) -> tf.Tensor:
    """How much further each spatial frequency f of an image moves: f⁻²ᵖ for the exponent p, `(H, W/2 + 1)`, mean 1.

    It is as if the image were written in a Fourier basis of amplitude f⁻ᵖ (Olah, Mordvintsev and Schubert, Feature
    Visualization, Distill 2017): large shapes and fine grain then come about at the same pace.
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width))
    scale = np.maximum(frequency, 1 / max(height, width)) ** (-2 * exponent)
    return tf.constant(scale / scale.mean(), tf.complex64)


def _of_shape(shape: tf.TensorShape, array: np.ndarray) -> tf.Tensor:
    """Raises `ValueError` for an array of another kind."""
    if tuple(shape) != array.shape or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"no {tuple(shape)} of numbers")
    return tf.constant(array)


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.tensordot(a, b, 4)
