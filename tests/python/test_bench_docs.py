"""What the documentation says is what the records say; no figure of the suite is typed."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import draw
import instructions
import ratios
import record


@pytest.mark.parametrize("path", [draw.PAGE, draw.README], ids=lambda path: path.name)
def test_the_figures_are_those_of_the_records(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert draw.MARKED.search(text)
    assert draw.redrawn(text) == text, "run `make bench-docs`"


def test_every_drawing_is_somewhere_and_every_picture_is_drawn() -> None:
    text = draw.PAGE.read_text(encoding="utf-8") + draw.README.read_text(encoding="utf-8")
    assert {found["name"] for found in draw.MARKED.finditer(text)} <= set(draw.DRAWINGS)
    for name in draw.PICTURES:
        assert (f"plots/{name}.svg" in text) == bool(record.newest(name))
        assert (draw.PLOTS / f"{name}.svg").exists() == bool(record.newest(name))


def test_a_changed_figure_is_seen() -> None:
    marked = "a\n<!-- drawn: promises -->\n| typed |\n<!-- end -->\nb\n"
    drawn = draw.redrawn(marked)
    assert "typed" not in drawn
    assert drawn.startswith("a\n")
    assert drawn.endswith("<!-- end -->\nb\n")


def test_a_ratio_is_of_one_run_against_the_best_rival_only() -> None:
    run = [
        record.row("pair", "pagefrag", "64", ns=2.0),
        record.row("pair", "mimalloc", "64", ns=9.0),
        record.row("pair", "snmalloc", "64", ns=5.0),
        record.row("pair", "kernel scheme", "64", ns=1.0),
    ]
    assert ratios.best_rival("pair", 64)(run) == 2.5
    assert ratios.over("pair", "mimalloc", "snmalloc", 64)(run) == 1.8
    assert ratios.best_rival("pair", 256)(run) is None
    promise = ratios.Promise("R2", "", "pair", ratios.best_rival("pair", 64), 2.0, at_least=True)
    assert promise.is_kept(2.5)
    assert not promise.is_kept(1.9)


def test_every_promise_finds_its_figures() -> None:
    """A promise that named a group or an arm wrongly would be silent."""
    for promise in ratios.promises():
        found = record.newest(promise.bench)
        assert len(promise.ratios()) == (len(found.runs) if found else 0), promise.what


def test_addresses_fall_out_of_the_kept_assembly() -> None:
    assert doctest.testmod(instructions).attempted >= 3
    assert doctest.testmod(instructions).failed == 0
