"""Threads, their ends, and forks: fragments may go anywhere, and nothing is lost on the way."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from pagefrag import Fragment, NetdevCache, PageFragCache, PagePool, Reservation, SkBuff


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run *work* on *count* threads and join them; the first exception is raised."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_after_join_a_threads_pages_are_nobodys() -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    for _ in range(200):
        kept: list[Fragment] = []
        in_threads(2, lambda _, kept=kept: kept.extend(cache.alloc_many(30, 1500)))
        stats = pool.stats()
        assert (stats.pages_current, stats.pages_retired) == (0, 0)
        assert stats.pages_orphaned == stats.pages_in_use > 0
        kept.clear()
        assert pool.audit().pages_in_use == 0


def test_a_thread_that_kept_nothing_leaves_nothing() -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    in_threads(4, lambda _: [cache.alloc(size) for size in range(1, 3000, 7)])
    assert pool.audit().pages_in_use == 0
    assert pool.trim() >= 1
    assert pool.audit().regions_mapped == 0


def test_threads_share_a_cache_without_sharing_pages() -> None:
    cache = PageFragCache(PagePool())
    barrier = threading.Barrier(4)
    pages: list[set[int]] = []

    def work(_: int) -> None:
        kept = cache.alloc_many(100, 1500)
        pages.append({frag.page for frag in kept})
        barrier.wait()

    in_threads(4, work)
    assert len(set.union(*pages)) == sum(map(len, pages))


def test_fragments_wander_through_threads_with_their_bytes() -> None:
    pool = PagePool(4096)
    cache = PageFragCache(pool)
    rounds = 3000
    line: queue.SimpleQueue[tuple[int, Fragment] | None] = queue.SimpleQueue()
    back: queue.SimpleQueue[Fragment | None] = queue.SimpleQueue()

    def produce() -> None:
        for number in range(rounds):
            frag = cache.alloc(number % 1500 + 1)
            frag[:] = bytes([number % 251]) * len(frag)
            line.put((number, frag))
        line.put(None)

    def check() -> None:
        while (item := line.get()) is not None:
            number, frag = item
            assert frag == bytes([number % 251]) * (number % 1500 + 1)
            if number % 3 == 0:
                frag.release()
            elif number % 3 == 1:
                back.put(frag[len(frag) // 2 :])
        back.put(None)

    def drop() -> None:
        while back.get() is not None:
            pass

    in_threads(3, lambda number: (produce, check, drop)[number]())
    assert pool.audit().live_bytes == 0
    pool.trim()
    assert pool.audit().regions_mapped == 0


def test_many_threads_on_one_capped_pool() -> None:
    pool = PagePool(max_bytes=4 << 20)
    cache = PageFragCache(pool)

    def work(seed: int) -> None:
        kept: list[tuple[Fragment, int]] = []
        for turn in range(1500):
            size = (turn * 7919 + seed * 104_729) % 4000 + 1
            frag = cache.try_alloc(size)
            if frag is None or len(kept) > 60:
                for old, mark in kept[::2]:
                    assert set(old) == {mark}
                del kept[::2]
                continue
            mark = (turn + seed) % 256
            frag[:] = bytes([mark]) * size
            kept.append((frag, mark))
        for old, mark in kept:
            assert set(old) == {mark}

    in_threads(6, work)
    stats = pool.audit()
    assert (stats.live_bytes, stats.pages_in_use) == (0, 0)
    assert stats.regions_peak <= 2


def test_one_fragment_in_many_threads() -> None:
    pool = PagePool()
    frag = PageFragCache(pool).alloc(1000)
    frag[:] = b"s" * 1000

    def work(number: int) -> None:
        for turn in range(300):
            with frag[number : number + 100] as part, memoryview(part) as view:
                assert view == b"s" * 100
            assert frag.toreadonly() == frag
            assert hash(frag[turn % 7 :].toreadonly()) == hash(b"s" * (1000 - turn % 7))

    in_threads(6, work)
    frag.release()
    assert pool.audit().live_bytes == 0


Viewable = Fragment | Reservation | SkBuff


def released_fragment(pool: PagePool) -> tuple[Viewable, Callable[[], object]]:
    frag = PageFragCache(pool).alloc(64)
    return frag, frag.release


def released_room(pool: PagePool) -> tuple[Viewable, Callable[[], object]]:
    room = PageFragCache(pool).prepare(64)
    return room, room.release


def committed_room(pool: PagePool) -> tuple[Viewable, Callable[[], object]]:
    room = PageFragCache(pool).prepare(64)
    return room, lambda: room.commit(5).tobytes()


def released_packet(pool: PagePool) -> tuple[Viewable, Callable[[], object]]:
    skb = NetdevCache(pool).alloc_skb(64)
    skb.put(64).release()
    return skb, skb.release


def linearized_packet(pool: PagePool) -> tuple[Viewable, Callable[[], object]]:
    skb = NetdevCache(pool).alloc_skb(64)
    skb.put(64).release()
    skb.add_frag(PageFragCache(pool).alloc(64))

    def linearize() -> None:
        skb.linearize()
        skb.trim(5)

    return skb, linearize


def cloned_packet(pool: PagePool) -> tuple[Viewable, Callable[[], object]]:
    skb = NetdevCache(pool).alloc_skb(64)
    skb.put(64).release()
    return skb, lambda: skb.clone().release()


@pytest.mark.parametrize(
    "make",
    [
        released_fragment,
        released_room,
        committed_room,
        released_packet,
        linearized_packet,
        cloned_packet,
    ],
)
def test_views_and_who_moves_the_memory_race_and_it_is_never_pulled_away(
    make: Callable[[PagePool], tuple[Viewable, Callable[[], object]]],
) -> None:
    pool = PagePool()
    for _ in range(100):
        shown, move = make(pool)
        barrier = threading.Barrier(3)

        def look(shown: Viewable = shown, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                with memoryview(shown) as view:
                    # Of an skb that was cloned a view is read-only.
                    if not view.readonly:
                        view[:5] = b"bytes"
                        assert view[:5] == b"bytes"
            except ValueError as error:
                assert "released" in str(error)  # noqa: PT017 - either may win

        def moves(move: Callable[[], object] = move, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                move()
            except BufferError as error:
                assert "view" in str(error)  # noqa: PT017 - either may win
                return False
            return True

        moved = []
        parts = (look, look, lambda moves=moves, moved=moved: moved.append(moves()))
        in_threads(3, lambda number, parts=parts: parts[number]())
        if moved == [False]:
            # All views have ended, and each was counted once.
            move()
        del shown, move, look, moves, parts
    assert pool.audit().live_bytes == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_go_on() -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    kept = cache.alloc_many(50, 1000)
    for number, frag in enumerate(kept):
        frag[:] = bytes([number]) * 1000
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number, frag in enumerate(kept):
                assert frag == bytes([number]) * 1000
            more = cache.alloc_many(50, 1500)
            more[0][:] = b"c" * 1500
            kept.clear()
            more.clear()
            del frag
            cache.drain()
            pool.trim()
            assert pool.audit().regions_mapped == 0
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    for number, frag in enumerate(kept):
        assert frag == bytes([number]) * 1000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_other_threads_carve() -> None:
    cache = PageFragCache(PagePool())
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            cache.alloc(100)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if cache.alloc(1000).nbytes == 1000 else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
    assert cache.pool.audit().live_bytes == 0


LAST_WORDS = """
import threading, pagefrag
cache = pagefrag.PageFragCache(pagefrag.PagePool())
kept = cache.alloc_many(100, 1500)
class Late:
    def __del__(self):
        self.frag = pagefrag.netdev_alloc_frag(100)
        cache.alloc(10)
late = Late()
view = memoryview(kept[0])
lock = threading.Lock()
lock.acquire()
def forever():
    frag = cache.alloc(10)
    lock.acquire()
threading.Thread(target=forever, daemon=True).start()
ctx = pagefrag.NapiCache().poll().__enter__()
room = cache.prepare(100)
"""


def test_the_interpreter_ends_quietly_with_everything_alive() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LAST_WORDS], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_importing_brings_nothing_heavy() -> None:
    heavy = "{'dataclasses', 'numpy', 'asyncio'} & set(sys.modules)"
    code = f"import sys, pagefrag; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
