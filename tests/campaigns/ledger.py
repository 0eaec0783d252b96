"""Run a campaign, and write down what it came to.

    python tests/campaigns/ledger.py "make stress" -- PROGRAM ARGUMENTS...

    python tests/campaigns/ledger.py sum LEDGER
    python tests/campaigns/ledger.py seed LEDGER

The first repeats what the program says and ends as it ends. The last line it prints is its result;
with ``PAGEFRAG_LEDGER=docs/assurance.md`` (``make stress LEDGER=docs/assurance.md``) that line is
added to the ledger, with the date, the commit, the machine and the command. The second adds up what
the slices of each campaign of executions came to, and the third tells a seed from which on none of
them has run.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benches" / "python"))

import record  # noqa: E402 - found through the line above

LEDGER = "PAGEFRAG_LEDGER"
# What a slice came to, as its row has it.
SLICE = re.compile(
    r"`(?P<name>[^`]+)` \| [^|]*: (?P<ran>\d+) executions from seed (?P<seed>\d+) on, "
    r"(?P<steps>\d+) steps .* (?P<differ>\d+) differ"
)
# Each slice begins at a seed of its own, so far from the others that none reaches the next.
APART = 10**11


@dataclass
class Total:
    """What the slices of a campaign came to."""

    slices: int = 0
    ran: int = 0
    steps: int = 0
    differ: int = 0


def entry(name: str, result: str, status: int) -> str:
    """Return the row of a campaign called *name* that ended with *status*."""
    here = record.of(name, [])
    commit = f"{here.commit}, changed" if here.changed else here.commit
    machine = f"{here.machine['cpu']}, {here.machine['cores']} processors, Linux {here.kernel}"
    told = result if status == 0 else f"**failed ({status})**: {result}"
    cells = (here.date, commit, machine, f"`{name}`", told)
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def add(ledger: Path, row: str) -> None:
    """Put *row* at the end of the *ledger*'s table, which is its end."""
    with ledger.open("r+", encoding="utf-8") as file:
        # Two slices may end at the same time.
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        file.seek(0)
        file.write(text.rstrip("\n") + f"\n{row}\n")
        file.truncate()


def slices(text: str) -> Iterator[re.Match[str]]:
    """Return the rows of a ledger that tell of executions."""
    return (found for line in text.splitlines() if (found := SLICE.search(line)))


def told_sums(text: str) -> str:
    """Return what each campaign of executions came to so far, a line each."""
    totals: defaultdict[str, Total] = defaultdict(Total)
    for row in slices(text):
        total = totals[row["name"]]
        total.slices += 1
        total.ran += int(row["ran"])
        total.steps += int(row["steps"])
        total.differ += int(row["differ"])
    return "\n".join(
        f"{name}: {total.ran} executions, {total.steps} steps in {total.slices} slices, "
        f"{total.differ} differed"
        for name, total in totals.items()
    )


def next_seed(text: str) -> int:
    """Return a seed from which on no slice has run."""
    ends = (int(row["seed"]) + int(row["ran"]) for row in slices(text))
    return (max(ends, default=0) // APART + 1) * APART


def main(arguments: list[str]) -> int:
    """Run what the *arguments* say."""
    match arguments:
        case ["sum", ledger]:
            print(told_sums(Path(ledger).read_text(encoding="utf-8")))
            return 0
        case ["seed", ledger]:
            print(next_seed(Path(ledger).read_text(encoding="utf-8")))
            return 0
    if len(arguments) < 3 or arguments[1] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    name, command = arguments[0], arguments[2:]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    ledger = os.environ.get(LEDGER)
    if ledger:
        add(ROOT / ledger, entry(name, last, process.returncode))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
