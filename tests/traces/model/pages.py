"""Pages, the pieces carved out of them, and the handles that show them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

LINE = 64
REGION = 2 << 20

# A line of a page is one of these.
FREE = ord(".")  # free, and the owner knows
TAKEN = ord("#")  # in a live fragment, or in the hole that is being carved
AWAY = ord("~")  # freed by another thread than the owner's, who has not looked yet
HOLE = re.compile(rb"\.+")

SPARES = 8  # dead pages that a shelf keeps
WORTH = 8  # a page is ready when this part of it is free
SLACK = 8  # holes are filled when more than this part of what is held is free in the lists
LOOKS = 4  # ready pages of one class that a refill looks at


def lines_for(size: int) -> int:
    """Return how many lines *size* bytes take."""
    return -(-size // LINE)


def align_up(value: int, align: int) -> int:
    """Return the first multiple of *align* that is not below *value*."""
    return -(-value // align) * align


def class_of(lines: int) -> int:
    """Return the class of a hole: four for each power of two."""
    octave = lines.bit_length() - 1
    return lines - 1 if octave < 2 else (octave - 2) * 4 + (lines >> (octave - 2)) - 1


@dataclass(eq=False)
class Page:
    """A page: its place, its contents, its lines, and what its owner is up to."""

    name: tuple[int, int]  # the region's number, and the page's in it
    size: int
    #: Free, current, waiting (in a list of the shelf), spare, or orphan.
    role: str = "free"
    shelf: Shelf | None = None  # whose it is; nobody's if free or orphan
    bytewise: bool = False
    lines: bytearray = field(default_factory=bytearray)
    #: The hole being carved, in bytes of the page: what of it is next, and its end.
    next: int | None = None
    limit: int = 0
    #: Bytes that its handles account for, if it is packed to the byte.
    alive: int = 0
    #: Lines that came home here since the page was opened as a whole, if it was.
    back: int | None = None
    #: Lines that may come home here before the shelf looks at the page again.
    countdown: int | None = None
    list: int = 0  # of the shelf's lists, the one it waits in
    #: Lines that were free when it came there; none of a page packed to the byte.
    listed: int = 0
    #: Its bytes; none before it was taken for the first time.
    contents: bytearray = field(default_factory=bytearray)

    def open(self, shelf: Shelf, *, bytewise: bool) -> None:
        """Make a free page *shelf*'s, all of it free."""
        self.role, self.shelf, self.bytewise = "current", shelf, bytewise
        self.lines = bytearray([FREE]) * (self.size // LINE)
        self.contents = self.contents or bytearray(self.size)
        self.next, self.alive = None, 0
        self.back = self.countdown = None

    def close(self) -> None:
        """Make it free again."""
        self.role, self.shelf, self.next = "free", None, None

    def mark(self, start: int, size: int, state: int) -> None:
        """Set the lines of *size* bytes from *start*, a line's first."""
        first, count = start // LINE, lines_for(size)
        self.lines[first : first + count] = bytearray([state]) * count

    def wipe(self, start: int, size: int) -> None:
        """Zero bytes."""
        self.contents[start : start + size] = bytes(size)

    def uncarved(self) -> int:
        """Return the bytes of the hole that were not carved yet."""
        return 0 if self.next is None else self.limit - self.next

    def is_dead(self) -> bool:
        """Is nothing in it alive? Lines that others freed count as dead."""
        return self.alive == 0 if self.bytewise else TAKEN not in self.lines

    def is_whole(self) -> bool:
        """Does its owner know every line to be free?"""
        return self.lines.count(FREE) == len(self.lines)

    def live_bytes(self) -> int:
        """Return the bytes of its live fragments. At granule 1 each sharer counts."""
        if self.bytewise:
            return min(self.alive, self.size)
        return self.lines.count(TAKEN) * LINE - self.uncarved()

    def has_news(self) -> bool:
        """Has something come home from other threads?"""
        return self.is_dead() if self.bytewise else AWAY in self.lines

    def sweep(self) -> None:
        """The owner takes note of what others freed."""
        self.lines = self.lines.replace(b"~", b".")

    def holes(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the runs of free lines from line *start* on: first line, lines."""
        return ((run.start(), run.end() - run.start()) for run in HOLE.finditer(self.lines, start))

    def holes_for(self, need: int, step: int, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the holes with *need* lines from a multiple of *step* on."""
        for first, count in self.holes(start):
            if align_up(first, step) - first + need <= count:
                yield first, count

    def fits(self, need: int, step: int) -> bool:
        """Is there such a hole?"""
        return next(self.holes_for(need, step), None) is not None


@dataclass(eq=False)
class Piece:
    """What was carved at once: it comes home when its last handle goes."""

    page: Page
    start: int
    size: int  # whole lines; at granule 1 bytes
    handles: int = 1
    shared: bool = False  # has ever had a second handle

    def is_unique(self) -> bool:
        """Is there one handle? At granule 1 that can be told only if there never was another."""
        return not self.shared if self.page.bytewise else self.handles == 1


@dataclass(eq=False)
class Frag:
    """A handle: which bytes of a piece it shows."""

    piece: Piece
    start: int
    length: int
    readonly: bool = False

    @property
    def page(self) -> Page:
        return self.piece.page

    @property
    def bytes(self) -> bytes:
        return bytes(self.page.contents[self.start : self.start + self.length])

    def write(self, text: bytes, at: int = 0) -> None:
        """Write *text* from byte *at* on."""
        start = self.start + at
        self.page.contents[start : start + len(text)] = text

    def narrow(self, start: int, length: int) -> None:
        """Show less. An empty handle stays where it was."""
        if length:
            self.start += start
        self.length = length

    def share(self) -> Frag:
        """Return another handle of the same bytes."""
        piece = self.piece
        piece.shared = True
        if piece.page.bytewise:
            # The count is the page's, in bytes, as in the kernel.
            piece.page.alive += piece.size
        else:
            piece.handles += 1
        return Frag(piece, self.start, self.length, self.readonly)


class Shelf:
    """The pages of one cache."""

    def __init__(self, thread: int) -> None:
        self.thread = thread  # whose cache it is
        self.current: Page | None = None
        #: Where the search for the next hole goes on, in lines; at granule 1 the next byte.
        self.offset = 0
        #: Was the hole opened for a small request? And where do small requests go on?
        self.small = False
        self.nest: Page | None = None
        #: Lines carved for which the round has not gone on yet, and its pace.
        self.debt, self.pace = 0, 1
        #: Retired pages, then ready ones by the class of their longest hole; newest first.
        self.lists: list[list[Page]] = [[] for _ in range(2 + class_of(REGION // 2 // LINE))]
        #: Lines that were free in their pages when each came there.
        self.waste = 0
        self.spare: list[Page] = []
        self.round_in = 0
        self.round_at: Page | None = None
        self.counters = dict.fromkeys(
            ("refills", "reuses", "taken", "adopted", "given", "orphaned", "fail"), 0
        )

    def waiting(self) -> Iterator[Page]:
        """Yield the pages of all lists."""
        return chain.from_iterable(self.lists)

    def pages(self) -> Iterator[Page]:
        """Yield every page."""
        current = () if self.current is None else (self.current,)
        return chain(current, self.waiting(), self.spare)

    def put_away(self, page: Page) -> Page | None:
        """Find the list for *page*. Returns it if it is dead and there are spares enough."""
        lines = len(page.lines)
        free = page.lines.count(FREE)
        if page.is_dead() if page.bytewise else free == lines:
            return self._put_spare(page)
        page.role, page.back = "waiting", None
        worth = max(lines // WORTH, 1)
        if page.bytewise or free < worth:
            page.list, page.countdown = 0, max(worth - free, 1)
        else:
            page.list = 1 + class_of(max(count for _, count in page.holes()))
            page.countdown = max(min(lines // 4, lines - free), 1)
        self.lists[page.list].insert(0, page)
        page.listed = 0 if page.bytewise else free
        self.waste += page.listed
        return None

    def _put_spare(self, page: Page) -> Page | None:
        self.forget_nest(page)
        page.back = page.countdown = None
        if len(self.spare) >= SPARES:
            self.counters["given"] += 1
            page.close()
            return page
        page.role = "spare"
        self.spare.insert(0, page)
        return None

    def forget_nest(self, page: Page) -> None:
        """Small requests do not go on in *page* any more."""
        if self.nest is page:
            self.nest = None

    def take(self, page: Page) -> Page:
        """Take *page* out of its list; the round does not stop at it."""
        row = self.lists[page.list]
        if self.round_at is page:
            self.round_at = self._behind(page)
        row.remove(page)
        self.waste -= page.listed
        return page

    def _behind(self, page: Page) -> Page | None:
        row = self.lists[page.list]
        at = row.index(page) + 1
        return row[at] if at < len(row) else None

    def take_spare(self) -> Page | None:
        """Take the dead page that was kept last."""
        return self.spare.pop(0) if self.spare else None

    def has_ready(self, need: int) -> bool:
        """Is there a page that is likely to have *need* lines in a row?"""
        return any(self.lists[1 + class_of(need) :])

    def is_wasteful(self, page_lines: int) -> bool:
        """Is more than an eighth of what is held free in the lists, as far as was seen?"""
        count = self.counters
        held = count["taken"] + count["adopted"] - count["given"] - count["orphaned"]
        return self.waste * SLACK > held * page_lines

    def take_ready(self, need: int, step: int) -> Page | None:
        """Take the page whose longest hole is about the shortest that will do."""
        for row in self.lists[1 + class_of(need) :]:
            for page in row[:LOOKS]:
                if page.fits(need, step):
                    return self.take(page)
        return None

    def take_nest(self, need: int, step: int) -> Page | None:
        """Take the page where small requests go on, if they can."""
        page = self.nest
        if page is None or page.role != "waiting":
            return None
        if not page.fits(need, step):
            self.nest = None
            return None
        return self.take(page)

    def next_on_round(self) -> Page | None:
        """Return the next page of the walk along all lists, which never ends."""
        page = self.round_at
        if page is None:
            busy = [number for number, row in enumerate(self.lists) if row]
            if not busy:
                return None
            # Behind the last list comes the first.
            self.round_in = next((number for number in busy if number > self.round_in), busy[0])
            page = self.lists[self.round_in][0]
        self.round_at = self._behind(page)
        return page
