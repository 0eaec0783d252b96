"""Short traces through the Python package, by the hundred thousand.

    python tests/campaigns/swarm.py PROGRAM SEED COUNT SECONDS FOLDER

``PROGRAM`` (``cargo build -p pagefrag-tests --bin swarm``) makes the traces of COUNT seeds from
SEED on and tells with each the checksum of what the model in Rust says of it. The package runs the
trace, and its log must have that checksum. Every 256th trace also runs in the model in Python. It
ends after SECONDS; a trace that differs is made as short as it can be and kept in FOLDER, and what
is different is shown. The last line is what a ledger keeps.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traces import engine
from traces.decode import digest
from traces.model import world

HEAD, STEP = 4, 8
# Traces between two looks at the clock, and between two that run in the model in Python.
LOOK = 256
MODEL = 256
ENOUGH = 10
# What the log says of a step that did nothing.
IDLE = (" -\n", " refused: ")


@dataclass
class Sum:
    """What a run came to so far."""

    ran: int = 0
    steps: int = 0
    done: int = 0
    modelled: int = 0
    differ: int = 0


def said_by(program: Callable[[bytes], str], trace: bytes) -> str:
    """Return what an executor says; that it cannot run a *trace* is a finding too."""
    try:
        return program(trace)
    except Exception as error:
        return f"{type(error).__name__}: {error}\n"


def differs(trace: bytes) -> bool:
    """Do the package and the model in Python say something else of *trace*?"""
    return said_by(engine.log, trace) != said_by(world.log, trace)


def shortened(trace: bytes, wrong: Callable[[bytes], bool]) -> bytes:
    """Return *trace* without the steps that it is *wrong* without, too."""
    part = (len(trace) - HEAD) // STEP
    while part:
        at = HEAD
        while at < len(trace):
            shorter = trace[:at] + trace[at + part * STEP :]
            if wrong(shorter):
                trace = shorter
            else:
                at += part * STEP
        part //= 2
    return trace


def keep(seed: int, trace: bytes, folder: Path) -> None:
    """Keep a *trace* that differs, and show where."""
    if differs(trace):
        trace = shortened(trace, differs)
    file = folder / f"swarm-{seed}"
    file.write_bytes(trace)
    print(f"seed {seed}: {(len(trace) - HEAD) // STEP} steps in {file}")
    package = said_by(engine.log, trace).splitlines()
    model = said_by(world.log, trace).splitlines()
    for one, other in zip(package, model, strict=False):
        if one != other:
            print(f"  package: {one}\n  model:   {other}", flush=True)
            return
    print("  the models in Rust and in Python differ", flush=True)


def frames(source: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Return traces and the checksums that their logs should have."""
    while len(head := source.read(4)) == 4:
        (length,) = struct.unpack("<I", head)
        trace = source.read(length)
        (expected,) = struct.unpack("<I", source.read(4))
        yield trace, expected


def is_run_as_told(trace: bytes, expected: int, total: Sum) -> bool:
    """Run *trace* and count it. Is its log the expected one?"""
    log = said_by(engine.log, trace)
    steps = (len(trace) - HEAD) // STEP
    same = digest(log.encode()) == expected
    if same and total.ran % MODEL == 0:
        total.modelled += 1
        same = said_by(world.log, trace) == log
    total.ran += 1
    total.steps += steps
    total.done += steps - sum(log.count(idle) for idle in IDLE)
    return same


def run(program: str, first: int, count: int, seconds: float, folder: Path) -> Sum:
    """Run the traces of so many seeds, or as many as there is time for."""
    total = Sum()
    end = time.monotonic() + seconds
    # The traces are not made where the pool's calls fail.
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    words = [program, "stream", str(first), str(count)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=plain) as maker:
        assert maker.stdout is not None
        for trace, expected in frames(maker.stdout):
            if not is_run_as_told(trace, expected, total):
                total.differ += 1
                keep(first + total.ran - 1, trace, folder)
            late = total.ran % LOOK == 0 and time.monotonic() > end
            if late or total.differ == ENOUGH:
                break
        maker.stdout.close()
    return total


def main(words: list[str]) -> int:
    """Do what the *words* say."""
    if len(words) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    program, first, count, seconds, folder = words
    started = time.monotonic()
    total = run(program, int(first), int(count), float(seconds), Path(folder))
    each = max(total.ran, 1)
    print(
        f"package against model: {total.ran} executions from seed {first} on, {total.steps} steps "
        f"({total.steps / each:.1f} in each, {total.done / each:.1f} of them did something), "
        f"{total.modelled} of them also in the model in Python, {time.monotonic() - started:.0f} "
        f"s, {total.differ} differ"
    )
    return int(total.differ != 0 or total.ran == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
