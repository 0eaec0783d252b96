"""The pool: regions, free pages, orphans, and how bytes come home."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from .pages import AWAY, FREE, LINE, REGION, Frag, Page, Shelf, lines_for

EXHAUSTED = "the pool is at its max_bytes and nothing could be reclaimed"
OUT_OF_MEMORY = "the operating system gave no memory for a region"


class Refusal(Exception):  # noqa: N818 - an outcome, not a fault
    """What is said instead of giving; nothing has changed."""


class Pool:
    """Regions and their pages."""

    def __init__(
        self,
        page_size: int,
        limit: int,
        *,
        on_alloc: bool = False,
        on_free: bool = False,
        fails: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.page_size = page_size
        self.limit = limit  # in regions; 0 is none
        self.on_alloc, self.on_free = on_alloc, on_free
        self.regions: list[list[Page] | None] = []
        self.mapped = self.peak = 0
        self.pages_obtained = self.pages_returned = 0
        self.exhausted = self.no_memory = self.huge_failed = 0
        self.fails = fails  # does the system refuse this call?

    def pages(self) -> Iterator[Page]:
        """Yield every page there is, lowest region first."""
        return chain.from_iterable(region for region in self.regions if region)

    def take(self) -> Page:
        """Return a free page: the first of the lowest region, or of a new one."""
        free = next((page for page in self.pages() if page.role == "free"), None)
        return free or self._map()[0]

    def _map(self) -> list[Page]:
        if self.limit and self.mapped == self.limit:
            raise Refusal(EXHAUSTED)
        if self.fails("map"):
            raise Refusal(OUT_OF_MEMORY)
        # Without huge pages it goes on, and counts.
        self.huge_failed += self.fails("advise")
        if None not in self.regions:
            self.regions.append(None)
        number = self.regions.index(None)
        count = REGION // self.page_size
        region = [Page((number, index), self.page_size) for index in range(count)]
        self.regions[number] = region
        self.mapped += 1
        self.peak = max(self.peak, self.mapped)
        self.pages_obtained += count
        return region

    def adopt(self, shelf: Shelf) -> Page | None:
        """Make the lowest orphan *shelf*'s. Nobody adopts an orphan of bytes."""
        for page in self.pages():
            if page.role == "orphan" and not page.bytewise:
                page.role, page.shelf = "current", shelf
                page.back = page.countdown = None
                return page
        return None

    def unmap(self) -> int:
        """Return every region whose pages are all free to the system; say how many."""
        gone = 0
        for number, region in enumerate(self.regions):
            dead = region and all(page.role == "free" for page in region)
            # A region that the system does not take stays, with its pages.
            if region and dead and not self.fails("unmap"):
                self.regions[number] = None
                self.mapped -= 1
                self.pages_returned += len(region)
                gone += 1
        return gone

    # --- how bytes come home ----------------------------------------------------

    def free(self, frag: Frag, thread: int) -> None:
        """A handle goes, on *thread*; with the last one the piece comes home."""
        piece, page = frag.piece, frag.page
        if page.bytewise:
            self._free_bytes(page, piece.size, thread)
            return
        piece.handles -= 1
        if piece.handles == 0:
            self._free_lines(page, piece.start, piece.size, thread)

    def shrink(self, frag: Frag, length: int, thread: int) -> None:
        """Show the first *length* bytes; what is behind comes home if nobody shares it."""
        frag.narrow(0, length)
        piece, page = frag.piece, frag.page
        if not piece.is_unique():
            return
        if page.bytewise:
            keep = max(length, 1)
        else:
            keep = max(lines_for(frag.start - piece.start + length), 1) * LINE
        rest = piece.size - keep
        if rest > 0:
            piece.size = keep
            if page.bytewise:
                self._free_bytes(page, rest, thread)
            else:
                self._free_lines(page, piece.start + keep, rest, thread)

    def _free_bytes(self, page: Page, size: int, thread: int) -> None:
        page.alive -= size
        if page.alive:
            return
        if page.shelf is None:
            page.close()
        elif page.shelf.thread == thread:
            self._wake(page)

    def _free_lines(self, page: Page, start: int, size: int, thread: int) -> None:
        if self.on_free:
            page.wipe(start, size)
        if page.shelf is None:
            # An orphan: its last free gives it back.
            page.mark(start, size, AWAY)
            if page.is_dead():
                page.close()
        elif page.shelf.thread != thread:
            page.mark(start, size, AWAY)
        elif page.next == start + size:
            # The way back: what ends where the next byte would be carved is room again.
            page.next = start
            if self.on_alloc:
                page.wipe(start, size)
        else:
            page.mark(start, size, FREE)
            self._count(page, lines_for(size))

    def _count(self, page: Page, lines: int) -> None:
        if page.back is not None:
            page.back += lines
        elif page.countdown is not None:
            page.countdown -= lines
            if page.countdown <= 0:
                self._wake(page)

    def _wake(self, page: Page) -> None:
        """Enough came home: the page may belong in another list."""
        page.countdown = page.back = None
        if page.role == "waiting" and page.shelf is not None:
            page.shelf.put_away(page.shelf.take(page))
