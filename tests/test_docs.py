"""The check of the docs' links and commands finds what is broken, and nothing else."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOOD = """# Title

[heading](#title), [second](#title-1), [other](docs/other.md#a-heading-with-code_and-dots), [folder](docs)
![picture](docs/picture.png) <a href="docs/other.md">other</a> <https://example.org/a?b=c>
Inline: `nst stylize`, `nst runs --json`, `make test`, `make PYTHON=python3.12 test`.

# Title

```sh
nst --version
.venv/bin/nst stylize chelsea waves -o out.png \\
    --size 64   # a comment with 'half a quotation
NST_HOME=/tmp python -m nst runs --json | head > runs.json
nst stylize --help
make test
echo 'a quotation
of two lines' && ls
python docs/program.py && pip install -r some.lock
```

```text
nst is a word, and 'half a quotation is no command
```
"""
BAD = {
    "[a](docs/none.md)": "docs/none.md: no such file",
    "[a](../outside.md)": "../outside.md: no such file",
    "[a](#none)": "#none: no such heading",
    "| a |\n| --- |\n| [a](docs/other.md#none) |": "docs/other.md#none: no such heading",
    "[a](htp://example.org)": "htp://example.org: not an http(s) address",
    "[a](https://example)": "https://example: not an http(s) address",
    '<img src="none.png">': "none.png: no such file",
    "`nst paint`": "nst paint: no subcommand paint",
    "`nst runs --jsn`": "nst runs --jsn: No such option: --jsn",
    "`make tests`": "make tests: no target tests",
    "```sh\nnst stylize chelsea\n```": "nst stylize chelsea: Missing argument",
    "```sh\nnst runs last\n```": "nst runs last: Got unexpected extra argument",
    "```sh\nnst stylize a b -o c --size big\n```": "nst stylize a b -o c --size big: Invalid value for '--size'",
    "```sh\nls; make all\n```": "make all: no target all",
    "```sh\npython docs/none.py\n```": "python docs/none.py: no file docs/none.py",
    "```sh\npip install -r none.lock\n```": "pip install -r none.lock: no file none.lock",
    "```sh\npython -m core.none\n```": "python -m core.none: no module core.none",
}


def check(folder):
    command = [sys.executable, ROOT / ".ci" / "docs.py", folder]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == (done.stdout != "docs: ok\n")
    return done.stdout.splitlines()


def test_docs_check(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("## A heading, with `code_and` dots…\n")
    for name in ("docs/picture.png", "docs/program.py", "some.lock"):
        (tmp_path / name).touch()
    (tmp_path / "Makefile").write_text("BIN := bin\ntest: install\n\tpytest\n")
    (tmp_path / "README.md").write_text(GOOD)
    assert check(tmp_path) == ["docs: ok"]
    (tmp_path / "README.md").write_text("\n\n".join(BAD))
    found = check(tmp_path)
    assert len(found) == len(BAD)
    for line, expected in zip(found, BAD.values(), strict=True):
        assert line.split(" ", 1)[1].startswith(expected)
