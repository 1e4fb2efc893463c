"""Runs for reports, painted by the real engine on a tiny pair."""

import numpy as np
import pytest
from PIL import Image

from core.jobs import execution
from core.machine.processes import ProcessId
from core.presets import choose
from core.runs import store
from core.runs.record import Steering
from core.runs.run import write_record
from core.runs.spec import RunSpec, Style


@pytest.fixture(scope="session")
def pair():
    random = np.random.default_rng(11)
    return [
        Image.fromarray(random.integers(0, 256, (8, 10, 3)).astype(np.uint8)).resize(
            (120, 96), Image.Resampling.BICUBIC
        )
        for _ in range(2)
    ]


@pytest.fixture(scope="session")
def new_run(pair):
    """Return a function that makes a queued run at 64 px."""

    def make(name="photo", preset="reference", style_name="painting", start=False, steering=(), **changes):
        settings = choose(preset, **{"size": 64, "iterations": 6, "frame_every": 2, **changes})
        changed = [Steering.parse(text, settings) for text in steering]
        photo, style = pair
        begin = (style, "beginning") if start else (None, "")
        return store.create(RunSpec([Style(style_name, style)], settings, preset, None, *begin, changed), photo, name)

    return make


@pytest.fixture(scope="session")
def painted(engine, new_run):
    """Return five runs by how they ended."""

    def perform(run, until=None, engine=engine):
        for step in execution.perform(run, lambda *_: engine):
            if step.iteration == until:
                run.ask(stop=True)
        return run

    done = perform(new_run(optimizer="l-bfgs"))
    steered = perform(
        new_run(start=True, steering=["2:style_weight=0.1", "2:style_layer_weights=1,2,1,1,0.5", "4:content_weight=7"])
    )
    stopped = perform(new_run(preset="draft", init="content", iterations=500), until=3)
    failed = new_run()
    with pytest.raises(AttributeError):
        perform(failed, engine=None)
    interrupted = perform(new_run(iterations=2))
    for made in (interrupted.result, interrupted.path / "result.npy"):
        made.unlink()
    changes = {"best_total": None, "best_iteration": None, "iteration": None, "evaluations": 0, "timings": {}}
    gone = ProcessId(pid=2**22 + 1)
    write_record(interrupted, interrupted.record().model_copy(update=changes | {"status": "running", "writer": gone}))
    return {"done": done, "steered": steered, "stopped": stopped, "failed": failed, "interrupted": interrupted}
