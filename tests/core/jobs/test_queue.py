"""Processes that wait in the queue to compute their own run, and what happens to them meanwhile."""

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
WAIT = 60  # seconds, enough on a slow, busy machine
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
    """Return a function that starts a process which waits in the queue with a run, behind other runs."""
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
def test_a_suspended_waiting_process_lets_other_runs_pass(waiter):
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
def test_a_run_whose_waiting_process_was_killed_is_interrupted_and_can_resume(waiter):
    """This holds even before another process reads the queue."""
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
    """Return a command prefix that runs a command in its own PID namespace, as in a container."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("another namespace of processes cannot be made here")
    return command


def test_a_waiting_process_in_another_container_keeps_its_place_until_it_ends(waiter, elsewhere):
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


def test_a_run_in_another_container_stays_unchanged_until_its_process_ends(elsewhere):
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


def test_a_process_id_is_not_valid_in_another_container(elsewhere):
    """In the other container, the process id is free or belongs to another process."""
    run = new_run("run")
    code = "import sys; from core.runs import store; print(store.find(sys.argv[1]).record().status)"
    command = [*elsewhere, sys.executable, "-c", code, run.id]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "queued\n"


def test_lock_files_of_ended_processes_are_removed(own_home):
    code = "from core.machine import processes; print(processes.own_lock())"
    left = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (own_home / "processes" / left.stdout.strip()).is_file()
    mine = processes.own_lock()
    assert processes.is_locked(mine) and processes.own_lock() == mine
    assert [path.name for path in (own_home / "processes").iterdir()] == [mine]


def test_cancelling_a_running_run_says_how_to_stop_it():
    run = new_run("run")
    with (
        Recorder(run),
        pytest.raises(InputError, match=r"it is running\. Stop it on its page, or press Ctrl-C"),
    ):
        control.cancel(run)
    with pytest.raises(InputError, match=rf"^The run {run.id} is not in the queue\.$"):
        control.cancel(run)


def test_an_invalid_number_of_seconds_is_refused(monkeypatch):
    monkeypatch.setenv("NST_CHECKPOINT_SECONDS", "abc")
    run = new_run("run")
    with pytest.raises(InputError, match=r"^NST_CHECKPOINT_SECONDS is 'abc'"):
        list(execution.perform(run, lambda *_: pytest.fail("it must not be made")))
    assert run.record().status == "failed" and run.record().message.startswith("NST_CHECKPOINT_SECONDS is ")
    monkeypatch.setenv("NST_WORKER_IDLE", "abc")
    with pytest.raises(InputError, match=r"^NST_WORKER_IDLE is 'abc'"):
        worker.work(lambda *_: pytest.fail("it must not be made"))


def test_the_order_can_be_changed_any_number_of_times():
    """There are more moves than a float can be halved."""
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
def test_a_signal_without_a_name_is_described_by_its_number(monkeypatch):
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


def test_a_worker_that_cannot_prepare_does_not_retry_while_another_run_is_running(monkeypatch):
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
