"""What the same traffic would hold in two other schemes.

Neither is the real allocator, because there is none here to ask: whole-page reuse is a model of
the kernel's page fragments in a dictionary of counts, and of one ``bytes`` for each packet only the
sizes are added up, as ``sys.getsizeof`` tells them.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pagefrag.replay.ring import Level, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagefrag.progress import Advance
    from pagefrag.replay.traffic import Traffic

__all__ = ["Rivals", "WholePages", "bytes_size", "run"]

_LINE = 64


class WholePages:
    """A cache that carves a page from its start to its end, and again only when all of it is dead.

    >>> pages = WholePages(4096)
    >>> first, second = pages.alloc(2048), pages.alloc(2048)
    >>> pages.free(first)
    >>> third = pages.alloc(64)
    >>> pages.held
    8192
    """

    def __init__(self, page_size: int) -> None:
        """Begin without a page."""
        self._page_size = page_size
        self._alive: dict[int, int] = {}
        self._page = -1
        self._offset = page_size

    @property
    def held(self) -> int:
        """Bytes of the pages in use, the one that is carved included."""
        return len(self._alive) * self._page_size

    def alloc(self, size: int) -> int:
        """Carve *size* bytes; return their page."""
        lines = -(-max(size, 1) // _LINE) * _LINE
        if self._offset + lines > self._page_size:
            self._turn_page()
        self._offset += lines
        self._alive[self._page] += 1
        return self._page

    def _turn_page(self) -> None:
        if self._alive.get(self._page, 1):
            self._page += 1
            self._alive[self._page] = 0
        self._offset = 0

    def free(self, page: int) -> None:
        """Count one fragment of *page* less; the last one gives the page back."""
        self._alive[page] -= 1
        if not self._alive[page] and page != self._page:
            del self._alive[page]


def bytes_size(size: int, known: dict[int, int]) -> int:
    """Return what a ``bytes`` of *size* takes; *known* remembers."""
    found = known.get(size)
    if found is None:
        found = known[size] = sys.getsizeof(bytes(size))
    return found


@dataclass(slots=True)
class Rivals:
    """What the other schemes held."""

    whole_pages: Level = field(default_factory=Level)
    bytes_each: Level = field(default_factory=Level)


class _Both:
    """Both schemes on their way."""

    def __init__(self, settings: Settings, hold: int) -> None:
        self.found = Rivals()
        self._settings, self._hold = settings, hold
        self._pages = WholePages(settings.page_size)
        self._armed: list[int] = []
        self._kept: deque[tuple[int, int, int]] = deque()
        self._known: dict[int, int] = {}
        self.now = 0

    def receive(self, step: int, size: int) -> None:
        """Let one packet come."""
        if step:
            self.now += step
            self._release(self.now)
        pages, settings, found = self._pages, self._settings, self.found
        while len(self._armed) < settings.slots:
            self._armed.append(pages.alloc(settings.buf_size))
        stored = min(size, settings.buf_size)
        page = pages.alloc(stored) if stored <= settings.copybreak else self._armed.pop()
        copy = bytes_size(stored, self._known)
        found.whole_pages.move(pages.held)
        found.bytes_each.move(found.bytes_each.end + copy)
        self._kept.append((self.now + self._hold, page, copy))
        if not self._hold:
            self._release(self.now)

    def _release(self, now: int) -> None:
        found, kept = self.found, self._kept
        while kept and kept[0][0] <= now:
            due, page, copy = kept.popleft()
            self._stay(due)
            self._pages.free(page)
            found.whole_pages.move(self._pages.held)
            found.bytes_each.move(found.bytes_each.end - copy)
        self._stay(now)

    def _stay(self, moment: int) -> None:
        self.found.whole_pages.stay(moment)
        self.found.bytes_each.stay(moment)


def run(
    traffic: Traffic,
    settings: Settings,
    hold: int,
    advance: Advance | Callable[[int], None] = lambda _done: None,
) -> Rivals:
    """Replay *traffic* through both schemes with the ring's *settings*."""
    both, done = _Both(settings, hold), 0
    for packets in traffic.chunks():
        for step, size in packets:
            both.receive(step, size)
            done += 1
        advance(done)
    return both.found
