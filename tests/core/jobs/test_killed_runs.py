"""Runs whose process is killed with SIGKILL at random moments resume without any difference."""

import sys

import pytest
from soak.kills import OPTIMIZERS, kill_and_resume


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_runs_end_like_undisturbed_runs(own_home, engine):
    found = kill_and_resume(lambda *_: engine, iterations=24, kills=2, seed=11, also_while_it_loads=False)
    assert len(found.lost) == 2 * len(OPTIMIZERS) and found.before_painting == 0
    assert all(0 <= lost < 24 for lost in found.lost)  # a resumed run repeats some of its steps, never all
    assert found.amid_checkpoint >= 1
    assert max(found.largest_deviation.values()) < 1e-3 and max(found.final_deviation.values()) < 1e-3
