"""Run traces in four executors and compare what they say, byte by byte.

    python tests/campaigns/traces.py log FILE...
    python tests/campaigns/traces.py model FILE...
    python tests/campaigns/traces.py compare TRACE_PROGRAM [SEED COUNT STEPS]
    python tests/campaigns/traces.py replay TRACE_PROGRAM FILE_OR_FOLDER...
    python tests/campaigns/traces.py faults TRACE_PROGRAM SECONDS FILE_OR_FOLDER...

``TRACE_PROGRAM``, which ``cargo build -p pagefrag-tests --bin trace`` makes, runs the Rust core and
the model in Rust; here are the Python package and the model in Python. Traces with faults are run
with the library of ``tests/faults`` preloaded.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traces import engine
from traces.decode import digest, random_trace
from traces.model import world

NAMES = ("Rust", "the model in Rust", "Python", "the model in Python")


def said_by(words: list[str]) -> str:
    """Return what a program prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def first_difference(logs: tuple[str, ...]) -> str:
    """Return the first line that is not the same in all *logs*, as each has it."""
    for number, lines in enumerate(zip(*(log.splitlines() for log in logs), strict=False)):
        if len(set(lines)) != 1:
            said = (f"  {name}: {line}" for name, line in zip(NAMES, lines, strict=True))
            return "\n".join((f"line {number}", *said))
    return "some logs are longer than others"


def all_logs(program: str, trace: bytes) -> tuple[str, ...]:
    """Return the four logs of *trace*."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(trace)
        file.flush()
        ours = [said_by([program, word, file.name]) for word in ("log", "model")]
    return *ours, engine.log(trace), world.log(trace)


def differing(program: str, traces: Iterator[tuple[str, bytes, list[str]]]) -> int:
    """Say what is different and return how many of *traces* have logs that differ.

    Each is a name, the trace, and the digests that the program made of its two logs.
    """
    differ = 0
    for name, trace, digests in traces:
        logs = (engine.log(trace), world.log(trace))
        if len({*digests, *(f"{digest(log.encode()):08x}" for log in logs)}) != 1:
            differ += 1
            print(f"trace {name}: {first_difference(all_logs(program, trace))}", flush=True)
    return differ


def compare(program: str, seed: int, count: int, steps: int) -> int:
    """Return how many of *count* random traces have logs that differ."""
    said = said_by([program, "digests", str(seed), str(count), str(steps)])
    lines = (line.split() for line in said.splitlines())
    traces = ((name, random_trace(int(name), steps), digests) for name, *digests in lines)
    differ = differing(program, traces)
    print(f"{count} traces of {steps} steps, four executors, {differ} traces differ")
    return differ


def files_in(places: list[str]) -> list[str]:
    """Return the files that are named, and those of the folders that are named."""
    named = map(Path, places)
    found = (sorted(path.iterdir()) if path.is_dir() else [path] for path in named)
    return [str(path) for paths in found for path in paths]


def replay(program: str, places: list[str]) -> int:
    """Return how many of the traces in *places* have logs that differ."""
    files = files_in(places)
    lines = (
        line.rsplit(maxsplit=2) for line in said_by([program, "digests-of", *files]).splitlines()
    )
    differ = differing(program, ((name, Path(name).read_bytes(), found) for name, *found in lines))
    print(f"{len(files)} traces of the corpus, four executors, {differ} traces differ")
    return differ


def with_faults(program: str, trace: bytes, name: str) -> tuple[int, int]:
    """Run *trace* with each call to the system failing that it makes: how many ways, and differ."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(trace)
        file.flush()
        lines = [line.split() for line in said_by([program, "faults", file.name]).splitlines()]
    ways = (
        (
            f"{name}, faults={plan}",
            trace[:3].ljust(3, b"\0") + bytes([int(plan)]) + trace[4:],
            found,
        )
        for _, plan, *found in lines
    )
    return len(lines), differing(program, ways)


def faults(program: str, seconds: float, places: list[str]) -> int:
    """Have calls fail in all traces of *places*, then in random ones; how many ways differ."""
    end = time.monotonic() + seconds
    files = files_in(places)
    corpus = ((name, Path(name).read_bytes()) for name in files)
    random = ((f"of seed {seed}", random_trace(seed, 60)) for seed in itertools.count(1))
    traces = ways = differ = 0
    for name, trace in itertools.chain(corpus, random):
        if traces >= len(files) and time.monotonic() > end:
            break
        more, wrong = with_faults(program, trace, name)
        traces, ways, differ = traces + 1, ways + more, differ + wrong
    print(
        f"{ways} ways to fail in {traces} traces, {len(files)} of them the whole corpus, "
        f"four executors, {differ} differ"
    )
    return differ


def main(words: list[str]) -> int:
    """Do what the *words* say."""
    match words:
        case ["log" | "model" as word, *files] if files:
            log = engine.log if word == "log" else world.log
            for file in files:
                print(log(Path(file).read_bytes()), end="")
            return 0
        case ["compare", program]:
            return bool(compare(program, 1, 200, 100))
        case ["compare", program, seed, count, steps]:
            return bool(compare(program, int(seed), int(count), int(steps)))
        case ["replay", program, *places] if places:
            return bool(replay(program, places))
        case ["faults", program, seconds, *places]:
            return bool(faults(program, float(seconds), places))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
