"""A machine that does anything in any order, beside a model made of `bytearray`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pagefrag import Fragment, PageFragCache, PagePool


@dataclass
class Held:
    """A fragment, and what it should show: a window of bytes that others may share."""

    frag: Fragment
    twin: bytearray
    start: int
    length: int
    readonly: bool
    views: list[memoryview] = field(default_factory=list)

    @property
    def expected(self) -> bytes:
        return bytes(self.twin[self.start : self.start + self.length])


PICK = st.integers(0, 10**6)


class Anything(RuleBasedStateMachine):
    """Allocates, slices, writes, views, trims and releases, here and on other threads."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(4096, max_bytes=2 << 20, huge_pages="never")
        self.caches = [PageFragCache(self.pool), PageFragCache(self.pool, granule=1)]
        self.held: list[Held] = []

    def _pick(self, pick: int) -> Held:
        return self.held[pick % len(self.held)]

    def _here_or_there(self, there: bool, act: Callable[[], Any]) -> Any:
        if not there:
            return act()
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(act()))
        thread.start()
        thread.join()
        return found[0]

    @rule(size=st.integers(1, 4096), which=st.integers(0, 1), mark=PICK, there=st.booleans())
    def alloc(self, size: int, which: int, mark: int, there: bool) -> None:
        frag = self._here_or_there(there, lambda: self.caches[which].alloc(size))
        twin = bytearray([mark % 256]) * size
        frag[:] = twin
        self.held.append(Held(frag, twin, 0, size, readonly=False))

    @rule(size=st.integers(1, 3000), part=st.floats(0, 1), which=st.integers(0, 1), mark=PICK)
    def prepare(self, size: int, part: float, which: int, mark: int) -> None:
        with self.caches[which].prepare(size) as room:
            used = max(1, int(size * part))
            place = room.page, room.offset
            frag = room.commit(used)
        assert (frag.page, frag.offset) == place
        twin = bytearray([mark % 256]) * used
        frag[:] = twin
        self.held.append(Held(frag, twin, 0, used, readonly=False))

    @precondition(lambda self: self.held)
    @rule(pick=PICK, low=st.integers(0, 4096), high=st.integers(0, 4096), fixed=st.booleans())
    def share(self, pick: int, low: int, high: int, fixed: bool) -> None:
        held = self._pick(pick)
        start, stop, _ = slice(low, high).indices(held.length)
        part = held.frag[low:high]
        if fixed:
            part = part.toreadonly()
        length = max(0, stop - start)
        readonly = held.readonly or fixed
        self.held.append(Held(part, held.twin, held.start + start, length, readonly))

    @precondition(lambda self: self.held)
    @rule(pick=PICK, place=PICK, value=st.integers(0, 255))
    def write(self, pick: int, place: int, value: int) -> None:
        held = self._pick(pick)
        if held.length == 0:
            return
        index = place % held.length
        if held.readonly:
            with pytest.raises(TypeError):
                held.frag[index] = value
            return
        held.frag[index] = value
        held.twin[held.start + index] = value

    @precondition(lambda self: self.held)
    @rule(pick=PICK, keep=st.integers(0, 4096))
    def trim(self, pick: int, keep: int) -> None:
        held = self._pick(pick)
        if held.views:
            with pytest.raises(BufferError):
                held.frag.trim(keep)
        elif keep > held.length:
            with pytest.raises(ValueError, match="fewer"):
                held.frag.trim(keep)
        else:
            held.frag.trim(keep)
            held.length = keep

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def view(self, pick: int) -> None:
        held = self._pick(pick)
        held.views.append(memoryview(held.frag))

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def close_view(self, pick: int) -> None:
        held = self._pick(pick)
        if held.views:
            held.views.pop().release()

    @precondition(lambda self: self.held)
    @rule(pick=PICK, there=st.booleans())
    def release(self, pick: int, there: bool) -> None:
        held = self._pick(pick)
        if held.views:
            with pytest.raises(BufferError):
                held.frag.release()
            return
        self._here_or_there(there, held.frag.release)
        self.held.remove(held)
        with pytest.raises(ValueError, match="released"):
            len(held.frag)

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        """Let go of the object; views of it go on."""
        held = self._pick(pick)
        self.held.remove(held)
        expected = held.expected
        views = held.views
        del held
        for view in views:
            assert view == expected

    @rule(which=st.integers(0, 1))
    def drain(self, which: int) -> None:
        self.caches[which].drain()

    @rule()
    def trim_pool(self) -> None:
        self.pool.trim()

    @invariant()
    def all_bytes_are_there(self) -> None:
        for held in self.held:
            assert held.frag == held.expected
            for view in held.views:
                assert view == held.expected

    @rule()
    def audit(self) -> None:
        """Not an invariant: an audit asks the system about huge pages, which takes its time."""
        stats = self.pool.audit()
        assert stats.held_bytes == stats.live_bytes + stats.pinned_bytes

    def teardown(self) -> None:
        for view in [view for held in self.held for view in held.views]:
            view.release()
        self.held.clear()
        self.pool.trim()
        stats = self.pool.audit()
        assert (stats.live_bytes, stats.regions_mapped) == (0, 0)


Anything.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestAnything = Anything.TestCase
