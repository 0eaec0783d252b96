"""Pages as a picture: which of their lines a packet has, which an armed buffer, and which are dead.

All of it is read off the fragments that are alive (`page`, `offset`, `capacity`). A page without
any is not to be seen in this way; how many of those there are follows from the bytes held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pagefrag

__all__ = ["ARMED", "DEAD", "PACKET", "PLAIN", "SHADES", "PageMap", "legend", "picture"]

LINE = 64
DEAD, ARMED, PACKET = range(3)
SHADES = "░▒█·"
"""Dead, armed, packet; and a line of a page that is free as a whole."""
PLAIN = "-+#."
"""The same for terminals that have no blocks."""


@dataclass(slots=True)
class PageMap:
    """The lines of the pages that have living fragments, in the order of their addresses."""

    page_size: int
    pages: dict[int, bytearray] = field(default_factory=dict)
    fragments: Counter[int] = field(default_factory=Counter)
    free_pages: int = 0

    def look(self, kept: Iterable[pagefrag.Fragment], armed: Iterable[pagefrag.Fragment]) -> None:
        """Draw the fragments of packets and the armed buffers."""
        self._draw(kept, PACKET)
        self._draw(armed, ARMED)
        self.pages = dict(sorted(self.pages.items()))

    def _draw(self, fragments: Iterable[pagefrag.Fragment], state: int) -> None:
        for fragment in fragments:
            page = fragment.page
            lines = self.pages.get(page)
            if lines is None:
                lines = self.pages[page] = bytearray(self.page_size // LINE)
            first, count = fragment.offset // LINE, fragment.capacity // LINE
            lines[first : first + count] = bytes([state]) * count
            self.fragments[page] += 1

    @property
    def fragments_per_page(self) -> float:
        """The mean over the pages that have any."""
        return self.fragments.total() / len(self.pages) if self.pages else 0.0

    @property
    def most_fragments(self) -> int:
        """The most fragments on one page."""
        return max(self.fragments.values(), default=0)


def _cell(lines: bytearray) -> int:
    """Return what most of *lines* are; the living win a tie.

    >>> _cell(bytearray([DEAD, PACKET])) == PACKET, _cell(bytearray([DEAD, DEAD, PACKET])) == DEAD
    (True, True)
    """
    return max((PACKET, ARMED, DEAD), key=lines.count)


def legend(letters: str = SHADES) -> str:
    """Explain the letters of a picture."""
    dead, armed, packet, free = list(letters)
    return f"{packet} packet  {armed} armed buffer  {dead} pinned (dead)  {free} free page"


def picture(pages: PageMap, *, width: int = 64, rows: int = 16, letters: str = SHADES) -> str:
    """Draw one page a row, at most *rows*, evenly picked, and say what is left out."""
    found = list(pages.pages.values())
    step = max(1.0, len(found) / rows)
    shown = [found[int(index * step)] for index in range(min(rows, len(found)))]
    lines = ["".join(letters[cell] for cell in _cells(page, width)) for page in shown]
    if pages.free_pages > 0:
        cells = min(width, pages.page_size // LINE)
        lines.append(f"{letters[-1] * cells} {pages.free_pages:,} such")
    told = f"{len(shown):,} of {len(found):,}" if len(shown) < len(found) else f"{len(found):,}"
    each = pages.page_size // min(width, pages.page_size // LINE)
    lines.append(f"{told} pages with living fragments, one a row, {each:,} bytes a letter")
    return "\n".join(lines)


def _cells(page: bytearray, width: int) -> Iterator[int]:
    each = max(1, len(page) // width)
    for start in range(0, len(page), each):
        yield _cell(page[start : start + each])
