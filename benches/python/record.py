"""One shape for every figure that is written down; ``benches/record.rs`` writes the same.

A record is one bench at one commit on one machine, with every time it was run. It names the
processor, the kernel's version and the compilers, and neither a host nor a path.

    keep("bench_fragment", [row("drop", "object()", "2048", ns=55.1)])

writes it into the folder that ``PAGEFRAG_RECORD`` names (`make bench RECORD=benches/record`), and
nowhere when it names none. ``newest("pair")`` reads what the documentation is drawn from.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SHAPE = 1
FOLDER = "PAGEFRAG_RECORD"
ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benches" / "record"
PAGES = "assurance", "coverage", "planted"  # written by campaigns

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What is written to a file; the fields are told in ``benches/record.rs``."""

    shape: int
    bench: str
    commit: str
    changed: bool
    date: str
    command: str
    machine: dict[str, Any]
    kernel: str
    rustc: str
    cpython: str | None
    runs: list[list[Row]]

    def file_name(self) -> str:
        """Return day, commit, bench."""
        return f"{self.date.partition('T')[0]}-{self.commit}-{self.bench}.json"

    def place(self) -> tuple[object, ...]:
        """Return what must be equal before runs may stand in one file."""
        return self.shape, self.machine, self.kernel, self.rustc, self.cpython

    def save(self, folder: Path) -> Path:
        """Write it behind the runs of the same bench at the same commit; return where."""
        path, record = folder / self.file_name(), self
        if path.exists():
            earlier = load(path)
            if earlier.place() != self.place():
                raise ValueError(f"{path.name} is from another machine or compiler")
            changed, runs = earlier.changed or self.changed, earlier.runs + self.runs
            record = Record(**asdict(self) | {"date": earlier.date, "changed": changed})
            record = Record(**asdict(record) | {"runs": runs})
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        return path


def row(group: str, arm: str, parameter: str, **figures: float) -> Row:
    """Return what one *arm* showed with one *parameter*; counts stay whole."""
    short = {
        name: value if isinstance(value, int) else float(f"{value:.6g}")
        for name, value in sorted(figures.items())
    }
    return {"group": group, "arm": arm, "parameter": parameter, "figures": short}


def of(bench: str, rows: list[Row]) -> Record:
    """Return what is true of *bench* here and now, with one run of *rows*."""
    # What a figure or a ledger writes down does not change what it is about.
    written = (":!benches/record", *(f":!docs/{page}.md" for page in PAGES))
    changes = _said("git", "status", "--porcelain", "--", ".", *written)
    command = ["python", f"benches/python/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    return Record(
        shape=SHAPE,
        bench=bench,
        commit=_said("git", "rev-parse", "--short=7", "HEAD"),
        changed=bool(changes),
        date=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        command=" ".join(command),
        machine={"cpu": _cpu(), "cores": os.cpu_count()},
        kernel=re.split("[-+]", platform.release())[0],  # not what a distributor adds
        rustc=_said("rustc", "--version"),
        cpython=platform.python_version(),
        runs=[rows],
    )


def keep(bench: str, rows: list[Row], record: Record | None = None) -> Path | None:
    """Write a run of *bench* into the folder that ``PAGEFRAG_RECORD`` names, if it does.

    *record* is what ``of`` said before the process was bound to fewer processors.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        print(f"not written down: {FOLDER} names no folder")
        return None
    found = asdict(record or of(bench, [])) | {"runs": [rows]}
    path = Record(**found).save(ROOT / folder)
    print(f"written down as {path.name}")
    return path


def load(path: Path) -> Record:
    """Read the record at *path*."""
    return Record(**json.loads(path.read_text(encoding="utf-8")))


def newest(bench: str, folder: Path = RECORDS) -> Record | None:
    """Return the newest record of *bench* from an unchanged tree, or None."""
    found = (load(path) for path in folder.glob(f"*-{bench}.json"))
    sound = [record for record in found if record.bench == bench and not record.changed]
    return max(sound, key=lambda record: record.date, default=None)


def _said(program: str, *arguments: str) -> str:
    """Return what *program* prints; nothing when it is not installed."""
    path = shutil.which(program)
    if path is None:
        return ""
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
