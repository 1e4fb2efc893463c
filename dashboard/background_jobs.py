"""`nst` commands that run in the background of a page; the last line of their output is their progress."""

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
    """The last started command of its name."""

    name: str
    arguments: list[str]
    process: ProcessId

    def is_running(self) -> bool:
        """Return whether the command still runs; another process may have its number by now."""
        try:
            given: list[str] = psutil.Process(self.process.pid).cmdline()[1:]
        except psutil.Error:
            return False
        return given == ["-m", "nst", *self.arguments]

    def seconds(self) -> float:
        """Return the seconds since the command was started."""
        return time.time() - _file(self.name).stat().st_mtime

    def last_line(self) -> str:
        """Return the last line of its output: its progress or its error."""
        try:
            lines = _log(self.name).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self) -> None:
        """Stop the command and its child processes."""
        try:
            process = psutil.Process(self.process.pid)
            if self.is_running():
                for child in process.children(recursive=True):
                    child.terminate()
                process.send_signal(signal.SIGINT)  # like Ctrl-C, so that it cleans up
        except psutil.Error:
            pass


def start(name: str, *arguments: str) -> Command:
    """Run `nst` with these arguments. Raises `StudioError` while another command of this name runs."""
    before = status(name)
    if before and before.is_running():
        raise StudioError("Such a measurement is already running: wait until it ends.")
    folder().mkdir(parents=True, exist_ok=True)
    with _log(name).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nst", *arguments],
            cwd=paths.CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # Its output is read as progress and must not contain log lines.
            env={name: value for name, value in os.environ.items() if name != "NST_LOG"} | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # it continues when the server stops
        )
    command = Command(name=name, arguments=list(arguments), process=ProcessId(pid=process.pid))
    paths.write(_file(name), command.model_dump_json().encode())
    return command


def status(name: str) -> Command | None:
    """Return the last command of this name, running or not."""
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
