"""A fuzzer: damages valid files, the same way for the same seed, and checks that the program reads or refuses them.

test_fuzz.py uses it for short runs and tests/soak/fuzz.py for long runs.
"""

import copy
import io
import json
import struct
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import seeds

from bench import measurements
from core import paths, presets, settings
from core.errors import StudioError
from core.images import codec, sandbox
from core.names import as_name
from core.runs import archive, library, store
from core.runs.record import Steering, metadata
from core.runs.run import Run
from core.transfer.checkpoint import Checkpoint
from core.vgg import weights

HANG_SECONDS = 10.0
TURNING = {
    "LRE",
    "RLE",
    "LRO",
    "RLO",
    "PDF",
    "LRI",
    "RLI",
    "FSI",
    "PDI",
}  # they change the direction of text
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 100_000)
VALUES = [
    None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, float("nan"), float("inf"), 0.5, "", "x",
    "a" * 5000, "\x00", "\u202egnp.exe", "\x1b[2J", "\ud800", "../../evil", "/etc/passwd", "NaN", "1e999", [], {},
    [None] * 50, {"a": {"b": {"c": []}}}, [[[[]]]], "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00",
    "<script>alert(1)</script>", "=1+1", "富嶽", "👩‍👩‍👧",
]  # fmt: skip


# --- damage ---------------------------------------------------------------------------------------------------------


def damaged(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Return the file with one to four kinds of damage."""
    spoilt = bytearray(data)
    for _ in range(random.integers(1, 5)):
        if not spoilt:
            break
        place = int(min(random.integers(len(spoilt)), random.integers(len(spoilt)), random.integers(len(spoilt))))
        match random.integers(8):
            case 0:
                spoilt[place] ^= 1 << random.integers(8)
            case 1:
                spoilt[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                form = str(random.choice(["<H", ">H", "<I", ">I"]))
                number = int(random.choice(NUMBERS)) % (2 ** (8 * struct.calcsize(form)))
                spoilt[place : place + struct.calcsize(form)] = struct.pack(form, number)
            case 3:
                del spoilt[place : place + random.integers(1, 64)]
            case 4:
                spoilt[place:place] = random.bytes(random.integers(1, 64))
            case 5:
                spoilt[place:place] = spoilt[place : place + random.integers(1, 512)] * random.integers(1, 20)
            case 6:
                other = others[random.integers(len(others))]
                spoilt[place:] = other[int(place * len(other) / len(spoilt)) :]
            case 7 if random.integers(3) == 0:
                del spoilt[place:]
    return bytes(spoilt)


def with_right_checksums(png: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, so that the decoder reads further."""
    mended, place = bytearray(png), 8
    while place + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, place)
        end = place + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)


def damaged_json(value: object, random: np.random.Generator) -> bytes:
    """Return the value with one to three of its parts replaced, repeated, renamed or left out."""
    value = json.loads(json.dumps(value))
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            break
        holder, key = places[random.integers(len(places))]
        match random.integers(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder["new" + str(key)] = holder[key]
            case 2 if isinstance(holder, list):
                holder *= int(random.integers(2, 50))
            case _:
                holder[key] = copy.deepcopy(VALUES[random.integers(len(VALUES))])
    text = json.dumps(value)
    if random.integers(20) == 0:
        depth = int(random.choice([100, 1000, 100_000]))
        text = text[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
    return text.encode()


def _places(value: object) -> Iterator[tuple]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# --- inputs ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """The results of the inputs of one kind."""

    inputs: int = 0
    refused: int = 0
    broke_down: int = 0  # of the refused: inputs that ended the decoding process
    longest: float = 0.0
    longest_of: str = ""
    failures: list[str] = field(default_factory=list)


class Fuzzer:
    """Gives damaged inputs of every kind to the program; in `place`, only the program may write."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.seed = place, seed
        self.random = np.random.default_rng(seed)
        self.files = seeds.run_files()
        (place / "seeds").mkdir(parents=True)
        self.checkpoint = seeds.checkpoint(place / "seeds")
        self.pictures = seeds.pictures()
        self.weights = seeds.weights_files(place / "seeds")
        self.decoder = sandbox.Decoder()
        self.tallies: dict[str, Tally] = {}
        paths.runs().mkdir(parents=True)
        self.canaries = [place / "canary", paths.home() / "canary"]
        for canary in self.canaries:
            canary.write_bytes(b"alive")
        self._imported(seeds.zipped(self.files))  # creates the files that every import leaves in the home
        self.before = self._around()

    WAYS = ("picture", "picture of a run", "zip", "zip of damaged files", "run directory", "bench JSON", "settings",
            "names", "weights")  # fmt: skip

    def feed(self, way: str, count: int) -> Tally:
        """Give `count` inputs of a kind to the program, and return the tally."""
        tally = self.tallies.setdefault(way, Tally())
        take: Callable[[], None] = getattr(self, "_" + way.replace(" ", "_").lower())
        for _ in range(count):
            number, began = tally.inputs, time.perf_counter()
            tally.inputs += 1
            self.random = np.random.default_rng([self.seed, self.WAYS.index(way), number])
            try:
                take()
            except StudioError as error:
                tally.refused += 1
                sentence = str(error)
                if not sentence.rstrip().endswith((".", ")")) or len(sentence) > 6000 or "Traceback" in sentence:
                    tally.failures.append(f"{way} {number}: no sentence: {sentence[:300]!r}")
            except Exception as error:
                tally.failures.append(f"{way} {number}: {type(error).__name__}: {str(error)[:300]}")
            seconds = time.perf_counter() - began
            if seconds > tally.longest:
                tally.longest, tally.longest_of = seconds, f"{way} {number}"
            if seconds > HANG_SECONDS:
                tally.failures.append(f"{way} {number}: took {seconds:.1f} s")
            if (around := self._around()) != self.before:
                tally.failures.append(f"{way} {number}: left {sorted(around ^ self.before)[:5]}")
                self.before = around
        return tally

    def close(self) -> None:
        self.decoder.__exit__(None, None, None)

    def _around(self) -> frozenset[str]:
        """Return the names of files outside the runs, and the contents of the files that must not change."""
        found = {path.name for path in self.place.iterdir()} | {path.name for path in paths.home().iterdir()}
        found |= {f"{path} holds {path.read_bytes()!r}" for path in self.canaries if path.is_file()}
        return frozenset(found | {f"runs/{path.name}" for path in paths.runs().iterdir()})

    def _one_of(self, files: dict[str, bytes]) -> tuple[str, bytes]:
        name = list(files)[self.random.integers(len(files))]
        return name, files[name]

    def _spoilt(self, files: dict[str, bytes]) -> tuple[str, bytes]:
        name, data = self._one_of(files)
        spoilt = damaged(data, list(files.values()), self.random)
        return name, with_right_checksums(spoilt) if name.endswith(".png") and self.random.integers(2) else spoilt

    def _decoded(self, data: bytes, name: str) -> None:
        try:
            self.decoder.read(data, name)
        finally:
            process = self.decoder._process
            if process and process.poll() is not None:  # it broke down: start another for the next picture
                self.tallies.setdefault("picture", Tally()).broke_down += 1
                self.decoder.__exit__(None, None, None)
                self.decoder = sandbox.Decoder()

    def _picture(self) -> None:
        name, data = self._spoilt(self.pictures)
        self._decoded(data, name)

    def _picture_of_a_run(self) -> None:
        name, data = self._spoilt({name: data for name, data in self.files.items() if name.endswith(("png", "jpg"))})
        path = self.place / "seeds" / Path(name).name
        path.write_bytes(data)
        codec.shrunk(path, 100)

    def _zip(self) -> None:
        packed = damaged(seeds.zipped(self.files), [seeds.zipped({"run.json": self.files["run.json"]})], self.random)
        self._imported(packed)

    def _zip_of_damaged_files(self) -> None:
        files = dict(self.files)
        for _ in range(self.random.integers(1, 3)):
            name, data = self._damaged_file(files)
            files[name] = data
        folder = str(self.random.choice([seeds.RUN_ID, "..", " ", "a\\b", "x" * 300]))
        compression = int(self.random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 5 + [zipfile.ZIP_LZMA]))
        if self.random.integers(10) == 0:
            files[str(self.random.choice(["../evil", "evil.py", "frames/../../evil", "run.json\x00", "RUN.JSON"]))] = (
                b""
            )
        self._imported(seeds.zipped(files, folder, compression))

    def _damaged_file(self, files: dict[str, bytes]) -> tuple[str, bytes]:
        name = list(files)[self.random.integers(min(4, len(files)))] if self.random.integers(3) else "run.json"
        if name.endswith(".json") and self.random.integers(4):
            return name, damaged_json(json.loads(seeds.run_files()[name]), self.random)
        return self._spoilt({name: files[name]})

    def _imported(self, packed: bytes) -> None:
        run = archive.import_run(packed, "my.zip")
        try:
            self._looked_at(run)
        finally:
            library.delete(run)
            library.empty_trash(older_than=-1)
            library.trash().rmdir()

    def _run_directory(self) -> None:
        run = Run(paths.runs() / seeds.RUN_ID)
        files = {**self.files, "request.json": b'{"stop": true, "weights": {"style_weight": 1}}'}
        files["checkpoint.npz"] = self.checkpoint
        for _ in range(self.random.integers(1, 4)):
            name, data = self._damaged_file(files) if self.random.integers(2) else self._spoilt(files)
            files[name] = data
        try:
            for name, data in files.items():
                (run.path / name).parent.mkdir(parents=True, exist_ok=True)
                (run.path / name).write_bytes(data)
            self._looked_at(run)
        finally:
            for path in sorted(run.path.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            run.path.rmdir()

    def _looked_at(self, run: Run) -> None:
        """Do everything that a page does with a run, and then raise the first refusal."""
        refusals = []
        looks: list[Callable[[], object]] = [
            lambda: f"{run.record().title} {run.record().created.astimezone():%d %b %Y}",
            run.metrics,
            lambda: run.with_progress(run.record()),
            run.frames,
            run.request,
            lambda: library.marks(run),
            lambda: library.select(library.entries(), words="photo", order="duration"),
            lambda: [codec.shrunk(path, 200) for path in (run.content, run.result, run.live) if path.exists()],
            lambda: [codec.shrunk(path, 200) for _, path in run.frames()],
            lambda: codec.read_exact(run.path / "result.npy"),
            lambda: Checkpoint.load(run.checkpoint) if run.checkpoint.exists() else None,
            lambda: archive.export_run(run, io.BytesIO()),
            lambda: metadata(run.record()) if run.record().best_total is not None else None,
            lambda: run.record().steering and [change.options() for change in run.record().steering],
        ]
        for look in looks:
            try:
                look()
            except StudioError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def _bench_json(self) -> None:
        data = damaged_json(seeds.measurement(), self.random)
        if self.random.integers(3) == 0:
            data = damaged(data, [data], self.random)
        found = measurements.parse(data, "bench.json")
        measurements.tables({found.label: found})
        found.save(self.place / "seeds" / "measurement.json")
        measurements.read(self.place / "seeds" / "measurement.json")

    def _settings(self) -> None:
        names = [*settings.SETTINGS, "unknown"]
        chosen = {
            names[self.random.integers(len(names))]: VALUES[self.random.integers(len(VALUES))]
            for _ in range(self.random.integers(0, 4))
        }
        wanted = presets.choose(str(self.random.choice([*presets.PRESETS] * 5 + ["x"])), **chosen)
        name = names[self.random.integers(len(names))]
        iteration, value = VALUES[self.random.integers(len(VALUES))], VALUES[self.random.integers(len(VALUES))]
        if self.random.integers(2):
            iteration, name = 3, "style_weight"
        Steering.parse(f"{iteration}:{name}={value}", wanted)

    def _names(self) -> None:
        letters = self.random.integers(0, 0x3000, self.random.integers(0, 400))
        name = "".join(map(chr, letters)) + str(VALUES[self.random.integers(len(VALUES))])
        cleaned = as_name(name)
        assert cleaned == as_name(cleaned) and len(cleaned) <= 200
        assert not {unicodedata.category(letter) for letter in cleaned} & {"Cc", "Cs", "Zl", "Zp"}
        assert not {unicodedata.bidirectional(letter) for letter in cleaned} & TURNING
        store.find(name)

    def _weights(self) -> None:
        name, data = self._spoilt(self.weights)
        path = self.place / "seeds" / f"damaged-{name}"
        path.write_bytes(data)
        weights.read(weights.WeightsFile(path, "user"))
