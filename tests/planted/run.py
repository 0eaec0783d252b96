"""Plant each bug in a copy of the tree, and see which test finds it.

    python tests/planted/run.py [--only SLICES] [--seconds N] [--write PAGE]

``--only 3..10`` or ``--only ring,Acquire`` takes a part of the table, by number or by name; after
``--seconds`` no further bug is begun. A bug is tried first on the step that its row names, and if
that does not find it on all others, cheapest first (``steps.py``), so that a survivor has survived
everything. It is a failure when a bug survives whose row does not say why, when one is found whose
row says that it cannot be, when another step than the row's finds it, when a bug cannot be tried,
and when a row no longer fits the source.

The copy and its builds are in ``planted`` beside the other builds and stay, so the next bug costs
what one changed file costs. ``--write docs/planted.md`` puts each result into the page's table as
it comes; rows of bugs that were not tried stay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from planted import page, steps, table, weaken  # noqa: E402 - found through the line above
from planted.steps import Broken, Check, Workshop  # noqa: E402
from planted.table import Bug  # noqa: E402


def copy(tree: Path) -> str:
    """Make *tree* what is here, changing only what differs; return a digest of it all."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256()
    for name in sorted(names.splitlines()):
        if not (ROOT / name).is_file():
            (tree / name).unlink(missing_ok=True)
            continue
        data = (ROOT / name).read_bytes()
        place = tree / name
        if not place.is_file() or place.read_bytes() != data:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        if not name.startswith(("docs/", "benches/record/", "tests/planted/")):
            digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()


class Campaign:
    """The sound tree's times, and the search for each bug."""

    def __init__(self, workshop: Workshop, digest: str) -> None:
        """Work in *workshop*, whose tree is sound and has this *digest*."""
        self.workshop, self.digest = workshop, digest
        self.notes = workshop.tree.with_suffix(".json")
        known = json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.is_file() else {}
        self.sound: dict[str, float] = known.get(digest, {})
        self._made: dict[str, list[Check]] = {}

    def made(self, step: str) -> list[Check]:
        """Return the checks of *step*, as they come."""
        if step not in self._made:
            self._made[step] = getattr(self.workshop, step)()
        return self._made[step]

    def checks(self, step: str) -> list[Check]:
        """Return the checks of *step*, cheapest first; each must hold without a bug."""
        return sorted(self.made(step), key=self.seconds)

    def seconds(self, check: Check) -> float:
        """Return what *check* took without a bug; it must hold then."""
        if check.key not in self.sound:
            verdict = self.workshop.run(check, None)
            print(f"without a bug: {check.key}, {verdict.seconds:.1f} s", flush=True)
            if verdict.found:
                raise Broken(f"without a bug: {check.key}: {verdict.found}")
            self.sound[check.key] = verdict.seconds
            text = json.dumps({self.digest: self.sound}, indent=1)
            self.notes.write_text(text, encoding="utf-8")
        return self.sound[check.key]

    def rounds(self, bug: Bug) -> Iterator[list[Check]]:
        """Yield the checks to try on *bug*: the one that should find it, then all others."""
        of_step = steps.STEPS[bug.area]
        if bug.found_by:
            step, _, name = bug.found_by.partition(": ")
            first = [c for c in self.made(step) if c.name == name] if step in of_step else []
            if not first:
                raise Broken(f"{bug.name}: there is no {bug.found_by}")
            self.seconds(first[0])
            yield first
        for step in of_step:
            yield self.checks(step)

    def ask(self, bug: Bug, checks: list[Check]) -> str:
        """Return which of *checks* finds *bug*, and by which test; an empty text if none does."""
        with self.workshop.planted(bug.file, bug.after, bug.switch):
            for check in checks:
                limit = self.sound[check.key] * steps.FASTER + steps.PATIENCE
                if found := self.workshop.run(check, limit).found:
                    return check.key if check.step == "loom" else f"{check.key}, {found}"
        return ""

    def hunt(self, bug: Bug) -> str:
        """Return who finds *bug*; an empty text if nobody does."""
        tried: set[str] = set()
        for checks in self.rounds(bug):
            if found := self.ask(bug, [check for check in checks if check.key not in tried]):
                return found
            tried |= {check.key for check in checks}
        return ""


def judged(bug: Bug, found: str) -> str:
    """Return what is wrong with what became of *bug*, if anything is."""
    if bug.survives and found:
        return "its row says that nothing finds it"
    if not bug.survives and not found:
        return "SURVIVED, and its row does not say why"
    if bug.found_by and found.partition(",")[0] != bug.found_by:
        return f"{bug.found_by} should have found it"
    return ""


def workshops(build: Path) -> dict[bool, Campaign]:
    """Make two copies: one to plant bugs in, one in which each order asks how weak it shall be."""
    made = {}
    for switched in (False, True):
        name = "switched" if switched else "tree"
        tree = build / name
        digest = copy(tree)
        if switched:
            for file, text in weaken.with_switches(ROOT / table.CORE).items():
                place = tree / file.relative_to(ROOT)
                if place.read_text(encoding="utf-8") != text:
                    place.write_text(text, encoding="utf-8")
        made[switched] = Campaign(
            Workshop(tree, build / f"{name}-build", Path(sys.executable)), digest
        )
    return made


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="SLICES")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args()
    all_bugs = table.bugs(ROOT)
    bugs = table.chosen(all_bugs, options.only)
    build = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "planted"
    made = workshops(build.absolute())
    end = time.monotonic() + options.seconds
    found: dict[str, str] = {}
    faults = 0
    for bug in bugs:
        if time.monotonic() > end:
            print(f"out of time; go on with BUGS={all_bugs.index(bug) + 1}..")
            break
        begun = time.monotonic()
        try:
            who = made[bool(bug.switch)].hunt(bug)
        except Broken as what:
            faults += 1
            print(f"{bug.name}: could not be tried: {what}", flush=True)
            continue
        found[bug.name] = who
        if options.write:
            page.write(options.write, all_bugs, {bug.name: who})
        fault = judged(bug, who)
        faults += bool(fault)
        told = who or ("SURVIVED, with a reason" if bug.survives else "SURVIVED")
        more = f"  ** {fault}" if fault else ""
        print(f"{bug.name}: {told} ({time.monotonic() - begun:.0f} s){more}", flush=True)
    if idle := page.idle_models(all_bugs):
        print(f"models that no row names: {', '.join(idle)}")
    caught = sum(map(bool, found.values()))
    print(
        f"{caught} of {len(found)} planted bugs found, {len(found) - caught} survived, "
        f"{faults} not as their rows say; {len(all_bugs)} in the table"
    )
    return int(bool(faults or not found))


if __name__ == "__main__":
    sys.exit(main())
