"""The diagrams of docs/architecture.md show the imports that the code has."""

import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PACKAGES = ["core", "export", "bench", "dashboard", "nst"]


def test_diagrams_show_the_imports_between_packages():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = [arrows(diagram) for diagram in re.findall(r"```mermaid\nflowchart TD\n(.*?)```", text, re.DOTALL)]
    graph = grimp.build_graph(*PACKAGES)
    within_core = [module for module in graph.find_children("core") if graph.find_children(module)]
    assert drawn == [imports(graph, PACKAGES), imports(graph, within_core)]


def arrows(diagram):
    """Return the arrows of lines such as `a --> b & c`."""
    lines = [line.strip().split(" --> ") for line in diagram.splitlines()]
    return {(source, target) for source, targets in lines for target in targets.split(" & ")}


def imports(graph, packages):
    pairs = [(importer, imported) for importer in packages for imported in packages if importer != imported]
    found = [pair for pair in pairs if graph.direct_import_exists(importer=pair[0], imported=pair[1], as_packages=True)]
    return {tuple(name.removeprefix("core.") for name in pair) for pair in found}
