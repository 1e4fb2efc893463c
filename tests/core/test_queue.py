"""Processes that wait in the queue to paint by themselves, and what becomes of them meanwhile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from core import jobs, runs
from core.settings import TransferSettings

ROOT = Path(__file__).parents[2]
WAIT = 60  # seconds, on a slow and busy machine too
WAITER = """
import sys, time
from core import jobs, runs
run = runs.find(sys.argv[1])
runs.change(run, writer=runs.Writer.this_process())
jobs.start_worker = lambda: None
with jobs.turn(run, lambda line: print(line, flush=True)):
    print("its turn", flush=True)
"""


@pytest.fixture(autouse=True)
def _queue_only(own_home, monkeypatch):
    monkeypatch.setattr(jobs, "start_worker", lambda: None)


@pytest.fixture
def waiter():
    """Starts a process that waits for its turn with that run, after the runs that wait already."""
    started = []

    def start(run, *before):
        command = [*before, sys.executable, "-c", WAITER, run.id]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        until(lambda: run in jobs.queue())
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def new_run(name):
    picture = Image.new("RGB", (80, 64))
    return runs.create(picture, picture, TransferSettings(size=64), "draft", name, "painting")


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_who_is_suspended_while_it_waits_lets_the_others_pass(waiter):
    blocking, own, other = new_run("blocking"), new_run("own"), new_run("other")
    jobs.submit(blocking)
    process = waiter(own)
    jobs.submit(other)
    os.kill(process.pid, signal.SIGSTOP)
    jobs.cancel(blocking)
    until(lambda: jobs.next_queued() == other)
    assert jobs.queue() == [own, other] and own.record().status == "queued"
    with jobs.turn(third := new_run("third"), lambda line: jobs.cancel(other)):
        assert jobs.queue() == [own] and third.record().status == "queued"
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=WAIT)[0].endswith("its turn\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_whose_waiting_process_was_killed_is_interrupted_at_once_and_goes_on(waiter):
    """Before anyone has looked at the queue."""
    jobs.submit(new_run("blocking"))
    own = new_run("own")
    process = waiter(own)
    process.kill()
    process.wait()
    assert own.record().status == "interrupted"
    runs.resume(own)
    jobs.submit(own)
    assert own.record().status == "queued" and own in jobs.queue()
