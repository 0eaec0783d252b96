"""No call loses an object or a reference, whether it succeeds or fails."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

import pagefrag
from pagefrag import NapiCache, PageFragCache, PagePool, RxRing

SMALL = PageFragCache(PagePool(max_bytes=2 << 20))
FULL = [SMALL.alloc(32768) for _ in range(64)]
CACHE = PageFragCache(PagePool())
FRAG = CACHE.alloc(100)
FIXED = FRAG.toreadonly()
NAPI = NapiCache(CACHE.pool)


class Odd:
    """An index that fails."""

    def __index__(self) -> int:
        raise ZeroDivisionError


def polled() -> None:
    with NAPI.poll() as ctx:
        ctx.alloc_frag(10)
        ctx.consume_skb(ctx.alloc_skb(100))


def prepared() -> None:
    with CACHE.prepare(100) as room:
        memoryview(room)[:1] = b"x"
        room.commit(1)


def packet() -> None:
    skb, other = pagefrag.netdev_alloc_skb(200), pagefrag.netdev_alloc_skb(200)
    skb.put(b"data").release()
    other.add_frag(FRAG)
    assert len(other.frags) == 1
    skb.clone()
    skb.coalesce(other)
    skb.buffers()
    skb.linearize()
    pagefrag.build_skb(CACHE.alloc(2048))


CALLS: dict[str, Callable[[], object]] = {
    "alloc": lambda: CACHE.alloc(100),
    "alloc by name": lambda: CACHE.alloc(size=100, align=256),
    "alloc too much": lambda: CACHE.alloc(10**6),
    "alloc an odd size": lambda: CACHE.alloc(Odd()),
    "alloc the wrong way": lambda: CACHE.alloc(1, 2, other=3),
    "alloc from a full pool": lambda: SMALL.alloc(1),
    "try_alloc from a full pool": lambda: SMALL.try_alloc(1),
    "try_alloc by name from a full pool": lambda: SMALL.try_alloc(1, align=128),
    "alloc_many": lambda: CACHE.alloc_many(100, 100),
    "alloc_many from a full pool": lambda: SMALL.alloc_many(100, 100),
    "prepare": prepared,
    "prepare in a full pool": lambda: SMALL.prepare(1),
    "slice": lambda: FRAG[3:50],
    "slice with a step": lambda: FRAG[::2],
    "slice oddly": lambda: FRAG[Odd() :],
    "index": lambda: FRAG[3],
    "index outside": lambda: FRAG[300],
    "write": lambda: FRAG.__setitem__(0, 1),
    "write too much": lambda: FRAG.__setitem__(0, 256),
    "write oddly": lambda: FRAG.__setitem__(0, Odd()),
    "write a slice": lambda: FRAG.__setitem__(slice(0, 4), b"abcd"),
    "write the wrong slice": lambda: FRAG.__setitem__(slice(0, 4), b"abc"),
    "write no bytes": lambda: FRAG.__setitem__(slice(0, 4), "abcd"),
    "equal": lambda: FRAG == b"abc",
    "equal to a fragment": lambda: FRAG == FIXED,
    "equal to no buffer": lambda: FRAG == 5,
    "equal to signed bytes": lambda: memoryview(b"a" * 100).cast("b") == FRAG,
    "hash": lambda: hash(FIXED),
    "no hash": lambda: hash(FRAG),
    "iterate": lambda: list(FRAG),
    "view": lambda: memoryview(FRAG),
    "view for writing": lambda: memoryview(FIXED).__setitem__(0, 1),
    "toreadonly": FRAG.toreadonly,
    "copy": FRAG.copy,
    "copy to a full pool": lambda: FRAG.copy(cache=SMALL),
    "copy wrongly": lambda: FRAG.copy(3, other=4),
    "tobytes": FRAG.tobytes,
    "hex": lambda: FRAG.hex(":", 2),
    "repr": lambda: repr(FRAG),
    "attributes": lambda: (FRAG.page, FRAG.offset, FRAG.capacity, FRAG.pinned_bytes),
    "trim too much": lambda: FRAG.trim(1000),
    "pool": lambda: PagePool(4096, max_bytes=2 << 20),
    "pool of a bad size": lambda: PagePool(5),
    "cache": lambda: PageFragCache(CACHE.pool, granule=1),
    "statistics": lambda: (CACHE.stats(), NAPI.stats()),
    "napi": polled,
    "napi outside": lambda: NAPI.alloc_frag(10),
    "netdev": lambda: pagefrag.netdev_alloc_frag(10),
    "skb": packet,
    "build_skb from too little": lambda: pagefrag.build_skb(CACHE.alloc(10)),
    "ring over nothing": lambda: RxRing(None),
}


def often(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(Exception):
            call()


def lost_per_call(call: Callable[[], object], times: int) -> float:
    """Return the blocks of memory lost per call, in the best of some rounds.

    Free lists of the interpreter fill up in one round or the other; a leak is in each.
    """
    lost = []
    for _ in range(6):
        gc.collect()
        before = sys.getallocatedblocks()
        often(call, times)
        gc.collect()
        lost.append((sys.getallocatedblocks() - before) / times)
    return min(lost)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_is_lost(call: Callable[[], object]) -> None:
    often(call, 10)
    live = CACHE.pool.stats().live_bytes
    assert lost_per_call(call, 200) < 0.5
    assert CACHE.pool.stats().live_bytes == live


def test_receiving_loses_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with RxRing(sock, cache=CACHE) as ring:

            def receive() -> Any:
                for _ in range(4):
                    sock.sendto(b"x" * 100, sock.getsockname())
                batch = ring.recv(timeout=60)
                return [*batch, batch.addresses, batch.lengths, batch[::2]]

            assert lost_per_call(receive, 100) < 0.5
