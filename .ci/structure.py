"""Check the size of files, functions and folders, and the names of modules. `make check` runs this.

import-linter checks import order and cycles, ruff parameters and nesting: see pyproject.toml.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("core", "export", "bench", "dashboard", "nst")
FILE_LINES = 500
FUNCTION_LINES = 60  # except in commands, where most lines document options
FOLDER_FILES = 14
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}  # names of modules


def problems(root: Path) -> Iterator[str]:
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    for file in files:
        name, text = file.relative_to(root), file.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > FILE_LINES:
            yield f"{name} has {lines} lines: at most {FILE_LINES}"
        if file.stem in VAGUE:
            yield f"{name}: name the module after what it does"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_command(node):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield f"{name}:{node.lineno} {node.name} has {lines} lines: at most {FUNCTION_LINES}"
    for folder, count in Counter(file.parent for file in files if file.name != "__init__.py").items():
        if count > FOLDER_FILES:
            yield f"{folder.relative_to(root)} has {count} files: at most {FOLDER_FILES}"


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("command" in ast.dump(decorator) for decorator in node.decorator_list)


if __name__ == "__main__":
    found = list(problems(Path(__file__).parents[1]))
    print("\n".join(found) or "structure: ok")
    sys.exit(bool(found))
