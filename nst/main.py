"""Run the command line, and print every failure as one line on standard error."""

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
    """Run the command line; exit with code 2 for bad input, 1 for a failure and 130 for Ctrl-C."""
    from core import log

    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if os.environ.get("NST_LOG"):  # core.environment takes a tenth of a second to import
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
            message = str(error)
        elif isinstance(error, OSError) and error.strerror:
            message = _describe_os_error(error)
        else:
            message = f"Unexpected error ({type(error).__name__}: {error}). Use --debug to see where."
        _fail(2 if isinstance(error, InputError) else 1, message)
    if code == 130:  # Typer's exit code for Ctrl-C
        _fail(130, "Stopped.")
    sys.exit(code if isinstance(code, int) else 0)


def _describe_os_error(error: OSError) -> str:
    """Describe a file error of the operating system in a sentence."""
    from core import paths

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {paths.home()} is full: free some space and try again."
    return f"{error.filename or paths.home()} cannot be read or written: {error.strerror}."


def _fail(code: int, message: str) -> NoReturn:
    if message:  # empty if Typer has printed the help
        print("nst: " + " ".join(legible(message).split()), file=sys.stderr)
    sys.exit(code)
