"""Options of the whole program: its version and shell completion."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NST = f"{sys.executable} -m nst"


def bash(script):
    return subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_version_is_that_of_the_package():
    done = bash(f"{NST} --version")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (done.stdout, done.stderr, done.returncode) == (f"Style Transfer Studio {version}\n", "", 0)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nst re", "resume reference report"),
        ("nst stylize --opt", "--optimizer"),
        ("nst work", ""),  # `worker` is hidden
    ],
)
def test_bash_completes_commands_and_options(line, offered, tmp_path):
    program = tmp_path / "nst"
    program.write_text(f'#!/bin/sh\nexec {NST} "$@"\n')
    program.chmod(0o755)
    words = f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _nst_completion {program}"
    done = bash(f'eval "$({NST} --show-completion)"; {words}; echo "${{COMPREPLY[@]}}"')
    assert (done.stdout, done.stderr, done.returncode) == (f"{offered}\n", "", 0)


def test_completion_is_installed_in_the_home_folder(tmp_path):
    done = bash(f"HOME={tmp_path} {NST} --install-completion; exit $?")  # without `exit`, bash would become nst
    assert done.returncode == 0, done.stderr
    assert "_nst_completion" in (tmp_path / ".bash_completions" / "nst.sh").read_text()
