"""nst doctor: what it finds on this machine, and its remedies if something is missing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from core import paths
from core.machine import hardware
from core.machine.hardware import Hardware
from core.vgg.weights import KERAS_FILE
from nst import doctor
from nst.doctor import Finding, examine

ROOT = Path(__file__).parents[2]


def found(what):
    (finding,) = [finding for finding in examine() if finding.what == what]
    return finding


@pytest.fixture
def without_models(tmp_path, monkeypatch, own_home):
    """Hide all downloaded models: use an empty checkout and an empty Keras cache."""
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("NST_WEIGHTS", raising=False)
    return tmp_path


def test_this_machine(weights, model, own_home):
    findings = examine()
    names = [finding.what for finding in findings]
    assert len(set(names)) == len(names)
    expected = {"Python", "tensorflow", "keras", "processor", "memory", "GPU", "will use", "precision auto", "folder"}
    assert expected | {"VGG19 weights", "ONNX model"} <= set(names)
    assert not [finding for finding in findings if finding.state == "missing"]
    assert all(finding.found for finding in findings)
    assert all(finding.remedy for finding in findings if finding.state != "ok")
    assert str(weights.path) in found("VGG19 weights").found
    assert weights.provenance in found("VGG19 weights").found
    assert str(model.path) in found("ONNX model").found
    assert str(own_home) in found("folder").found
    assert not own_home.exists()  # the check writes nothing
    choice = hardware.choose(hardware.survey())
    assert found("will use").found == f"{choice.onnx_providers[0]}: {choice.why}"
    assert found("will use").found.startswith(("CPUExecutionProvider: ", "CUDAExecutionProvider: "))
    assert found("precision auto").found == f"{choice.precision}: {choice.why_precision}"
    assert found("precision auto").found.startswith(("float32: ", "bfloat16: "))


@pytest.mark.parametrize(
    ("missing", "state", "remedy", "precision"),
    [
        ([], "ok", "", "bfloat16: NVIDIA H200 has bfloat16"),
        (
            ["nvidia-cudnn-cu12"],
            "note",
            "make gpu installs NVIDIA's CUDA 12 libraries",
            "float32: the processor has no",
        ),
    ],
)
def test_a_gpu_with_and_without_the_cuda_libraries(monkeypatch, missing, state, remedy, precision):
    machine = Hardware(
        "Xeon", 8, 2**35, ("NVIDIA H200",), ("CPUExecutionProvider",), gpu_capability=9.0, cuda_libraries=not missing
    )
    monkeypatch.setattr(hardware, "survey", lambda: machine)
    monkeypatch.setattr(hardware, "missing_cuda_libraries", lambda: missing)
    assert found("GPU") == Finding(state, "GPU", "NVIDIA H200", remedy)
    assert found("processor").found == "Xeon, 8 cores"
    assert found("precision auto").found.startswith(precision)


def test_a_missing_driver_is_reported(monkeypatch):
    machine = Hardware("Xeon", 8, 2**35, (), ("CPUExecutionProvider",), without_gpu="no NVIDIA driver (a library)")
    monkeypatch.setattr(hardware, "survey", lambda: machine)
    assert found("GPU").found == "no NVIDIA driver (a library)"
    assert found("GPU").remedy.startswith("not required")
    monkeypatch.setattr(hardware, "survey", lambda: replace(machine, cuda_libraries=True))
    assert found("GPU").found == "the CUDA libraries are installed, but no NVIDIA driver (a library)"
    assert "--gpus all" in found("GPU").remedy


def test_nothing_is_downloaded_yet(without_models):
    for what, state in (("VGG19 weights", "not downloaded yet"), ("ONNX model", "not exported yet")):
        finding = found(what)
        assert (finding.state, finding.found) == ("note", state)
        assert "first run" in finding.remedy


def test_weights_without_a_model(without_models, monkeypatch, weights):
    file = without_models / "mine.h5"
    with h5py.File(file, "w") as layers:
        for name, values in weights.layers.items():
            layers[f"{name}/{name}_W_1:0"], layers[f"{name}/{name}_b_1:0"] = values
    monkeypatch.setenv("NST_WEIGHTS", str(file))
    finding = found("VGG19 weights")
    assert (finding.state, finding.found) == ("ok", f"user: {file}")
    assert (found("ONNX model").state, found("ONNX model").found) == ("note", "not exported yet")


def test_damaged_weights_in_the_cache_of_keras(without_models):
    file = without_models / "keras" / "models" / KERAS_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    finding, other = [finding for finding in examine() if finding.what == "VGG19 weights"]
    assert other.found == "not downloaded yet"
    assert finding.state == "note"  # the next run downloads a good file
    assert finding.found == f"The weights in {file} are damaged (their hash is wrong): delete the file."
    assert "downloaded again" in finding.remedy


@pytest.mark.parametrize("content", [None, b"", b"words", b"\x89HDF\r\n\x1a\n"])
def test_invalid_weights_in_nst_weights_are_missing(own_home, tmp_path, monkeypatch, content):
    file = tmp_path / "mine.h5"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("NST_WEIGHTS", str(file))
    finding = found("VGG19 weights")
    assert finding.state == "missing"
    assert str(file) in finding.found and "\n" not in finding.found
    assert "NST_WEIGHTS" in finding.remedy


@pytest.fixture
def closed_folder(tmp_path):
    """Return a folder that anyone may enter but only root may write to."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folders = [above for above in (tmp_path, *tmp_path.parents) if above.owner() == tmp_path.owner()]
    modes = {above: above.stat().st_mode & 0o7777 for above in folders if above != Path("/")}
    for above, mode in modes.items():
        above.chmod(mode | 0o011)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    for above, mode in modes.items():
        above.chmod(mode)


def test_home_that_cannot_be_written(closed_folder, monkeypatch):
    monkeypatch.setenv("NST_HOME", str(closed_folder / "home"))
    monkeypatch.setenv("KERAS_HOME", str(closed_folder))
    if os.name != "posix":
        pytest.skip("needs POSIX file permissions")
    root = os.getuid() == 0
    if root:
        try:
            os.setresuid(65534, 65534, 0)
        except OSError:
            pytest.skip("this root user may not become another user")
    try:
        (finding,) = [finding for finding in doctor._files() if finding.what == "folder"]
    finally:
        if root:
            os.setresuid(0, 0, 0)
    assert finding == Finding(
        "missing", "folder", f"{closed_folder / 'home'} is not writable", "set NST_HOME to a folder of yours"
    )


def test_home_below_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NST_HOME", str(tmp_path / "file" / "home"))
    assert found("folder").state == "missing"


def test_tensorflow_is_not_loaded():
    code = "import sys; from nst.doctor import examine; examine(); "
    code += "print(sorted({'tensorflow', 'keras', 'tf2onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
