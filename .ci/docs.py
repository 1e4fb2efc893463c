"""Check the links and the commands of the docs. `make check` runs it.

    python .ci/docs.py [FOLDER]

It reads README.md, CONTRIBUTING.md, CHANGELOG.md and docs/*.md. Relative links must lead to a file, and their anchors
to a heading; of external links it checks the form only. In code blocks it checks the subcommands, options and arguments
of `nst`, the targets of `make` and the paths of files; in inline code, `nst` and `make`. It executes no command.
"""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer._click.exceptions import ClickException, MissingParameter

from nst.main import app

NST = typer.main.get_command(app)
SHELL = {"", "sh", "bash", "console"}  # languages of code blocks that hold commands
PACKAGES = ("core", "export", "bench", "dashboard", "nst", "tests")
ATTRIBUTE = re.compile(r"""(?:href|src)=["']([^"']+)""")
HOST = re.compile(r"(?:[\w-]+\.)+\w+(?::\d+)?|localhost(?::\d+)?")
FILE = re.compile(r"[\w.-]+\.(?:lock|py|toml)")  # a file of the top folder; other names may be a user's


def problems(root: Path) -> Iterator[str]:
    """Yield a line for each broken link and each invalid command."""
    files = [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for file in [*filter(Path.exists, files), *sorted((root / "docs").glob("*.md"))]:
        for line, found in _problems_of(file, root):
            yield f"{file.relative_to(root)}:{line}: {found}"


def _problems_of(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    for token in _parse(file):
        line = token.map[0] + 1 if token.map else 1
        for part in (token, *(token.children or ())):
            links = ATTRIBUTE.findall(part.content) if part.type.startswith("html") else []
            links += [str(part.attrs[name]) for name in ("href", "src") if name in part.attrs]
            for link in links:
                if found := check_link(link, file, root):
                    yield line, f"{link}: {found}"
        if token.type == "fence" and token.info.strip() in SHELL:
            for number, command in _commands(token.content):
                if found := check_command(command, root):
                    yield line + 1 + number, f"{shlex.join(command)}: {found}"
        for part in token.children or ():
            is_command = part.type == "code_inline" and part.content.startswith(("nst ", "make "))
            if is_command and (found := check_command(part.content.split(), root, is_whole=False)):
                yield line, f"{part.content}: {found}"


def _parse(file: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(file.read_text(encoding="utf-8"))


def check_link(link: str, file: Path, root: Path) -> str:
    """Return what is wrong with a link of a file, or nothing."""
    parts = urlsplit(link)
    if parts.scheme:
        is_good = parts.scheme in ("http", "https") and HOST.fullmatch(parts.netloc)
        return "" if is_good else "not an http(s) address"
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if not target.is_relative_to(root.resolve()) or not target.exists():
        return "no such file"
    if parts.fragment and (target.suffix != ".md" or parts.fragment not in _anchors(target)):
        return "no such heading"
    return ""


def _anchors(file: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a file."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    tokens = _parse(file)
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(part.content for part in inline.children or () if part.type in ("text", "code_inline"))
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return found


def _commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number, from 0, and the words of each command of a shell script, without leading `NAME=value`."""
    started, pending = 0, ""
    for number, line in enumerate(text.splitlines()):
        started = started if pending else number
        pending += line.removeprefix("$ ")
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = [*lexer, ";"]
        except ValueError:  # a quotation goes on in the next line
            pending += "\n"
            continue
        pending, command = "", []
        for word in words:
            if word and set(word) <= set(";&|()<>"):
                if command:
                    yield started, command
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)
    if pending:
        yield started, pending.split()  # reported, as a quotation or a continued line has no end


def check_command(command: list[str], root: Path, is_whole: bool = True) -> str:
    """Return what is wrong with a command, or nothing; one that is not whole may lack arguments."""
    words = command[3 if command[1:2] == ["-m"] else 1 :]
    program = command[2] if command[1:2] == ["-m"] and len(command) > 2 else Path(command[0]).name
    if program == "nst":
        return _check_nst(words, is_whole)
    if program == "make":
        targets = re.findall(r"^([a-z][\w-]*):(?!=)", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        unknown = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
        return f"no target {unknown[0]}" if unknown else ""
    if program.split(".")[0] in PACKAGES:
        module = root.joinpath(*program.split("."))
        return "" if module.is_dir() or module.with_suffix(".py").exists() else f"no module {program}"
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".venv")}
    for word in command:
        is_path = word.split("/")[0] in folders if "/" in word else FILE.fullmatch(word)
        if is_path and not (root / word).exists():
            return f"no file {word}"
    return ""


def _check_nst(words: list[str], is_whole: bool) -> str:
    options = {option for parameter in NST.params for option in parameter.opts} | {"--help"}
    while words and words[0] in options:
        words = words[1:]
    if not words:
        return ""
    name, *arguments = words
    if name not in NST.commands:
        return f"no subcommand {name}"
    is_help = "--help" in arguments
    try:
        NST.commands[name].make_context(name, [word for word in arguments if word not in ("--help", "--debug")])
    except ClickException as error:
        may_lack = isinstance(error, MissingParameter) and (is_help or not is_whole)
        return "" if may_lack else error.format_message()
    return ""


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1]))
    print("\n".join(found) or "docs: ok")
    sys.exit(bool(found))
