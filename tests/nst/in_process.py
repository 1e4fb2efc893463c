"""Run commands in the test process, where TensorFlow is loaded and the engine is made once for all of them."""

import contextlib
import functools
import io
import logging
import subprocess
import sys
from pathlib import Path
from unittest import mock

from core import log
from nst import batch, bench, engine, runs, setup, stylize
from nst.main import main

# Each module holds the function by name.
USERS = [module for module in (batch, bench, runs, setup, stylize) if hasattr(module, "load_engine")]
_made = {}


@functools.wraps(engine.load_engine)
def _load_once(weights, report, timings):
    """Return the engine of these weights; only the first call prepares it, and all record the phases' seconds."""
    if weights not in _made:
        _made[weights] = engine.load_engine(weights, report, timings)
    for phase in ("weights", "model"):
        with timings.phase(phase):
            pass
    return _made[weights]


def nst(*arguments, folder=None):
    """Run a command as `python -m nst` would, in a folder; return its exit code and what it printed."""
    words = ["nst", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder or Path.cwd()))
        stack.enter_context(mock.patch.object(sys, "argv", words))
        stack.enter_context(mock.patch.object(log._log, "handlers", [logging.NullHandler()]))  # another test may log
        for module in USERS:
            stack.enter_context(mock.patch.object(module, "load_engine", _load_once))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
