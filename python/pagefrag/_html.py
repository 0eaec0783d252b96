"""Pools and rings as pictures in a notebook: plain HTML, no script, no style sheet."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._pagefrag import PagePool, RxRing

__all__ = ["pool", "rx_ring"]

_WIDTH = 480
_HEIGHT = 16

# What a colour stands for is said beside the bar.
_LIVE, _PINNED, _FREE, _ROOM = "#2a7f62", "#d9a441", "#b8c4cc", "#eef1f3"

Part = tuple[str, int, str]


def _bar(parts: Iterable[Part]) -> str:
    """Draw *parts* (name, bytes, colour) beside one another, and what each is."""
    shown = [part for part in parts if part[1]]
    total = sum(size for _, size, _ in shown)
    left = 0.0
    boxes: list[str] = []
    words: list[str] = []
    for name, size, colour in shown:
        width = _WIDTH * size / total
        boxes.append(
            f'<rect x="{left:.1f}" width="{width:.1f}" height="{_HEIGHT}" fill="{colour}">'
            f"<title>{escape(name)}: {size:,} bytes</title></rect>"
        )
        words.append(f'<span style="color:{colour}">&#9632;</span> {escape(name)} {size:,}')
        left += width
    return (
        f'<svg role="img" width="{_WIDTH}" height="{_HEIGHT}">{"".join(boxes)}</svg>'
        f"<div>{' &nbsp; '.join(words) or 'nothing mapped'}</div>"
    )


def _table(rows: Iterable[tuple[str, object]]) -> str:
    lines = (
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows
    )
    return f"<table>{''.join(lines)}</table>"


def _memory(of: PagePool) -> str:
    """Draw what *of* holds: of its limit if it has one, else of what it has mapped."""
    stats = of.stats(huge=False)
    free = stats.pages_free * stats.page_size
    parts = [
        ("live", stats.live_bytes, _LIVE),
        ("pinned", stats.pinned_bytes, _PINNED),
        ("free", free, _FREE),
    ]
    if of.max_bytes is not None:
        parts.append(("not mapped", of.max_bytes - stats.held_bytes - free, _ROOM))
    return _bar(parts)


def pool(shown: PagePool) -> str:
    """Return *shown* as HTML: a bar of its bytes and a few figures."""
    stats = shown.stats(huge=False)
    limit = "none" if shown.max_bytes is None else f"{shown.max_bytes:,} bytes"
    table = _table(
        [
            ("page", f"{stats.page_size:,} bytes"),
            ("limit", limit),
            ("pages in use", f"{stats.pages_in_use:,}"),
            ("regions mapped", f"{stats.regions_mapped:,}"),
            ("exhausted", f"{stats.exhausted:,}"),
        ]
    )
    return f"<div><b>PagePool</b>{_memory(shown)}{table}</div>"


def rx_ring(shown: RxRing) -> str:
    """Return *shown* as HTML: a bar of its pool's bytes and what it has received."""
    stats = shown.stats()
    table = _table(
        [
            ("pending", f"{shown.pending:,}"),
            ("rx_packets", f"{stats.rx_packets:,}"),
            ("rx_bytes", f"{stats.rx_bytes:,}"),
            ("rx_alloc_fail", f"{stats.rx_alloc_fail:,}"),
            ("rx_hw_drops", f"{stats.rx_hw_drops:,}"),
            ("truncated", f"{stats.truncated:,}"),
        ]
    )
    return f"<div><b>{escape(repr(shown))}</b>{_memory(shown.cache.pool)}{table}</div>"
