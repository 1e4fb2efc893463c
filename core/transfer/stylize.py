"""The style transfer loop: optimize an image step by step until its losses are small."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from core.errors import StudioError
from core.images import preprocessing
from core.settings import LossWeights, TransferSettings
from core.transfer import optimizers
from core.transfer.checkpoint import Checkpoint
from core.transfer.objective import EvaluatedImage, Losses, Objective

# A run diverges if its loss stays above this multiple of its best for this many iterations in a row. Adam with a high
# learning rate overshoots as far for a few iterations, but recovers.
EXPLODED = 30.0
EXPLODED_ITERATIONS = 30


class Diverged(StudioError):
    """A loss became infinite, not a number, or far too large; the last step holds the best image."""


@dataclass(frozen=True)
class Step:
    """The state after an iteration: iteration 0 is the initial image, iteration i the image after i updates."""

    iteration: int
    evaluations: int  # of the objective, in total
    seconds: float  # since the start of the first evaluation
    evaluated: EvaluatedImage
    best: EvaluatedImage  # with the lowest total loss
    best_iteration: int
    optimizer: optimizers.Optimizer
    objective: Objective

    @property
    def losses(self) -> Losses:
        """Return the losses of this iteration's image."""
        return self.evaluated.losses

    def image(self) -> np.ndarray:
        """Return this iteration's image, RGB `(H, W, 3)`, float32 in 0 … 255; copy it from the device."""
        return preprocessing.from_network(self.evaluated.image.numpy())

    def best_image(self) -> np.ndarray:
        """Return the image with the lowest total loss, in the format of `image()`."""
        return preprocessing.from_network(self.best.image.numpy())

    def with_average(self) -> "Step":
        """Return this step with the average of the last images as its best image, if that has a lower loss.

        Evaluates the average, which takes time: call it only after the last step.
        """
        average = self.optimizer.average()
        if average is None:
            return self
        found = self.objective(average, self.evaluated.weights)
        lower = found.losses.total < self.best.losses.total
        return dataclasses.replace(self, best=found, best_iteration=self.iteration) if lower else self

    def checkpoint_at(self, height: int, width: int) -> Checkpoint:
        """Return a checkpoint for another size in px; its best image is the resized image, since the losses differ."""
        image = self.evaluated.image if self.optimizer.average() is None else self.with_average().best.image
        larger = tf.image.resize(image, (height, width), tf.image.ResizeMethod.BICUBIC).numpy()
        state = self.optimizer.state_at(height, width)
        return Checkpoint(larger, larger, self.iteration, self.iteration, self.evaluations + 1, self.seconds, state)

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of this step; call it before the next step, which changes the optimizer's state."""
        return Checkpoint(
            np.asarray(self.evaluated.image),  # a view
            np.asarray(self.best.image),
            self.iteration,
            self.best_iteration,
            self.evaluations,
            self.seconds,
            self.optimizer.state(),
        )


def stylize(
    objective: Objective,
    start: np.ndarray | Checkpoint,
    settings: TransferSettings,
    limits: optimizers.Limits | None = None,
    weights: Callable[[int], LossWeights] | None = None,
    iterations: Callable[[], int] | None = None,
) -> Iterator[Step]:
    """Optimize an image.

    Args:
        objective: The losses to minimize.
        start: A preprocessed image `(1, H, W, 3)`, or the checkpoint of a run to resume.
        settings: The optimizer's settings.
        limits: The range of each pixel, by default 0 … 255 in RGB.
        weights: Returns the losses' weights for an iteration; new weights restart the search for the best image.
        iterations: Returns the number of the last iteration, by default the settings' value; called after each step.

    Yields:
        A step for the initial image or the checkpoint's image, then a step after each iteration.

    Raises:
        Diverged: If a loss is not finite or far too large. The earlier steps stay valid.
    """
    weights = weights or (lambda iteration: objective.weights)
    if not isinstance(start, Checkpoint):
        start = Checkpoint(start, start)
    began = time.perf_counter() - start.seconds
    evaluated = objective(tf.constant(start.image), weights(start.iteration))
    best = evaluated.without_gradient()
    best_iteration, evaluations_before = start.iteration, objective.evaluations - start.evaluations
    best_differs = not np.array_equal(start.best_image, start.image)  # an average has the same iteration
    if start.best_iteration != start.iteration or best_differs:
        best = objective(tf.constant(start.best_image), evaluated.weights).without_gradient()
        best_iteration = start.best_iteration
        evaluations_before += 1
    optimizer = optimizers.optimizer(evaluated.image, settings, start.optimizer, limits)
    first, exploded = start.iteration, 0
    del start  # frees the optimizer's old state, which may take as much memory as the rest
    for iteration in itertools.count(first):
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
        seen = evaluated.without_gradient()
        if evaluated.weights != best.weights or evaluated.losses.total < best.losses.total:
            best, best_iteration = seen, iteration
        evaluations, seconds = objective.evaluations - evaluations_before, time.perf_counter() - began
        yield Step(iteration, evaluations, seconds, seen, best, best_iteration, optimizer, objective)
        if iteration >= (iterations() if iterations else settings.iterations):
            return
        if evaluated.weights != (wanted := weights(iteration + 1)):
            evaluated = objective(evaluated.image, wanted)
        evaluated = optimizer.step(objective, evaluated)
