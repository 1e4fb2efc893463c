"""The style transfer: an image is moved, step by step, to where the losses are small."""

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
    evaluated: EvaluatedImage
    best: EvaluatedImage  # of the lowest total loss so far
    best_iteration: int
    optimizer: optimizers.Optimizer
    objective: Objective

    @property
    def losses(self) -> Losses:
        """The losses of this iteration's image."""
        return self.evaluated.losses

    def image(self) -> np.ndarray:
        """This iteration's image, `(H, W, 3)` RGB, float32 in 0 … 255; it leaves the device only when asked for."""
        return preprocessing.from_network(self.evaluated.image.numpy())

    def best_image(self) -> np.ndarray:
        """The image of the lowest total loss so far, like `image()`; that loss is `best.losses.total`."""
        return preprocessing.from_network(self.best.image.numpy())

    def with_average(self) -> "Step":
        """Return this step with the average of the last images as its best, if there is one and its loss is lower.

        Evaluates the average: call it at the end only.
        """
        average = self.optimizer.average()
        if average is None:
            return self
        found = self.objective(average, self.evaluated.weights)
        lower = found.losses.total < self.best.losses.total
        return dataclasses.replace(self, best=found, best_iteration=self.iteration) if lower else self

    def checkpoint_at(self, height: int, width: int) -> Checkpoint:
        """Return a checkpoint to resume from at another size, where the losses differ: its image is the best."""
        image = self.evaluated.image if self.optimizer.average() is None else self.with_average().best.image
        larger = tf.image.resize(image, (height, width), tf.image.ResizeMethod.BICUBIC).numpy()
        state = self.optimizer.state_at(height, width)
        return Checkpoint(larger, larger, self.iteration, self.iteration, self.evaluations + 1, self.seconds, state)

    def checkpoint(self) -> Checkpoint:
        """To go on from here another time; to be asked for before the next step is."""
        return Checkpoint(
            np.asarray(self.evaluated.image),  # not copied
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
    """Optimize an image: yield a step for the initial image, then one for each iteration.

    Args:
        objective: The losses to minimize.
        start: A preprocessed image `(1, H, W, 3)`, or a checkpoint of an earlier run, whose step comes first again.
        settings: The optimizer's settings.
        limits: The range of each pixel, by default that of a real one.
        weights: Returns the weights of the losses for the image of an iteration, by default the objective's own. It is
            called before each iteration; when the weights change, the best image is found anew by the new losses.
        iterations: Returns after which iteration to end, by default the one of the settings. Called after each step.

    Raises:
        Diverged: A loss is no longer a finite number. The steps yielded before stay valid.
    """
    weights = weights or (lambda iteration: objective.weights)
    if not isinstance(start, Checkpoint):
        start = Checkpoint(start, start)
    began = time.perf_counter() - start.seconds
    evaluated = objective(tf.constant(start.image), weights(start.iteration))
    best = evaluated.without_gradient()
    best_iteration, evaluations_before = start.iteration, objective.evaluations - start.evaluations
    best_differs = not np.array_equal(start.best_image, start.image)  # also where the best is an average
    if start.best_iteration != start.iteration or best_differs:
        best = objective(tf.constant(start.best_image), evaluated.weights).without_gradient()
        best_iteration = start.best_iteration
        evaluations_before += 1
    optimizer = optimizers.optimizer(evaluated.image, settings, start.optimizer, limits)
    first, exploded = start.iteration, 0  # iterations on end
    del start  # with what the optimizer had learnt, it may be as large as all else
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
