"""Run a campaign, and write down what it came to.

    python tests/campaigns/ledger.py "make stress" -- PROGRAM ARGUMENTS...

repeats what the program says and ends as it ends. The last line it prints is its result; with
``PAGEFRAG_LEDGER=docs/assurance.md`` (``make stress LEDGER=docs/assurance.md``) that line is added
to the ledger, with the date, the commit, the machine and the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benches" / "python"))

import record  # noqa: E402 - found through the line above

LEDGER = "PAGEFRAG_LEDGER"


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
    text = ledger.read_text(encoding="utf-8")
    ledger.write_text(text.rstrip("\n") + f"\n{row}\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run what the *arguments* say."""
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
