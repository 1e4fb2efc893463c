"""What will be used, as a pure function of what is there; and how TensorFlow is loaded without a word."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.hardware import Choice, Hardware, choose, processor, survey, versions

CPU, CUDA, COREML = "CPUExecutionProvider", "CUDAExecutionProvider", "CoreMLExecutionProvider"
H200, A10 = "NVIDIA H200", "NVIDIA A10"


def machine(gpus=(), providers=(CPU,)):
    return Hardware("a processor", 4, 2**34, tuple(gpus), tuple(providers))


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (machine(), Choice((CPU,), "float32", "no NVIDIA GPU is here")),
        (machine(providers=(CUDA, CPU)), Choice((CPU,), "float32", "no NVIDIA GPU is here")),
        (machine(providers=(COREML, CPU)), Choice((CPU,), "float32", "no NVIDIA GPU is here")),
        (
            machine([H200]),
            Choice((CPU,), "float32", "NVIDIA H200 is here, but this ONNX Runtime has no CUDA provider"),
        ),
        (
            machine([H200], ("TensorrtExecutionProvider", CUDA, CPU)),
            Choice((CUDA, CPU), "float32", f"a GPU is here: {H200}"),
        ),
        (machine([A10, H200], (CPU, CUDA)), Choice((CUDA, CPU), "float32", f"a GPU is here: {A10}")),
    ],
)
def test_choice(hardware, expected):
    assert choose(hardware) == expected
    assert choose(hardware) == expected  # it has no memory


def test_the_machine_s_size_changes_nothing():
    assert choose(Hardware("", 1, 2**30, (), (CPU,))) == choose(Hardware("big", 128, 2**40, (), (CPU,)))


def test_survey_of_this_machine():
    found = survey()
    assert found.processor == processor() != ""
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert CPU in found.onnx_providers
    assert set(choose(found).onnx_providers) <= set(found.onnx_providers)


def test_versions_name_what_decides_over_numbers():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"tensorflow", "keras", "numpy", "pillow"} <= set(found)
    assert len({"onnxruntime", "onnxruntime-gpu"} & set(found)) == 1
    assert all(found.values())


def test_tensorflow_is_imported_without_a_word():
    code = "from core.hardware import import_tensorflow as load, survey; survey(); import sys; "
    code += "assert 'tensorflow' not in sys.modules; load(); print('after', file=sys.stderr); "
    code += "print('tensorflow' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "after\n")  # and standard error works again
