"""Commands of this program that run beside a page: started once, watched by their last words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from pydantic import BaseModel, ValidationError

from core import paths
from core.errors import StudioError
from core.machine.processes import ProcessId


class Command(BaseModel):
    """A command that was started, the last of its name."""

    name: str
    arguments: list[str]
    process: ProcessId

    def is_running(self) -> bool:
        """Whether the process of that number is this command, and not a later one's."""
        try:
            given: list[str] = psutil.Process(self.process.pid).cmdline()[1:]
        except psutil.Error:
            return False
        return given == ["-m", "nst", *self.arguments]

    def seconds(self) -> float:
        """Return how long ago it was started."""
        return time.time() - _file(self.name).stat().st_mtime

    def said(self) -> str:
        """Its last line: how far it is, or what went wrong."""
        try:
            lines = _log(self.name).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self) -> None:
        """End it and what it has started."""
        try:
            process = psutil.Process(self.process.pid)
            if self.is_running():
                for child in process.children(recursive=True):
                    child.terminate()
                process.send_signal(signal.SIGINT)  # as by Ctrl-C: it clears away what it made
        except psutil.Error:
            pass


def start(name: str, *arguments: str) -> Command:
    """Run `nst` with these arguments. Raises `StudioError` while another of the name runs."""
    before = status(name)
    if before and before.is_running():
        raise StudioError("One such measurement is under way already.")
    folder().mkdir(parents=True, exist_ok=True)
    with _log(name).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nst", *arguments],
            cwd=paths.CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # What it says is read as its progress: no line of a log among it.
            env={name: value for name, value in os.environ.items() if name != "NST_LOG"} | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # it goes on when the page's server is stopped
        )
    command = Command(name=name, arguments=list(arguments), process=ProcessId(pid=process.pid))
    with paths.replacing(_file(name)) as file:
        file.write(command.model_dump_json().encode())
    return command


def status(name: str) -> Command | None:
    """The last command of that name, running or not."""
    try:
        return Command.model_validate_json(_file(name).read_bytes())
    except (OSError, ValidationError):
        return None


def folder() -> Path:
    return paths.home() / "background"


def _file(name: str) -> Path:
    return folder() / f"{name}.json"


def _log(name: str) -> Path:
    return folder() / f"{name}.log"
