"""Long runs of the fuzzer: many thousand damaged inputs of every kind, with their time and memory.

    python tests/soak/fuzz.py [--times N] [--seed N]

Prints the number of inputs, the refusals and the longest time for each kind of input, and the peak memory. Exits with 1
if an error was no sentence, something hung, a file was left or changed outside the runs, or memory exceeded MOST_MEMORY
in this process or the decoding process.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "hostile")]

MOST_MEMORY = 320  # MiB; measured: 181 and 169

INPUTS = {
    "picture": 4000,
    "picture of a run": 1000,
    "zip": 1500,
    "zip of damaged files": 1500,
    "run directory": 2000,
    "bench JSON": 1500,
    "settings": 1000,
    "names": 500,
    "weights": 1000,
}


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--times", type=float, default=1.0, help="factor for the number of inputs")
    options.add_argument("--seed", type=int, default=int(time.time()), help="the seed of a run to repeat")
    given = options.parse_args()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NST_HOME"] = str(Path(folder) / "home")
        import mutations

        print(f"{date.today()}, seed {given.seed}")
        fuzzer, began = mutations.Fuzzer(Path(folder), given.seed), time.perf_counter()
        before = _peak(resource.RUSAGE_SELF)
        print(f"{'input':<22}{'inputs':>8}{'refused':>9}{'broke down':>12}{'seconds':>9}{'longest':>9}{'failures':>9}")
        for way in fuzzer.WAYS:
            started = time.perf_counter()
            tally = fuzzer.feed(way, int(INPUTS[way] * given.times))
            seconds = time.perf_counter() - started
            counts = f"{tally.inputs:>8}{tally.refused:>9}{tally.broke_down:>12}"
            counts += f"{seconds:>9.1f}{tally.longest:>9.2f}{len(tally.failures):>9}"
            print(f"{way:<22}{counts}", flush=True)
            failures += tally.failures
        fuzzer.close()
        tallies = fuzzer.tallies.values()
        longest = max(tallies, key=lambda tally: tally.longest)
        seconds = time.perf_counter() - began
        peaks = {"here": _peak(resource.RUSAGE_SELF), "in the decoding process": _peak(resource.RUSAGE_CHILDREN)}
        failures += [f"memory: {peak:.0f} MiB {where}" for where, peak in peaks.items() if peak > MOST_MEMORY]
        print(
            f"{sum(tally.inputs for tally in tallies):,} inputs in {seconds:.0f} s; the longest took "
            f"{longest.longest:.2f} s ({longest.longest_of}); memory at most {_peak(resource.RUSAGE_SELF):.0f} MiB, "
            f"{before:.0f} before the first, {_peak(resource.RUSAGE_CHILDREN):.0f} MiB in the decoding process"
        )
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


def _peak(whose: int) -> float:
    """Return the peak memory so far in MiB."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(whose).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    sys.exit(main())
