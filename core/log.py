"""The log for operators: one line per event on standard error, as text or (`NST_LOG=json`) as JSON.

A process logs only after it has called `begin`. No event contains an image, a request or a secret. Names from outside
are quoted, so that they cannot break a line or control a terminal.
"""

import contextlib
import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from core.errors import StudioError

LIMIT = 2**20  # bytes of a log file; the previous log file has up to the same size

_log = logging.getLogger("studio")
_log.propagate = False
_log.addHandler(logging.NullHandler())


def begin() -> None:
    """Start logging in this process."""
    if not any(isinstance(handler, _StandardError) for handler in _log.handlers):
        handler = _StandardError()
        handler.setFormatter(_Lines())
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)


def event(what: str, **facts: Any) -> None:
    """Log an event with its facts, such as the run."""
    _log.info(what, extra={"facts": facts})


def refused(what: str, reason: Exception | str, **facts: Any) -> None:
    """Log that something was refused, and the reason."""
    _log.warning(what, extra={"facts": {**facts, "reason": str(reason)}})


def failed(what: str, error: BaseException, **facts: Any) -> None:
    """Log a failure; for an unexpected error, also the traceback."""
    foreseen = isinstance(error, StudioError)
    reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
    _log.error(what, exc_info=None if foreseen else error, extra={"facts": {**facts, "reason": reason}})


def open_bounded(path: Path) -> IO[bytes]:
    """Open the log file to append to it; rename a file over `LIMIT` first, in place of the previous log file."""
    with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
        if path.stat().st_size > LIMIT:
            path.replace(_aside(path))
    return path.open("ab")


def keep_bounded(path: Path) -> None:
    """Redirect this process's output to a new log file if the current one is over `LIMIT` or was renamed."""
    with contextlib.suppress(OSError):  # a failure of the log must not stop the process
        mine = os.fstat(sys.__stderr__.fileno()) if sys.__stderr__ else None
        if mine and ((_is(mine, path) and mine.st_size > LIMIT) or _is(mine, _aside(path))):
            with open_bounded(path) as file:
                for number in (1, 2):  # libraries write to these descriptors directly
                    os.dup2(file.fileno(), number)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _is(found: os.stat_result, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(found, path.stat())
    return False


class _StandardError(logging.StreamHandler[Any]):
    """A handler that writes to the current standard error and ignores lines that it cannot write."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **record.facts,  # type: ignore[attr-defined]
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        from core.environment import environment  # slow to import, and needed only when something is logged

        if environment().log == "json":
            return json.dumps(said, default=str)
        facts = (f"{name}={_word(value)}" for name, value in said.items() if name not in ("time", "level", "event"))
        return " ".join([said["time"], said["level"], said["event"], *facts])


def _word(value: Any) -> str:
    word = value if isinstance(value, str) else json.dumps(value, default=str)
    return word if re.fullmatch(r"[\w./:+-]+", word, re.ASCII) else json.dumps(word)
