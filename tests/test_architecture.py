"""The house: which package may know of which, and what opens without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "export", "bench", "dashboard", "nst")
WITHOUT_TENSORFLOW = (
    "core.settings",
    "core.images",
    "core.decoding",
    "core.runs",
    "core.hardware",
    "core.cluster",
    "core.jobs",
    "core.painter",
    "core.slots",
    "core.pace",
    "core.samples",
    "core.weights",
    "core.targets",
    "core.doctor",
    "core.preview",
    "core.start",
    "core.vgg",
    "core.wheels",
)


def files(package):
    found = [ROOT / "nst.py"] if package == "nst" else sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def imported(tree):
    """The full names of what a tree imports, `from core import runs` as "core.runs"; at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_once(tree):
    """What importing a module imports, functions' insides and what is meant for type checkers left out."""
    for node in tree.body if isinstance(tree, ast.Module | ast.ClassDef) else [tree]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.ClassDef):
            yield from at_once(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (name for other in node.orelse for name in imported(other))
        else:
            yield from imported(node)


def in_use(tree):
    """What a module imports sooner or later, all but what is meant for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    return imported(tree)


def packages_of(names):
    return {name.partition(".")[0] for name in names}


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("core", {"export", "bench", "dashboard", "nst"}),
        ("export", {"bench", "dashboard", "nst"}),
        ("bench", {"export", "dashboard", "nst"}),
        ("dashboard", {"nst", "tensorflow", "keras", "tf2onnx"}),
    ],
)
def test_one_direction(package, forbidden):
    found = {
        file.relative_to(ROOT).as_posix(): wrong
        for file in files(package)
        if (wrong := packages_of(imported(parsed(file))) & forbidden)
    }
    assert found == {}


def test_nst_imports_inside_the_commands():
    names = [name for name in at_once(parsed(ROOT / "nst.py")) if name.partition(".")[0] in PACKAGES]
    assert names
    assert [name for name in names if not name.startswith(("core.errors.", "core.names.", "core.settings."))] == []
    assert {"core", "export", "bench"} <= packages_of(imported(parsed(ROOT / "nst.py")))


def test_the_product_knows_nothing_of_its_tests():
    for package in PACKAGES:
        for file in files(package):
            assert not packages_of(imported(parsed(file))) & {"tests", "pytest", "conftest", "plain_reference"}, file


def modules_behind_the_page():
    """What the page's files take of our packages, as modules."""
    for file in files("dashboard"):
        for name in in_use(parsed(file)):
            parts = name.split(".")
            if parts[0] in ("core", "export", "bench"):
                for length in (1, 2, 3):
                    module = ROOT.joinpath(*parts[:length])
                    if module.with_suffix(".py").is_file() or (module / "__init__.py").is_file():
                        yield ".".join(parts[:length])


def test_opens_without_tensorflow():
    modules = sorted({*WITHOUT_TENSORFLOW, *modules_behind_the_page()})
    code = f"import sys, {', '.join(modules)}; "
    code += "print(sorted({'tensorflow', 'keras', 'tf2onnx', 'torch', 'jax', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_ray_is_for_the_cluster_alone():
    """Who has none needs none: it is imported where a cluster is asked for, and by nobody else."""
    found = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in files(package)
        if "ray" in packages_of(imported(parsed(file)))
    }
    assert found == {"core/cluster.py", "core/painter.py"}
    for package in PACKAGES:
        for file in files(package):
            names = set(at_once(parsed(file)))
            assert "ray" not in packages_of(names), file
            needs = {name for name in names if name.startswith(("core.cluster", "core.painter"))}
            assert not needs or file.name == "cluster.py", file


def test_the_command_line_opens_light():
    code = "import sys, nst; "
    code += "print(sorted({'tensorflow', 'keras', 'onnxruntime', 'streamlit', 'pandas', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
