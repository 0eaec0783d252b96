"""The sanitizers' runners: a fault that is not found is a failure, and so is a false alarm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sanitize import planted, suite

PROGRAM = """
import sys
word = sys.argv[1]
if word == "address":
    print("one\\ntwo")
elif word == "sound-address":
    print("all compared")
    sys.exit({sound})
elif word in {found}:
    print("==1==ERROR: AddressSanitizer: use-after-poison on address 0x1")
    sys.exit(1)
sys.exit({otherwise})
"""


def program(folder: Path, found: list[str], sound: int = 0, otherwise: int = 0) -> list[str]:
    script = folder / "faults.py"
    text = PROGRAM.format(found=found, sound=sound, otherwise=otherwise)
    script.write_text(text, encoding="utf-8")
    return [sys.executable, str(script)]


def test_every_fault_found_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.main(["address", *program(tmp_path, ["one", "two"])]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "2 of 2 planted faults found; without one: all compared"


def test_a_fault_that_is_not_found_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planted.main(["address", *program(tmp_path, ["one"])]) == 1
    assert "two: NOT FOUND" in capsys.readouterr().out


def test_a_program_that_dies_of_something_else_has_not_been_found(tmp_path: Path) -> None:
    assert planted.missed(program(tmp_path, [], otherwise=1), "address", ["one"]) == ["one"]


def test_a_false_alarm_is_a_failure(tmp_path: Path) -> None:
    assert planted.main(["address", *program(tmp_path, ["one", "two"], sound=1)]) == 1


def test_a_program_without_faults_is_a_failure() -> None:
    assert planted.main(["thread", sys.executable, "-c", "pass"]) == 1


@pytest.mark.parametrize(
    ("said", "line", "success"),
    [
        (
            "test result: ok. 2 passed; 0 failed;\nx\ntest result: ok. 3 passed; 0 failed;",
            "5 tests passed, 0 failed, 0 reports of the sanitizer",
            True,
        ),
        ("", "0 tests passed, 0 failed, 0 reports of the sanitizer", False),
        (
            "test result: FAILED. 2 passed; 1 failed;",
            "2 tests passed, 1 failed, 0 reports of the sanitizer",
            False,
        ),
        (
            "5 passed, 2 skipped in 1.21s",
            "5 tests passed, 0 failed, 0 reports of the sanitizer",
            True,
        ),
        (
            "1 failed, 5 passed in 1.21s",
            "5 tests passed, 1 failed, 0 reports of the sanitizer",
            False,
        ),
        (
            "==1==ERROR: AddressSanitizer: use-after-poison",
            "0 tests passed, 0 failed, 1 reports of the sanitizer",
            False,
        ),
        (
            "WARNING: ThreadSanitizer: data race\ntest result: ok. 2 passed; 0 failed;",
            "2 tests passed, 0 failed, 1 reports of the sanitizer",
            False,
        ),
    ],
)
def test_a_run_is_told_in_a_line(said: str, line: str, success: bool) -> None:
    assert suite.told(said) == (line, success)


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (3, 3)])
def test_a_suite_ends_as_its_command_does(status: int, ends: int) -> None:
    speak = f"import sys; print('test result: ok. 1 passed; 0 failed;'); sys.exit({status})"
    assert suite.main([sys.executable, "-c", speak]) == ends
