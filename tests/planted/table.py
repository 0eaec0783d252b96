"""The planted bugs: what is changed, what should find it, and which one nothing finds, and why.

``bugs.toml`` has them one by one, each a text of a file and what stands there instead. The bugs of
``orderings.toml`` need no text: each weakens one order of an atomic operation by one step, and
every order of the core and of the binding's gate, turn and views that can be weakened must have its
row. A text that is not there, or twice, a weakening without a row and a row without its weakening
are errors: the table cannot rot.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planted import weaken

HERE = Path(__file__).resolve().parent
CORE = Path("rust/core/src")
KEYS = {"name", "title", "file", "old", "new", "found_by", "survives"}


class Rotten(Exception):  # noqa: N818 - it is the table that is in error
    """The table does not fit the sources."""


@dataclass(frozen=True)
class Bug:
    """One change of one file, and who should find it; or, in `survives`, why nobody does."""

    name: str
    title: str
    file: Path
    before: str
    after: str
    found_by: str
    survives: str
    switch: str = ""  # of a weakening: what asks for it, see `weaken.with_switches`

    @property
    def area(self) -> str:
        """Which steps can find it."""
        if self.switch:
            return "ordering"
        return {"core": "core", "python": "binding"}.get(self.file.parts[1], "package")


def _checked(row: dict[str, Any], name: str) -> tuple[str, str]:
    found_by, survives = row.get("found_by", ""), row.get("survives", "")
    if bool(found_by) == bool(survives):
        raise Rotten(f"{name}: either `found_by` or `survives`")
    return found_by, " ".join(survives.split())


def replacements(tree: Path, table: Path) -> Iterator[Bug]:
    """Yield the bugs of *table*, of which each text must stand once in its file of *tree*."""
    for row in tomllib.loads(table.read_text(encoding="utf-8"))["bug"]:
        name, old, new = row["name"], row["old"].strip("\n"), row["new"].strip("\n")
        if unknown := row.keys() - KEYS:
            raise Rotten(f"{name}: {', '.join(sorted(unknown))} is unknown")
        file = tree / row["file"]
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if text.count(old) != 1:
            raise Rotten(f"{name}: its text stands {text.count(old)} times in {row['file']}")
        found_by, survives = _checked(row, name)
        after = text.replace(old, new)
        yield Bug(name, row["title"], Path(row["file"]), text, after, found_by, survives)


def weakenings(tree: Path, table: Path) -> Iterator[Bug]:
    """Yield a bug for every order in *tree* that can be weakened; *table* has a row for each."""
    rows = tomllib.loads(table.read_text(encoding="utf-8"))
    for name, switch in weaken.switches(tree / CORE):
        if name not in rows:
            raise Rotten(f"{name}: no row in {table.name}")
        found_by, survives = _checked(rows.pop(name), name)
        yield Bug(name, "", CORE, "", "", found_by, survives, switch)
    if rows:
        raise Rotten(f"{table.name}: no such order: {', '.join(rows)}")


def bugs(tree: Path, here: Path = HERE) -> list[Bug]:
    """Return every bug of the tables in *here*, as they apply to *tree*."""
    found = [
        *replacements(tree, here / "bugs.toml"),
        *weakenings(tree, here / "orderings.toml"),
    ]
    if len({bug.name for bug in found}) != len(found):
        raise Rotten("two bugs of one name")
    return found


def chosen(all_bugs: list[Bug], slices: str) -> list[Bug]:
    """Return the bugs that *slices* names: ``3..10`` by number, or parts of names, with commas."""
    if not slices:
        return all_bugs
    numbers: set[int] = set()
    for part in slices.split(","):
        first, dots, last = part.partition("..")
        if dots:
            numbers |= set(range(int(first or 1) - 1, int(last or len(all_bugs))))
        else:
            numbers |= {n for n, bug in enumerate(all_bugs) if part in bug.name}
    return [bug for number, bug in enumerate(all_bugs) if number in numbers]
