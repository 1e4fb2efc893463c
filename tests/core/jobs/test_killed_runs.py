"""Runs whose process is killed with SIGKILL, at moments drawn by lot, go on as if nothing had happened."""

import sys

import pytest
from soak.kills import OPTIMIZERS, kill_and_resume


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_runs_end_as_such_that_nobody_disturbed(own_home, engine):
    found = kill_and_resume(lambda *_: engine, iterations=60, kills=5, seed=11, also_while_it_loads=False)
    assert len(found.lost) == 5 * len(OPTIMIZERS) and found.before_painting == 0
    assert all(0 <= lost < 60 for lost in found.lost)  # what is done once more is of this run, and never all of it
    assert found.amid_checkpoint >= 1
    assert max(found.largest_deviation.values()) < 1e-3 and max(found.final_deviation.values()) < 1e-3
