"""Figures on their way: dots in a file, a bar and an overwritten line on a terminal."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

import pytest

from pagefrag import recv
from pagefrag.progress import progress


class Terminal:
    """A terminal of our own: what is written to `stream` is read here."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        self.stream: TextIO = os.fdopen(theirs, "w", encoding="utf-8")

    def close(self) -> str:
        """Return what was shown."""
        self.stream.close()
        shown = b""
        try:
            while piece := os.read(self._ours, 65536):
                shown += piece
        except OSError:  # how a terminal tells that its other side is gone
            pass
        os.close(self._ours)
        return shown.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_terminal_gets_a_bar_that_is_full_in_the_end(terminal: Terminal) -> None:
    pytest.importorskip("rich")
    with progress("receiving", 8, terminal.stream) as done:
        for count in range(1, 9):
            done(count)
    shown = terminal.close()
    assert "receiving" in shown
    assert "100%" in shown


def test_without_rich_a_terminal_gets_dots(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagefrag.progress.find_spec", lambda _name: None)
    with progress("receiving", 2, terminal.stream) as done:
        done(2)
    assert terminal.close() == f"receiving {'.' * 40}\r\n"


def test_a_process_without_a_standard_error_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress("receiving", 2) as done:
        done(1)
        done(2)


def test_figures_lie_over_each_other_on_a_terminal_and_below_elsewhere(
    terminal: Terminal,
) -> None:
    elsewhere = io.StringIO()
    for stream in (terminal.stream, elsewhere):
        recv._tell(stream, "12 packets")
        recv._tell(stream, "34 packets")
    assert terminal.close() == "\r\x1b[K12 packets\r\x1b[K34 packets"
    assert elsewhere.getvalue() == "12 packets\n34 packets\n"
