"""Load the engine for the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.jobs.execution import EngineMaker
    from core.timings import Timings
    from core.transfer.engine import Engine


def load_engine(weights: Path | None, report: Callable[[str], None], timings: Timings) -> Engine:
    """Load the engine; first download the weights and export the model if they are missing."""
    from core.machine import hardware
    from core.transfer.engine import Engine
    from core.vgg.weights import obtain

    with timings.phase("weights"):
        loaded = obtain(weights, report)
    with timings.phase("model"):
        from export.onnx_model import ensure_model

        model = ensure_model(loaded, report)
    return Engine(loaded, model, hardware.survey())


def once(make: EngineMaker) -> EngineMaker:
    """Return a maker that makes an engine once and then returns the same engine."""
    made: list[Engine] = []

    def make_first(report: Callable[[str], None], timings: Timings) -> Engine:
        if not made:
            made.append(make(report, timings))
        return made[0]

    return make_first
