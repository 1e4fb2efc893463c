"""What this machine has, and what will be used of it."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml


@dataclass(frozen=True)
class Hardware:
    """The facts that choices are made from."""

    processor: str
    cores: int  # physical ones
    memory_bytes: int
    gpus: tuple[str, ...]
    onnx_providers: tuple[str, ...]  # those that this build of ONNX Runtime knows; none if it cannot be loaded


@dataclass(frozen=True)
class Choice:
    """What will be used, and why."""

    onnx_providers: tuple[str, ...]  # in the order in which ONNX Runtime tries them
    precision: str
    why: str


def survey() -> Hardware:
    """Look at this machine. Imports ONNX Runtime, not TensorFlow."""
    try:
        import onnxruntime

        onnx_providers = tuple(onnxruntime.get_available_providers())
    except ImportError:
        onnx_providers = ()
    return Hardware(
        processor=processor(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        onnx_providers=onnx_providers,
    )


def choose(hardware: Hardware) -> Choice:
    """A pure function of the facts: the GPU where there is one that ONNX Runtime can use, else the processor."""
    if hardware.gpus and "CUDAExecutionProvider" in hardware.onnx_providers:
        return Choice(
            ("CUDAExecutionProvider", "CPUExecutionProvider"), "float32", f"a GPU is here: {hardware.gpus[0]}"
        )
    if hardware.gpus:
        why = f"{hardware.gpus[0]} is here, but this ONNX Runtime has no CUDA provider"
    else:
        why = "no NVIDIA GPU is here"
    return Choice(("CPUExecutionProvider",), "float32", why)


def versions() -> dict[str, str]:
    """The versions of what decides over a run's numbers and speed."""
    found = {"python": platform.python_version()}
    for package in (
        "style-transfer-studio",
        "tensorflow",
        "keras",
        "onnxruntime-gpu",
        "onnxruntime",
        "numpy",
        "pillow",
    ):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def import_tensorflow() -> None:
    """Import TensorFlow without the lines that its C++ part prints before its log can be turned down."""
    with _standard_error_closed():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def processor() -> str:
    """The processor's name, as its maker writes it."""
    cpuinfo = Path("/proc/cpuinfo")  # elsewhere than on Linux, platform knows the name
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
