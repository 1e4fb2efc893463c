"""The style transfer: an image starts as the photo and is moved, step by step, to where the losses are small."""

import functools
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from core import images, optimizers, targets
from core.checkpoint import Checkpoint
from core.errors import StudioError
from core.hardware import Choice, Hardware, choose
from core.objective import Evaluation, Losses, LossFunction, Objective
from core.settings import TransferSettings
from core.targets import FeatureModel, StyleTargets
from core.timings import Timings
from core.vgg import Precision, feature_network
from core.weights import Weights

# A loss so many times its best, for so many iterations on end, is not coming back; with a learning rate that is too
# high, Adam overshoots by as much and recovers.
EXPLODED = 30.0
EXPLODED_ITERATIONS = 30


class Diverged(StudioError):
    """A loss became infinite, not a number or ever so large; the step before holds the best image so far."""


@dataclass(frozen=True)
class Step:
    """What one iteration reports: iteration 0 is the starting image, iteration i the image after i moves."""

    iteration: int
    evaluations: int  # of the objective, so far
    seconds: float  # since the first evaluation began
    evaluated: Evaluation
    best: Evaluation  # of the lowest total loss so far
    best_iteration: int
    optimizer: optimizers.Optimizer

    @property
    def losses(self) -> Losses:
        """The losses of this iteration's image."""
        return self.evaluated.losses

    def image(self) -> np.ndarray:
        """This iteration's image, `(H, W, 3)` RGB, float32 in 0 … 255; it leaves the device only when asked for."""
        return images.from_network(self.evaluated.image.numpy())

    def best_image(self) -> np.ndarray:
        """The image of the lowest total loss so far, like `image()`; that loss is `best.losses.total`."""
        return images.from_network(self.best.image.numpy())

    def checkpoint(self) -> Checkpoint:
        """To go on from here another time; to be asked for before the next step is."""
        return Checkpoint(
            self.evaluated.image.numpy(),
            self.best.image.numpy(),
            self.iteration,
            self.best_iteration,
            self.evaluations,
            self.seconds,
            self.optimizer.state(),
        )


class Engine:
    """What transfers compute with, kept between them: weights, networks, and functions that are traced already."""

    def __init__(self, weights: Weights, model: FeatureModel, hardware: Hardware) -> None:
        """`model` is the weights' network as exported for ONNX Runtime."""
        self.weights, self.model, self.hardware = weights, model, hardware
        self._loss_function = functools.lru_cache(maxsize=3)(self._new_loss_function)

    def choice(self, settings: TransferSettings) -> Choice:
        """What of this machine a run of these settings uses."""
        return choose(self.hardware, settings.precision)

    def objective(
        self,
        content: np.ndarray,
        style: np.ndarray,
        settings: TransferSettings,
        timings: Timings | None = None,
        precision: Precision | None = None,
    ) -> tuple[Objective, StyleTargets]:
        """The losses to lessen for two preprocessed pictures `(1, H, W, 3)`, and what was found out about the style.

        They are computed in `precision`, by default the settings' own.
        """
        timings, choice = Timings() if timings is None else timings, self.choice(settings)
        style_targets = targets.style_targets(style, settings.style_layers, self.model, choice.onnx_providers, timings)
        precision = precision or choice.precision
        # TensorFloat-32 has 10 bits: enough beside bfloat16's 7, not for a run that is to be float32
        tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
        with timings.phase("network"):
            function = self._loss_function(settings.style_layers, settings.content_layers, precision)
        with timings.phase("content target"):
            objective = Objective(function, style_targets.grams, tf.constant(content), settings.loss_weights())
        return objective, style_targets

    def warm_up(self, settings: TransferSettings) -> None:
        """Open and trace what runs of these settings need, so that the next one begins at once."""
        blank = np.zeros((1, images.MIN_SIDE, images.MIN_SIDE, 3), np.float32)
        objective, _ = self.objective(blank, blank, settings)
        optimizers.optimizer(tf.constant(blank), settings).step(objective, objective(tf.constant(blank)))

    def _new_loss_function(
        self, style_layers: tuple[str, ...], content_layers: tuple[str, ...], precision: Precision
    ) -> LossFunction:
        network = feature_network(self.weights, sorted({*style_layers, *content_layers}), precision)
        return LossFunction(network, style_layers, content_layers)


def stylize(objective: Objective, start: np.ndarray | Checkpoint, settings: TransferSettings) -> Iterator[Step]:
    """Paint: yields the starting image's step and then one for each iteration up to `settings.iterations`.

    `start` is a preprocessed image `(1, H, W, 3)`, or the checkpoint of an earlier run, whose step comes first again.
    Who has seen enough just stops asking; who changes `objective.weights` between two steps steers, and from then on
    the best image is the best by the new losses. Raises `Diverged` when a loss is no longer a finite number; what was
    yielded before stays good.
    """
    if not isinstance(start, Checkpoint):
        start = Checkpoint(start, start)
    began = time.perf_counter() - start.seconds
    evaluated = best = objective(tf.constant(start.image))
    best_iteration, evaluations_before = start.iteration, objective.evaluations - start.evaluations
    if start.best_iteration != start.iteration:
        best, best_iteration = objective(tf.constant(start.best_image)), start.best_iteration
        evaluations_before += 1
    optimizer = optimizers.optimizer(evaluated.image, settings, start.optimizer)
    exploded = 0  # iterations on end
    for iteration in itertools.count(start.iteration):
        remedy = f"lower the learning rate ({settings.learning_rate:g}) or the weights."
        if not math.isfinite(evaluated.losses.total):
            raise Diverged(f"The loss is no longer a finite number at iteration {iteration}: {remedy}")
        far_off = evaluated.weights == best.weights and evaluated.losses.total > EXPLODED * best.losses.total
        exploded = exploded + 1 if far_off else 0
        if exploded == EXPLODED_ITERATIONS:
            raise Diverged(
                f"The loss has been more than {EXPLODED:g} times its best (iteration {best_iteration}) for "
                f"{exploded} iterations, up to iteration {iteration}: {remedy}"
            )
        if evaluated.weights != best.weights or evaluated.losses.total < best.losses.total:
            best, best_iteration = evaluated, iteration
        evaluations, seconds = objective.evaluations - evaluations_before, time.perf_counter() - began
        yield Step(iteration, evaluations, seconds, evaluated, best, best_iteration, optimizer)
        if iteration >= settings.iterations:
            return
        if evaluated.weights != objective.weights:  # steered
            evaluated = objective(evaluated.image)
        evaluated = optimizer.step(objective, evaluated)
