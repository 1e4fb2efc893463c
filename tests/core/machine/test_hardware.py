"""The choice of GPU and precision from the hardware, and the silent import of TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.machine import hardware
from core.machine.hardware import Choice, Hardware, choose, missing_cuda_libraries, processor, survey, versions

CPU, CUDA, COREML = "CPUExecutionProvider", "CUDAExecutionProvider", "CoreMLExecutionProvider"
H200, A10, T4 = "NVIDIA H200", "NVIDIA A10", "Tesla T4"


def machine(gpus=(), providers=(CPU,), **facts):
    return Hardware("a processor", 4, 2**34, tuple(gpus), tuple(providers), **facts)


@pytest.mark.parametrize(
    ("facts", "providers", "why"),
    [
        (machine(), (CPU,), "this machine has no NVIDIA GPU"),
        (machine(providers=(CUDA, CPU)), (CPU,), "this machine has no NVIDIA GPU"),
        (machine(providers=(COREML, CPU)), (CPU,), "this machine has no NVIDIA GPU"),
        (machine([H200]), (CPU,), "this ONNX Runtime has no CUDA provider and cannot use NVIDIA H200"),
        (machine([H200], ("TensorrtExecutionProvider", CUDA, CPU)), (CUDA, CPU), f"this machine has a GPU: {H200}"),
        (machine([A10, H200], (CPU, CUDA)), (CUDA, CPU), f"this machine has a GPU: {A10}"),
    ],
)
def test_choice_of_providers(facts, providers, why):
    expected = Choice(providers, why, "float32", "as asked for")
    assert choose(facts, "float32") == expected
    assert choose(facts, "float32") == expected  # the same call gives the same choice
    automatic = choose(facts)
    assert (automatic.onnx_providers, automatic.why) == (providers, why)


NO_INSTRUCTIONS = "the processor has no bfloat16 instructions (AMX or AVX512-BF16)"
AMX = "the processor has bfloat16 instructions (amx_bf16)"


@pytest.mark.parametrize(
    ("facts", "precision", "why"),
    [
        ({}, "float32", NO_INSTRUCTIONS),
        ({"cpu_bfloat16": ("amx_bf16", "avx512_bf16")}, "bfloat16", AMX),
        ({"cpu_bfloat16": ("amx_bf16",)}, "bfloat16", AMX),
        ({"cpu_bfloat16": ("avx512_bf16",)}, "bfloat16", "the processor has bfloat16 instructions (avx512_bf16)"),
        ({"gpus": [H200], "gpu_capability": 9.0, "cuda_libraries": True}, "bfloat16", "NVIDIA H200 has bfloat16"),
        ({"gpus": [A10], "gpu_capability": 8.0, "cuda_libraries": True}, "bfloat16", "NVIDIA A10 has bfloat16"),
        ({"gpus": [T4], "gpu_capability": 7.5, "cuda_libraries": True}, "float32", "Tesla T4 has no bfloat16"),
        # The processor's instructions do not matter if a GPU is used.
        (
            {"gpus": [T4], "gpu_capability": 7.5, "cuda_libraries": True, "cpu_bfloat16": ("amx_bf16",)},
            "float32",
            "Tesla T4 has no bfloat16",
        ),
        # A GPU without libraries does not matter, nor libraries without a GPU.
        ({"gpus": [H200], "gpu_capability": 9.0}, "float32", NO_INSTRUCTIONS),
        ({"gpus": [H200], "gpu_capability": 9.0, "cpu_bfloat16": ("amx_bf16",)}, "bfloat16", AMX),
        ({"cuda_libraries": True}, "float32", NO_INSTRUCTIONS),
        ({"cuda_libraries": True, "cpu_bfloat16": ("amx_bf16",)}, "bfloat16", AMX),
    ],
)
def test_choice_of_precision(facts, precision, why):
    for providers in ((CPU,), (CUDA, CPU)):  # the precision is TensorFlow's, independent of ONNX Runtime
        chosen = choose(machine(**facts, providers=providers))
        assert (chosen.precision, chosen.why_precision) == (precision, why)
    for wanted in ("float32", "bfloat16"):
        chosen = choose(machine(**facts), wanted)
        assert (chosen.precision, chosen.why_precision) == (wanted, "as asked for")


def test_cores_and_memory_do_not_change_the_choice():
    assert choose(Hardware("", 1, 2**30, (), (CPU,))) == choose(Hardware("big", 128, 2**40, (), (CPU,)))


def test_survey_of_this_machine():
    found = survey()
    assert found.processor == processor() != ""
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert CPU in found.onnx_providers
    assert set(choose(found).onnx_providers) <= set(found.onnx_providers)
    assert (found.gpu_capability > 0) == bool(found.gpus)
    assert found.cuda_libraries == (not missing_cuda_libraries())


def test_survey_reads_what_the_processor_can_do(tmp_path, monkeypatch):
    def survey_of(cpuinfo):
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(hardware, "Path", lambda _: tmp_path / "cpuinfo")
        return survey()

    second = "processor\t: 1\nmodel name\t: another\nflags\t\t: fpu amx_bf16\n"
    first = "processor\t: 0\nmodel name\t: Xeon: the one\nbugs\t\t: amx_bf16\nflags\t\t: fpu avx512_bf16 amx_bf16x\n\n"
    found = survey_of(first + second)
    assert (found.processor, found.cpu_bfloat16) == ("Xeon: the one", ("avx512_bf16",))
    assert survey_of(second).cpu_bfloat16 == ("amx_bf16",)
    assert survey_of("processor\t: 0\nmodel name\t: old\n").cpu_bfloat16 == ()
    assert survey_of("").processor != ""  # the name comes from `platform`


def test_cuda_libraries_are_found_by_their_packages(monkeypatch):
    monkeypatch.setattr(hardware, "CUDA_PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert missing_cuda_libraries() == ["no-such-package-anywhere"]
    assert not survey().cuda_libraries
    monkeypatch.setattr(hardware, "CUDA_PACKAGES", ("numpy", "pillow"))
    assert missing_cuda_libraries() == []
    assert survey().cuda_libraries


def test_versions_include_the_packages_that_affect_numbers():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"tensorflow", "keras", "numpy", "pillow"} <= set(found)
    assert len({"onnxruntime", "onnxruntime-gpu"} & set(found)) == 1
    assert all(found.values())


def test_tensorflow_is_imported_silently():
    code = "from core.machine.hardware import import_tensorflow as load, survey; survey(); import sys; "
    code += "assert 'tensorflow' not in sys.modules; load(); print('after', file=sys.stderr); "
    code += "print('tensorflow' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "after\n")  # standard error works again


@pytest.mark.parametrize(
    ("allowed", "used"),
    [
        (None, ("0", "1", "2")),
        ("1", ("1",)),
        ("2, 0", ("2", "0")),
        ("GPU-8f6a,1", ("GPU-8f6a", "1")),
        ("", ()),
        ("-1", ()),
        ("1,-1,2", ("1",)),  # CUDA stops there too
    ],
)
def test_the_gpus_are_those_that_the_user_allows(monkeypatch, allowed, used):
    if allowed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    monkeypatch.setattr(hardware, "gpus", lambda: (H200, H200, A10))
    assert hardware.cards() == used
    monkeypatch.setattr(hardware, "gpus", lambda: ())  # no GPU, or no CUDA libraries
    assert hardware.cards() == ()


@pytest.mark.parametrize("used", [(), ("999",), ("GPU-no-such-card",)])
def test_the_memory_of_a_missing_gpu_is_unknown(monkeypatch, used):
    monkeypatch.setattr(hardware, "cards", lambda: used)
    assert hardware.free_card_memory() is None and hardware.card_memory() is None


def test_gpu_memory_held_by_tensorflow_is_available_to_the_next_run():
    code = (
        "from core.machine import hardware; free = [5e9, 1e9, 1e9]; hardware.free_card_memory = lambda: free.pop(0); "
    )
    code += "hardware.import_tensorflow(); hardware.import_tensorflow(); print(hardware.card_memory())"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "5000000000.0\n"
