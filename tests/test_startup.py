"""Which modules load without heavy libraries. import-linter checks the order of imports (pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"tensorflow", "keras", "tf2onnx", "torch", "jax", "ray"}
WITH_TENSORFLOW = {
    "objective",
    "tiled_objective",
    "losses",
    "style_losses",
    "content_losses",
    "optimizers",
    "stylize",
    "engine",
    "onnx_model",
    "baselines",
    "comparisons",
    "contact_sheets",
    "peers",
    "torch_peer",
    "quality",
}


def modules(*packages, without=()):
    files = [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem not in without]
    return [name.removesuffix(".__init__") for name in names]


def loaded(code, among):
    code += f"; import sys; print(sorted({set(among)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_only_the_modules_that_compute_load_tensorflow():
    names = modules("core", "export", "bench", without=WITH_TENSORFLOW)
    assert len(names) > 50
    assert loaded(f"import {', '.join(names)}", HEAVY) == "[]\n"


@pytest.mark.parametrize("module", ["nst.main", "core.settings", "core.images.codec"])
def test_the_command_line_starts_without_heavy_libraries(module):
    among = {*HEAVY, "onnxruntime", "streamlit", "pandas"} | ({"PIL"} if module != "core.images.codec" else set())
    assert loaded(f"import {module}", among) == "[]\n"
