"""The table of planted bugs fits the source, and whatever does not is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from planted import page, run, steps, table, weaken

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
//! self.a.load(Ordering::SeqCst)
impl Word {
    fn take(&self) {
        self.a.compare_exchange(
            0,
            1,
            Ordering::AcqRel, // Ordering::SeqCst
            Ordering::Acquire,
        );
        self.a.load(Ordering::Relaxed);
        self.a.load(Ordering::SeqCst);
    }
}
#[cfg(test)]
mod tests {
    fn later() { A.load(Ordering::SeqCst); }
}
"""
BUG = """
[[bug]]
name = "one"
title = "wrong"
file = "rust/core/src/word.rs"
old = "self.a.load(Ordering::Relaxed);"
new = ""
found_by = "unit: pagefrag"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one file, and a table of its one bug and its five weakenings."""
    core = tmp_path / table.CORE
    core.mkdir(parents=True)
    (core / "word.rs").write_text(SOURCE, encoding="utf-8")
    (core / "sync.rs").write_text("// the door\n", encoding="utf-8")
    (tmp_path / "bugs.toml").write_text(BUG, encoding="utf-8")
    rows = (f'["{name}"]\nfound_by = "loom: a::b"\n' for name, _ in weaken.switches(core))
    (tmp_path / "orderings.toml").write_text("".join(rows), encoding="utf-8")
    return tmp_path


def test_every_row_fits_the_source_and_every_order_has_its_row() -> None:
    bugs = table.bugs(ROOT)
    assert sum(not bug.switch for bug in bugs) >= 20
    assert sum(bool(bug.switch) for bug in bugs) >= 40


def test_every_check_that_a_row_names_is_there() -> None:
    files = {f"rust: {path.stem}" for path in (ROOT / "tests/rust").glob("*.rs")}
    python = (path.stem for path in (ROOT / "tests/python").glob("test_*.py"))
    files |= {f"python: {name}" for name in python if name[5:] not in steps.OTHERS}
    models = {f"loom: {name}" for name in page.models()}
    known = files | models | {"unit: pagefrag", "traces: corpus"}
    assert {bug.found_by for bug in table.bugs(ROOT) if bug.found_by} <= known


def test_every_model_must_find_a_bug() -> None:
    assert page.idle_models(table.bugs(ROOT)) == []


def test_each_order_is_found_with_what_is_weaker(tree: Path) -> None:
    names = [name for name, _ in weaken.switches(tree / table.CORE)]
    assert names == [
        "word.rs take compare_exchange: AcqRel -> Acquire",
        "word.rs take compare_exchange: AcqRel -> Release",
        "word.rs take compare_exchange: Acquire -> Relaxed on failure",
        "word.rs take load 2: SeqCst -> AcqRel",
    ]


def test_switches_change_what_they_name_and_nothing_else(tree: Path) -> None:
    texts = weaken.with_switches(tree / table.CORE)
    text = texts[tree / table.CORE / "word.rs"]
    assert text.count("planted_order") == 3
    assert "crate::sync::planted_order(1, Ordering::Acquire)," in text
    for number, word in enumerate(("AcqRel", "Acquire", "SeqCst")):
        before = f"crate::sync::planted_order({number}, Ordering::{word})"
        text = text.replace(before, f"Ordering::{word}")
    assert text == SOURCE
    assert "fn planted_order" in texts[tree / table.CORE / "sync.rs"]


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("bugs.toml", "Relaxed", "Release", "stands 0 times"),
        ("bugs.toml", "self.a.load(Ordering::Relaxed);", "self.a.load", "stands 3 times"),
        ("bugs.toml", "found_by", "survives = 'no'\nfound_by", "either"),
        ("bugs.toml", 'found_by = "unit: pagefrag"', "", "either"),
        ("bugs.toml", "title", "tilte", "tilte is unknown"),
        ("orderings.toml", "SeqCst -> AcqRel", "SeqCst -> Relaxed", "no row"),
        ("orderings.toml", "load 2", "load 3", "no row"),
    ],
)
def test_a_row_that_does_not_fit_is_seen(
    name: str, old: str, new: str, complaint: str, tree: Path
) -> None:
    file = tree / name
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(table.Rotten, match=complaint):
        table.bugs(tree, tree)


def test_a_new_atomic_operation_without_a_row_is_seen(tree: Path) -> None:
    file = tree / table.CORE / "word.rs"
    text = SOURCE.replace(
        "        self.a.load(Ordering::Rel", "self.b.store(0, Ordering::Release);\n"
    )
    file.write_text(f"{text}\n", encoding="utf-8")
    shutil.copy(file, tree / table.CORE / "other.rs")
    with pytest.raises(table.Rotten, match="no row"):
        list(table.weakenings(tree, tree / "orderings.toml"))


def test_slices_are_numbers_and_parts_of_names(tree: Path) -> None:
    bugs = table.bugs(tree, tree)
    assert len(bugs) == 5
    assert table.chosen(bugs, "") == bugs
    assert table.chosen(bugs, "2..3") == bugs[1:3]
    assert table.chosen(bugs, "..1,on failure") == [bugs[0], bugs[3]]
    assert table.chosen(bugs, "4..") == bugs[3:]


def bug(found_by: str = "", survives: str = "") -> table.Bug:
    return table.Bug("one", "wrong", Path("rust/core/src/a.rs"), "", "", found_by, survives)


@pytest.mark.parametrize(
    ("row", "found", "fault"),
    [
        (bug(found_by="unit: a"), "unit: a, a_test", ""),
        (bug(found_by="unit: a"), "rust: b, a_test", "unit: a should have found it"),
        (bug(found_by="unit: a"), "", "SURVIVED"),
        (bug(survives="nobody sees it"), "", ""),
        (bug(survives="nobody sees it"), "unit: a, a_test", "nothing finds it"),
    ],
)
def test_the_verdict_is_held_against_the_row(row: table.Bug, found: str, fault: str) -> None:
    said = run.judged(row, found)
    assert fault in said
    assert bool(said) == bool(fault)


@pytest.mark.parametrize(
    ("said", "who"),
    [
        ("running 2 tests\ntest mem::tests::one ... FAILED\ntest two ... ok\n", "one"),
        ("running 1 test\ntest one - should panic ... FAILED\n", "one"),
        ("FAILED tests/python/test_a.py::test_one - assert 1\n", "test_one - assert 1"),
        ("running 1 test\nprocess didn't exit successfully: signal 11\n", "the program died"),
    ],
)
def test_who_found_a_bug_is_read_from_what_was_said(said: str, who: str) -> None:
    assert steps.told(said) in (who, who.partition(" -")[0])


def test_the_page_keeps_what_was_not_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "planted.md"
    file.write_text(f"# Words\n\n{page.START}\n", encoding="utf-8")
    rows = [bug(found_by="unit: a"), table.Bug("two", "", Path(), "", "", "", "no | way", "0=A")]
    page.write(file, rows, {"one": "unit: a, a_test", "two": ""})
    text = file.read_text(encoding="utf-8")
    assert "| 1 | one | wrong | unit: a, a_test |" in text
    assert "| 2 | two | the order is one step weaker | nothing: no / way |" in text
    assert "1 of 2 are found, 1 survive with a reason, 0 wait to be tried." in text
    page.write(file, rows, {})
    assert file.read_text(encoding="utf-8") == text
