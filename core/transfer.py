"""The style transfer: an image starts as the photo and is moved, step by step, to where the losses are small."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from core import images, targets
from core.errors import StudioError
from core.objective import Evaluation, Losses, Objective
from core.optimizers import Adam
from core.settings import TransferSettings
from core.targets import FeatureModel, StyleTargets
from core.timings import Timings
from core.vgg import feature_network
from core.weights import Weights


class Diverged(StudioError):
    """A loss became infinite or not a number; the step before holds the best image so far."""


@dataclass(frozen=True)
class Step:
    """What one iteration reports: iteration 0 is the starting image, iteration i the image after i moves."""

    iteration: int
    evaluations: int  # of the objective, so far
    seconds: float  # since the first evaluation began
    evaluated: Evaluation
    best: Evaluation  # of the lowest total loss so far
    best_iteration: int

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


@dataclass(frozen=True)
class Engine:
    """What a transfer computes with: the weights, and their network as exported for ONNX Runtime."""

    weights: Weights
    model: FeatureModel
    onnx_providers: Sequence[str]

    def objective(
        self, content: np.ndarray, style: np.ndarray, settings: TransferSettings, timings: Timings
    ) -> tuple[Objective, StyleTargets]:
        """The losses to lessen for two preprocessed pictures `(1, H, W, 3)`, and what was found out about the style."""
        style_targets = targets.style_targets(style, settings.style_layers, self.model, self.onnx_providers, timings)
        with timings.phase("network"):
            network = feature_network(self.weights, sorted({*settings.style_layers, *settings.content_layers}))
        with timings.phase("content target"):
            return Objective(network, style_targets.grams, tf.constant(content), settings), style_targets


def stylize(objective: Objective, start: np.ndarray, settings: TransferSettings) -> Iterator[Step]:
    """Paint: yields the starting image's step and then one for each of `settings.iterations` iterations.

    `start` is a preprocessed image `(1, H, W, 3)`. Who has seen enough just stops asking. Raises `Diverged` when a
    loss is no longer a finite number; what was yielded before stays good.
    """
    began = time.perf_counter()
    evaluated = best = objective(tf.constant(start))
    best_iteration = 0
    optimizer = Adam(evaluated.image, settings)
    for iteration in itertools.count():
        if not math.isfinite(evaluated.losses.total):
            raise Diverged(
                f"The loss is no longer a finite number at iteration {iteration}: lower the learning rate "
                f"({settings.learning_rate:g}) or the weights."
            )
        if evaluated.losses.total < best.losses.total:
            best, best_iteration = evaluated, iteration
        yield Step(iteration, iteration + 1, time.perf_counter() - began, evaluated, best, best_iteration)
        if iteration == settings.iterations:
            return
        evaluated = optimizer.step(objective, evaluated)
