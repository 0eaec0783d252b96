"""The ledger: what a campaign says last is written down, failures too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from campaigns import ledger

SPEAK = [sys.executable, "-c", "import sys; print('first'); print('7 of 7'); sys.exit(int('0'))"]
FAIL = [sys.executable, "-c", "import sys; print('6 of 7'); sys.exit(3)"]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page = tmp_path / "ledger.md"
    page.write_text("# Ledger\n\n| date |\n|---|\n", encoding="utf-8")
    monkeypatch.setenv(ledger.LEDGER, str(page))
    return page


def test_the_last_line_of_a_campaign_is_its_entry(page: Path) -> None:
    assert ledger.main(["make stress", "--", *SPEAK]) == 0
    row = page.read_text(encoding="utf-8").splitlines()[-1]
    assert row.endswith("| `make stress` | 7 of 7 |")


def test_a_campaign_that_fails_is_written_down_as_failed(page: Path) -> None:
    assert ledger.main(["make stress", "--", *FAIL]) == 3
    assert "**failed (3)**: 6 of 7 |" in page.read_text(encoding="utf-8")


def test_entries_are_added_and_none_is_changed(page: Path) -> None:
    before = page.read_text(encoding="utf-8")
    for _ in range(2):
        ledger.main(["make x", "--", *SPEAK])
    text = page.read_text(encoding="utf-8")
    assert text.startswith(before)
    assert text.count("7 of 7") == 2


def test_without_a_ledger_nothing_is_written(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ledger.LEDGER)
    before = page.read_text(encoding="utf-8")
    assert ledger.main(["make x", "--", *SPEAK]) == 0
    assert page.read_text(encoding="utf-8") == before
    assert ledger.main(["make x"]) == 2


def test_slices_add_up_and_the_next_one_has_seeds_of_its_own() -> None:
    rows = "\n".join(
        f"| 2026-11-22 | abc | here | `make fuzz-swarm ({name})` | {who} against model: {ran} "
        f"executions from seed {seed} on, {10 * ran} steps (10.0 in each, 8.0 of them did "
        f"something), 60 s, {differ} differ |"
        for name, who, seed, ran, differ in (
            ("rust", "core", 1, 500, 0),
            ("rust", "**failed (1)**: core", 2 * ledger.APART, 7, 1),
            ("python", "package", 1, 20, 0),
        )
    )
    assert ledger.told_sums(f"# Ledger\n{rows}\n").splitlines() == [
        "make fuzz-swarm (rust): 507 executions, 5070 steps in 2 slices, 1 differed",
        "make fuzz-swarm (python): 20 executions, 200 steps in 1 slices, 0 differed",
    ]
    assert ledger.next_seed(rows) == 3 * ledger.APART
    assert ledger.next_seed("") == ledger.APART
