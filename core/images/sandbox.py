"""Foreign pictures decoded in a process of their own, which may crash, hang or run out of memory alone.

A decoder is a large piece of C that was written for friendly files. `read` starts a Python without TensorFlow or a
page, hands it the file's bytes and takes raw pixels back; `Decoder` does so for many files by one process. Pictures
that this program wrote itself are read at once, by `images.read_image`.

`python -m core.images.sandbox SECONDS BYTES` is that process. It reads, for each picture, a line of JSON (the file's
size and the options of `codec.read_image`) and the file's bytes from standard input, and writes a line of JSON
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
from typing import IO, Any

from PIL import Image

from core.errors import InputError, StudioError
from core.images import codec
from core.images.codec import MAX_BYTES

SECONDS = 60.0  # of the clock, and of the processor, for one picture
MEMORY = 4 * 2**30  # bytes of address space: what the largest pictures take in their most wasteful kinds
ANSWER_BYTES = 64 * 2**10  # of the line of JSON


def read(source: Path | bytes, name: str | None = None, max_bytes: int = MAX_BYTES, **options: Any) -> Image.Image:
    """As `codec.read_image`, with the same options, in a process of its own. Raises `InputError` also for a picture
    over which the decoder breaks down or takes longer than SECONDS or more than MEMORY, and `StudioError` when no
    process can be started."""
    with Decoder() as decoder:
        return decoder.read(source, name, max_bytes, **options)


def read_mask(source: Path | bytes, name: str | None = None, max_bytes: int = MAX_BYTES) -> Image.Image:
    """A picture that says where something is, as grey of 8 bits: white there; black elsewhere, and where it is
    transparent. Raises as `read` does."""
    return read(source, name, max_bytes, ground="black").convert("L")


class Decoder:
    """A process that decodes one picture after another; the first one starts it, and the end of the context ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def read(
        self, source: Path | bytes, name: str | None = None, max_bytes: int = MAX_BYTES, **options: Any
    ) -> Image.Image:
        """As the function `read`; only after an error over the picture's size or kind can the process go on."""
        label = codec.label_of(source, name)
        data = codec.bytes_of(source, label, max_bytes)
        process = self._started(label)
        wanted = {"size": len(data), "name": label, "max_bytes": max_bytes, **options}
        with _time_limit(process) as late:
            answered = _exchange(process, wanted, data)
        if answered is None:
            took_too_long = late.is_set() or process.wait() == -getattr(signal, "SIGXCPU", signal.SIGTERM)
            why = "it is damaged, and the decoder broke down over it"
            if took_too_long:
                why = f"that takes longer than {SECONDS:.0f} s, so it is damaged or made to"
            raise InputError(f"{label} cannot be decoded: {why}.")
        return answered

    def _started(self, label: str) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "core.images.sandbox", str(SECONDS), str(MEMORY)],
                    cwd=Path(__file__).resolve().parents[2],  # where the code is, whatever else is moved
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    pipesize=2**20,  # where the platform can: fewer turns for the megabytes that pass
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # else a stack of memory for each core
                )
            except OSError as error:
                why = f"no process can be started ({error.strerror or error})"
                raise StudioError(f"{label} cannot be decoded: {why}.") from error
        return self._process


@contextlib.contextmanager
def _time_limit(process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Kill the process if the block takes too long; the event says so."""
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
    """The picture that the process makes of the bytes; nothing if it ends over them. Raises `InputError` as it says."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(wanted).encode() + b"\n" + data)
        process.stdin.flush()
    except OSError:  # it is gone
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
    """Decode what is asked for, each picture in so many seconds of the processor, until nothing more is."""
    while line := requests.readline():
        options = json.loads(line)
        _limit("RLIMIT_CPU", math.ceil(time.process_time() + seconds))  # ends an orphan too
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
    """Set a limit of this process, where the platform has such limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = getattr(resource, name)
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    for name, most in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_AS", int(sys.argv[2]))):
        _limit(name, most)
    with contextlib.suppress(OSError):  # where memory is short, Linux ends this process before others
        Path("/proc/self/oom_score_adj").write_text("1000")
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
