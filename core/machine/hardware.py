"""Find out what hardware this machine has, and choose what to use."""

import importlib.metadata
import itertools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pynvml

from core.vgg.layers import Precision

CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # the CPU instructions that oneDNN uses for bfloat16
CUDA_PACKAGES = ("nvidia-cudnn-cu12", "nvidia-cublas-cu12")  # two of many packages that are installed together
GPU_BFLOAT16 = 8.0  # the lowest CUDA compute capability with bfloat16 (Ampere)


@dataclass(frozen=True)
class Hardware:
    """The hardware facts that `choose` needs."""

    processor: str
    cores: int  # physical cores
    memory_bytes: int
    gpus: tuple[str, ...]
    onnx_providers: tuple[str, ...]  # the providers of this ONNX Runtime build; empty if it cannot be loaded
    cpu_bfloat16: tuple[str, ...] = ()  # the instructions in CPU_BFLOAT16 that the processor has
    gpu_capability: float = 0.0  # CUDA compute capability of the first GPU
    cuda_libraries: bool = False  # whether the libraries that TensorFlow needs for a GPU are installed
    without_gpu: str = ""  # why NVIDIA's driver reports no GPU


@dataclass(frozen=True)
class Choice:
    """The chosen ONNX Runtime providers and precision, with reasons."""

    onnx_providers: tuple[str, ...]  # ONNX Runtime tries them in this order
    why: str
    precision: Precision
    why_precision: str


def survey() -> Hardware:
    """Collect the hardware facts of this machine. Imports ONNX Runtime, not TensorFlow."""
    try:
        import onnxruntime

        onnx_providers = tuple(onnxruntime.get_available_providers())
    except ImportError:
        onnx_providers = ()
    gpus, capability, without_gpu = _gpus()
    flags = _cpuinfo("flags").split()
    return Hardware(
        processor=processor(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        onnx_providers=onnx_providers,
        cpu_bfloat16=tuple(name for name in CPU_BFLOAT16 if name in flags),
        gpu_capability=capability,
        cuda_libraries=not missing_cuda_libraries(),
        without_gpu=without_gpu,
    )


def choose(hardware: Hardware, precision: Literal["auto", "float32", "bfloat16"] = "auto") -> Choice:
    """Choose the GPU if it can be used; for the precision "auto", choose the fastest precision."""
    if hardware.gpus and "CUDAExecutionProvider" in hardware.onnx_providers:
        providers: tuple[str, ...] = ("CUDAExecutionProvider", "CPUExecutionProvider")
        why = f"this machine has a GPU: {hardware.gpus[0]}"
    elif hardware.gpus:
        providers = ("CPUExecutionProvider",)
        why = f"this ONNX Runtime has no CUDA provider and cannot use {hardware.gpus[0]}"
    else:
        providers, why = ("CPUExecutionProvider",), "this machine has no NVIDIA GPU"
    if precision == "auto":
        return Choice(providers, why, *_quickest(hardware))
    return Choice(providers, why, precision, "as asked for")


def _quickest(hardware: Hardware) -> tuple[Precision, str]:
    if hardware.gpus and hardware.cuda_libraries:
        if hardware.gpu_capability >= GPU_BFLOAT16:
            return "bfloat16", f"{hardware.gpus[0]} has bfloat16"
        return "float32", f"{hardware.gpus[0]} has no bfloat16"
    if hardware.cpu_bfloat16:
        return "bfloat16", f"the processor has bfloat16 instructions ({hardware.cpu_bfloat16[0]})"
    return "float32", "the processor has no bfloat16 instructions (AMX or AVX512-BF16)"


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect a run's numbers and speed."""
    packages = ("style-transfer-studio", "tensorflow", "keras", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")
    found = {package: version for package in packages if (version := _version(package))}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str:
    """Return the version of a package; an empty text if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def import_tensorflow() -> None:
    """Import TensorFlow, and hide the lines that its C++ code prints during the import."""
    global _free_before
    if "tensorflow" not in sys.modules:
        _free_before = free_card_memory() or 0.0
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
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """Return a value of the first processor in Linux's cpuinfo; an empty text on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def missing_cuda_libraries() -> list[str]:
    """Return the packages that a GPU needs but that are not installed."""
    return [package for package in CUDA_PACKAGES if not _version(package)]


def gpus() -> tuple[str, ...]:
    """Return the names of the GPUs; empty if TensorFlow's CUDA libraries are not installed."""
    return () if missing_cuda_libraries() else _gpus()[0]


def cards() -> tuple[str, ...]:
    """Return the GPUs that this process will use, as CUDA_VISIBLE_DEVICES names them."""
    found = tuple(map(str, range(len(gpus()))))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not found:
        return found
    names = (name.strip() for name in allowed.split(","))
    return tuple(itertools.takewhile(lambda name: name and not name.startswith("-"), names))  # CUDA stops there too


_free_before = 0.0  # free bytes on the GPU before TensorFlow was loaded; TensorFlow never gives memory back


def card_memory() -> float | None:
    """Return how many bytes of the GPU's memory this process may hold in total; `None` if the driver does not say.

    The total includes what it already holds. The driver cannot report this part: in a container, process ids differ.
    """
    free = free_card_memory()
    return None if free is None else max(free, _free_before)


def free_card_memory() -> float | None:
    """Return the free bytes on the GPU that this process will use, the first of `cards`."""
    if not (found := cards()):
        return None
    try:
        pynvml.nvmlInit()
        try:
            if found[0].isdecimal():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(found[0]))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(found[0])
            return float(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _gpus() -> tuple[tuple[str, ...], float, str]:
    """Return the GPUs' names, the first GPU's compute capability, and why there is no GPU."""
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            names = tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handles[0]) if handles else (0, 0)
            return names, major + minor / 10, "" if names else "NVIDIA's driver is installed, but there is no GPU"
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError_LibraryNotFound:
        return (), 0.0, "no NVIDIA driver (libnvidia-ml.so.1 is missing)"
    except pynvml.NVMLError as error:
        return (), 0.0, f"NVIDIA's driver does not answer ({error})"
