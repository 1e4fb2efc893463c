"""What an operator reads: a line an event on standard error, `NST_LOG=json` makes it JSON.

Silent until a process calls `begin`. No event holds a picture, a request or a secret; what others named is quoted, so
that no name breaks a line or steers a terminal.
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

LIMIT = 2**20  # bytes of a log file; as many again lie in the one before

_log = logging.getLogger("studio")
_log.propagate = False
_log.addHandler(logging.NullHandler())


def begin() -> None:
    """Let this process tell its events, from now on."""
    if not any(isinstance(handler, _StandardError) for handler in _log.handlers):
        handler = _StandardError()
        handler.setFormatter(_Lines())
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)


def event(what: str, **facts: Any) -> None:
    """Tell that something has happened, and of which run."""
    _log.info(what, extra={"facts": facts})


def refused(what: str, reason: Exception | str, **facts: Any) -> None:
    """Tell that something was not accepted, and why."""
    _log.warning(what, extra={"facts": {**facts, "reason": str(reason)}})


def failed(what: str, error: BaseException, **facts: Any) -> None:
    """Tell of a failure; of one that was not foreseen also where."""
    foreseen = isinstance(error, StudioError)
    reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
    _log.error(what, exc_info=None if foreseen else error, extra={"facts": {**facts, "reason": reason}})


def bounded(path: Path) -> IO[bytes]:
    """The log file, to append to. One that has become long is put aside, in place of the one that was before."""
    with contextlib.suppress(FileNotFoundError):  # another process has just put it aside
        if path.stat().st_size > LIMIT:
            path.replace(_aside(path))
    return path.open("ab")


def keep_bounded(path: Path) -> None:
    """Redirect this process's output from that log to a new one, if it has become long or was put aside."""
    with contextlib.suppress(OSError):  # a log is no reason to stop working
        mine = os.fstat(sys.__stderr__.fileno()) if sys.__stderr__ else None
        if mine and ((_is(mine, path) and mine.st_size > LIMIT) or _is(mine, _aside(path))):
            with bounded(path) as file:
                for number in (1, 2):  # also what libraries write there by themselves
                    os.dup2(file.fileno(), number)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _is(found: os.stat_result, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(found, path.stat())
    return False


class _StandardError(logging.StreamHandler[Any]):
    """To what is standard error at that time; a line that cannot be written is lost, and nothing else."""

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
        from core.environment import environment  # slow to import: not where nothing is logged

        if environment().log == "json":
            return json.dumps(said, default=str)
        facts = (f"{name}={_word(value)}" for name, value in said.items() if name not in ("time", "level", "event"))
        return " ".join([said["time"], said["level"], said["event"], *facts])


def _word(value: Any) -> str:
    word = value if isinstance(value, str) else json.dumps(value, default=str)
    return word if re.fullmatch(r"[\w./:+-]+", word, re.ASCII) else json.dumps(word)
