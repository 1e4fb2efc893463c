"""Check what this machine has, what runs will use and what is missing, with remedies."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from core import paths
from core.errors import StudioError
from core.machine import hardware
from core.transfer import preview
from core.vgg import weights
from core.vgg.onnx import find_model

DISK_BYTES = 2 * 2**30
MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the check; "missing" prevents runs, "note" is only useful to know."""

    state: Literal["ok", "note", "missing"]
    what: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Examine this machine, without loading TensorFlow."""
    return [*_programs(), *_machine(), *_files()]


def _programs() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("ok" if good else "missing", "Python", version, "" if good else "use Python 3.11 to 3.13")
    found = hardware.versions()
    for package in ("tensorflow", "keras"):
        if package in found:
            yield Finding("ok", package, found[package])
        else:
            yield Finding("missing", package, "not installed", "make dashboard installs the locked packages")
    runtimes = [package for package in ("onnxruntime-gpu", "onnxruntime") if package in found]
    if len(runtimes) == 2:
        remedy = "pip uninstall both, then install from requirements.lock"
        yield Finding("missing", "ONNX Runtime", "onnxruntime and onnxruntime-gpu overwrite each other", remedy)
    elif runtimes:
        yield Finding("ok", runtimes[0], found[runtimes[0]])
    else:
        yield Finding("missing", "ONNX Runtime", "not installed", "make dashboard installs the locked packages")


def _machine() -> Iterator[Finding]:
    survey = hardware.survey()
    choice = hardware.choose(survey)
    yield Finding("ok", "processor", f"{survey.processor}, {survey.cores} cores")
    remedy = "pictures over 512 px may not fit" if survey.memory_bytes < MEMORY_BYTES else ""
    yield Finding("note" if remedy else "ok", "memory", f"{survey.memory_bytes / 2**30:.0f} GiB", remedy)
    if survey.gpus:
        remedy = "make gpu installs NVIDIA's CUDA 12 libraries" if hardware.missing_cuda_libraries() else ""
        yield Finding("note" if remedy else "ok", "GPU", ", ".join(survey.gpus), remedy)
    elif survey.cuda_libraries:
        remedy = "install NVIDIA's driver; a container also needs NVIDIA's container toolkit and --gpus all"
        yield Finding("note", "GPU", f"the CUDA libraries are installed, but {survey.without_gpu}", remedy)
    else:
        yield Finding("note", "GPU", survey.without_gpu, "not required; a GPU is many times faster")
    if not survey.onnx_providers:
        remedy = "install again from requirements.lock"
        yield Finding("missing", "ONNX Runtime", "installed, but cannot be loaded", remedy)
    yield Finding("ok", "will use", f"{choice.onnx_providers[0]}: {choice.why}")
    yield Finding("ok", "precision auto", f"{choice.precision}: {choice.why_precision}")


def _files() -> Iterator[Finding]:
    home = paths.home()
    existing = next(folder for folder in (home, *home.parents) if os.access(folder, os.F_OK))
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Finding("missing", "folder", f"{home} is not writable", "set NST_HOME to a folder of yours")
    else:
        free = shutil.disk_usage(existing).free
        remedy = "free some space, or set NST_HOME to another disk" if free < DISK_BYTES else ""
        yield Finding("note" if remedy else "ok", "folder", f"{home}, {free / 2**30:.0f} GiB free", remedy)
    yield from _weights_and_model()
    if preview.find():
        yield Finding("ok", "instant preview", "its network is downloaded")
    else:
        yield Finding("note", "instant preview", "its network is not downloaded yet", "nst preview downloads it (4 MB)")


def _weights_and_model() -> Iterator[Finding]:
    loaded = None
    for file in weights.find():
        try:
            loaded = weights.read(file)
            break
        except StudioError as error:
            own = file.provenance == "user"  # other unreadable files are skipped and downloaded again
            remedy = "set NST_WEIGHTS to a valid file, or unset it" if own else "downloaded again if no other exists"
            yield Finding("missing" if own else "note", "VGG19 weights", str(error), remedy)
            if own:
                return
    if not loaded:
        remedy = "the first run downloads them (80 MB from Keras, or 18 MB from the package index)"
        yield Finding("note", "VGG19 weights", "not downloaded yet", remedy)
    else:
        original = f"for the float32 original, put Keras's {weights.KERAS_FILE} into {weights.keras_cache().parent}"
        remedy = original if loaded.provenance == "imagenet, 8-bit" else ""
        yield Finding("ok", "VGG19 weights", f"{loaded.provenance}: {loaded.path}", remedy)
    if loaded and (model := find_model(loaded.sha256)):
        worst = max(model.manifest.parity.values())
        yield Finding("ok", "ONNX model", f"{model.path}, within {worst:.1e} of TensorFlow")
    else:
        yield Finding("note", "ONNX model", "not exported yet", "the first run or nst export makes it")
