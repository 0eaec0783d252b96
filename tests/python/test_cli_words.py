"""Whatever words a user gives, as arguments or in the environment: read, or told in one line."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pagefrag import cli
from pagefrag.recv import parse_address

# What a shell can hand over: bytes that are not UTF-8 come as lone surrogates, NUL cannot come.
WORDS = st.text(st.characters(exclude_characters="\0"), max_size=40)
NUMBERS = st.integers().map(str) | st.integers(-(10**25), 10**25).map("{:_}".format)
TIMES = st.from_regex(r"\A-?[0-9]{0,12}\.?[0-9]{0,12}(s|ms|us|m|)\Z")
ADDRESSES = st.from_regex(r"\A[\[\]:a-f0-9.]{0,12}:[0-9]{0,8}\Z")
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3}


def said(words: list[str]) -> tuple[object, str]:
    """Return the exit status of a command that does not get to work, and what it complains of."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as left:
        cli.main(words)
    return left.value.code, stderr.getvalue()


def between(low: int, high: int) -> Callable[[str], bool]:
    def is_good(text: str) -> bool:
        try:
            return low <= int(text) <= high
        except ValueError:
            return False

    return is_good


def nanoseconds(text: str) -> int | None:
    """Return how long a time is, read by the decimal module; `None`: it is none."""
    if text == "0":
        return 0
    digits = text.rstrip("smu")
    whole, _, part = digits.partition(".")
    unit = UNITS.get(text[len(digits) :])
    if unit is None or not set(digits) <= set("0123456789.") or not 0 < len(whole) < 10:
        return None
    if "." in digits and not 0 < len(part) < 10:
        return None
    try:
        return int(Decimal(digits) * unit)
    except InvalidOperation:
        return None


IS_GOOD: dict[str, dict[str, Callable[[str], bool]]] = {
    "demo": {
        "--count": between(1, 1 << 40),
        "--size": between(8, 32_768),
        "--keep": between(0, 1 << 24),
        "--page-size": between(4_096, 1 << 20),
    },
    "recv --udp=127.0.0.1:0": {
        "--keep": between(0, 1 << 24),
        "--buffer": between(64, 32_768),
        "--interval": between(1, 3_600),
    },
    "replay there-is-no-such-file": {
        "--hold": lambda text: nanoseconds(text) is not None,
        "--page-size": between(4_096, 1 << 20),
        "--buffer": between(1, 1 << 20),
        "--copybreak": between(0, 1 << 20),
        "--slots": between(1, 1_024),
        "--length": lambda text: text in {"wire", "captured"},
    },
}
OPTIONS = [(command, option) for command, options in IS_GOOD.items() for option in options]


@given(st.sampled_from(OPTIONS), WORDS | NUMBERS | TIMES)
@example(("demo", "--count"), "9" * 5000)
@example(("replay there-is-no-such-file", "--hold"), "1e400s")
@example(("recv --udp=127.0.0.1:0", "--buffer"), "\udcff\n")
def test_an_option_that_is_wrong_is_named_in_one_line(option: tuple[str, str], text: str) -> None:
    command, name = option
    assume(not IS_GOOD[command][name](text))
    status, complaint = said([*command.split(), f"{name}={text}"])
    assert status == 2
    assert complaint.startswith(f"pagefrag {command.split()[0]}: argument {name}: ")
    assert complaint.endswith("\n")
    assert len(complaint.splitlines()) == 1


@given(st.lists(WORDS.filter(lambda word: not word.startswith("-")), max_size=4), st.booleans())
@example(["dem"], False)
@example(["more\nwords"], True)
def test_words_that_are_no_command_are_bad_input(words: list[str], after: bool) -> None:
    words = ["info", *words] if after else words
    assume(words[:1] not in (["demo"], ["recv"], ["replay"]) and words != ["info"])
    status, complaint = said(words)
    assert status == 2
    assert complaint.startswith("pagefrag")
    assert len(complaint.splitlines()) == 1


@given(TIMES | WORDS)
@example("0")
@example("999999999.999999999s")
@example("0.0019us")
def test_a_time_is_read_as_the_decimal_module_reads_it(text: str) -> None:
    words = ["replay", "file", f"--hold={text}"]
    expected = nanoseconds(text)
    if expected is None:
        assert said(words)[0] == 2
    else:
        assert cli._parser().parse_args(words).hold == expected


@given(ADDRESSES | WORDS | st.builds("{}:{}".format, WORDS, st.integers(-2, 70_000)))
@example("[::1]:9000")
@example("\u0661:\u0662")
@example("[]:1")
def test_an_address_says_what_the_text_said(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65_535
    before, _, behind = text.rpartition(":")
    assert behind.isascii()
    assert behind.lstrip("0") == str(port).lstrip("0")
    assert before in (host, f"[{host}]")
    assert host
    assert ":" not in host or before.startswith("[")


TRACKS = """
import os, sys
from hypothesis import given, settings, strategies as st
import pagefrag

texts = st.text(st.characters(exclude_characters="\\0", exclude_categories=["Cs"]), min_size=1)
strange = st.binary(min_size=1).map(os.fsdecode).filter(lambda text: "\\0" not in text)
numbers = st.integers().map(str)

@settings(deadline=None, database=None, max_examples=300)
@given(texts | strange | numbers)
def any_text(text):
    digits = text.removeprefix("+")
    if digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 1 << 30:
        return
    os.environ["PAGEFRAG_TRACK"] = text
    try:
        pagefrag.default_pool()
    except ValueError as error:
        assert str(error).startswith("PAGEFRAG_TRACK is a number from 1 to 1073741824, not "), text
        assert len(str(error).splitlines()) == 1, text
    else:
        raise AssertionError(text)

any_text()
os.environ["PAGEFRAG_TRACK"] = sys.argv[1]
print(pagefrag.default_pool().track)
"""


@pytest.mark.parametrize("good", ["1", "+7", "007", "1073741824"])
def test_any_text_in_the_environment_is_a_number_or_refused(good: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRACKS, good], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{int(good)}\n"), done.stderr[-3000:]
