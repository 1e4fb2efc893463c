"""TensorFlow and ONNX Runtime must be built for the same CUDA, and the GPU lock must include this CUDA."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from cuda_libraries import Library, built_for, major

CHECKOUT = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_path("purelib"))

pytestmark = pytest.mark.skipif(
    not (SITE / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so").is_file(),
    reason="this platform's ONNX Runtime has no CUDA provider",
)


def test_tensorflow_and_onnx_runtime_are_built_for_the_cuda_in_the_lock():
    built = {who: major(version) for who, version in built_for(SITE).items()}
    assert len(set(built.values())) == 1, built
    lock = (CHECKOUT / "requirements-gpu.lock").read_text()
    brought = dict(re.findall(r"^nvidia-(cuda-runtime|cublas|cudnn|cufft|curand|nccl)-cu(\d+)==", lock, re.MULTILINE))
    assert set(brought) == {"cuda-runtime", "cublas", "cudnn", "cufft", "curand", "nccl"}
    assert set(map(int, brought.values())) == set(built.values())


def test_the_gpu_lock_has_the_versions_that_were_tested():
    def pinned(lock):
        return dict(re.findall(r"^(tensorflow|onnxruntime-gpu|keras)==(\S+)", (CHECKOUT / lock).read_text(), re.M))

    assert pinned("requirements-gpu.lock") == pinned("requirements.lock") == pinned("requirements-dev.lock")


def test_libraries_are_resolved_as_by_the_loader():
    provider = Library.read(SITE / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so")
    assert {"libcudart.so.12", "libcudnn.so.9"} <= set(provider.needed)
    assert provider.find("libc.so.6") and not provider.find("libno-such-thing.so.1")
    framework = Library.read(SITE / "tensorflow" / "libtensorflow_framework.so.2")
    assert SITE / "nvidia" / "cudnn" / "lib" in [Path(folder).resolve() for folder in framework.run_path]


def test_a_missing_library_fails_the_check():
    """The CUDA libraries are not installed here, except after `make gpu`."""
    if (SITE / "nvidia" / "cudnn").is_dir():
        pytest.skip("the CUDA libraries are installed here")
    script = CHECKOUT / "tests" / "container" / "cuda_libraries.py"
    done = subprocess.run([sys.executable, str(script), str(SITE)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "nvidia-cuda-runtime-cu12 is not installed" in done.stderr
