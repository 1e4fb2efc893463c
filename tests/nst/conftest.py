"""Run a command on a terminal."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_terminal():
    """Return a function that runs a command and returns its output on a terminal of 120 columns, without escapes."""

    def run(arguments):
        import pty

        screen, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=terminal) as process:
            os.close(terminal)
            seen = b""
            while True:
                try:
                    seen += (data := os.read(screen, 4096))
                except OSError:  # the process has closed the terminal (Linux)
                    break
                if not data:
                    break
        os.close(screen)
        assert process.returncode == 0
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())

    return run
