"""What does it take to build the core, to carry the wheel, to import it (R14)? And if it were abi3?

``python benches/python/bench_wheel.py`` builds the core crate from nothing, builds both kinds of
wheel, installs each into an environment of its own, and compares them: the time of an interpreter
that imports it over one that does nothing, in turns; the instructions (by callgrind, if there is
one) and the time of a fragment taken and dropped and of a batch received. The last line is R14.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import wheels

STARTS = 40  # of each interpreter
REPEATS = 7  # of which the fastest counts

TAKE = """
import pagefrag
take = pagefrag.PageFragCache(pagefrag.PagePool()).alloc
def rounds(number):
    for _ in range(number):
        take(2048)
"""
# The kernel cuts one message into datagrams, where it can: so that hardly anything but `recv` and
# the kernel's part of it is in the count.
RECEIVE = """
import pagefrag, socket, struct
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(receiver.getsockname())
ring = pagefrag.RxRing(receiver, gro=False)
packets, cut = 48, [(socket.SOL_UDP, 103, struct.pack("H", 1200))]
content = bytes(packets * 1200)
def send():
    try:
        sender.sendmsg([content], cut)
    except OSError:
        for _ in range(packets):
            sender.send(content[:1200])
def rounds(number):
    for _ in range(number):
        send()
        assert len(ring.recv(64, timeout=60)) == packets
"""
COUNTED = {"alloc(2048) and drop": (TAKE, 20_000), "recv of 48 packets": (RECEIVE, 200)}


def clean_build(folder: Path) -> float:
    """Return the seconds that the core crate takes to build from nothing, release form."""
    words = os.environ | {"CARGO_TARGET_DIR": str(folder / "core")}
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", "pagefrag"]
    fetch = ["cargo", "fetch", "--quiet", "--locked"]
    subprocess.run(fetch, cwd=record.ROOT, check=True)
    before = time.perf_counter()
    subprocess.run(command, cwd=record.ROOT, env=words, check=True)
    return time.perf_counter() - before


def start(python: Path, code: str) -> float:
    """Return the seconds of an interpreter that runs *code*."""
    before = time.perf_counter()
    subprocess.run([python, "-I", "-c", code], check=True)
    return time.perf_counter() - before


def importing(found: list[wheels.Installed]) -> dict[str, float]:
    """Return the milliseconds that an import adds, the median over starts in turns."""
    added: dict[str, list[float]] = {wheel.kind: [] for wheel in found}
    for turn in range(STARTS + 1):
        for wheel in found:
            bare = start(wheel.python, "pass")
            more = start(wheel.python, "import pagefrag") - bare
            if turn:  # the first one compiles
                added[wheel.kind].append(more * 1e3)
    return {kind: statistics.median(each) for kind, each in added.items()}


def instructions(python: Path, code: str) -> int:
    """Return the instructions of an interpreter that runs *code*, always with the same hashes."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, python, "-I", "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(done.stderr)
    return int(found[1])


def counted(python: Path, code: str, rounds: int) -> float:
    """Return the instructions of one round: what twice as many take more."""
    once, twice = (
        instructions(python, f"{code}\nrounds({number})") for number in (rounds, 2 * rounds)
    )
    return (twice - once) / rounds


def timed(python: Path, code: str, rounds: int) -> float:
    """Return the nanoseconds of one round, the fastest of some."""
    watch = f"""{code}
import time
def once():
    before = time.perf_counter()
    rounds({10 * rounds})
    return time.perf_counter() - before
print(min(once() for _ in range({REPEATS})))
"""
    done = subprocess.run([python, "-I", "-c", watch], stdout=subprocess.PIPE, check=True)
    return float(done.stdout) / (10 * rounds) * 1e9


def compared(found: list[wheels.Installed]) -> list[record.Row]:
    """Return size, import and operations of each kind."""
    rows = []
    added = importing(found)
    can_count = shutil.which("valgrind") is not None
    for wheel in found:
        size = wheel.wheel.stat().st_size / 1e6
        rows.append(record.row("size", wheel.kind, "wheel", MB=size))
        figures = {"ms": added[wheel.kind]}
        if can_count:
            figures["instructions"] = instructions(wheel.python, "import pagefrag") - instructions(
                wheel.python, "pass"
            )
        rows.append(record.row("import", wheel.kind, "over bare Python", **figures))
        for name, (code, rounds) in COUNTED.items():
            figures = {"ns": timed(wheel.python, code, rounds)}
            if can_count:
                figures["instructions"] = counted(wheel.python, code, rounds)
            rows.append(record.row("operation", wheel.kind, name, **figures))
    return rows


def main() -> int:
    """Build, measure, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = clean_build(folder)
        found = [wheels.installed(kind, folder) for kind in wheels.KINDS]
        rows = [record.row("build", "core crate", "from nothing", s=seconds), *compared(found)]
    for row in rows:
        told = "  ".join(f"{value:>12,.4g} {unit}" for unit, value in row["figures"].items())
        print(f"{row['parameter']:<22} {row['arm']:<18} {told}")
    record.keep("bench_wheel", rows)
    by_name = {(row["group"], row["arm"]): row["figures"] for row in rows}
    size, added = by_name["size", "version-specific"]["MB"], by_name["import", "version-specific"]
    kept = seconds <= 10 and size <= 1 and added["ms"] <= 10
    print(
        f"R14 {'kept' if kept else 'not kept'}: import {added['ms']:.1f} ms over bare Python "
        f"(at most 10), wheel {size:.2f} MB (1), clean build of the core {seconds:.1f} s (10)"
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
