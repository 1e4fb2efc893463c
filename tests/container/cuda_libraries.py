"""`make gpu-libraries`: check that the packages in the GPU lock include all libraries for a GPU, except the driver.

    python cuda_libraries.py SITE_PACKAGES

It needs no GPU and no driver, because it loads nothing: it reads ELF files and resolves names as the loader does, from
the run path of the library that asks. Prints a line for each library; exits with 1 if a library is missing.
"""

import importlib.metadata
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

#: What TensorFlow opens by name at run time (xla/tsl/platform/default/dso_loader.cc), by the library that opens it. The
#: run path of this library names the folders.
OPENED_BY_TENSORFLOW = {
    "libtensorflow_framework.so.2": (
        "libcudart.so.12",
        "libcublas.so.12",
        "libcublasLt.so.12",
        "libcudnn.so.9",
        "libcufft.so.11",
        "libcupti.so.12",
        "libcusparse.so.12",
        "libnccl.so.2",
    ),
    "libtensorflow_cc.so.2": ("libcusolver.so.11",),
}
#: The parts of cuDNN that it opens by name.
PARTS_OF_CUDNN = ("adv", "cnn", "engines_precompiled", "engines_runtime_compiled", "graph", "heuristic", "ops")
RUNTIME = "nvidia-cuda-runtime-cu12"
DRIVER = re.compile(r"libcuda\.so|libnvidia-")
SYSTEM = tuple(map(Path, ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64")))


@dataclass(frozen=True)
class Library:
    """An ELF file: the libraries that it needs, and the folders where it looks."""

    path: Path
    needed: tuple[str, ...]
    run_path: tuple[Path, ...]

    @staticmethod
    def read(path: Path) -> "Library":
        with path.open("rb") as stream:
            (dynamic,) = (part for part in ELFFile(stream).iter_sections() if isinstance(part, DynamicSection))
            tags = list(dynamic.iter_tags())
        needed = tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED")
        folders = [
            folder
            for tag in tags
            if tag.entry.d_tag in ("DT_RUNPATH", "DT_RPATH")
            for folder in getattr(tag, "runpath", getattr(tag, "rpath", "")).split(":")
        ]
        return Library(path, needed, tuple(Path(folder.replace("$ORIGIN", str(path.parent))) for folder in folders))

    def find(self, name: str, also: tuple[Path, ...] = ()) -> Path | None:
        for folder in (*self.run_path, *also, *SYSTEM):
            if (folder / name).is_file():
                return (folder / name).resolve()
        return None


def resolve(site: Path) -> Iterator[tuple[str, str, Path | None]]:
    """Yield library, needed name and path for TensorFlow, ONNX Runtime's CUDA provider and all their dependencies."""
    folders = tuple(sorted(site.glob("nvidia/*/lib")))  # where onnxruntime.preload_dlls() looks
    provider = Library.read(site / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so")
    cudnn = tuple(f"libcudnn_{part}.so.9" for part in PARTS_OF_CUDNN)
    waiting = [(Library.read(site / "tensorflow" / who), names, ()) for who, names in OPENED_BY_TENSORFLOW.items()]
    waiting += [
        (Library.read(site / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"), cudnn, ()),
        (provider, provider.needed, folders),
    ]
    seen: set[Path] = set()
    while waiting:
        library, names, also = waiting.pop(0)
        for name in names:
            if DRIVER.match(name):
                continue
            path = library.find(name, also)
            yield library.path.name, name, path
            if path and path not in seen and path.is_relative_to(site.resolve()):
                seen.add(path)
                found = Library.read(path)
                # The loader does not search again for a loaded library, so the folders of the first one count too.
                waiting.append((found, found.needed, (*library.run_path, *also)))


def built_for(site: Path) -> dict[str, str]:
    """Return the CUDA versions that TensorFlow and ONNX Runtime were built for, from their build information."""
    tensorflow = runpy.run_path(str(site / "tensorflow" / "python" / "platform" / "build_info.py"))["build_info"]
    runtime = runpy.run_path(str(site / "onnxruntime" / "capi" / "build_and_package_info.py"))
    return {"TensorFlow": tensorflow["cuda_version"], "ONNX Runtime": runtime["cuda_version"]}


def major(version: str) -> int:
    return int(version.partition(".")[0])


def main(site: Path) -> int:
    built = built_for(site)
    runtimes = list(importlib.metadata.distributions(name=RUNTIME, path=[str(site)]))
    if not runtimes:
        print(f"{RUNTIME} is not installed in {site}: run make gpu-libraries.", file=sys.stderr)
        return 1
    cuda = runtimes[0]
    print(f"CUDA {cuda.version} here; built for: {', '.join(f'{who} {what}' for who, what in built.items())}")
    missing = 0
    for who, name, path in resolve(site):
        missing += path is None
        print(f"{'✓' if path else '✗'} {who} needs {name}: {path or 'NOT FOUND'}")
    agreed = {major(cuda.version), *map(major, built.values())}
    if missing or len(agreed) > 1:
        print(f"{missing} not found; majors of CUDA: {agreed}", file=sys.stderr)
        return 1
    print("All found, except libcuda and libnvidia-ml, which come with the driver.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
