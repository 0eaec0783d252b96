"""How many instructions does an operation take, and did its assembly change?

``make bench-instructions`` counts by callgrind inside the probes (``benches/probes.rs``), for ours
and for the kernel's scheme. Instructions are the same on a busy machine, so what times cannot show
is compared here: allocation in a program with and without reservations (R7), and with and without
counters (R12).

The assembly of the fast paths is kept in ``benches/golden``; a change is printed as a diff and
fails, unless ``ARGS=--bless`` keeps the new one. Another compiler is told, and not compared.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import record

GOLDEN = record.ROOT / "benches" / "golden" / "fast_paths.txt"
ROUNDS = 6400

OPERATIONS = {
    # what is told: workload, probe
    "alloc": ("pair", "probe_alloc"),
    "free": ("pair", "probe_free"),
    "alloc, IMIX window of 256": ("window", "probe_alloc"),
    "free, IMIX window of 256": ("window", "probe_free"),
    "prepare + commit": ("reserve", "probe_prepare_commit"),
    "clone": ("share", "probe_clone"),
    "drop of a clone": ("share", "probe_free"),
    "drop elsewhere": ("elsewhere", "probe_free"),
    "drain elsewhere, each of 64": ("drain", "probe_drain"),
}
KERNEL = {
    name: (f"kernel {workload}", probe.replace("probe_", "probe_kernel_"))
    for name, (workload, probe) in OPERATIONS.items()
    if workload != "reserve"
}
FAST = ("probe_alloc", "probe_free")


def build(*benches: str, uncounted: bool = False) -> dict[str, Path]:
    """Build *benches* and return where they are."""
    words = dict(os.environ)
    if uncounted:
        target = Path(words.get("CARGO_TARGET_DIR", record.ROOT / "target")) / "uncounted"
        words |= {"RUSTFLAGS": "--cfg pagefrag_uncounted", "CARGO_TARGET_DIR": str(target)}
    command = ["cargo", "bench", "--locked", "--no-run", "-p", "pagefrag-benches"]
    command += ["--message-format=json-render-diagnostics"]
    command += [word for bench in benches for word in ("--bench", bench)]
    done = subprocess.run(
        command, cwd=record.ROOT, env=words, check=True, stdout=subprocess.PIPE, text=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        message["target"]["name"]: Path(message["executable"])
        for message in told
        if message.get("executable") and message["target"]["name"] in benches
    }


def count(program: Path, workload: str, probe: str) -> float:
    """Return the instructions that one call of *probe* executes on average in *workload*."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [f"--toggle-collect={probe}", str(program), workload, str(ROUNDS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if not found or not int(found[1]):
        raise RuntimeError(f"callgrind saw nothing of {probe}:\n{done.stderr}")
    return int(found[1]) / ROUNDS


def assembly(program: Path, function: str) -> list[str]:
    """Return the instructions of *function*, without what changes from link to link.

    A function that only jumps to another is that other.
    """
    lines = disassembled(program, function)
    if len(lines) == 1 and (target := re.fullmatch(r"jmp\s+[0-9a-f]+ <(.+)>", lines[0])):
        lines = disassembled(program, target[1])
    command = ["c++filt"]
    plain = subprocess.run(
        command, input="\n".join(lines), check=True, capture_output=True, text=True
    )
    return [normal(line) for line in plain.stdout.splitlines()]


def disassembled(program: Path, symbol: str) -> list[str]:
    """Return the instructions of *symbol* as objdump tells them."""
    command = ["objdump", f"--disassemble={symbol}", "--no-show-raw-insn", "-M", "intel"]
    done = subprocess.run([*command, str(program)], check=True, capture_output=True, text=True)
    found = (re.match(r"\s*[0-9a-f]+:\t(.*)", line) for line in done.stdout.splitlines())
    return [line[1].rstrip() for line in found if line]


def normal(line: str) -> str:
    """Return *line* with names for addresses: a place in the function, a callee, or data.

    >>> normal("jne    4010a0 <probe_alloc+0x30>")
    'jne +0x30'
    >>> normal("call   5000 <pagefrag::mem::cache::refill::make_room>")
    'call pagefrag::mem::cache::refill::make_room'
    >>> normal("lea    rdi,[rip+0x5f3]        # 60a8 <anon.7f+0x8>")
    'lea rdi,[rip+data]'
    """
    line = re.sub(r"\[rip\+0x[0-9a-f]+\]\s*#.*", "[rip+data]", line)
    line = re.sub(r"^(j\w+\s+)[0-9a-f]+ <.*(\+0x[0-9a-f]+)>$", r"\1\2", line)
    line = re.sub(r"[0-9a-f]+ <(.*?)(::h[0-9a-f]{16})?>$", r"\1", line)
    line = re.sub(r"fs:0x[0-9a-f]{6,}", "fs:local", line)
    return re.sub(r"\s+", " ", line)


def golden(program: Path) -> str:
    """Return what is kept: the compiler, then the fast paths."""
    parts = [f"{record.of('', []).rustc}, {platform.machine()}\n"]
    for function in FAST:
        lines = assembly(program, function)
        parts.append(f"\n{function}: {len(lines)} instructions with all slow exits\n")
        parts += [f"    {line}\n" for line in lines]
    return "".join(parts)


def compare(program: Path, *, bless: bool) -> bool:
    """Print how the fast paths differ from those that are kept; tell whether all is well."""
    found = golden(program)
    if bless or not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(found, encoding="utf-8")
        print(f"kept: {GOLDEN.name}")
        return True
    kept = GOLDEN.read_text(encoding="utf-8")
    ours, theirs = found.splitlines()[0], kept.splitlines()[0]
    if ours != theirs:
        print(f"assembly not compared: kept from {theirs}; this is {ours}")
        return True
    lines = difflib.unified_diff(
        kept.splitlines(), found.splitlines(), "kept", "found", lineterm=""
    )
    told = "\n".join(lines)
    print(told or "the fast paths' assembly is as kept")
    return not told


def measure() -> tuple[list[record.Row], Path]:
    """Build, count everything, and return the rows and the program."""
    programs = build("instructions", "plain")
    uncounted = build("instructions", uncounted=True)["instructions"]
    program = programs["instructions"]
    rows = []
    for arm, operations in (("pagefrag", OPERATIONS), ("kernel scheme", KERNEL)):
        for name, (workload, probe) in operations.items():
            found = count(program, workload, probe)
            rows.append(record.row("instructions", arm, name, instructions=found))
    for name, arm, other in (
        ("reserve elsewhere in the program", "with", program),
        ("reserve elsewhere in the program", "without", programs["plain"]),
        ("counters", "with", program),
        ("counters", "without", uncounted),
    ):
        for what, probe in (("alloc", "probe_alloc"), ("free", "probe_free")):
            found = count(other, "window", probe)
            rows.append(record.row(name, arm, f"{what}, IMIX window of 256", instructions=found))
    return rows, program


def main() -> int:
    """Count, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bless", action="store_true", help="keep the assembly as it is now")
    bless = parser.parse_args().bless
    for tool in ("valgrind", "objdump", "c++filt"):
        if shutil.which(tool) is None:
            print(f"{tool} is not installed: instructions are not counted")
            return 0
    rows, program = measure()
    for row in rows:
        told = f"{row['group']}: {row['parameter']}"
        print(f"{told:<68} {row['arm']:<14} {row['figures']['instructions']:8.1f}")
    record.keep("instructions", rows)
    return 0 if compare(program, bless=bless) else 1


if __name__ == "__main__":
    sys.exit(main())
