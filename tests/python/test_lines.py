"""What no test runs: reports are read right, and lines without a reason and stale ones are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from campaigns import lines, unrun

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """\
//! What it is.
fn f(x: u32) -> u32 {
    match x {
        0 => zero(),
        // Two lines that say one thing.
        1 => one(
            1,
        ),
        _ => other(),
    }
}
#[inline]
fn g() {
    again()
}

#[cfg(all(test, not(loom)))]
mod tests {
    fn t() {}
}
"""
RAN = {2: 5, 3: 5, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0, 9: 4, 10: 4, 11: 4, 12: 0, 13: 1, 14: 0, 19: 0}
NAME = "rust/core/src/f.rs"


@pytest.fixture
def file(tmp_path: Path) -> unrun.File:
    place = tmp_path / NAME
    place.parent.mkdir(parents=True)
    place.write_text(SOURCE, encoding="utf-8")
    counts = "".join(f"DA:{line},{count}\n" for line, count in RAN.items())
    other = "SF:/elsewhere/library.rs\nDA:1,0\nend_of_record\n"
    report = f"{other}SF:{place}\nFN:2,f\n{counts}LF:14\nend_of_record\n"
    (found,) = unrun.of_lcov(report, tmp_path)
    return found


def table(folder: Path, *rows: str) -> list[unrun.Reason]:
    file = folder / "table.toml"
    file.write_text("\n".join(f"[[reason]]\n{row}" for row in rows), encoding="utf-8")
    return unrun.reasons(file)


def row(text: str, why: str = "because", more: str = "") -> str:
    return f"file = '{NAME}'\ntext = '''\n{text}\n'''\nwhy = '{why}'\n{more}"


def test_a_line_counts_when_it_says_something_and_is_no_test(file: unrun.File) -> None:
    assert file.name == NAME
    assert file.part == "core"
    assert sorted(file.lines) == [2, 3, 4, 6, 7, 9, 13, 14]
    assert sorted(file.missed) == [4, 6, 7, 14]


def test_a_range_goes_over_what_cannot_run_and_ends_at_what_ran(file: unrun.File) -> None:
    assert file.ranges() == [(4, 7), (14, 14)]
    assert replace(file, missed=frozenset()).ranges() == []
    assert replace(file, missed=file.lines).ranges() == [(2, 14)]


def test_a_line_that_another_build_runs_is_not_missed(file: unrun.File) -> None:
    other = replace(file, lines=frozenset({4, 6, 14}), missed=frozenset({6}))
    (found,) = unrun.run_too([file], [other])
    assert sorted(found.missed) == [6, 7]
    assert found.lines == file.lines
    (found,) = unrun.run_too([file], [])
    assert found == file


def test_a_file_of_two_crates_is_one(tmp_path: Path) -> None:
    (tmp_path / "rust").mkdir()
    (tmp_path / "f.rs").write_text("a();\nb();\nc();\n", encoding="utf-8")
    one = f"SF:{tmp_path}/f.rs\nDA:1,0\nDA:2,1\nend_of_record\n"
    other = f"SF:{tmp_path}/rust/../f.rs\nDA:1,3\nDA:3,0\nend_of_record\n"
    (file,) = unrun.of_lcov(one + other, tmp_path)
    assert (file.name, file.lines, file.missed) == ("f.rs", {1, 2, 3}, {3})


def test_lines_of_python_are_those_that_coverage_tells() -> None:
    file = unrun.of_coverage("python/pagefrag/a.py", "a = 1\nb = 2\n", ran=[1], missed=[2])
    assert (file.part, file.lines, file.missed) == ("package", {1, 2}, {2})


def test_a_reason_is_found_by_its_text_whatever_is_before_it(
    file: unrun.File, tmp_path: Path
) -> None:
    found = table(tmp_path, row("0 => zero(),", "it never is"), row("1 => one(\n1,"))
    for source in (file.text, ("", "", *file.text)):
        moved = len(source) - len(file.text)
        here = replace(
            file,
            text=source,
            lines=frozenset(line + moved for line in file.lines),
            missed=frozenset(line + moved for line in file.missed),
        )
        why, stale = unrun.explained([here], found)
        assert not stale
        assert why == {
            (NAME, 4 + moved): "it never is",
            (NAME, 6 + moved): "because",
            (NAME, 7 + moved): "because",
        }
        assert unrun.unexplained([here], why) == [f"{NAME}:{14 + moved}: again()"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (row("2 => two(),"), "stands 0 times"),
        (row("}"), "stands 4 times"),
        (row("0 => zero(),\n1 => one("), "stands 0 times"),
        (row("_ => other(),"), "tests run what this reason explains"),
        (row("_ => other(),").replace("f.rs", "g.rs"), "nothing was counted"),
    ],
)
def test_a_reason_that_does_not_fit_is_stale(
    wrong: str, complaint: str, file: unrun.File, tmp_path: Path
) -> None:
    why, stale = unrun.explained([file], table(tmp_path, wrong, row("0 => zero(),")))
    assert why == {(NAME, 4): "because"}
    (told,) = stale
    assert complaint in told


def test_a_word_in_the_table_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(unrun.Stale, match="whey is unknown"):
        table(tmp_path, row("0 => zero(),", more="whey = 1"))


def test_what_depends_on_threads_may_run_or_not(file: unrun.File, tmp_path: Path) -> None:
    found = table(
        tmp_path,
        row("_ => other(),", more="sometimes = true"),
        row("0 => zero(),", more="sometimes = true"),
    )
    assert unrun.explained([file], found) == ({(NAME, 4): "because"}, [])


def test_the_page_has_a_row_for_each_range_and_each_reason(
    file: unrun.File, tmp_path: Path
) -> None:
    why, _ = unrun.explained([file], table(tmp_path, row("0 => zero(),", "a | b")))
    text = unrun.laid_out([file], why)
    assert "| **core** | **8** | **4** | **50.00** |" in text
    assert "| f.rs | 8 | 4 | 50.0 |" in text
    assert "| 4 | `` 0 => zero(), `` | a \\| b |" in text
    assert "| 6-7 | `` 1 => one( `` | **no reason is known** |" in text
    assert "| 14 | `` again() `` | **no reason is known** |" in text
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\nWords.\n\n{unrun.START}\n\nold\n", encoding="utf-8")
    unrun.write(page, text)
    written = page.read_text(encoding="utf-8")
    assert written == f"# Title\n\nWords.\n\n{text}"
    assert unrun.said([file]) == "core 50.00 % of 8 lines"


def test_every_reason_fits_the_source() -> None:
    for reason in unrun.reasons():
        text = (ROOT / reason.file).read_text(encoding="utf-8").split("\n")
        assert reason.place(text)
        assert reason.why


def test_every_file_that_is_left_out_is_there() -> None:
    assert all((ROOT / f"tests/rust/{name}.rs").is_file() for name in lines.MEASURES)
    assert all((ROOT / f"tests/python/test_{name}.py").is_file() for name in lines.BARE)


def test_tools_that_are_missing_are_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "rustc"
    script.write_text("#!/bin/sh\necho 'host: a-b-c'; echo 'LLVM version: 999.1'\n")
    script.chmod(0o755)
    monkeypatch.setenv("RUSTC", str(script))
    with pytest.raises(lines.Missing, match=r"LLVM 999 .*apt install llvm-999"):
        lines.llvm_tools()


def test_words_that_are_not_known_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        lines.main(["docs/coverage.md"])
    assert "--write PAGE" in capsys.readouterr().err
