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
    """Cut the line to `length` characters; a cut line ends with an ellipsis."""
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current activity: in one changing line on a terminal, else in separate lines."""
    if not screen.is_terminal:
        yield tell
        return
    with screen.status("Preparing …") as status:
        yield status.update


@contextmanager
def interrupt_stops(run: Run) -> Iterator[None]:
    """Stop the run after its current step on Ctrl-C, or at once before the first step or on a second Ctrl-C."""

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
    """Note Ctrl-C in a list for the block to read, because C code may lose an exception; a second Ctrl-C interrupts."""
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
    """Progress over the iterations of one or several runs: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, iterations: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), _Rate())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=screen, disable=not screen.is_terminal)
        self._task = self._bar.add_task("Preparing …", total=iterations, visible=iterations > 0)
        self._heading = ""
        self._before = self._completed = 0  # iterations: before the current run, and in total
        self._printed: set[str] = set()

    def __enter__(self) -> PaintingProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def turn_to(self, heading: str) -> None:
        """Start the next of several runs under a heading."""
        self._heading, self._before = heading, self._completed
        self.report("…")

    def report(self, line: str) -> None:
        """Show what is being prepared; without a terminal, print the same line only once for all runs."""
        self._bar.update(self._task, description=f"{self._heading}{line}")
        if not screen.is_terminal and line not in self._printed and line != "…":
            self._printed.add(line)
            tell(line)

    def watch(self, steps: Iterator[Step], iterations: int) -> Iterator[Step]:
        """Show and pass on the steps of a run, which are numbered from 0 to `iterations`."""
        for step in steps:
            losses, side = step.losses, step.objective.side
            line = f"total {losses.total:.4g}"
            if not (self._heading and screen.is_terminal):  # after a heading the bar has no room for more
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
    """Print a line for people on standard error, without characters that control the terminal."""
    screen.print(legible(line), highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print the value as indented JSON on standard output."""
    print(printable(json.dumps(value, indent=2, ensure_ascii=False)))


def printable(text: str) -> str:
    """Escape the characters of a JSON text that would control a terminal; its meaning stays the same."""
    return "".join(each if legible(each) == each else json.dumps(each)[1:-1] for each in text)


def print_table(columns: list[str], lines: Sequence[Sequence[str | Text]]) -> None:
    """Print a table on standard output; elsewhere than on a terminal, 200 characters wide."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "run")  # unbroken IDs can be copied
    for line in lines:
        table.add_row(*(Text(legible(cell)) if isinstance(cell, str) else cell for cell in line))  # no markup
    results = Console()
    if not results.is_terminal:  # a file or another program needs no lines of 80 characters
        results = Console(width=200)
    results.print(table)
