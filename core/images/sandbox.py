"""Decode images from outside in a separate process, so that a crash, a hang or a lack of memory ends only that process.

Decoders are large C libraries, and a malicious file may exploit their errors. `read` starts a Python process without
TensorFlow, sends it the file's bytes and receives raw pixels; a `Decoder` keeps the process for many files. Files that
this program wrote are read directly, by `codec.read_image`.

The process is `python -m core.images.sandbox SECONDS BYTES`. For each image, it reads a line of JSON (the file's size
and the options of `codec.read_image`) and the file's bytes from standard input, and writes a line of JSON
(`{"size": [width, height]}` or `{"error": sentence}`) and the pixels (RGB, 8 bits, row by row) to standard output.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

from PIL import Image

from core.errors import InputError, StudioError
from core.images import codec
from core.images.codec import MAX_BYTES

SECONDS = 60.0  # limit of wall time and of CPU time for an image
MEMORY = 4 * 2**30  # bytes of address space; enough for the largest images in all formats
ANSWER_BYTES = 64 * 2**10  # limit of the line of JSON


class Options(TypedDict, total=False):
    """The options of `codec.read_image` that a separate process takes."""

    formats: tuple[str, ...]
    max_pixels: int
    ground: str


def read(
    source: Path | bytes, name: str | None = None, max_bytes: int = MAX_BYTES, **options: Unpack[Options]
) -> Image.Image:
    """Read an image like `codec.read_image`, with the same options, but in a separate process.

    Raises:
        InputError: If `codec.read_image` raises it, or the process crashes or exceeds SECONDS or MEMORY.
        StudioError: If the process cannot be started.
    """
    with Decoder() as decoder:
        return decoder.read(source, name, max_bytes, **options)


def read_mask(source: Path | bytes, name: str | None = None, max_bytes: int = MAX_BYTES) -> Image.Image:
    """Read a mask like `read`, as 8-bit grey; transparent parts become black."""
    return read(source, name, max_bytes, ground="black").convert("L")


class Decoder:
    """A process that decodes images; the first image starts it, and the end of the `with` block ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def read(
        self, source: Path | bytes, name: str | None = None, max_bytes: int = MAX_BYTES, **options: Unpack[Options]
    ) -> Image.Image:
        """Read an image like the function `read`.

        Raises:
            InputError: If the image cannot be used; after a crash or a timeout, the decoder cannot be used again.
            StudioError: If the process cannot be started.
        """
        label = codec.label_of(source, name)
        data = codec.bytes_of(source, label, max_bytes)
        process = self._started(label)
        wanted = {"size": len(data), "name": label, "max_bytes": max_bytes, **options}
        with _time_limit(process) as late:
            answered = _exchange(process, wanted, data)
        if answered is None:
            took_too_long = late.is_set() or process.wait() == -getattr(signal, "SIGXCPU", signal.SIGTERM)
            why = "it is damaged, and the decoder crashed"
            if took_too_long:
                why = f"that takes longer than {SECONDS:.0f} s, so the file is damaged or malicious"
            raise InputError(f"{label} cannot be decoded: {why}.")
        return answered

    def _started(self, label: str) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "core.images.sandbox", str(SECONDS), str(MEMORY)],
                    cwd=Path(__file__).resolve().parents[2],  # the folder that contains `core`
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    pipesize=2**20,  # fewer system calls, on platforms that support it
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # otherwise a thread per core reserves memory
                )
            except OSError as error:
                why = f"no process can be started ({error.strerror or error})"
                raise StudioError(f"{label} cannot be decoded: {why}.") from error
        return self._process


@contextlib.contextmanager
def _time_limit(process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Kill the process if the block takes longer than SECONDS, and set the event."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _exchange(process: subprocess.Popen[bytes], wanted: dict[str, Any], data: bytes) -> Image.Image | None:
    """Return the image that the process decodes, or `None` if the process ends; raise the `InputError` it reports."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(wanted).encode() + b"\n" + data)
        process.stdin.flush()
    except OSError:  # the process has ended
        return None
    line = process.stdout.readline(ANSWER_BYTES)
    if not line.endswith(b"\n"):
        return None
    answer = json.loads(line)
    if "error" in answer:
        raise InputError(answer["error"])
    width, height = answer["size"]
    pixels = process.stdout.read(width * height * 3)
    return Image.frombytes("RGB", (width, height), pixels) if len(pixels) == width * height * 3 else None


def serve(requests: IO[bytes], answers: IO[bytes], seconds: float) -> None:
    """Decode images until the requests end, each within `seconds` of CPU time."""
    while line := requests.readline():
        options = json.loads(line)
        _limit("RLIMIT_CPU", math.ceil(time.process_time() + seconds))  # also ends a process without a parent
        answer: dict[str, object]
        pixels = b""
        try:
            image = codec.read_image(requests.read(options.pop("size")), **options)
            answer, pixels = {"size": image.size}, image.tobytes()
        except InputError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": f"{options['name']} does not fit into memory: use a smaller picture."}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.write(pixels)
        answers.flush()


def _limit(name: str, most: int) -> None:
    """Set a limit of this process, if the platform supports it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = getattr(resource, name)
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    for name, most in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_AS", int(sys.argv[2]))):
        _limit(name, most)
    with contextlib.suppress(OSError):  # if memory runs out, Linux kills this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
