"""The cache: where the next fragment lies, and where the next hole comes from."""

from __future__ import annotations

from collections.abc import Callable

from .pages import FREE, LINE, TAKEN, Frag, Page, Piece, Shelf, align_up, lines_for
from .pool import EXHAUSTED, OUT_OF_MEMORY, Pool, Refusal

ZERO_SIZE = "a fragment has at least one byte"
SIZE_ABOVE_PAGE = "the size is above the page size of the pool"
BAD_ALIGNMENT = "the alignment is not a power of two up to the page size"

SHORTAGE = (EXHAUSTED, OUT_OF_MEMORY)
SMALL = 16  # a request of up to this part of a page is small
TOLL = 32  # steps of the round before a page is taken from the pool
BYTE_STEPS = 4  # steps of the round at each refill of bytes
SLOWEST, FASTEST = 4, 64  # quarter steps for a page's worth of lines


class Cache:
    """Carves fragments out of pages: what :class:`pagefrag.PageFragCache` is on one thread."""

    def __init__(self, pool: Pool, thread: int, *, bytewise: bool) -> None:
        self.pool = pool
        self.bytewise = bytewise
        self.shelf = Shelf(thread)

    def alloc(self, size: int, align: int = 1) -> Frag:
        """Carve *size* bytes at a multiple of *align*."""
        if align > self.pool.page_size:
            raise Refusal(BAD_ALIGNMENT)
        self._check(size)
        if self.bytewise:
            return self._carve_bytes(*self._make_room_of_bytes(size, align), size)
        self._make_room(size, align)
        page = self._page()
        start = align_up(page.next or 0, align)
        # What is skipped is free at once.
        page.mark(page.next or 0, start - (page.next or 0), FREE)
        return self._carve(page, start, size)

    def take_room(self, size: int) -> Frag:
        """Carve all the room there is, at least *size* bytes."""
        self._check(size)
        if self.bytewise:
            page, offset = self._make_room_of_bytes(size, 1)
            return self._carve_bytes(page, offset, page.size - offset)
        self._make_room(size, 1)
        page = self._page()
        return self._carve(page, page.next or 0, page.uncarved())

    def settle(self, room: Frag, used: int) -> Frag:
        """Keep the first *used* bytes of *room*; the others are free again."""
        shelf, piece = self.shelf, room.piece
        given = piece.size - used
        end = piece.start + piece.size
        last = self.bytewise and shelf.current is room.page and shelf.offset == end
        self.pool.shrink(room, used, shelf.thread)
        if last and given:
            # Of bytes only the room carved last can be carved again at once.
            shelf.offset -= given
            if self.pool.on_alloc or self.pool.on_free:
                room.page.wipe(shelf.offset, given)
        return room

    def drain(self) -> None:
        """Give every page up: dead ones to the pool, the others to their fragments."""
        self._empty(keep_alive=False)

    def trim(self) -> int:
        """Give dead pages up; say how many."""
        before = self.shelf.counters["given"]
        self._empty(keep_alive=True)
        return self.shelf.counters["given"] - before

    def _check(self, size: int) -> None:
        if size == 0:
            raise Refusal(ZERO_SIZE)
        if size > self.pool.page_size:
            raise Refusal(SIZE_ABOVE_PAGE)

    def _page(self) -> Page:
        assert self.shelf.current is not None
        return self.shelf.current

    def _bump(self, counter: str) -> None:
        self.shelf.counters[counter] += 1

    def _carve(self, page: Page, start: int, size: int) -> Frag:
        page.next = start + align_up(size, LINE)
        return Frag(Piece(page, start, page.next - start), start, size)

    def _carve_bytes(self, page: Page, offset: int, size: int) -> Frag:
        page.alive += size
        self.shelf.offset = offset + size
        return Frag(Piece(page, offset, size), offset, size)

    # --- where the next hole comes from -----------------------------------------

    def _make_room(self, size: int, align: int) -> None:
        """See to it that *size* bytes at a multiple of *align* fit in the hole.

        Nearest first: the page being carved, the pages of the shelf, an orphan, the pool, the
        system. At the limit everything is looked at before the answer is no.
        """
        page = self.shelf.current
        if page and page.next is not None and align_up(page.next, align) + size <= page.limit:
            return
        self._bump("refills")
        self._pay()
        need, step = lines_for(size), lines_for(align)
        left = None
        if page is not None:
            if self._carve_on(page, need, step):
                self._bump("reuses")
                return
            changes = self._is_small(need) != self.shelf.small
            if changes and self.shelf.small:
                self.shelf.nest = page
            if changes and not page.is_whole():
                left = page
            self._put_current_away()
        if (
            self._search_shelf(need, step)
            or (left is not None and self._go_back(left, need, step))
            or self._carve_spare(need)
            or self._search_round(need, step)
        ):
            self._bump("reuses")
            return
        if self._adopt_one(need, step):
            return
        try:
            page = self._take_page()
        except Refusal as refusal:
            if self._search_all(need, step):
                self._bump("reuses")
            elif not self._adopt_any(need, step):
                self._refuse(refusal)
                raise
        else:
            self._carve_whole(page, need)

    def _carve_on(self, page: Page, need: int, step: int) -> bool:
        """Go on in the page being carved, if that will do."""
        # A small request rather fills a hole elsewhere than starts a page that is whole.
        rather_hole = self._is_small(need) and self.shelf.has_ready(need) and self._is_wasteful()
        if not rather_hole and page.back is not None:
            all_back = page.back + page.uncarved() // LINE == len(page.lines)
            if all_back:
                self._carve_whole(page, need)
                return True
        self._close_hole()
        # Forward only; and small and large requests do not share a page of their own accord.
        changes = self._is_small(need) != self.shelf.small
        if not changes and self._carve_hole(page, self.shelf.offset, need, step):
            return True
        page.sweep()
        if not rather_hole and page.is_whole():
            self._carve_whole(page, need)
            return True
        return False

    def _is_small(self, need: int) -> bool:
        return need <= max(self.pool.page_size // LINE // SMALL, 1)

    def _close_hole(self) -> None:
        """What is left of the hole is free."""
        page = self.shelf.current
        if page is not None and page.next is not None:
            page.mark(page.next, page.uncarved(), FREE)
            self.shelf.debt = max(self.shelf.debt - page.uncarved() // LINE, 0)
            page.next = None

    def _start(self, page: Page) -> None:
        page.role = "current"
        self.shelf.current = page

    def _carve_whole(self, page: Page, need: int) -> None:
        """Carve a page without live fragments from its start."""
        if self._is_small(need):
            self._carve_run(page, 0, len(page.lines))
            page.back = 0
        else:
            self._close_hole()
            self._carve_run(page, 0, need)
        self.shelf.small = self._is_small(need)

    def _carve_hole(self, page: Page, start: int, need: int, step: int) -> bool:
        """Open the first hole from line *start* on that fits."""
        return self._open(next(page.holes_for(need, step, start), None), page, need, step)

    def _open(self, hole: tuple[int, int] | None, page: Page, need: int, step: int) -> bool:
        """Open a hole: all of it, or, so that nothing small comes behind, what is needed."""
        if hole is None:
            return False
        first, count = hole
        self.shelf.small = self._is_small(need)
        self._carve_run(
            page, first, count if self.shelf.small else align_up(first, step) - first + need
        )
        return True

    def _carve_run(self, page: Page, first: int, count: int) -> None:
        self._start(page)
        self.shelf.offset = first + count
        page.back = page.countdown = None
        page.next, page.limit = first * LINE, (first + count) * LINE
        page.mark(page.next, count * LINE, TAKEN)
        if self.pool.on_alloc:
            page.wipe(page.next, count * LINE)
        self.shelf.debt += count

    def _put_current_away(self) -> None:
        page, self.shelf.current = self._page(), None
        self.shelf.put_away(page)

    def _go_back(self, page: Page, need: int, step: int) -> bool:
        """Rather one page of small and large than one more page."""
        self.shelf.take(page)
        return self._try(page, need, step)

    def _try(self, page: Page, need: int, step: int) -> bool:
        """Carve a page of no list if it has a hole, else put it away."""
        if self._carve_hole(page, 0, need, step):
            return True
        self.shelf.put_away(page)
        return False

    def _carve_spare(self, need: int) -> bool:
        page = self.shelf.take_spare()
        if page is not None:
            self._carve_whole(page, need)
        return page is not None

    def _search_shelf(self, need: int, step: int) -> bool:
        """Carve the shortest hole that fits of the best of the ready pages."""
        page = self.shelf.take_nest(need, step) if self._is_small(need) else None
        if page is None and self._is_wasteful():
            page = self.shelf.take_ready(need, step)
        if page is None:
            return False
        page.sweep()
        shortest = min(page.holes_for(need, step), key=lambda hole: hole[1])
        return self._open(shortest, page, need, step)

    def _is_wasteful(self) -> bool:
        """Is so much free in the lists that looking for holes is worth it?"""
        return self.shelf.is_wasteful(self.pool.page_size // LINE)

    def _search_round(self, need: int, step: int) -> bool:
        """Carve what some steps of the round bring to light."""
        for _ in range(TOLL):
            self._go_round(1)
            if self.shelf.has_ready(need) and self._search_shelf(need, step):
                return True
            if self._carve_spare(need):
                return True
        return False

    def _search_all(self, need: int, step: int) -> bool:
        """Look at every page of the shelf."""
        self._go_all_round()
        if self._carve_spare(need):
            return True
        page = next((page for page in self.shelf.waiting() if page.fits(need, step)), None)
        return page is not None and self._carve_hole(self.shelf.take(page), 0, need, step)

    def _adopt_one(self, need: int, step: int) -> bool:
        page = self.pool.adopt(self.shelf)
        if page is None:
            return False
        self._bump("adopted")
        page.sweep()
        return self._try(page, need, step)

    def _adopt_any(self, need: int, step: int) -> bool:
        while True:
            before = self.shelf.counters["adopted"]
            if self._adopt_one(need, step):
                return True
            if self.shelf.counters["adopted"] == before:
                return False

    def _take_page(self) -> Page:
        page = self.pool.take()
        self._bump("taken")
        if self.pool.on_free and page.bytewise:
            # Pages of bytes are wiped when they are started, not when they die.
            page.wipe(0, page.size)
        page.open(self.shelf, bytewise=self.bytewise)
        return page

    def _refuse(self, refusal: Refusal) -> None:
        self._bump("fail")
        if str(refusal) == EXHAUSTED:
            self.pool.exhausted += 1
        else:
            self.pool.no_memory += 1

    # --- the round: how what others freed is found ------------------------------

    def _pay(self) -> None:
        """Carving pays for steps of the round: for a page's worth of lines, a pace of quarters."""
        steps = self.shelf.debt * self.shelf.pace // (self.pool.page_size // LINE * 4)
        if steps:
            self.shelf.debt = 0
            self._go_round(steps)

    def _go_round(self, steps: int) -> None:
        """Walk on; what has news is put away anew, and makes the walk faster."""
        shelf = self.shelf
        for _ in range(steps):
            page = shelf.next_on_round()
            if page is None:
                break
            if page.has_news():
                shelf.pace = FASTEST
                shelf.take(page)
                page.sweep()
                shelf.put_away(page)
            else:
                shelf.pace = max(SLOWEST, shelf.pace - 1)

    def _go_all_round(self) -> None:
        self._go_round(2 * sum(1 for _ in self.shelf.waiting()))

    # --- giving up ----------------------------------------------------------------

    def _empty(self, *, keep_alive: bool) -> None:
        shelf = self.shelf
        self._close_hole()
        if shelf.current is not None:
            page, shelf.current = shelf.current, None
            self._let_go(page, keep_alive=keep_alive)
        if keep_alive:
            self._go_all_round()
        while (page := shelf.take_spare()) is not None:
            self._bump("given")
            page.close()
        while not keep_alive and (page := next(shelf.waiting(), None)) is not None:
            self._let_go(shelf.take(page), keep_alive=False)

    def _let_go(self, page: Page, *, keep_alive: bool) -> None:
        self.shelf.forget_nest(page)
        page.sweep()
        if page.is_dead():
            self._bump("given")
            page.close()
        elif keep_alive:
            self.shelf.put_away(page)
        else:
            self._bump("orphaned")
            page.role, page.shelf = "orphan", None

    # --- granule 1: the kernel's algorithm ----------------------------------------

    def _make_room_of_bytes(self, size: int, align: int) -> tuple[Page, int]:
        """Bump; when the page is used up, start it anew if it is dead, else take another."""
        shelf, page = self.shelf, self.shelf.current
        if page is not None:
            offset = align_up(shelf.offset, align)
            if offset + size <= page.size:
                return page, offset
            self._bump("refills")
            if page.is_dead():
                self._bump("reuses")
                return self._begin(page)
            self._put_current_away()
        else:
            self._bump("refills")
        self._go_round(BYTE_STEPS)
        page = shelf.take_spare()
        if page is not None:
            self._bump("reuses")
            return self._begin(page)
        try:
            return self._begin(self._take_page())
        except Refusal as refusal:
            self._go_all_round()
            page = shelf.take_spare()
            if page is None:
                self._refuse(refusal)
                raise
            return self._begin(page)

    def _begin(self, page: Page) -> tuple[Page, int]:
        self._start(page)
        self.shelf.offset = 0
        if self.pool.on_alloc or self.pool.on_free:
            page.wipe(0, page.size)
        return page, 0


#: The caches of one thread, in the order in which it first used them.
Table = dict[str, Cache]


def ask(table: Table, name: str, call: Callable[[Cache], Frag]) -> Frag:
    """Ask the cache called *name*; before memory that is short is a refusal, idle pages go back."""
    try:
        return call(table[name])
    except Refusal as refusal:
        if str(refusal) not in SHORTAGE or not give_up_idle(table):
            raise
    return call(table[name])


def give_up_idle(table: Table) -> int:
    """Have a thread's caches give up their dead pages; say how many."""
    return sum(cache.trim() for cache in table.values())
