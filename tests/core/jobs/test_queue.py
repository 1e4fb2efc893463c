"""Processes that wait in the queue to paint by themselves, and what becomes of them meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from core.errors import InputError, StudioError
from core.jobs import control, execution, queue, schedule, worker, workers
from core.jobs.slots import Slot
from core.machine import processes
from core.runs import recovery, store
from core.runs.recorder import Recorder
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

ROOT = Path(__file__).parents[3]
WAIT = 60  # seconds, on a slow and busy machine too
WAITER = """
import sys, time
from core.jobs import schedule, workers
from core.machine.processes import ProcessId
from core.runs import store
run = store.find(sys.argv[1])
run.change(writer=ProcessId.this_process())
workers.start_worker = lambda: None
with schedule.acquire_slot(run, lambda line: print(line, flush=True)):
    print("its turn", flush=True)
"""


@pytest.fixture(autouse=True)
def _queue_only(own_home, monkeypatch):
    monkeypatch.setattr(workers, "start_worker", lambda: None)


@pytest.fixture
def waiter():
    """Starts a process that waits for its turn with that run, after the runs that wait already."""
    started = []

    def start(run, *before):
        command = [*before, sys.executable, "-c", WAITER, run.id]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        until(lambda: run in queue.queued_runs())
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def new_run(name):
    picture = Image.new("RGB", (80, 64))
    return store.create(RunSpec([Style("painting", picture)], TransferSettings(size=64), "draft"), picture, name)


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_who_is_suspended_while_it_waits_lets_the_others_pass(waiter):
    blocking, own, other = new_run("blocking"), new_run("own"), new_run("other")
    schedule.submit(blocking)
    process = waiter(own)
    schedule.submit(other)
    os.kill(process.pid, signal.SIGSTOP)
    control.cancel(blocking)
    until(lambda: queue.next_queued() == other)
    assert queue.queued_runs() == [own, other] and own.record().status == "queued"
    with schedule.acquire_slot(third := new_run("third"), lambda line: control.cancel(other)):
        assert queue.queued_runs() == [own] and third.record().status == "queued"
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=WAIT)[0].endswith("its turn\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_whose_waiting_process_was_killed_is_interrupted_at_once_and_goes_on(waiter):
    """Before anyone has looked at the queue."""
    schedule.submit(new_run("blocking"))
    own = new_run("own")
    process = waiter(own)
    process.kill()
    process.wait()
    assert own.record().status == "interrupted"
    recovery.resume(own)
    schedule.submit(own)
    assert own.record().status == "queued" and own in queue.queued_runs()


@pytest.fixture
def elsewhere():
    """The command that runs another where processes have numbers of their own, as in a container."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("another namespace of processes cannot be made here")
    return command


def test_a_waiter_in_another_container_keeps_its_place_until_it_is_gone(waiter, elsewhere):
    schedule.submit(new_run("blocking"))
    own = new_run("own")
    process = waiter(own, *elsewhere)
    writer = own.record().writer
    assert own.record().status == "queued" and own in queue.queued_runs()
    assert not writer.is_visible_here() and writer.is_alive() and not writer.is_suspended()
    process.kill()
    until(lambda: own.record().status == "interrupted")
    assert own not in queue.queued_runs()


PAINTER = """
import sys, time
from core.runs import store
from core.runs.recorder import Recorder
with Recorder(store.find(sys.argv[1])):
    print("painting", flush=True)
    time.sleep(600)
"""


def test_a_run_that_another_container_paints_is_left_alone_until_its_process_is_gone(elsewhere):
    run = new_run("run")
    command = [*elsewhere, sys.executable, "-c", PAINTER, run.id]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "painting\n"
        draft = run.path / ".draft-of-the-painter"
        draft.touch()
        assert control.record_ending(run).status == "preparing" and draft.exists()
        with pytest.raises(InputError, match="is computed in another container: end it there"):
            control.kill(run)
        process.kill()
        until(lambda: run.record().status == "interrupted")
        assert control.record_ending(run).message == "The run's process is gone." and not draft.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_this_process_is_not_seen_by_its_number_elsewhere(elsewhere):
    """Whoever looks from the other side, too: a number that is free there, or another process's."""
    run = new_run("run")
    code = "import sys; from core.runs import store; print(store.find(sys.argv[1]).record().status)"
    command = [*elsewhere, sys.executable, "-c", code, run.id]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "queued\n"


def test_locks_of_processes_that_are_gone_are_cleared(own_home):
    code = "from core.machine import processes; print(processes.own_lock())"
    left = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (own_home / "processes" / left.stdout.strip()).is_file()
    mine = processes.own_lock()
    assert processes.is_locked(mine) and processes.own_lock() == mine
    assert [path.name for path in (own_home / "processes").iterdir()] == [mine]


def test_cancelling_a_run_that_is_being_painted_says_how_it_is_stopped():
    run = new_run("run")
    with (
        Recorder(run),
        pytest.raises(InputError, match=r"it is running\. Stop it on its page, or press Ctrl-C"),
    ):
        control.cancel(run)
    with pytest.raises(InputError, match=rf"^The run {run.id} is not in the queue\.$"):
        control.cancel(run)


def test_seconds_that_are_none_are_told(monkeypatch):
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "abc")
    run = new_run("run")
    with pytest.raises(InputError, match=r"^NST_CHECKPOINT_SECONDS is 'abc'"):
        list(execution.perform(run, lambda *_: pytest.fail("it must not be made")))
    assert run.record().status == "failed" and run.record().message.startswith("NST_CHECKPOINT_SECONDS is ")
    monkeypatch.setenv("NST_WORKER_IDLE", "abc")
    with pytest.raises(InputError, match=r"^NST_WORKER_IDLE is 'abc'"):
        worker.work(lambda *_: pytest.fail("it must not be made"))


def test_the_order_can_be_changed_any_number_of_times():
    """A place between two others is found also after more moves than halves of a number there are."""
    first, second, third = found = [new_run(name) for name in ("first", "second", "third")]
    for run in found:
        schedule.submit(run)
    for _ in range(40):
        queue.move(third)
        assert queue.queued_runs() == [first, third, second]
        queue.move(second)
        assert queue.queued_runs() == [first, second, third]
    queue.move(third, to_front=True)
    assert queue.queued_runs() == [third, first, second]


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="there are no such signals")
def test_a_signal_without_a_name_is_told_by_its_number(monkeypatch):
    number = signal.SIGRTMIN + 3
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os; print(flush=True); os.kill(os.getpid(), {number:d})"]
    )
    monkeypatch.setitem(workers.started_workers, process.pid, process)
    run = new_run("run")
    writer = processes.ProcessId.this_process().model_copy(update={"pid": process.pid, "lock": ""})
    run.change(status="running", writer=writer)
    process.wait()
    assert f"crashed (signal {number:d})" in control.record_ending(run).message


def test_a_worker_that_cannot_prepare_does_not_try_again_and_again_while_another_paints(monkeypatch):
    monkeypatch.setenv("NST_WORKER_IDLE", "0.5")
    tries, run = [], new_run("run")
    schedule.submit(run)

    def fail(report, timings):
        tries.append(1)
        raise StudioError("There are no weights.")

    held = Slot(0).turn_lock()
    held.acquire()
    timer = threading.Timer(1.5, lambda: control.cancel(run))
    timer.start()
    try:
        worker.work(fail)
    finally:
        timer.join()
        held.release()
    assert tries == [1]
