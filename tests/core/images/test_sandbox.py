"""The sandbox: images are the same as without it, and failures affect only its process."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from core import paths
from core.errors import InputError, StudioError
from core.images import codec, sandbox

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs signals and resource limits")


def picture(height=60, width=80, mode="RGB"):
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(noise).convert(mode)


def saved(image, file_format, **how):
    file = io.BytesIO()
    image.save(file, file_format, **how)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[Base.Orientation] = 6


@pytest.mark.parametrize(
    ("mode", "file_format", "how"),
    [
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "GIF", {}),
        ("RGB", "JPEG", {"exif": EXIF}),
        ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {}),
        ("RGB", "TIFF", {}),
        ("L", "BMP", {}),
    ],
)
def test_the_image_is_the_same_as_without_the_sandbox(mode, file_format, how):
    data = saved(picture(mode=mode), file_format, **how)
    here, there = codec.read_image(data), sandbox.read(data)
    assert (there.mode, there.size, there.info) == ("RGB", here.size, {})
    assert there.tobytes() == here.tobytes()


@pytest.mark.parametrize(("file_format", "how"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_mask_is_black_where_it_is_transparent(file_format, how):
    mask = Image.new("RGBA", (80, 60), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 40, 60))
    mask.paste((255, 255, 255, 51), (40, 0, 60, 60))
    grey = sandbox.read_mask(saved(mask, file_format, **how))
    assert grey.mode == "L"
    assert [grey.getpixel((x, 30)) for x in (10, 50, 70)] == [255, 51, 0]


def test_a_file_is_named_in_messages(tmp_path):
    (tmp_path / "photo.png").write_bytes(saved(picture(), "PNG"))
    assert sandbox.read(tmp_path / "photo.png").tobytes() == picture().tobytes()
    with pytest.raises(InputError, match=r"^gone\.png does not exist in "):
        sandbox.read(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (b"", {}),
        (b"a thousand words", {}),
        (saved(picture(), "PNG")[:500], {}),
        (saved(picture(20, 80), "PNG"), {}),
        (saved(picture(), "PNG"), {"max_bytes": 100}),
        (saved(picture(), "PNG"), {"max_pixels": 100}),
        (saved(picture(), "PNG"), {"formats": ("JPEG",)}),
    ],
    ids=["empty", "words", "cut", "strip", "bytes", "pixels", "format"],
)
def test_the_error_is_the_same_as_without_the_sandbox(data, how):
    with pytest.raises(InputError) as here:
        codec.read_image(data, "Grüße\udcff.png", **how)
    with pytest.raises(InputError) as there:
        sandbox.read(data, "Grüße\udcff.png", **how)
    assert str(there.value) == str(here.value)


def test_a_process_reads_many_images_even_after_a_refused_image():
    with sandbox.Decoder() as decoder:
        for side in (40, 50, 60):
            assert decoder.read(saved(picture(side, side), "PNG")).size == (side, side)
            with pytest.raises(InputError):
                decoder.read(saved(picture(side, side), "PNG")[:300])
        process = decoder._process
    assert process.poll() is not None


def test_an_empty_file_starts_no_process():
    with sandbox.Decoder() as decoder:
        with pytest.raises(InputError, match=r"^the picture is empty"):
            decoder.read(b"")
        assert decoder._process is None


@ON_POSIX
def test_a_crash_of_the_decoder_is_reported():
    with sandbox.Decoder() as decoder:
        decoder.read(saved(picture(), "PNG"))
        decoder._process.send_signal(signal.SIGSEGV)
        decoder._process.wait()
        with pytest.raises(InputError, match=r"^a\.png cannot be decoded: it is damaged, and the decoder crashed"):
            decoder.read(saved(picture(), "PNG"), "a.png")


@ON_POSIX
def test_a_decoder_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)
    with sandbox.Decoder() as decoder:
        decoder.read(saved(picture(), "PNG"))
        decoder._process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(InputError, match=r"^a\.png cannot be decoded: that takes longer than 1 s, so the file is"):
            decoder.read(saved(picture(), "PNG"), "a.png")
        assert time.monotonic() - began < 10
        assert decoder._process.wait() == -signal.SIGKILL


@ON_POSIX
def test_the_kernel_ends_an_orphaned_decoder_that_takes_too_much_cpu_time():
    """The parent, which would end the process by the clock, is gone."""
    large = saved(Image.new("RGB", (9000, 9000), "red"), "PNG", compress_level=1)
    requests = json.dumps({"size": len(large), "name": "a", "max_bytes": 2**30, "max_pixels": 10**9})
    command = [sys.executable, "-m", "core.images.sandbox", "0.05", str(2**32)]
    done = subprocess.run(
        command, cwd=paths.CHECKOUT, input=(requests.encode() + b"\n" + large) * 20, capture_output=True
    )
    assert done.returncode == -signal.SIGXCPU


@pytest.mark.skipif(sys.platform != "linux", reason="others do not heed the limit of the address space")
def test_a_decompression_bomb_fails_only_in_the_other_process(monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", 300 * 2**20)
    bomb = saved(Image.new("L", (9900, 9900)), "PNG")
    assert len(bomb) < 200_000
    with sandbox.Decoder() as decoder:
        with pytest.raises(InputError, match=r"^bomb\.png does not fit into memory: use a smaller picture\.$"):
            decoder.read(bomb, "bomb.png")
        assert decoder.read(saved(picture(), "PNG")).size == (80, 60)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_process_is_killed_first_if_memory_runs_out_and_cannot_write_files():
    with sandbox.Decoder() as decoder:
        decoder.read(saved(picture(), "PNG"))
        proc = f"/proc/{decoder._process.pid}"
        with open(f"{proc}/oom_score_adj") as file:  # noqa: PTH123
            assert file.read().strip() == "1000"
        with open(f"{proc}/limits") as file:  # noqa: PTH123
            limits = {line[:25].strip(): line[26:].split()[0] for line in file}
    assert limits["Max address space"] == str(sandbox.MEMORY)
    assert (limits["Max file size"], limits["Max core file size"]) == ("0", "0")


def test_a_process_that_cannot_be_started_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(StudioError, match=r"^a cannot be decoded: no process can be started \(No such file"):
        sandbox.read(saved(picture(), "PNG"), "a")


def test_several_threads_can_read_at_once():
    data, found = saved(picture(), "PNG"), []
    threads = [threading.Thread(target=lambda: found.append(sandbox.read(data).size)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(80, 60)] * 4


def test_the_process_loads_no_heavy_packages():
    code = (
        "import sys, core.images.sandbox; print(sorted({'tensorflow', 'pandas', 'pydantic', 'streamlit', 'tifffile', "
    )
    code += "'platformdirs'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "['platformdirs']\n"
