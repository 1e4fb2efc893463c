"""Run the command line, and turn every failure into one line on standard error."""

import errno
import os
import sys
from typing import NoReturn

from typer._click.exceptions import ClickException

from core.errors import InputError, StudioError
from core.names import legible
from nst import batch, bench, runs, setup, stylize  # noqa: F401  each registers its commands
from nst.app import app


def main() -> None:
    """Run the command line: errors are one line on standard error, exit code 2 for bad input and 1 for a failure."""
    from core import log

    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if os.environ.get("NST_LOG"):  # read here: importing core.environment takes a tenth of a second
        log.begin()
    try:
        code = app(arguments, prog_name="nst", standalone_mode=False)
    except ClickException as error:
        _fail(2, error.format_message())
    except KeyboardInterrupt:
        _fail(130, "Stopped.")
    except Exception as error:
        if debug:
            raise
        if isinstance(error, InputError):
            log.refused("input refused", error)
        else:
            log.failed("command failed", error)
        if isinstance(error, StudioError):
            said = str(error)
        elif isinstance(error, OSError) and error.strerror:
            said = _describe_os_error(error)
        else:
            said = f"Something unforeseen failed ({type(error).__name__}: {error}); --debug shows where."
        _fail(2 if isinstance(error, InputError) else 1, said)
    if code == 130:  # what Typer makes of Ctrl-C
        _fail(130, "Stopped.")
    sys.exit(code if isinstance(code, int) else 0)


def _describe_os_error(error: OSError) -> str:
    """What the system says of a file, in a sentence."""
    from core import paths

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {paths.home()} is full: make room, then try again."
    return f"{error.filename or paths.home()} cannot be read or written: {error.strerror}."


def _fail(code: int, message: str) -> NoReturn:
    if message:  # without arguments, the help has said it all
        print("nst: " + " ".join(legible(message).split()), file=sys.stderr)
    sys.exit(code)
