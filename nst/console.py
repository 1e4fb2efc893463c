"""What the command line prints: progress bars, tables, JSON and messages."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core.names import legible

if TYPE_CHECKING:
    from core.runs.run import Run
    from core.transfer.stylize import Step

screen = Console(stderr=True)  # for people; standard output is for results


def shorten(line: str, length: int) -> str:
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Says what is being done: in one changing line on a terminal, in a line each elsewhere."""
    if not screen.is_terminal:
        yield tell
        return
    with screen.status("Preparing …") as status:
        yield status.update


@contextmanager
def interrupt_stops(run: Run) -> Iterator[None]:
    """Ctrl-C asks the run to stop after its current step; before the first, or a second time, it breaks off."""

    def stop(number: int, frame: Any) -> None:
        if run.request().stop or run.record().status != "running":
            raise KeyboardInterrupt
        run.ask(stop=True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupt_noticed() -> Iterator[list[int]]:
    """Note Ctrl-C in a list for the block to read, as C code may lose an exception. A second one interrupts."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f} it/s" if task.speed else "")


class PaintingProgress:
    """A progress bar on the terminal (elsewhere plain lines), over the iterations of one run or of several."""

    def __init__(self, iterations: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), _Rate())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=screen, disable=not screen.is_terminal)
        self._task = self._bar.add_task("Preparing …", total=iterations, visible=iterations > 0)
        self._heading = ""
        self._before = self._completed = 0  # iterations: of the runs before this one, and in all
        self._told: set[str] = set()

    def __enter__(self) -> PaintingProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def turn_to(self, heading: str) -> None:
        """What follows is another run, of several."""
        self._heading, self._before = heading, self._completed
        self.report("…")

    def report(self, line: str) -> None:
        """What is being prepared; in plain lines, where several runs prepare the same, it is told once."""
        self._bar.update(self._task, description=f"{self._heading}{line}")
        if not screen.is_terminal and line not in self._told and line != "…":
            self._told.add(line)
            tell(line)

    def watch(self, steps: Iterator[Step], iterations: int) -> Iterator[Step]:
        """Passes the steps on, of which there are so many but for the first."""
        for step in steps:
            losses, side = step.losses, step.objective.side
            line = f"total {losses.total:.4g}"
            if not (self._heading and screen.is_terminal):  # there is no room for more
                line += f"  style {losses.style:.4g}  content {losses.content:.4g}"
            if side:
                line += f"  in tiles of {side} px"
            self._completed = self._before + step.iteration
            self._bar.update(self._task, completed=self._completed, description=f"{self._heading}{line}")
            due = step.iteration % max(1, iterations // 10) == 0 or step.iteration == iterations
            if not screen.is_terminal and due:
                tell(f"{self._heading}{step.iteration}/{iterations}  {line}  {step.seconds:.1f} s")
            yield step


def tell(line: str) -> None:
    screen.print(legible(line), highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    print(printable(json.dumps(value, indent=2, ensure_ascii=False)))


def printable(text: str) -> str:
    """JSON with the same meaning, in which what would steer a terminal is escaped."""
    return "".join(each if legible(each) == each else json.dumps(each)[1:-1] for each in text)


def print_table(columns: list[str], lines: Sequence[Sequence[str | Text]]) -> None:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "run")  # a run's name is there to be copied
    for line in lines:
        table.add_row(*(Text(legible(cell)) if isinstance(cell, str) else cell for cell in line))  # no word is markup
    results = Console()
    if not results.is_terminal:  # a file or another program: nothing there wants lines of 80 characters
        results = Console(width=200)
    results.print(table)
