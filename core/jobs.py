"""Runs performed: in this process, or one after another by a worker process that outlives the page that started it.
Each easel has a worker of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import heapq
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from filelock import FileLock
from PIL import Image
from pydantic import BaseModel, ValidationError

from core import hardware, images, log, pace, paths, preview, room, runs, settings
from core.checkpoint import Checkpoint
from core.easels import MOST, Easel, acquired, easels, easels_on_clusters, first_free
from core.errors import InputError, StudioError
from core.runs import Account, Place, Recorder, Run, RunRecord, Writer
from core.settings import KNOBS
from core.start import starting_picture
from core.subject import Pictures, Subject
from core.timings import Timings, seconds_asked

if TYPE_CHECKING:
    from core.objective import Evaluation, Losses, Objective
    from core.targets import StyleTargets
    from core.transfer import Engine, Step

Report = Callable[[str], None]
EngineMaker = Callable[[Report, Timings], "Engine"]

# Nothing heard for so many seconds, a process may be stuck; fetching and compiling take longer than any step should.
PREPARING_SILENCE, PAINTING_SILENCE = 900.0, 180.0
SILENT_STEPS = 20  # of the longest of the last ones
ENDING_SECONDS = 2.0  # how long a process that is gone may take until the system says how it ended
IDLE_SECONDS = 300.0  # how long a worker without work keeps TensorFlow loaded; NST_WORKER_IDLE changes it


def perform(run: Run, make_engine: EngineMaker, report: Report = lambda line: None) -> Iterator[Step]:
    """Perform a queued run in this process, recording it; yields each step when it is on disk.

    Stops when a stop is requested in the run's directory or nobody asks for the next step. `report` hears what is
    being prepared. Raises what makes the run fail, after it is recorded.
    """
    with Recorder(run) as recorder:
        yield from paint(recorder, make_engine, report)


def paint(account: Account, make_engine: EngineMaker, report: Report = lambda line: None) -> Iterator[Step]:
    """Compute a run's steps, giving account of them; yields each when that is done. It ends when a stop is requested
    in the run's directory; what makes the run fail is raised."""
    run = account.run

    def tell(line: str) -> None:
        account.update(message=line)
        report(line)

    wanted = account.record.settings
    seconds_asked("NST_CHECKPOINT_SECONDS")  # before much is done
    room.check(wanted, account.record.shape, bool(hardware.cards()), _still_to_be_taken(run), run.masks)
    tell("Reading the pictures …")
    with account.timings.phase("pictures"):
        pictures = Pictures.of(run)
        begun = Checkpoint.load(run.checkpoint) if run.checkpoint.exists() else None
        stages = _stages_left(account.record, pictures, begun)
        subject = pictures.at(wanted, stages[0][0])
    if not begun:
        with account.timings.phase("start"):  # before TensorFlow is loaded: a preview is seen within a second
            picture = _starting_picture(account, subject, tell)
            account.show(images.to_uint8(subject.finished(picture)))
    tell("Loading TensorFlow …")
    with account.timings.phase("imports"):
        hardware.import_tensorflow()
    engine = make_engine(tell, account.timings)
    choice = engine.choice(wanted)
    account.update(
        weights=engine.weights.provenance,
        weights_sha256=engine.weights.sha256,
        precision=choice.precision,
        environment={
            **dataclasses.asdict(engine.hardware),
            "versions": hardware.versions(),
            "why this precision": choice.why_precision,
        },
    )
    starts = [begun or subject.begun_from(picture)]
    begun = None
    for number, (_, end) in enumerate(stages, 1):
        is_last = number == len(stages)
        # popped, it is kept no longer than it is needed: of a large picture, each copy counts
        for step in _stage(account, engine, subject, starts.pop(), tell, again=number > 1):
            yield step
            request = account.request()
            account.answer(request)
            if request.stop:
                return
            if step.iteration >= (account.record.settings.iterations if is_last else end):
                break
            step.objective.weights = account.steered(step.iteration + 1).loss_weights()
        if not is_last:
            subject = pictures.at(wanted, stages[number][0])
            starts.append(step.enlarged(*subject.photo.shape[:2]))


def _stage(
    account: Account, engine: Engine, subject: Subject, start: np.ndarray | Checkpoint, tell: Report, again: bool
) -> Iterator[Step]:
    """Paint at one size, recording it, for as long as one asks. Where `again`, the step that is started from has been
    recorded already, at the size before."""
    from core.optimizers import Limits
    from core.transfer import stylize

    wanted, precision = account.record.settings, engine.choice(account.record.settings).precision
    if not again:
        tell("Measuring the style …")
    on_gpu, beside = bool(hardware.cards()), _still_to_be_taken(account.run)
    shapes = [(style.shape[0], style.shape[1]) for style in subject.styles]
    # In tiles as small as those of the last stage: what TensorFlow has once taken for larger ones, it keeps.
    side, style_side = room.sides(wanted, account.record.shape, shapes, on_gpu, beside, account.run.masks)

    def objective(**other: Any) -> tuple[Objective, StyleTargets]:
        content, styles = images.to_network(subject.photo), map(images.to_network, subject.styles)
        return engine.objective(content, styles, wanted, masks=subject.masks, side=side, style_side=style_side, **other)

    made, targets = objective(timings=account.timings)

    def in_float32(best: Evaluation) -> Losses:
        exact, _ = objective(precision="float32")
        exact.weights = best.weights
        return exact.losses(best.image)

    if precision != "float32":
        account.final_losses = in_float32
    account.finished = subject.finished
    begun = start.iteration if isinstance(start, Checkpoint) else 0
    if not again:
        account.update(style_targets=targets.source, message="Compiling the first step …")
    made.weights = account.steered(begun + again).loss_weights()
    limits = subject.limits()
    if isinstance(start, Checkpoint) and again and limits:
        start = dataclasses.replace(start, image=(within := np.clip(start.image, *limits)), best_image=within)
    endless = wanted.changed(iterations=KNOBS["iterations"].maximum)
    steps = stylize(made, start, endless, limits and Limits(*limits))
    del start
    for step in steps:
        if again and step.iteration == begun:
            continue
        account.write(step)
        yield step


def _still_to_be_taken(beside: Run) -> float:
    """Bytes of memory that the other runs which are being painted here will take yet, by the estimate."""
    bytes_ = 0.0
    for run in filter(None, (easel.run() for easel in easels())):
        try:
            record = run.record()
            if run != beside and record.writer and record.writer.is_seen_from_here():
                held = psutil.Process(record.writer.pid).memory_info().rss
                bytes_ += max(room.memory(record.settings, record.shape) - held, 0.0)
        except (StudioError, psutil.Error):  # it has just ended
            continue
    return bytes_


def _stages_left(record: RunRecord, pictures: Pictures, begun: Checkpoint | None) -> list[tuple[int, int]]:
    """The stages that are still to be painted, of `TransferSettings.schedule`: the one that was begun comes first."""
    schedule = record.settings.schedule()
    if begun is None:
        return schedule
    photo = pictures.photo
    shapes = [(1, *images.resized_shape(photo.width, photo.height, size), 3) for size, _ in schedule]
    if begun.image.shape not in shapes:
        raise StudioError(f"The checkpoint of {record.id} is of another picture than the run's.")
    return schedule[shapes.index(begun.image.shape) :]


def _starting_picture(account: Account, subject: Subject, tell: Report) -> np.ndarray:
    """The picture that was given to start from, otherwise the settings' own."""
    run, wanted = account.run, account.record.settings
    height, width = subject.photo.shape[:2]
    if run.start.exists():
        given = images.read_image(run.start, max_bytes=4 * images.MAX_PIXELS)
        return np.asarray(given.resize((width, height), Image.Resampling.LANCZOS))
    styles = [images.to_uint8(style) for style in subject.styles]
    picture, start_is = starting_picture(subject.in_colours, styles, wanted, tell, subject.masks)
    account.update(start=start_is)
    return picture


# --- the queue ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting:
    """Where a run stands in the queue."""

    place: int  # 1 is the next
    seconds: float | None  # until it should begin; `None` where that cannot be told


def queue() -> list[Run]:
    """The runs that wait, the next one first."""
    return [run for run, _ in _places()]


def waiting() -> list[tuple[Run, Waiting]]:
    """The queue, and when each run of it should begin: at the easel that is free first."""
    return [
        (run, Waiting(place, begins if begins < math.inf else None))
        for place, (run, begins, _) in enumerate(_course(), 1)
    ]


def seconds_until_over(wanted: Collection[Run]) -> float | None:
    """Until the last of these runs should be over, those that wait before it included; `None` where that cannot be
    told. Runs that are over already count nothing."""
    ends = max((ends for run, _, ends in _course(with_painting=True) if run in wanted), default=0.0)
    return ends if ends < math.inf else None


def _course(with_painting: bool = False) -> list[tuple[Run, float, float]]:
    """The queue, each run with the seconds until it should begin and until it should be over; infinitely many where
    that cannot be told: this machine has not been measured, or NST_RAY_ADDRESS has a cluster paint them. Where asked
    for, the runs that are being painted come before it."""
    known = pace.Known()

    def left(run: Run) -> float:
        seconds = pace.seconds_left(run, known)
        return math.inf if seconds is None else seconds

    under_way = [(run, 0.0, left(run)) for run in painting()]
    there = _painted_at(easels_on_clusters())
    here = [ends for run, _, ends in under_way if run not in there]
    free = [*here, *[0.0] * (len(easels()) - len(here))]  # of each easel
    if cluster_address():
        free = [math.inf]
    heapq.heapify(free)
    found = under_way if with_painting else []
    for run in queue():
        begins = free[0]
        found.append((run, begins, begins + left(run)))
        heapq.heapreplace(free, found[-1][2])
    return found


def painting() -> list[Run]:
    """The runs that are being painted by who holds a turn, here or on a cluster."""
    return [*_painted_at(map(Easel, range(MOST))), *_painted_at(easels_on_clusters())]


def _painted_at(places: Iterable[Easel]) -> list[Run]:
    return [run for easel in places if (run := easel.run())]


def submit(*submitted: Run) -> None:
    """Put runs at the queue's end, in this order, and see to it that workers take from it."""
    _enter_all(submitted, None)
    for run in submitted:
        log.event("run queued", run=run.id)
    for _ in range(min(len(submitted), len(easels()))):
        start_worker()


def move(run: Run, to_front: bool = False) -> None:
    """Have a waiting run come before the one that is before it, or first. Raises `InputError` when it does not wait."""
    with _queue_lock():
        places = _places()
        found = {each.id: number for number, (each, _) in enumerate(places)}
        if run.id not in found:
            raise InputError(f"The run {run.id} does not wait in the queue.")
        moved = places.pop(found[run.id])
        places.insert(0 if to_front else max(found[run.id] - 1, 0), moved)
        for order, (each, place) in enumerate(places, 1):
            if place.order != order:
                _write_place(each, place.model_copy(update={"order": float(order)}))


@contextmanager
def turn(run: Run, report: Report) -> Iterator[None]:
    """Wait in the queue until it is this run's turn at one of the easels, saying so, and hold it: nobody else paints
    there meanwhile.

    Raises `StudioError` when the run is taken out of the queue by someone.
    """
    _enter(run, Writer.this_process())
    try:
        told, places = 0, easels()[::-1]  # workers take the first ones
        while not (_first_to_go() == (run, True) and (found := first_free(places, Easel.turn_lock))):
            ahead = queue()
            if run not in ahead:
                raise StudioError(f"The run {run.id} was taken out of the queue.")
            if (place := ahead.index(run) + 1) != told:
                told = place
                if now := dict(waiting()).get(run):  # it may have been taken out just then
                    report(_say(now))
                see_to_queue()  # those before it need someone to paint them
            time.sleep(0.2)
        easel, lock = found
        try:
            if not _take(run):
                raise StudioError(f"The run {run.id} was taken out of the queue.")
            easel.choose_card()
            with easel.bearing(run):
                yield
        finally:
            lock.release()
    except BaseException:
        with contextlib.suppress(OSError):  # what ended the block counts more
            if _take(run):  # given up while it waited
                runs.change(run, status="stopped")
        raise


def _say(now: Waiting) -> str:
    before = f"{now.place - 1} in the queue before it" if now.place > 1 else "another run is being painted"
    expected = f", about {max(1, round(now.seconds / 60))} min" if now.seconds is not None else ""
    return f"Waiting for its turn: {before}{expected} (--now paints at once) …"


def _enter(run: Run, waiter: Writer | None) -> None:
    _enter_all([run], waiter)


def _enter_all(entering: Sequence[Run], waiter: Writer | None) -> None:
    paths.queue().mkdir(parents=True, exist_ok=True)
    with _queue_lock():
        for file in paths.queue().iterdir():
            if not (file.name.startswith(".") or Place.of(file.name)):  # of one whose process is gone
                file.unlink(missing_ok=True)
        last = max((place.order for _, place in _places()), default=0.0)
        for number, run in enumerate(entering, 1):
            _write_place(run, Place(order=last + number, waiter=waiter))


def _places() -> list[tuple[Run, Place]]:
    """The queue; a run whose own process is gone waits no longer."""
    files = paths.queue().iterdir() if paths.queue().is_dir() else ()
    places = ((file.name, Place.of(file.name)) for file in files if not file.name.startswith("."))
    found = [(Run(paths.runs() / name), place) for name, place in places if place]
    return sorted(found, key=lambda each: (each[1].order, each[0].id))


def _write_place(run: Run, place: Place) -> None:
    with paths.replacing(paths.queue() / run.id) as file:
        file.write(place.model_dump_json().encode())


def _queue_lock() -> FileLock:
    """Held by who changes the queue, so that no run is in it again that was just taken."""
    return FileLock(paths.home() / "queue.lock")


# --- the workers ----------------------------------------------------------------------------------------------------


class Readiness(BaseModel):
    """What a worker says of the preparation that the first run needs: weights, exported model, pace."""

    message: str
    ready: bool = False
    failed: bool = False
    without_preview: str = ""  # why there is no instant preview
    writer: Writer


def readiness() -> Readiness | None:
    """What a worker last said; `None` when none ever spoke, or when it died over the preparation."""
    said = _last_said()
    return said if said and (said.ready or said.failed or said.writer.is_alive()) else None


def _last_said() -> Readiness | None:
    """Of the workers that are alive, what the one said that is furthest; where none is, the last word of any."""
    said = list(_said().values())
    if alive := [each for each in said if each.writer.is_alive()]:
        return max(alive, key=lambda each: (each.ready, not each.failed))
    return said[-1] if said else None


def _said() -> dict[Easel, Readiness]:
    """What the worker of each easel last said, the last word of all at the end."""
    found = []
    for easel in easels():
        try:
            said = Readiness.model_validate_json(easel.readiness_file.read_bytes())
            found.append((easel.readiness_file.stat().st_mtime_ns, easel, said))
        except (OSError, ValidationError):
            continue
    return {easel: said for _, easel, said in sorted(found, key=lambda each: each[0])}


def stop(run: Run) -> None:
    """Stop a run: at once when it still waits, after its current step when it is being performed."""
    if not _withdrawn(run):
        run.ask(stop=True)


def silent_for(run: Run, record: RunRecord) -> float | None:
    """For how many seconds nothing has been heard of the process that paints a run, if that is more than it may be."""
    if record.status not in ("preparing", "running"):
        return None
    signs = [run.path / "run.json", run.path / "metrics.csv"]
    heard = max((file.stat().st_mtime for file in signs if file.exists()), default=0.0)
    silent = time.time() - heard
    if record.status == "preparing":
        return silent if silent > PREPARING_SILENCE else None
    try:
        step = run.metrics(last=pace.RECENT_STEPS + 1)["seconds"].diff().max()
    except StudioError:
        step = 0.0
    return silent if silent > max(PAINTING_SILENCE, SILENT_STEPS * (step if step > 0 else 0.0)) else None


def break_off(run: Run) -> None:
    """End the process that paints a run, without asking it; what the last checkpoint holds stays. On a cluster that is
    the painter alone: who records the run here sees to others too.

    Raises `InputError` when there is none.
    """
    record = run.record()
    writer = record.writer
    if record.status == "queued" or not (writer and writer.is_alive()):
        raise InputError(f"Nobody paints the run {run.id}.")
    if not writer.is_seen_from_here():
        raise InputError(f"The run {run.id} is painted in another container: end it there.")
    if run in _painted_at(easels_on_clusters()):
        run.ask(stop=True, at_once=True)
        return
    psutil.Process(writer.pid).kill()


def cancel(run: Run) -> None:
    """Take a waiting run out of the queue. Raises `InputError` when it does not wait."""
    if not _withdrawn(run):
        painted = run.record().status in ("preparing", "running")
        how = ": it is being painted. Stop it on its page, or with Ctrl-C where nst paints it" if painted else ""
        raise InputError(f"The run {run.id} does not wait in the queue{how}.")


def _withdrawn(run: Run) -> bool:
    """Take it out of the queue, for good; whether it was there."""
    if taken := _take(run):
        runs.change(run, status="stopped")
        log.event("run withdrawn", run=run.id)
    return taken


def workers() -> list[Writer]:
    """The worker processes that are alive."""
    return [said.writer for said in _said().values() if said.writer.is_alive()]


def see_to_queue() -> None:
    """Start a worker for each run that waits, as far as easels have none that is alive, as after a reboot."""
    without = len(easels()) - len(workers())
    for _ in range(min(_number_awaiting(), without)):
        start_worker()


def keep_warm() -> None:
    """See to it that a worker is alive: a run that comes soon finds all loaded. One that failed to get ready is not
    started again unasked: its reason stays to be read."""
    said = _last_said()
    if not (said and (said.failed or said.writer.is_alive())):
        start_worker()


def start_worker() -> None:
    """Start a worker; one that finds another at every easel waits its turn, and leaves when nothing is left to do.

    Raises `InputError` where it could not know how long to stay.
    """
    _idle_seconds()
    paths.home().mkdir(parents=True, exist_ok=True)
    with log.bounded(worker_log()) as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "nst", "worker"],
            cwd=paths.CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # a page's server that is stopped does not take the run with it
        )
    for earlier in _started.values():
        earlier.poll()  # one that has ended leaves the process table, its exit status stays here
    _started[started.pid] = started


_started: dict[int, subprocess.Popen[bytes]] = {}  # the workers that this process started, by their number


def settle(run: Run) -> RunRecord:
    """The run's record; of a run whose process is gone it is noted first how that ended, and what it had is kept."""
    return runs.settle(run, _how_it_ended)


def why_interrupted(record: RunRecord) -> str:
    """How the process of a run that is interrupted ended: as it was noted, otherwise as far as it is known here."""
    return _how_it_ended(record.writer) if record.writer else record.message


def _how_it_ended(writer: Writer) -> str:
    """What is known of a process that is gone: only who started it learns its exit status."""
    if writer.is_of_an_earlier_boot():
        return "The machine was restarted while it was being painted."
    try:
        # Its first thread is gone; of one that was killed the others may need a moment, and only then it is told how.
        mine = writer.pid in _started and writer.is_seen_from_here()
        code = _started[writer.pid].wait(timeout=ENDING_SECONDS) if mine else None
    except subprocess.TimeoutExpired:
        code = None
    if code is None:
        return "The process that painted it is gone."
    if code >= 0:
        return (
            f"The process that painted it ended with the exit status {code}; {paths.home() / 'worker.log'} may say why."
        )
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL":
        return "The process that painted it was killed (SIGKILL), as the system does when memory runs out."
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return f"The process that painted it was told to end ({name})."
    return f"The process that painted it crashed ({name}); {paths.home() / 'worker.log'} may say where."


def work(make_engine: EngineMaker) -> None:
    """What a worker process does: prepare, then perform queued runs in their order, until none came for a while."""
    _idle_seconds()
    if not (found := _work_place()):
        return
    easel, lock = found
    if address := cluster_address():
        try:
            _work_on_cluster(address, easel, make_engine)
        finally:
            lock.release()
        return
    easel.choose_card()
    engine: Engine | None = None
    turn_lock = easel.turn_lock()

    def make_once(report: Report, timings: Timings) -> Engine:
        nonlocal engine
        engine = engine or make_engine(report, timings)
        return engine

    faulthandler.enable()  # a crash of the engine says where, in the worker's log
    log.event("worker started", pid=os.getpid())
    try:
        was_ready, tried = _was_ready(), False
        announce(easel, "Ready." if was_ready else "Starting …", ready=was_ready)
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < _idle_seconds():
            run = next_queued()
            if not engine and not (run and was_ready):
                if not tried:  # a run whose turn comes tries once more by itself
                    tried = True
                    _prepare(easel, make_once)
                if not engine and not next_queued():
                    return  # whoever mends it starts another worker, which prepares anew
            if next_queued() and acquired(turn_lock):
                try:
                    if run := next_queued():  # it may be another by now
                        _perform_to_its_end(run, make_once, easel)
                        log.keep_bounded(worker_log())
                finally:
                    turn_lock.release()
                if engine:  # whatever the preparation came to
                    announce(easel, "Ready.", ready=True)
                idle_since = time.monotonic()
            else:
                if queue():
                    idle_since = time.monotonic()
                time.sleep(0.1)
    finally:
        log.event("worker left", pid=os.getpid())
        lock.release()


def _work_on_cluster(address: str, easel: Easel, make_engine: EngineMaker) -> None:
    """Have queued runs painted on the cluster, as many at a time as it has room for, until none came for a while."""
    from core import cluster

    def tell(message: str) -> None:
        announce(easel, message, ready=_was_ready())

    def take() -> Run | None:
        if not (run := next_queued()):
            return None
        try:
            return run if _take(run, Writer.this_process()) else None
        except StudioError as error:  # it is no run, or is damaged: the others are painted all the same
            log.failed("run failed", error, run=run.id)
            _take(run)
            return None

    log.event("worker started", pid=os.getpid(), cluster=address)
    try:
        tell(f"Joining the cluster at {address} …")
        with cluster.Studio(address, tell, make_engine) as studio:
            announce(easel, "Ready.", ready=True)
            idle_since = time.monotonic()
            while time.monotonic() - idle_since < _idle_seconds():
                if studio.go_round(_number_awaiting(), take):
                    idle_since = time.monotonic()
                log.keep_bounded(worker_log())
    except Exception as error:  # whatever it is, the page must not wait for ever
        log.failed("worker not ready", error, pid=os.getpid())
        said = str(error) if isinstance(error, StudioError) else f"The work on the cluster failed: {error!r}"
        announce(easel, said, ready=False, failed=True)  # runs wait until it can: the next worker tries again
    finally:
        log.event("worker left", pid=os.getpid())


def cluster_address() -> str:
    """Of the Ray cluster where queued runs are painted; nothing where that is this machine."""
    return os.environ.get("NST_RAY_ADDRESS", "")


def _idle_seconds() -> float:
    asked = seconds_asked("NST_WORKER_IDLE")
    return IDLE_SECONDS if asked is None else asked


def next_queued() -> Run | None:
    """The run that a worker is to perform next; `None` also when it is the turn of one that performs itself."""
    first = _first_to_go()
    return first[0] if first and not first[1] else None


def _first_to_go() -> tuple[Run, bool] | None:
    """The run whose turn is next, and whether its own process performs it. One whose process was suspended keeps its
    place, and lets the others pass meanwhile."""
    for run, place in _places():
        if not (place.waiter and place.waiter.is_suspended()):
            return run, place.waiter is not None
    return None


def _number_awaiting() -> int:
    """How many runs wait for a worker."""
    return sum(not place.waiter for _, place in _places())


def _take(run: Run, writer: Writer | None = None) -> bool:
    """Take a run out of the queue, for that process where one is given; only one can."""
    if not paths.queue().is_dir():
        return False
    with _queue_lock():
        place = paths.queue() / run.id
        if not place.exists():
            return False
        if writer:  # before it leaves the queue: it is nobody's at no moment
            with runs.writing(run):
                runs.change(run, writer=writer)
        place.unlink()
    return True


def _work_place() -> tuple[Easel, FileLock] | None:
    """An easel without a worker, and the lock that makes it this one's; where all have one, waited for while there is
    work. `None` when other workers see to it all."""
    places = easels()
    found = first_free(places, Easel.work_lock) or _place_waited_for(places)
    if not found or _number_awaiting():
        return found
    easel, lock = found
    if any(said.writer.is_alive() for other, said in _said().items() if other != easel):
        lock.release()  # one that is warm is enough
        return None
    return found


def _place_waited_for(places: Sequence[Easel]) -> tuple[Easel, FileLock] | None:
    """An easel whose worker leaves, waited for while there is work."""
    queueing = FileLock(paths.home() / "worker-next.lock")
    if not acquired(queueing):  # one waiting is enough
        return None
    try:
        while True:
            for _ in range(10):
                if found := first_free(places, Easel.work_lock):
                    return found
                time.sleep(0.1)
            if not _number_awaiting():
                return None
    finally:
        queueing.release()


def _was_ready() -> bool:
    """Whether a worker got ready here once: then all is fetched and exported, and only has to be loaded."""
    said = readiness()
    return said is not None and said.ready


def announce(easel: Easel, message: str, ready: bool, failed: bool = False, without_preview: str = "") -> None:
    """Say how far this process, as the worker of that easel, is with the preparation."""
    said = Readiness(
        message=message, ready=ready, failed=failed, without_preview=without_preview, writer=Writer.this_process()
    )
    with contextlib.suppress(OSError), paths.replacing(easel.readiness_file) as file:  # a run need not fail for it
        file.write(said.model_dump_json().encode())


def _prepare(easel: Easel, make_engine: EngineMaker) -> bool:
    """Load what runs need, saying how far that is; whether it went well."""
    was_ready = _was_ready()

    def tell(message: str) -> None:
        announce(easel, message, ready=was_ready)

    try:
        tell("Loading TensorFlow …")
        hardware.import_tensorflow()
        engine = make_engine(tell, Timings())
        if not next_queued():  # a run that waits needs none of this
            tell("Compiling the losses …")
            engine.warm_up(settings.PRESETS[settings.DEFAULT_PRESET].settings())
            tell("Measuring this machine's pace …")
            pace.try_out(engine)
        announce(easel, "Ready.", ready=True, without_preview=_without_preview(tell))
        log.event("worker ready", pid=os.getpid())
    except Exception as error:  # whatever it is, the page must not wait for ever
        log.failed("worker not ready", error, pid=os.getpid())
        known = isinstance(error, StudioError)
        announce(easel, str(error) if known else f"Getting ready failed: {error!r}", ready=False, failed=True)
        return False
    return True


def _without_preview(tell: Report) -> str:
    """Why there is no preview; nothing where there is one, or a run waits and it is not asked for now."""
    if not next_queued():
        try:
            preview.obtain(tell)
        except StudioError as error:
            return str(error)
    return ""


def _perform_to_its_end(run: Run, make_engine: EngineMaker, easel: Easel | None = None) -> None:
    taken = False
    try:
        with easel.bearing(run) if easel else nullcontext():
            taken = _take(run, Writer.this_process())
            for _ in perform(run, make_engine) if taken else ():  # another worker may have been faster, or its user
                pass
    except Exception as error:  # it stands in the run's record, if that can be had; the next run may do better
        log.failed("run failed", error, run=run.id)
        if taken or next_queued() == run:
            _note_that_it_did_not_begin(run, error)
        _take(run)
        if _says_that_it_is_painted(run):  # how it ended could not be written: with this process gone it is interrupted
            raise


def _note_that_it_did_not_begin(run: Run, error: Exception) -> None:
    """Raises `StudioError` where that cannot be written, and leaves the run where it is."""
    try:
        if run.record().status != "queued":  # its recorder has noted it
            return
    except StudioError:  # it is no run
        return
    runs.fail(run, str(error) if isinstance(error, StudioError) else f"It could not begin: {error}")


def _says_that_it_is_painted(run: Run) -> bool:
    try:
        return run.record().status in ("preparing", "running")
    except StudioError:
        return False


def worker_log() -> Path:
    return paths.home() / "worker.log"
