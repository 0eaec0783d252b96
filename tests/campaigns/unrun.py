"""Lines that no test ran, and why: read from reports, sorted into ranges, laid out as a page.

A line of code is one that says something: neither a comment nor an attribute nor brackets alone,
and no line of the tests that stand beside the code. ``unrun.toml`` has a reason for each that
nothing runs, found by its text and not by its number. A reason whose text does not stand once in
its file is an error, and so is one that explains nothing, because tests run all its lines by now.
Where it depends on how threads meet whether a line runs, the reason says ``sometimes = true`` and
may find it either way.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REASONS = Path(__file__).resolve().with_name("unrun.toml")
PARTS = {
    "core": "rust/core/src",
    "binding": "rust/python/src",
    "package": "python/pagefrag",
}
START = "## Figures"

_KEYS = {"file", "text", "why", "sometimes"}
_TESTS = re.compile(r"^#\[cfg\((?:all\()?test\b", re.MULTILINE)
_SAYS_NOTHING = re.compile(r"\s*(?://.*|#!?\[.*|[\[\](){};,?\s]*)$")


class Stale(Exception):  # noqa: N818 - it is the table that is in error
    """A reason does not fit the source, or explains nothing."""


@dataclass(frozen=True)
class File:
    """One file: its text, the numbers of the lines that can run, and of those that did not."""

    name: str
    text: tuple[str, ...]
    lines: frozenset[int]
    missed: frozenset[int]

    @property
    def part(self) -> str:
        """Which part of the product it belongs to."""
        return next(part for part, place in PARTS.items() if self.name.startswith(f"{place}/"))

    def ranges(self) -> list[tuple[int, int]]:
        """Return the missed lines as first and last; what cannot run does not part them."""
        found: list[tuple[int, int]] = []
        before: int | None = None
        for line in sorted(self.lines):
            if line in self.missed:
                first = found.pop()[0] if before in self.missed else line
                found.append((first, line))
            before = line
        return found


@dataclass(frozen=True)
class Reason:
    """Why some lines, which `text` names, are run by no test."""

    file: str
    text: tuple[str, ...]
    why: str
    sometimes: bool

    def place(self, source: Iterable[str]) -> range:
        """Return the numbers of the lines in *source*, where they must stand once."""
        lines = [line.strip() for line in source]
        size = len(self.text)
        found = [at for at in range(len(lines)) if tuple(lines[at : at + size]) == self.text]
        if len(found) != 1:
            told = f"{self.file}: `{self.text[0]}`"
            raise Stale(f"{told}: the text of this reason stands {len(found)} times")
        return range(found[0] + 1, found[0] + 1 + size)


def reasons(table: Path = REASONS) -> list[Reason]:
    """Read the *table*."""
    found = []
    for row in tomllib.loads(table.read_text(encoding="utf-8")).get("reason", []):
        if unknown := row.keys() - _KEYS:
            raise Stale(f"{row.get('file')}: {', '.join(sorted(unknown))} is unknown")
        text = tuple(line.strip() for line in row["text"].strip("\n").split("\n"))
        why = " ".join(row["why"].split())
        found.append(Reason(row["file"], text, why, row.get("sometimes", False)))
    return found


def of_lcov(report: str, root: Path = ROOT) -> Iterator[File]:
    """Yield the files below *root* that a *report* in lcov's format counts lines of.

    A file that two crates have as their own is reported under two paths, and is one.
    """
    counts: defaultdict[Path, Counter[int]] = defaultdict(Counter)
    for block in report.split("end_of_record"):
        if named := re.search(r"^SF:(.+)$", block, re.MULTILINE):
            for line, count in re.findall(r"^DA:(\d+),(\d+)", block, re.MULTILINE):
                counts[Path(named[1]).resolve()][int(line)] += int(count)
    for file, lines in counts.items():
        if file.is_relative_to(root):
            source = file.read_text(encoding="utf-8")
            yield _of_rust(str(file.relative_to(root)), source, lines)


def _of_rust(name: str, source: str, counts: Mapping[int, int]) -> File:
    text = tuple(source.split("\n"))
    tests = _TESTS.search(source)
    end = source.count("\n", 0, tests.start()) if tests else len(text)
    says = {line for line in counts if line <= end and not _SAYS_NOTHING.match(text[line - 1])}
    missed = frozenset(line for line in says if counts[line] == 0)
    return File(name, text, frozenset(says), missed)


def of_coverage(name: str, source: str, ran: Iterable[int], missed: Iterable[int]) -> File:
    """Return a file of Python whose lines coverage.py has told apart."""
    missing = frozenset(missed)
    return File(name, tuple(source.split("\n")), missing | frozenset(ran), missing)


def run_too(files: Iterable[File], others: Iterable[File]) -> Iterator[File]:
    """Yield *files* without the missed lines that ran in *others*, other builds of the same."""
    ran = {other.name: other.lines - other.missed for other in others}
    for file in files:
        yield replace(file, missed=file.missed - ran.get(file.name, frozenset()))


Why = dict[tuple[str, int], str]


def explained(files: Iterable[File], table: Iterable[Reason]) -> tuple[Why, list[str]]:
    """Return why lines were missed that have a reason in the *table*, and what is stale there."""
    by_name = {file.name: file for file in files}
    found: Why = {}
    stale = []
    for reason in table:
        told = f"{reason.file}: `{reason.text[0]}`"
        try:
            file = by_name[reason.file]
            lines = file.missed.intersection(reason.place(file.text))
        except KeyError:
            stale.append(f"{told}: nothing was counted in this file")
        except Stale as error:
            stale.append(str(error))
        else:
            if not lines and not reason.sometimes:
                stale.append(f"{told}: tests run what this reason explains")
            found |= {(file.name, line): reason.why for line in lines}
    return found, stale


def unexplained(files: Iterable[File], why: Why) -> list[str]:
    """Return file, line and text of each line that was missed for no reason."""
    return [
        f"{file.name}:{line}: {file.text[line - 1].strip()}"
        for file in files
        for line in sorted(file.missed)
        if (file.name, line) not in why
    ]


def percent(files: Iterable[File]) -> tuple[int, int, float]:
    """Return lines, lines that ran, and how many of a hundred that is."""
    counted = list(files)
    lines = sum(len(file.lines) for file in counted)
    ran = lines - sum(len(file.missed) for file in counted)
    return lines, ran, 100 * ran / max(lines, 1)


def said(files: list[File]) -> str:
    """Return what it came to, in a line."""
    parts = [
        f"{part} {percent(here)[2]:.2f} % of {percent(here)[0]:,} lines"
        for part in PARTS
        if (here := [file for file in files if file.part == part])
    ]
    return ", ".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`` {_cell(text)} ``"


def _rows(file: File, why: Why) -> Iterator[str]:
    """Yield a row for each range of *file*; a range in which the reason changes is two."""
    for first, last in file.ranges():
        lines = [line for line in range(first, last + 1) if line in file.missed]
        while lines:
            reason = why.get((file.name, lines[0]), "")
            same = [line for line in lines if why.get((file.name, line), "") == reason]
            lines = [line for line in lines if line not in same]
            numbers = f"{same[0]}" if len(same) == 1 else f"{same[0]}-{same[-1]}"
            text = _code(file.text[same[0] - 1].strip())
            yield f"| {numbers} | {text} | {_cell(reason) or '**no reason is known**'} |"


def laid_out(files: list[File], why: Why) -> str:
    """Return the page from `START` on: a table of all *files*, and what was missed, and *why*."""
    table = ["| file | lines | run | % |", "|---|---|---|---|"]
    below = []
    for part, place in PARTS.items():
        here = sorted((file for file in files if file.part == part), key=lambda file: file.name)
        if not here:
            continue
        lines, ran, share = percent(here)
        table.append(f"| **{part}** | **{lines}** | **{ran}** | **{share:.2f}** |")
        for file in here:
            lines, ran, share = percent([file])
            table.append(
                f"| {file.name.removeprefix(place + '/')} | {lines} | {ran} | {share:.1f} |"
            )
        below += [f"## Not run: {part}", ""]
        for file in here:
            if file.missed:
                below += [f"### {file.name}", "", "| lines | from | why |", "|---|---|---|"]
                below += [*_rows(file, why), ""]
    return "\n".join([START, "", *table, "", *below])


def write(page: Path, text: str) -> None:
    """Put *text* into the *page*, from `START` on."""
    before = page.read_text(encoding="utf-8").partition(START)[0]
    page.write_text(before + text, encoding="utf-8")
