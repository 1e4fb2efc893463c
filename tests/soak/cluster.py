"""Paint twelve runs on two nodes of a Ray cluster, kill a node in the middle, and measure the cost of the cluster.

    python tests/soak/cluster.py [--number N] [--size PX] [--iterations N]

The nodes are processes on this machine, each with half of its processors. The cost is the time of a run by the
recorder's clock minus the time of its phases and steps by the node's clock. It is measured only for runs that lost no
node and whose worker had already loaded TensorFlow. Exits with 1 if a run does not finish, if a step is recorded twice,
or if the median cost is above 5 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ray.cluster_utils import Cluster

from core.images import codec
from core.jobs import ray_head
from core.machine import hardware
from core.runs import store
from core.runs.recorder import Recorder, StepUpdate
from core.runs.run import (
    SUMS,
    Run,
)
from core.runs.spec import RunSpec, Style
from core.samples.gallery import PHOTOS, STYLES
from core.settings import TransferSettings

MOST_COST = 0.05  # of a run's time
CPUS = max(1, (os.cpu_count() or 2) // 2)  # of a node
IMPORT_SECONDS = 1.0  # if imports took less, TensorFlow was already loaded


def new_run(number: int, size: int, iterations: int) -> Run:
    photo, style = (group[number % len(group)] for group in (PHOTOS, STYLES))
    settings = TransferSettings(size=size, iterations=iterations, frame_every=20, precision="float32")
    content, painting = (codec.read_image(sample.path()) for sample in (photo, style))
    return store.create(RunSpec([Style(style.name, painting)], settings, "reference"), content, photo.name)


class Killed:
    """Kills a node when a run on it is half way, after half of all runs have begun."""

    def __init__(self, nodes: Cluster, after: int) -> None:
        self.nodes, self.after = nodes, after
        self.places: dict[str, str] = {}  # each run's node
        self.run: Run | None = None  # the run whose node was killed

    def tell(self, line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
        run, begins, node = line.partition(" begins on the node ")
        if begins:
            self.places[run] = node.rstrip(".")

    def look_at(self, run: Run, iteration: int) -> None:
        if self.run or len(self.places) <= self.after or iteration < run.record().settings.iterations // 2:
            return
        self.run = run
        (node,) = [each for each in self.nodes.worker_nodes if each.node_id.startswith(self.places[run.id])]
        self.tell(f"{run.id} is at iteration {iteration}: its node {self.places[run.id]} is killed")
        self.nodes.remove_node(node, allow_graceful=False)


def perform(number: int, size: int, iterations: int) -> list[str]:
    """Paint the runs, print the time of each, and return the failures."""
    painted = [new_run(count, size, iterations) for count in range(number)]
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    killed = Killed(nodes, number // 2)

    class Watched(Recorder):
        def write_step(self, step: StepUpdate) -> None:
            super().write_step(step)
            killed.look_at(self.run, step.iteration)

    ray_head.Recorder = Watched  # type: ignore[misc]
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=CPUS)
        began = time.monotonic()
        ray_head.paint_all(painted, nodes.address, killed.tell)
        wall = time.monotonic() - began
    finally:
        nodes.shutdown()
    return judge(painted, killed, wall)


def judge(painted: list[Run], killed: Killed, wall: float) -> list[str]:
    failures, costs = [], []
    print(f"{'run':<60}{'status':>8}{'seconds':>9}{'engine':>8}{'cost':>7}")
    for run in painted:
        record, metrics = run.record(), run.metrics()
        if record.status != "done":
            failures.append(f"{run.id} is {record.status}: {record.message}")
        if list(metrics["iteration"]) != list(range(record.settings.iterations + 1)):
            failures.append(f"{run.id} has {len(metrics)} recorded steps, not each step once")
        total, own = record.timings["total"], engine_seconds(run)
        warm = record.timings["imports"] < IMPORT_SECONDS and run != killed.run
        if warm:
            costs.append((total - own) / total)
        said = f"{costs[-1]:>7.1%}" if warm else f"{'–':>7}"
        print(f"{run.id:<60}{record.status:>8}{total:>9.1f}{own:>8.1f}{said}")
    done = sum(run.record().status == "done" for run in painted)
    print(f"{done} of {len(painted)} runs finished in {wall:.0f} s")
    if not killed.run:
        failures.append("no node was killed: the runs ended too soon")
    if not costs:
        failures.append("no run was painted by a worker that had loaded TensorFlow")
    else:
        print(f"cost of the cluster: median {statistics.median(costs):.1%}, at most {max(costs):.1%}")
        if statistics.median(costs) > MOST_COST:
            failures.append(f"the cluster costs {statistics.median(costs):.1%} of a run's time")
    return failures


def engine_seconds(run: Run) -> float:
    """Return the seconds of phases and steps by the clock of the node."""
    phases = run.record().timings.items()
    once = sum(seconds for name, seconds in phases if name not in (*SUMS, "first step"))
    return once + float(run.metrics()["seconds"].iloc[-1])


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--number", type=int, default=12, help="of runs")
    options.add_argument("--size", type=int, default=128, help="px")
    options.add_argument("--iterations", type=int, default=150, help="of a run; the default takes about 20 s")
    given = options.parse_args()
    print(f"{date.today()}, {hardware.processor()}, {os.cpu_count()} processors, {CPUS} per node")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ |= {"NST_HOME": home, "NST_RAY_CPUS": str(CPUS), "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ |= {"RAY_worker_niceness": "0"}  # by default 15, which gives other processes precedence
        failures = perform(given.number, given.size, given.iterations)
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
