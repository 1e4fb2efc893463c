"""Run a command on a terminal."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_terminal():
    """Run a command that ends well and return what it shows on a terminal 120 columns wide, without escapes."""

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
                except OSError:  # the other side is gone (Linux)
                    break
                if not data:
                    break
        os.close(screen)
        assert process.returncode == 0
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())

    return run
