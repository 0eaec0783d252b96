"""Run traces in both languages and compare what they say, byte by byte.

    python tests/campaigns/traces.py log FILE...
    python tests/campaigns/traces.py compare TRACE_PROGRAM [SEED COUNT STEPS]

``TRACE_PROGRAM`` is what ``cargo build -p pagefrag-tests --bin trace`` makes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traces import engine
from traces.decode import digest, random_trace


def first_difference(ours: str, theirs: str) -> str:
    """Return the first line in which two logs differ, as both have it."""
    pairs = zip(ours.splitlines(), theirs.splitlines(), strict=False)
    for number, (left, right) in enumerate(pairs):
        if left != right:
            return f"line {number}: Python {left!r}, Rust {right!r}"
    return "one log is longer"


def compare(program: str, seed: int, count: int, steps: int) -> int:
    """Return how many of *count* random traces have logs that differ."""
    words = [program, "digests", str(seed), str(count), str(steps)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")
    differ = 0
    for line in said[:count]:
        number, theirs = line.split()
        trace = random_trace(int(number), steps)
        ours = engine.log(trace)
        if f"{digest(ours.encode()):016x}" != theirs:
            differ += 1
            with tempfile.NamedTemporaryFile() as file:
                file.write(trace)
                file.flush()
                log = subprocess.run(
                    [program, "log", file.name], capture_output=True, text=True, check=True
                ).stdout
            print(f"trace {number}: {first_difference(ours, log)}", flush=True)
    print(f"{count} traces of {steps} steps, {differ} differ between Rust and Python")
    return differ


def main(words: list[str]) -> int:
    """Do what the *words* say."""
    match words:
        case ["log", *files] if files:
            for file in files:
                print(engine.log(Path(file).read_bytes()), end="")
            return 0
        case ["compare", program]:
            return bool(compare(program, 1, 200, 100))
        case ["compare", program, seed, count, steps]:
            return bool(compare(program, int(seed), int(count), int(steps)))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
