"""Folders, and files that are replaced atomically."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import platformdirs
import pytest
from PIL import Image

from core import paths
from core.paths import replacing
from core.runs import store
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask():
    """Set the process's umask for a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Create a checkout with an empty `models/`, and a home next to it."""
    folder = tmp_path / "checkout"
    (folder / "models").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(paths, "CHECKOUT", folder)
    monkeypatch.setenv("NST_HOME", str(tmp_path / "home"))
    return folder


# Replacing


def test_new_file_and_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file.bin"]


def test_readers_see_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new" * 100_000)
        file.flush()
        assert path.read_bytes() == b"old"
        assert Path(file.name).parent == tmp_path  # a rename is atomic only on the same disk
    assert path.read_bytes() == b"new" * 100_000
    assert names(tmp_path) == ["file"]


def test_written_data_can_be_read_before_the_end(tmp_path):
    with replacing(tmp_path / "file") as file:
        file.write(b"0123456789")
        file.seek(4)
        assert file.read() == b"456789"
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_failure_leaves_only_the_old_file(tmp_path, error, old):
    path = tmp_path / "file"
    if old:
        path.write_bytes(old)
    with pytest.raises(error), replacing(path) as file:
        file.write(b"half")
        raise error
    assert names(tmp_path) == (["file"] if old else [])
    assert not old or path.read_bytes() == old


def test_full_disk_leaves_only_the_old_file(tmp_path):
    resource = pytest.importorskip("resource", reason="the limit on file sizes is one of POSIX")
    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError), replacing(path) as file:
            file.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OSError), replacing(tmp_path / "folder") as file:
        file.write(b"new")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["inner"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError), replacing(tmp_path / "file" / "inner"):
        pass
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_process_killed_midway_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = "import os, sys; from pathlib import Path; from core.paths import replacing\n"
    code += "with replacing(Path(sys.argv[1])) as file:\n    file.write(b'half'); file.flush(); os._exit(9)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=root).returncode == 9
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_others_may_read_a_new_file(tmp_path, umask):
    umask(0o022)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "plain")]
    assert modes == [0o644, 0o644]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_private_umask_is_respected(tmp_path, umask):
    umask(0o077)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "plain")]
    assert modes == [0o600, 0o600]


def test_concurrent_readers_see_complete_files(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(4)]
    path.write_bytes(contents[0])
    failures, done = [], threading.Event()

    def write(content):
        for _ in range(10):
            with replacing(path) as file:
                file.write(content[:25_000])
                file.write(content[25_000:])

    def read():
        while not done.is_set():
            if path.read_bytes() not in contents:
                failures.append("a torn file")
                return

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    assert path.read_bytes() in contents and names(tmp_path) == ["file"]


# Folders


def test_home_is_the_named_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NST_HOME", str(tmp_path / "there"))
    assert paths.home() == (tmp_path / "there").resolve()
    assert paths.runs() == paths.home() / "runs"
    assert paths.cache() == paths.home() / "cache"
    assert not paths.home().exists()  # the call creates nothing


def test_home_may_be_relative_or_below_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NST_HOME", "relative/../folder")
    assert paths.home() == (tmp_path / "folder").resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NST_HOME", "~/mine")
    assert paths.home() == (tmp_path / "mine").resolve()


@pytest.mark.parametrize("named", [None, ""])
def test_home_by_default_is_the_platforms_folder(monkeypatch, named):
    monkeypatch.setenv("NST_HOME", "")
    if named is None:
        monkeypatch.delenv("NST_HOME")
    assert paths.home() == Path(platformdirs.user_data_dir("style-transfer-studio"))


# Models


def test_models_of_a_checkout_are_in_its_folder(checkout):
    assert paths.models() == checkout / "models"


def test_models_of_an_installed_copy_are_in_the_home(checkout):
    (checkout / "pyproject.toml").unlink()
    assert paths.models() == paths.home() / "models"
    (checkout / "pyproject.toml").touch()
    (checkout / "models").rmdir()
    assert paths.models() == paths.home() / "models"


def test_find_model_in_a_checkout(checkout):
    assert paths.find_model("model.onnx") is None
    (checkout / "models" / "model.onnx").touch()
    assert paths.find_model("model.onnx") == checkout / "models" / "model.onnx"
    (checkout / "models" / "folder.onnx").mkdir()
    assert paths.find_model("folder.onnx") is None


def test_find_model_prefers_the_local_model_to_the_shipped_model(checkout):
    (checkout / "pyproject.toml").unlink()
    shipped, own = checkout / "models" / "model.onnx", paths.home() / "models" / "model.onnx"
    shipped.touch()
    assert paths.find_model("model.onnx") == shipped
    own.parent.mkdir(parents=True)
    own.touch()
    assert paths.find_model("model.onnx") == own
    shipped.unlink()
    assert paths.find_model("model.onnx") == own


@pytest.mark.skipif(os.name != "posix", reason="folders are not flushed there")
def test_a_folder_and_its_files_are_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    draft, folder, flushed = tmp_path / ".draft", tmp_path / "folder", []
    (draft / "inner").mkdir(parents=True)
    for name in ("one", "inner/two"):
        (draft / name).write_bytes(b"x")
    of_names = {path.stat().st_ino: path.name for path in (tmp_path, draft, *draft.rglob("*"))}

    def fsync(descriptor):
        flushed.append((of_names[os.fstat(descriptor).st_ino], folder.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    paths.put_in_place(draft, folder)
    assert (folder / "inner" / "two").read_bytes() == b"x" and not draft.exists()
    assert sorted(flushed[:-2]) == [("inner", False), ("one", False), ("two", False)]
    assert flushed[-2:] == [(".draft", False), (tmp_path.name, True)]


def test_a_new_run_and_its_pictures_are_flushed(own_home, monkeypatch):
    flushed, fsync = [], os.fsync

    def noted(descriptor):
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    picture = Image.new("RGB", (80, 64))
    run = store.create(RunSpec([Style("painting", picture)], TransferSettings(size=64), "draft"), picture, "photo")
    assert {path.stat().st_ino for path in (*run.path.iterdir(), run.path, run.path.parent)} <= set(flushed)
