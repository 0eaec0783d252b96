"""Tracked memory that becomes part of a packet, waits in a ring, or comes from a context."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pagefrag import (
    NapiCache,
    NetdevCache,
    PageFragCache,
    PagePool,
    SkBuff,
    TrackedFragment,
    TxRing,
    build_skb,
)


@pytest.fixture
def pool() -> PagePool:
    return PagePool(track=1)


def only(pool: PagePool) -> TrackedFragment:
    [record] = pool.tracked()
    return record


def hows(pool: PagePool) -> list[tuple[str, str]]:
    return [(holder.kind, holder.how) for holder in only(pool).holders]


def polled(pool: PagePool, how: Callable[[Any], Any]) -> Any:
    with NapiCache(pool).poll() as ctx:
        return how(ctx)


# --- where it comes from ----------------------------------------------------

DOORS: dict[str, tuple[Callable[[PagePool], Any], str]] = {
    "netdev frag": (lambda pool: NetdevCache(pool).alloc_frag(700), "Fragment"),
    "netdev skb": (lambda pool: NetdevCache(pool).alloc_skb(700), "SkBuff"),
    "napi frag": (lambda pool: polled(pool, lambda ctx: ctx.alloc_frag(700)), "Fragment"),
    "napi skb": (lambda pool: polled(pool, lambda ctx: ctx.alloc_skb(700)), "SkBuff"),
}


def makes(door: str, pool: PagePool) -> Any:
    return DOORS[door][0](pool)


@pytest.mark.parametrize("door", DOORS)
def test_what_the_contexts_give_is_noted(door: str, pool: PagePool) -> None:
    kept = makes(door, pool)
    record = only(pool)
    assert record.size == 700
    assert (record.last_holder.kind, record.last_holder.how) == (DOORS[door][1], "alloc")
    assert "makes" in [frame.name for frame in record.stack]
    kept.release()
    assert pool.tracked() == []


@pytest.mark.parametrize("door", DOORS)
def test_what_the_contexts_give_is_not_noted_unless_asked(door: str) -> None:
    pool = PagePool()
    kept = makes(door, pool)
    assert kept is not None
    assert pool.tracked() == []


def test_one_in_so_many_is_noted() -> None:
    pool = PagePool(track=10)
    netdev = NetdevCache(pool)
    kept = [(netdev.alloc_skb(100), netdev.alloc_frag(100)) for _ in range(2_000)]
    kinds = [record.last_holder.kind for record in pool.tracked()]
    assert len(kept) == 2_000
    # 200 of each expected; five standard deviations and more.
    assert 120 < kinds.count("SkBuff") < 290
    assert 120 < kinds.count("Fragment") < 290


def test_a_napi_skb_that_is_consumed_is_over(pool: PagePool) -> None:
    with NapiCache(pool).poll() as ctx:
        skb = ctx.alloc_skb(100)
        assert only(pool).size == 100
        assert skb is not None
        ctx.consume_skb(skb)
        assert pool.tracked() == []


# --- where it goes ----------------------------------------------------------


def test_a_fragment_that_becomes_a_packet_is_followed(pool: PagePool) -> None:
    skb = build_skb(PageFragCache(pool).alloc(2048))
    assert hows(pool) == [("SkBuff", "build_skb")]
    assert only(pool).size == 2048
    skb.reserve(skb.tailroom)
    assert hows(pool) == [("SkBuff", "build_skb")]
    skb.release()
    assert pool.tracked() == []


def test_a_packet_holds_the_fragments_behind_it_while_they_are(pool: PagePool) -> None:
    skb = NetdevCache(PagePool()).alloc_skb(100)
    skb.put(b"head").release()
    skb.add_frag(PageFragCache(pool).alloc(1000))
    assert hows(pool) == [("SkBuff", "add_frag")]
    [frag] = skb.frags
    assert hows(pool) == [("SkBuff", "add_frag"), ("Fragment", "frags")]
    skb.trim(4)
    assert hows(pool) == [("Fragment", "frags")]
    del frag
    assert pool.tracked() == []


def test_a_clone_and_what_takes_a_packet_in_hold_it(pool: PagePool) -> None:
    skb = NetdevCache(pool).alloc_skb(100)
    skb.put(b"packet").release()
    second = skb.clone()
    assert [how for _, how in hows(pool)] == ["view", "clone"]
    skb.release()
    assert hows(pool) == [("SkBuff", "clone")]
    second.release()
    first, other = NetdevCache(PagePool()).alloc_skb(100), NetdevCache(pool).alloc_skb(2000)
    first.put(b"one").release()
    other.put(b"2" * 2000).release()
    assert first.coalesce(other)
    assert hows(pool) == [("SkBuff", "coalesce")]
    first.linearize()
    assert (pool.tracked(), first.tobytes()) == ([], b"one" + b"2" * 2000)


def test_a_packet_is_known_in_memory_that_smaller_ones_had_before(pool: PagePool) -> None:
    cache = PageFragCache(pool)
    for frag in cache.alloc_many(pool.page_size // 64 - 100, 64):
        frag.release()
    cache.drain()
    skb = NetdevCache(pool).alloc_skb(1000)
    skb.put(b"packet").release()
    second = skb.clone()
    assert [how for _, how in hows(pool)] == ["view", "clone"]
    assert second.tobytes() == b"packet"


def test_who_looks_at_a_packet_is_told_with_the_views(pool: PagePool) -> None:
    skb = NetdevCache(pool).alloc_skb(100)
    skb.put(b"packet").release()

    def looks(skb: SkBuff) -> memoryview:
        return memoryview(skb)

    view = looks(skb)
    last = only(pool).last_holder
    assert (last.how, last.views, last.stack[-1].name) == ("view", 1, "looks")
    view.release()
    assert only(pool).last_holder.views == 0
    assert skb.tobytes() == b"packet"
    assert only(pool).last_holder.how == "tobytes"


@pytest.mark.parametrize("kind", ["Fragment", "SkBuff"])
def test_what_waits_in_a_ring_is_told(kind: str, pool: PagePool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, TxRing(ours, slots=1024) as ring:
        ours.setblocking(False)

        def makes() -> Any:
            if kind == "Fragment":
                return PageFragCache(pool).alloc(700)
            skb = NetdevCache(pool).alloc_skb(700)
            skb.put(700).release()
            return skb

        sent = 0
        while not any(record.last_holder.how == "send" for record in pool.tracked()):
            ring.send([makes() for _ in range(64)], timeout=0)
            sent += 64
            assert sent < 1 << 16, "the kernel's queue has no end"
        record = pool.tracked()[0]
        assert (record.last_holder.kind, record.last_holder.how) == (kind, "send")
        theirs.close()
        ring.close()
    gc.collect()
    assert pool.tracked() == []


# --- the default pool -------------------------------------------------------

HELD = """
import pagefrag
kept = [pagefrag.PageFragCache().alloc(101), pagefrag.netdev_alloc_frag(102)]
kept += [pagefrag.netdev_alloc_skb(103), pagefrag.NapiCache().poll()]
with kept.pop() as ctx:
    kept.append(ctx.alloc_frag(104))
print([record.size for record in pagefrag.default_pool().tracked()], pagefrag.default_pool().track)
"""


def said(script: str, **words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | words,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_environment_asks_for_the_default_pool() -> None:
    assert said(HELD, PAGEFRAG_TRACK="1") == "[101, 102, 103, 104] 1"
    assert said(HELD, PAGEFRAG_TRACK="") == "[] None"
    assert said(HELD) == "[] None"


def test_a_program_asks_for_the_default_pool_before_it_is_used() -> None:
    ask = "import pagefrag\nassert pagefrag.default_pool(track=1).track == 1\n"
    assert said(ask + HELD) == "[101, 102, 103, 104] 1"
    again = "pagefrag.default_pool(track=1); pagefrag.default_pool(track=2)"
    late = "ContextError: the default pool is in use"
    assert late in said(ask + again)
    assert late in said("import pagefrag\npagefrag.netdev_alloc_frag(1)\n" + again)


@pytest.mark.parametrize("bad", ["0", "-1", "often", "1.5", "99999999999"])
def test_what_the_environment_says_wrongly_is_told(bad: str) -> None:
    last = said(HELD, PAGEFRAG_TRACK=bad)
    assert last == f'ValueError: PAGEFRAG_TRACK is a number from 1 to 1073741824, not "{bad}"'
