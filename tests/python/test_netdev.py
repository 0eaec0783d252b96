"""The netdev context: buffers from anywhere, at any moment."""

from __future__ import annotations

import contextlib
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import pagefrag
from pagefrag import Fragment, NetdevCache, PagePool, PoolExhausted, SkBuff

FRAG_DOORS: dict[str, Callable[..., Fragment]] = {
    "function": pagefrag.netdev_alloc_frag,
    "method": lambda *args, **named: NetdevCache(PagePool()).alloc_frag(*args, **named),
}
SKB_DOORS: dict[str, Callable[..., SkBuff]] = {
    "function": pagefrag.netdev_alloc_skb,
    "method": lambda *args: NetdevCache(PagePool()).alloc_skb(*args),
}


@pytest.mark.parametrize("alloc", FRAG_DOORS.values(), ids=FRAG_DOORS)
def test_sizes_are_rounded_up_to_lines(alloc: Callable[..., Fragment]) -> None:
    frag = alloc(1500)
    assert (frag.nbytes, frag.capacity) == (1500, 1536)
    assert alloc(10, align=1024).offset % 1024 == 0


@pytest.mark.parametrize("alloc", FRAG_DOORS.values(), ids=FRAG_DOORS)
@pytest.mark.parametrize(
    ("args", "named", "error"),
    [
        ((0,), {}, ValueError),
        ((-1,), {}, ValueError),
        ((32769,), {}, ValueError),
        ((2**31,), {}, ValueError),
        ((2**32,), {}, ValueError),
        ((2**63,), {}, OverflowError),
        ((1.5,), {}, TypeError),
        ((True,), {}, TypeError),
        ((64,), {"align": 0}, ValueError),
        ((64,), {"align": 3}, ValueError),
        ((64,), {"align": 65536}, ValueError),
        ((64,), {"align": True}, TypeError),
        ((64, 64), {}, TypeError),
        ((), {}, TypeError),
    ],
)
def test_bad_requests(
    alloc: Callable[..., Any], args: Any, named: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        alloc(*args, **named)


@pytest.mark.parametrize("alloc", SKB_DOORS.values(), ids=SKB_DOORS)
@pytest.mark.parametrize(
    ("length", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (32768, ValueError),
        (2**32, ValueError),
        (2**63, OverflowError),
        (1.5, TypeError),
        (False, TypeError),
    ],
)
def test_bad_lengths(alloc: Callable[[Any], SkBuff], length: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        alloc(length)


@pytest.mark.parametrize(
    ("length", "truesize"),
    [(321, 1024), (640, 1280), (1000, 1664), (1500, 2176), (2048, 2688), (3000, 3648)],
)
def test_skbs_are_as_large_as_the_kernels(length: int, truesize: int) -> None:
    for alloc in SKB_DOORS.values():
        skb = alloc(length)
        assert (skb.truesize, skb.headroom, skb.len) == (truesize, 64, 0)
        assert skb.tailroom >= length


def test_a_pool_at_its_limit_raises() -> None:
    netdev = NetdevCache(PagePool(max_bytes=2 << 20))
    kept = [netdev.alloc_frag(32768) for _ in range(64)]
    with pytest.raises(PoolExhausted):
        netdev.alloc_frag(1)
    with pytest.raises(PoolExhausted):
        netdev.alloc_skb(1500)
    kept.clear()
    assert netdev.alloc_skb(1500).len == 0


def test_a_finalizer_may_allocate() -> None:
    seen: list[Fragment] = []

    class Dying:
        def __del__(self) -> None:
            seen.append(pagefrag.netdev_alloc_frag(100))

    for _ in range(10):
        Dying()
        weakref.finalize(threading.Event(), lambda: seen.append(pagefrag.netdev_alloc_frag(64)))
    assert [frag.nbytes for frag in seen] == [100, 64] * 10


def test_a_signal_handler_may_allocate() -> None:
    seen: list[Fragment] = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(pagefrag.netdev_alloc_frag(1500)))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        kept: list[Fragment] = []
        while len(seen) < 20:
            kept.append(pagefrag.netdev_alloc_frag(1500))
            del kept[:-50]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for number, frag in enumerate(seen + kept):
        frag[:] = bytes([number % 256]) * 1500
    for number, frag in enumerate(seen + kept):
        assert set(frag) == {number % 256}


def test_the_end_of_a_thread_may_allocate() -> None:
    netdev = NetdevCache(PagePool())
    store = threading.local()
    seen: list[Fragment] = []

    class Dying:
        def __del__(self) -> None:
            with contextlib.suppress(RuntimeError):
                seen.append(netdev.alloc_frag(100))

    def work() -> None:
        store.late = Dying()
        seen.append(netdev.alloc_frag(100))

    for _ in range(5):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(seen) == 10
    seen.clear()
    netdev.pool.trim()
    assert netdev.pool.audit().live_bytes == 0


def test_drain_and_stats() -> None:
    netdev = NetdevCache(PagePool())
    frag = netdev.alloc_frag(100)
    assert netdev.stats().pages == 1
    netdev.drain()
    assert netdev.stats().pages == 0
    assert netdev.pool.stats().pages_orphaned == 1
    assert frag.nbytes == 100
    assert repr(netdev) == "<NetdevCache page_size=32768>"
    assert NetdevCache().pool is pagefrag.default_pool()
