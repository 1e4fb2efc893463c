"""What this machine has, and what will be used of it."""

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

CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # the instructions that oneDNN computes bfloat16 with
CUDA_PACKAGES = ("nvidia-cudnn-cu12", "nvidia-cublas-cu12")  # two of many: all come together
GPU_BFLOAT16 = 8.0  # CUDA's compute capability from which a card has bfloat16 (Ampere)


@dataclass(frozen=True)
class Hardware:
    """The facts that choices are made from."""

    processor: str
    cores: int  # physical ones
    memory_bytes: int
    gpus: tuple[str, ...]
    onnx_providers: tuple[str, ...]  # those that this build of ONNX Runtime knows; none if it cannot be loaded
    cpu_bfloat16: tuple[str, ...] = ()  # those of CPU_BFLOAT16 that the processor has
    gpu_capability: float = 0.0  # of the first GPU
    cuda_libraries: bool = False  # whether TensorFlow finds what it needs to use a GPU
    without_gpu: str = ""  # why NVIDIA's driver tells of no GPU


@dataclass(frozen=True)
class Choice:
    """What will be used, and why."""

    onnx_providers: tuple[str, ...]  # in the order in which ONNX Runtime tries them
    why: str
    precision: Precision
    why_precision: str


def survey() -> Hardware:
    """Look at this machine. Imports ONNX Runtime, not TensorFlow."""
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
    """Choose the GPU if it can be used, and for the precision "auto" the quickest one."""
    if hardware.gpus and "CUDAExecutionProvider" in hardware.onnx_providers:
        providers: tuple[str, ...] = ("CUDAExecutionProvider", "CPUExecutionProvider")
        why = f"a GPU is here: {hardware.gpus[0]}"
    elif hardware.gpus:
        providers = ("CPUExecutionProvider",)
        why = f"{hardware.gpus[0]} is here, but this ONNX Runtime has no CUDA provider"
    else:
        providers, why = ("CPUExecutionProvider",), "no NVIDIA GPU is here"
    if precision == "auto":
        return Choice(providers, why, *_quickest(hardware))
    return Choice(providers, why, precision, "as asked for")


def _quickest(hardware: Hardware) -> tuple[Precision, str]:
    if hardware.gpus and hardware.cuda_libraries:
        if hardware.gpu_capability >= GPU_BFLOAT16:
            return "bfloat16", f"{hardware.gpus[0]} has bfloat16"
        return "float32", f"{hardware.gpus[0]} has no bfloat16"
    if hardware.cpu_bfloat16:
        return "bfloat16", f"the processor has it ({hardware.cpu_bfloat16[0]})"
    return "float32", "the processor has no bfloat16 instructions (AMX or AVX512-BF16)"


def versions() -> dict[str, str]:
    """The versions of what decides over a run's numbers and speed."""
    packages = ("style-transfer-studio", "tensorflow", "keras", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")
    found = {package: version for package in packages if (version := _version(package))}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str:
    """Return the version of a package; nothing if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def import_tensorflow() -> None:
    """Import TensorFlow without the lines that its C++ part prints before its log can be turned down."""
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
    """The processor's name, as its maker writes it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """What Linux says of the first processor; elsewhere nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def missing_cuda_libraries() -> list[str]:
    """The packages that a GPU needs and that are not installed."""
    return [package for package in CUDA_PACKAGES if not _version(package)]


def gpus() -> tuple[str, ...]:
    """The GPUs that can be used: every one's name, where what TensorFlow needs for them is here."""
    return () if missing_cuda_libraries() else _gpus()[0]


def cards() -> tuple[str, ...]:
    """Return the GPUs that this process will use, named as in CUDA_VISIBLE_DEVICES, which may exclude some."""
    found = tuple(map(str, range(len(gpus()))))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not found:
        return found
    names = (name.strip() for name in allowed.split(","))
    return tuple(itertools.takewhile(lambda name: name and not name.startswith("-"), names))  # CUDA ends there too


_free_before = 0.0  # bytes of the card's memory before TensorFlow was loaded, which gives back nothing that it took


def card_memory() -> float | None:
    """Bytes of the GPU's memory that this process may hold in all, with what it holds already; `None` where the driver
    does not tell. Which part is its own is not asked: in a container the driver knows processes by other numbers."""
    free = free_card_memory()
    return None if free is None else max(free, _free_before)


def free_card_memory() -> float | None:
    """Bytes that are free now on the GPU that this process will use, the first of `cards`."""
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
    """Every GPU's name, the first one's compute capability, and where there is none, why."""
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            names = tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handles[0]) if handles else (0, 0)
            return names, major + minor / 10, "" if names else "NVIDIA's driver is here, but no card"
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError_LibraryNotFound:
        return (), 0.0, "no NVIDIA driver (libnvidia-ml.so.1 is not here)"
    except pynvml.NVMLError as error:
        return (), 0.0, f"NVIDIA's driver does not answer ({error})"
