"""`PagePool(track=n)`: one allocation in so many, where it was made, and who holds it now."""

from __future__ import annotations

import copy
import gc
import importlib.util
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from pagefrag import Fragment, PageFragCache, PagePool, RxRing, TrackedFragment, _tracking

LONG = 60.0


@pytest.fixture
def cache() -> PageFragCache:
    return PageFragCache(PagePool(track=1))


def only(cache: PageFragCache) -> TrackedFragment:
    [record] = cache.pool.tracked()
    return record


def place(record_or_holder: Any) -> str:
    """Return the name of the innermost function of a stack."""
    name: str = record_or_holder.stack[-1].name
    return name


def makes(cache: PageFragCache) -> Fragment:
    return cache.alloc(1500)


# --- where it was made ------------------------------------------------------


def test_a_record_tells_the_line_that_allocated(cache: PageFragCache) -> None:
    line = sys._getframe().f_lineno + 1
    frag = makes(cache)
    record = only(cache)
    inner, outer = record.stack[-1], record.stack[-2]
    assert (inner.name, inner.lineno) == ("makes", makes.__code__.co_firstlineno + 1)
    assert (outer.filename, outer.lineno) == (__file__, line)
    assert inner.line == "return cache.alloc(1500)"
    assert record.size == frag.nbytes == 1500
    assert 0 <= record.age < LONG


WAYS: dict[str, tuple[Callable[[PageFragCache], Any], str]] = {
    "alloc": (lambda cache: cache.alloc(100), "alloc"),
    "alloc by name": (lambda cache: cache.alloc(size=100, align=256), "alloc"),
    "try_alloc": (lambda cache: cache.try_alloc(100), "alloc"),
    "alloc_many": (lambda cache: cache.alloc_many(1, 100), "alloc"),
    "commit": (lambda cache: cache.prepare(1000).commit(100), "commit"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_allocating_is_seen(way: str, cache: PageFragCache) -> None:
    make, how = WAYS[way]
    kept = make(cache)
    record = only(cache)
    assert (record.size, record.last_holder.how, record.last_holder.kind) == (100, how, "Fragment")
    del kept
    assert cache.pool.tracked() == []


def test_received_packets_are_seen_when_they_are_looked_at(
    sock: socket.socket, sender: socket.socket, cache: PageFragCache
) -> None:
    with RxRing(sock, cache=cache) as ring:
        sender.send(b"x" * 700)
        batch = ring.recv(timeout=LONG)
        assert cache.pool.tracked() == []
        kept = batch[0]
        record = only(cache)
        assert (record.size, record.last_holder.how) == (700, "packet")
        assert batch[0] is kept
        assert len(cache.pool.tracked()) == 1
        batch.release()
        assert len(cache.pool.tracked()) == 1
        del kept, batch
        gc.collect()
        assert cache.pool.tracked() == []


# --- who holds it now -------------------------------------------------------

SHARES: dict[str, Callable[[Fragment], Any]] = {
    "slice": lambda frag: frag[10:20],
    "toreadonly": lambda frag: frag.toreadonly(),
    "copy": copy.copy,
}


def shares(frag: Fragment, how: str) -> Any:
    return SHARES[how](frag)


@pytest.mark.parametrize("how", SHARES)
def test_who_shares_the_memory_is_its_last_holder(how: str, cache: PageFragCache) -> None:
    frag = makes(cache)
    share = shares(frag, how)
    record = only(cache)
    assert [holder.how for holder in record.holders] == ["alloc", how]
    assert "shares" in [frame.name for frame in record.last_holder.stack]
    del frag
    record = only(cache)
    assert [holder.how for holder in record.holders] == [how]
    assert place(record) == "makes"  # the origin stays
    share.release()
    assert cache.pool.tracked() == []


def test_a_share_of_a_share_is_known(cache: PageFragCache) -> None:
    last = makes(cache)[100:1000][100:200].toreadonly()
    record = only(cache)
    assert [holder.how for holder in record.holders] == ["toreadonly"]
    assert record.size == 1500
    assert last.nbytes == 100


def looks(frag: Fragment) -> memoryview:
    return memoryview(frag)


def test_who_views_it_is_its_last_holder(cache: PageFragCache) -> None:
    frag = makes(cache)
    share = frag[:10]
    view = looks(frag)
    record = only(cache)
    assert (record.last_holder.how, record.last_holder.views) == ("view", 1)
    assert place(record.last_holder) == "looks"
    assert len(record.holders) == 2
    view.release()
    assert only(cache).last_holder.views == 0
    share.tobytes()
    assert only(cache).last_holder.how == "tobytes"


def test_a_view_alone_keeps_it_and_is_named(cache: PageFragCache) -> None:
    view = looks(makes(cache))
    assert (only(cache).last_holder.how, only(cache).last_holder.views) == ("view", 1)
    del view
    assert cache.pool.tracked() == []


def test_a_fragment_that_was_released_is_held_by_nobody(cache: PageFragCache) -> None:
    frag = makes(cache)
    frag.release()
    assert cache.pool.tracked() == []
    assert "released" in repr(frag)


def test_memory_that_is_used_again_is_another_record(cache: PageFragCache) -> None:
    places = set()
    for size in (1500, 1400, 1300):
        frag = cache.alloc(size)
        places.add((frag.page, frag.offset))
        assert only(cache).size == size
        del frag
    assert len(places) == 1  # so the records did have one place


def test_a_weak_reference_of_the_users_confuses_nobody() -> None:
    cache = PageFragCache(PagePool(track=1 << 20))
    frag = cache.alloc(100)
    watch = weakref.ref(frag)
    share = frag[:10]
    assert memoryview(share).nbytes == 10
    assert cache.pool.tracked() == []
    assert watch() is frag


def test_weak_references_with_callbacks_still_call(cache: PageFragCache) -> None:
    told: list[object] = []
    frag = cache.alloc(100)
    watch = weakref.ref(frag, told.append)
    del frag
    assert told == [watch]


def test_records_are_told_oldest_first_and_of_one_pool(cache: PageFragCache) -> None:
    other = PageFragCache(PagePool(track=1))
    kept = [cache.alloc(100 + index) for index in range(50)]
    kept += [other.alloc(7)]
    records = cache.pool.tracked()
    assert [record.size for record in records] == [100 + index for index in range(50)]
    assert all(one.age >= later.age for one, later in pairwise(records))
    assert only(other).size == 7


def test_another_thread_may_hold_and_may_ask(cache: PageFragCache) -> None:
    kept: list[Fragment] = []

    def elsewhere() -> None:
        kept.append(makes(cache))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    record = only(cache)
    assert [frame.name for frame in record.stack][-2:] == ["elsewhere", "makes"]
    del kept[0]
    assert cache.pool.tracked() == []


def test_a_record_is_a_paragraph_for_people(cache: PageFragCache) -> None:
    frag = makes(cache)
    view = looks(frag)
    share = shares(frag, "slice")
    text = str(only(cache))
    assert text.startswith("1,500 bytes for 0.")
    assert "return cache.alloc(1500)" in text
    assert "last held by a Fragment (slice, 1 more hold it)" in text
    assert f'File "{__file__}"' in text
    assert (view.nbytes, share.nbytes) == (1500, 10)


# --- how many ---------------------------------------------------------------


def test_one_in_so_many_is_tracked_also_of_what_repeats() -> None:
    cache = PageFragCache(PagePool(track=10))
    kept = [cache.alloc(size) for _ in range(5000) for size in (64, 128)]
    sizes = [record.size for record in cache.pool.tracked()]
    assert len(kept) == 10_000
    # 1000 expected of 10,000; each size has its half. Five standard deviations and more.
    assert 800 < len(sizes) < 1250
    assert 350 < sizes.count(64) < 650


def test_nothing_is_tracked_unless_asked() -> None:
    pool = PagePool()
    kept = PageFragCache(pool).alloc_many(2000, 64)
    assert kept
    assert (pool.track, pool.tracked()) == (None, [])


@pytest.mark.parametrize("bad", [0, -1, (1 << 30) + 1, 1 << 40])
def test_a_number_out_of_range_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=r"track|negative"):
        PagePool(track=bad)


@pytest.mark.parametrize("bad", [True, 1.5, "often"])
def test_what_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError):
        PagePool(track=bad)


def test_records_that_are_over_do_not_pile_up(cache: PageFragCache) -> None:
    """Rounds of fragments that all die: what is noted of them does not grow from round to round."""
    blocks = []
    for _ in range(10):
        kept = [cache.alloc(64) for _ in range(5_000)]
        del kept
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[-1] - blocks[0] < 5_000
    assert cache.pool.tracked() == []


def test_records_that_are_over_are_looked_for(cache: PageFragCache) -> None:
    """Fragments that die in places that are not used again: their records go all the same."""
    before = sys.getallocatedblocks()
    pools = []
    for _ in range(20):
        pools.append(PageFragCache(PagePool(track=1)))
        pools[-1].alloc_many(1_000, 64).clear()
    assert sys.getallocatedblocks() - before < 8_000
    assert cache.pool.tracked() == []


def test_packets_of_a_batch_are_noted_once(
    sock: socket.socket, sender: socket.socket, cache: PageFragCache
) -> None:
    with RxRing(sock, cache=cache) as ring:
        sender.send(b"x" * 700)
        batch = ring.recv(timeout=LONG)
        kept = [batch[:], list(batch), batch[0]]
        assert kept
        assert len(cache.pool.tracked()) == 1


def test_a_full_pool_is_told_as_ever() -> None:
    cache = PageFragCache(PagePool(max_bytes=2 << 20, track=1))
    kept = [cache.try_alloc(32768) for _ in range(65)]
    assert kept[-1] is None
    with pytest.raises(MemoryError):
        cache.alloc(32768)
    with pytest.raises(TypeError):
        cache.alloc("a size")  # type: ignore[arg-type]
    assert len(cache.pool.tracked()) == 64


def collects() -> Iterator[None]:
    """Let every allocation of an object be a collection."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


collecting = pytest.fixture(collects)


@pytest.mark.usefixtures("collecting")
def test_a_finalizer_that_allocates_in_the_middle_of_a_note_finds_no_lock(
    cache: PageFragCache,
) -> None:
    class Last:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            kept.append(cache.alloc(10)[:5])
            cache.pool.tracked()

    kept: list[Fragment] = []
    for _ in range(50):
        Last()
        frag = makes(cache)
        assert frag[:10][:5].toreadonly().nbytes == 5
        del frag
    gc.collect()  # without a global lock collections are rarer than asked for
    assert kept
    assert {record.size for record in cache.pool.tracked()} == {10}


def test_a_module_that_is_imported_again_still_counts(cache: PageFragCache) -> None:
    before = cache.alloc(100)
    assert only(cache).size == before.nbytes
    spec = importlib.util.find_spec("pagefrag._pagefrag")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    other = PageFragCache(PagePool(track=1))
    kept = other.alloc(10)
    assert only(other).size == kept.nbytes


def test_without_a_tracking_pool_the_methods_are_those_of_every_day() -> None:
    script = """
import pagefrag
plain = vars(pagefrag.PageFragCache)["alloc"]
cache = pagefrag.PageFragCache()
assert vars(pagefrag.PageFragCache)["alloc"] is plain
tracked = pagefrag.PageFragCache(pagefrag.PagePool(track=1))
assert vars(pagefrag.PageFragCache)["alloc"] is not plain
kept = cache.alloc(10), tracked.alloc(10)
assert (len(cache.pool.tracked()), len(tracked.pool.tracked())) == (0, 1)
assert pagefrag.PageFragCache.alloc.__doc__ == plain.__doc__
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_instruction_without_a_line_is_on_the_first_one() -> None:
    code = test_an_instruction_without_a_line_is_on_the_first_one.__code__
    assert _tracking._line(code, 1 << 30) == code.co_firstlineno
    assert _tracking._line(code, 0) >= code.co_firstlineno
