"""The engine: weights, networks and traced functions, kept between runs."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from core.images import codec
from core.images.color import COLOR_MODES
from core.images.masks import blend, regions
from core.losses.style_losses import STYLE_LOSSES, StyleLoss
from core.machine.hardware import Choice, Hardware, choose
from core.settings import TransferSettings
from core.timings import Timings
from core.transfer import optimizers, style_targets
from core.transfer.objective import LossFunction, Objective
from core.transfer.style_targets import StyleTargets, mixed
from core.transfer.tiled_objective import TiledObjective
from core.vgg.layers import Precision, Variant
from core.vgg.network import Convolutions, feature_network
from core.vgg.onnx import FeatureModel
from core.vgg.weights import Weights


class Engine:
    """Weights, networks and traced functions that several runs share."""

    def __init__(self, weights: Weights, model: FeatureModel, hardware: Hardware) -> None:
        """Create an engine.

        Args:
            weights: The weights of VGG19.
            model: The network with the same weights, exported for ONNX Runtime.
            hardware: The devices and precisions that this machine offers.
        """
        self.weights, self.model, self.hardware = weights, model, hardware
        self._convolutions: Convolutions = {}
        self._loss_function = functools.lru_cache(maxsize=3)(self._new_loss_function)

    def choice(self, settings: TransferSettings) -> Choice:
        """Return the devices and the precision that a run with these settings uses."""
        return choose(self.hardware, settings.precision)

    def objective(
        self,
        content: np.ndarray,
        style: np.ndarray | Iterable[np.ndarray],
        settings: TransferSettings,
        timings: Timings | None = None,
        precision: Precision | None = None,
        masks: Sequence[np.ndarray | None] = (),
        side: int | None = None,
        style_side: int | None = None,
    ) -> tuple[Objective, StyleTargets]:
        """Return the objective for a content image and one or several style images, and the style targets.

        Args:
            content: The preprocessed content image `(1, H, W, 3)`.
            style: A preprocessed style image `(1, h, w, 3)`, or several.
            settings: The settings of the run.
            timings: Collects the seconds of each phase.
            precision: The precision to use instead of the one in the settings.
            masks: For each style image, where it applies, `(H, W)` in 0 … 1, or `None`.
            side: The largest side in px of a content image that is computed without tiles, and the tiles' side.
            style_side: The same for the style images.
        """
        timings, choice = Timings() if timings is None else timings, self.choice(settings)
        variant = Variant(settings.pooling, settings.padding)
        style_loss = STYLE_LOSSES[settings.style_loss]
        found = [
            style_targets.style_targets(
                each, settings.style_layers, self.model, choice.onnx_providers, timings, variant, style_loss, style_side
            )
            for each in ([style] if isinstance(style, np.ndarray) else style)
        ]
        guides, mixes = regions(masks, blend(len(found), settings.style_blend))
        targets = mixed(found, mixes)
        precision = precision or choice.precision
        # TensorFloat-32 keeps 10 bits: enough for a run in bfloat16 (7 bits), too few for a run in float32.
        tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
        with timings.phase("network"):
            function = self._loss_function(
                settings.style_layers,
                settings.content_layers,
                precision,
                variant,
                style_loss,
                0 if guides is None else len(guides),
                COLOR_MODES[settings.colours].is_gray,
            )
        with timings.phase("content target"):
            given = function, targets.grams, content, settings.loss_weights(), guides
            if side is not None and max(content.shape[1:3]) > side:
                return TiledObjective(*given, side=side), targets
            return Objective(*given), targets

    def warm_up(self, settings: TransferSettings) -> None:
        """Load and trace what a run with these settings needs, so that the next run starts at once."""
        blank = np.zeros((1, codec.MIN_SIDE, codec.MIN_SIDE, 3), np.float32)
        objective, _ = self.objective(blank, blank, settings)
        optimizers.optimizer(tf.constant(blank), settings).step(objective, objective(tf.constant(blank)))

    def _new_loss_function(
        self,
        style_layers: tuple[str, ...],
        content_layers: tuple[str, ...],
        precision: Precision,
        variant: Variant,
        style_loss: StyleLoss,
        regions: int,
        is_gray: bool,
    ) -> LossFunction:
        layers = sorted({*style_layers, *content_layers})
        network = feature_network(self.weights, layers, precision, variant, self._convolutions)
        return LossFunction(network, style_layers, content_layers, style_loss, regions, is_gray)
