"""The page that shows what became of each planted bug."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import run_models  # noqa: E402 - found through the line above

from planted.table import Bug  # noqa: E402

START = "## What became of them"
UNTRIED = "not tried yet"
NOTHING = "nothing: "
_ROW = re.compile(r"^\| \d+ \| (.+?) \| .* \| (.+?) \|$", re.MULTILINE)
MODELS = ROOT / "rust" / "core" / "src" / "models"


def models() -> list[str]:
    """Return the names of all models, as the tables write them."""
    named = run_models.listed()
    found = []
    for file in sorted(MODELS.glob("*.rs")):
        functions = re.findall(r"fn (\w+)\(\)", file.read_text(encoding="utf-8"))
        found += [f"{file.stem}::{name}" for name in functions if name in named]
    return found


def idle_models(bugs: list[Bug]) -> list[str]:
    """Return the models that no row of the tables names."""
    named = {bug.found_by.removeprefix("loom: ") for bug in bugs}
    return [name for name in models() if name not in named]


def _cell(text: str) -> str:
    return text.replace("|", "/")


def rows(text: str) -> dict[str, str]:
    """Return who found each bug, as a page says it."""
    return dict(_ROW.findall(text.partition(START)[2]))


def _table(bugs: list[tuple[int, Bug]], found: dict[str, str]) -> list[str]:
    lines = ["| | bug | what is wrong | found by |", "|---|---|---|---|"]
    for number, bug in bugs:
        title = bug.title or "the order is one step weaker"
        lines.append(f"| {number} | {_cell(bug.name)} | {_cell(title)} | {found[bug.name]} |")
    return lines


def summary(bugs: list[Bug], found: dict[str, str]) -> str:
    """Return how many of *bugs* have been *found*, as the page says it."""
    told = [found[bug.name] for bug in bugs]
    waiting = told.count(UNTRIED)
    survived = sum(text.startswith(NOTHING) for text in told)
    return (
        f"{len(told) - survived - waiting} of {len(told)} are found, {survived} survive with a "
        f"reason, {waiting} wait to be tried."
    )


def text_of(bugs: list[Bug], found: dict[str, str]) -> str:
    """Return the page from `START` on, with who *found* each of *bugs*."""
    numbered = list(enumerate(bugs, start=1))
    planted = [(number, bug) for number, bug in numbered if not bug.switch]
    weakened = [(number, bug) for number, bug in numbered if bug.switch]
    by_model = dict.fromkeys(models(), 0)
    for bug in bugs:
        if (name := bug.found_by.removeprefix("loom: ")) in by_model:
            by_model[name] += 1
    return "\n".join(
        [
            START,
            "",
            summary(bugs, found),
            "",
            "### Bugs",
            "",
            *_table(planted, found),
            "",
            "### Orders, one step weaker",
            "",
            *_table(weakened, found),
            "",
            "### Models",
            "",
            "How many of the bugs above have this model in their row.",
            "",
            "| model | bugs |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in by_model.items()),
            "",
        ]
    )


def write(page: Path, bugs: list[Bug], found: dict[str, str]) -> None:
    """Put what was *found* into the *page*; what it says of other bugs stays."""
    text = page.read_text(encoding="utf-8")
    known = rows(text)
    told = {}
    for bug in bugs:
        if bug.name in found:
            told[bug.name] = _cell(found[bug.name]) or NOTHING + _cell(bug.survives)
        else:
            told[bug.name] = known.get(bug.name, UNTRIED)
    page.write_text(text.partition(START)[0] + text_of(bugs, told), encoding="utf-8")
