"""`SkBuff`: borders that move, pieces that are shared, and an honest account of memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pagefrag
from pagefrag import (
    NetdevCache,
    PageFragCache,
    PagePool,
    SkBuff,
    build_skb,
    netdev_alloc_frag,
    netdev_alloc_skb,
)


def skb_with(content: bytes, room: int = 1500) -> SkBuff:
    skb = netdev_alloc_skb(room)
    skb.put(content).release()
    return skb


def frag_with(content: bytes) -> pagefrag.Fragment:
    frag = netdev_alloc_frag(len(content))
    frag[:] = content
    return frag


def test_the_borders_move_as_in_the_kernel() -> None:
    skb = netdev_alloc_skb(1500)
    skb.reserve(16)
    assert skb.headroom == 80
    skb.put(b"payload").release()
    skb.push(b"head")[:] = b"HEAD"
    assert (skb.tobytes(), skb.headroom, skb.len, len(skb)) == (b"HEADpayload", 76, 11, 11)
    assert skb.pull(4) == b"payload"
    assert skb.headroom == 80
    skb.trim(3)
    assert skb.tobytes() == b"pay"
    assert skb.put(2).nbytes == 2
    assert bytes(memoryview(skb)[:3]) == b"pay"


@given(
    st.lists(st.tuples(st.sampled_from(["put", "push", "pull", "trim"]), st.binary(max_size=90)))
)
def test_it_is_a_deque_of_bytes_with_limits(steps: list[tuple[str, bytes]]) -> None:
    skb, twin = netdev_alloc_skb(500), b""
    room = skb.headroom + skb.tailroom
    for step, content in steps:
        n = len(content)
        if step == "put" and n <= skb.tailroom:
            skb.put(content).release()
            twin += content
        elif step == "push" and n <= skb.headroom:
            skb.push(content).release()
            twin = content + twin
        elif step == "pull" and n <= len(twin):
            assert skb.pull(n) == twin[n:]
            twin = twin[n:]
        elif step == "trim" and n <= len(twin):
            skb.trim(n)
            twin = twin[:n]
        else:
            with pytest.raises(ValueError, match=r"headroom|tailroom|fewer"):
                getattr(skb, step)(n)
        assert skb.tobytes() == twin == bytes(memoryview(skb))
        assert skb.headroom + skb.len + skb.tailroom == room


@pytest.mark.parametrize("name", ["reserve", "put", "push", "pull", "trim"])
@pytest.mark.parametrize(
    ("n", "error"),
    [
        (-1, ValueError),
        (10**6, ValueError),
        (2**32, ValueError),
        (2**63, OverflowError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
        ("1", TypeError),
    ],
)
def test_bad_amounts_change_nothing(name: str, n: Any, error: type[Exception]) -> None:
    skb = netdev_alloc_skb(100) if name == "reserve" else skb_with(b"content", 100)
    before = (skb.headroom, skb.tailroom, skb.len, skb.tobytes())
    with pytest.raises(error):
        getattr(skb, name)(n)
    assert (skb.headroom, skb.tailroom, skb.len, skb.tobytes()) == before


@pytest.mark.parametrize("name", ["put", "push"])
def test_arrays_are_bytes_and_their_numbers_are_numbers(name: str) -> None:
    for array in (np.arange(5, dtype=np.uint8), np.array([7], np.uint8)):
        skb = netdev_alloc_skb(100)
        assert getattr(skb, name)(array) == bytes(array)
    for number in (np.int64(3), np.array(3)):
        assert getattr(netdev_alloc_skb(100), name)(number).nbytes == 3
    with pytest.raises(ValueError, match="single bytes"):
        getattr(netdev_alloc_skb(100), name)(np.arange(5))


def test_reserve_is_for_empty_ones() -> None:
    with pytest.raises(ValueError, match="already has data"):
        skb_with(b"x").reserve(1)


def test_frags_are_shared_not_copied() -> None:
    frag = frag_with(b"body")
    skb = skb_with(b"head")
    skb.add_frag(frag)
    assert (skb.len, skb.data_len, skb.tobytes()) == (8, 4, b"headbody")
    frag[0] = ord("B")
    assert skb.tobytes() == b"headBody"
    (shared,) = skb.frags
    assert (shared.page, shared.offset) == (frag.page, frag.offset)
    assert shared.readonly
    frag.release()
    assert skb.tobytes() == b"headBody"


def test_there_are_seventeen_frags_at_most() -> None:
    skb = netdev_alloc_skb(100)
    for number in range(17):
        skb.add_frag(frag_with(bytes([number]) * 10))
    before = pagefrag.default_pool().stats().live_bytes
    with pytest.raises(ValueError, match="no free fragment slot"):
        skb.add_frag(frag_with(b"one too many"))
    assert pagefrag.default_pool().stats().live_bytes == before
    assert len(skb.frags) == 17
    assert skb.data_len == 170
    with pytest.raises(TypeError, match="expected a Fragment"):
        skb.add_frag(b"bytes")


def test_a_fragment_for_which_there_is_no_slot_is_as_it_was() -> None:
    # At granule 1 the count is the page's: what was shared once never is its own again.
    cache = PageFragCache(granule=1)
    skb, frag = netdev_alloc_skb(100), cache.alloc(1000)
    for _ in range(17):
        skb.add_frag(frag_with(b"x"))
    with pytest.raises(ValueError, match="no free fragment slot"):
        skb.add_frag(frag)
    assert build_skb(frag).tailroom == 1000 - 320


def test_trim_reaches_into_frags() -> None:
    skb = skb_with(b"head")
    for part in (b"one", b"two", b"three"):
        skb.add_frag(frag_with(part))
    skb.trim(8)
    assert skb.tobytes() == b"headonet"
    assert skb.data_len == 4
    skb.trim(2)
    assert (skb.tobytes(), skb.data_len, skb.frags) == (b"he", 0, ())


def test_put_behind_frags_is_refused() -> None:
    skb = skb_with(b"head")
    skb.add_frag(frag_with(b"body"))
    with pytest.raises(ValueError, match="data in fragments"):
        skb.put(1)
    skb.push(b">").release()
    assert skb.tobytes() == b">headbody"


def test_linearize_makes_one_piece() -> None:
    skb = skb_with(b"head", 100)
    for number in range(10):
        skb.add_frag(frag_with(bytes([number]) * 1000))
    content = skb.tobytes()
    skb.linearize()
    assert (skb.data_len, skb.len, skb.frags) == (0, 10_004, ())
    assert memoryview(skb) == content
    skb.put(b"").release()


def test_linearize_takes_no_other_pool_s_memory() -> None:
    pool = PagePool(1 << 20, max_bytes=2 << 20)
    netdev, cache = NetdevCache(pool), PageFragCache(pool)
    skb, frag = netdev.alloc_skb(100), netdev.alloc_frag(100_000)
    skb.put(b"head").release()
    frag[:] = bytes(100_000)
    skb.add_frag(frag)
    frag.release()
    full = cache.alloc(1 << 20)
    before = (pool.stats().live_bytes, skb.truesize, skb.tobytes())
    others = pagefrag.default_pool().stats().live_bytes
    # The rest of the first page is the netdev context's.
    with pytest.raises(pagefrag.PoolExhausted):
        skb.linearize()
    assert (pool.stats().live_bytes, skb.truesize, skb.tobytes()) == before
    full.release()
    # More than a page of the default pool, from the page that another cache of this thread gave up.
    skb.linearize()
    assert (skb.tobytes(), skb.data_len, skb.headroom) == (before[2], 0, 64)
    assert pool.stats().live_bytes == skb.truesize - 256
    assert pagefrag.default_pool().stats().live_bytes == others
    skb.release()
    assert pool.audit().live_bytes == 0


def test_linearize_without_a_cache_over_the_pool_stays_in_it() -> None:
    netdev = NetdevCache(PagePool(128 * 1024, max_bytes=2 << 20))
    skb = netdev.alloc_skb(100)
    skb.add_frag(netdev.alloc_frag(50_000))
    before = pagefrag.default_pool().stats().live_bytes
    skb.linearize()
    assert (skb.data_len, netdev.pool.stats().live_bytes) == (0, skb.truesize - 256)
    assert pagefrag.default_pool().stats().live_bytes == before
    skb.release()
    netdev.drain()
    assert netdev.pool.audit().pages_in_use == 0


def test_linearize_waits_for_views() -> None:
    skb = skb_with(b"head", 100)
    skb.add_frag(frag_with(b"x" * 5000))
    view, other = memoryview(skb), memoryview(skb)
    with pytest.raises(BufferError, match=r"2 views of this skb still exist$"):
        skb.linearize()
    other.release()
    with pytest.raises(BufferError, match=r"1 view of this skb still exists$"):
        skb.linearize()
    assert view == b"head"
    view.release()
    skb.linearize()
    assert skb.data_len == 0


def test_clones_share_and_may_not_write() -> None:
    skb = skb_with(b"head")
    skb.add_frag(frag_with(b"body"))
    clone = skb.clone()
    assert clone.tobytes() == skb.tobytes() == b"headbody"
    for one in (skb, clone):
        assert memoryview(one).readonly
        with pytest.raises(BufferError):
            one.push(1)
    clone.pull(2)
    assert (clone.tobytes(), skb.tobytes()) == (b"adbody", b"headbody")
    del clone, one
    assert not memoryview(skb).readonly
    skb.push(b">").release()
    assert skb.tobytes() == b">headbody"


def test_nobody_writes_into_a_clone() -> None:
    skb = netdev_alloc_skb(100)
    view = skb.put(b"hello")
    with pytest.raises(BufferError, match=r"1 view of this skb still exists$"):
        skb.clone()
    view.release()
    clone = skb.clone()
    views = [memoryview(skb), memoryview(clone)]
    assert all(view.readonly for view in views)
    assert clone.clone().tobytes() == skb.clone().tobytes() == b"hello"
    with pytest.raises(TypeError, match="read-only"):
        views[0][:] = b"HELLO"


def test_coalesce_takes_the_other_over() -> None:
    first, second = skb_with(b"one"), skb_with(b"two")
    truesize = first.truesize
    assert first.coalesce(second) is True
    assert first.tobytes() == b"onetwo"
    assert first.truesize >= truesize
    with pytest.raises(ValueError, match="released skb"):
        second.tobytes()


def test_a_refused_coalesce_changes_nothing() -> None:
    full = netdev_alloc_skb(100)
    for _ in range(17):
        full.add_frag(frag_with(b"x" * 10))
    other = skb_with(b"y" * 1000)
    assert full.coalesce(other) is False
    assert (len(full.frags), other.tobytes()) == (17, b"y" * 1000)
    with pytest.raises(ValueError, match="itself"):
        other.coalesce(other)
    view = memoryview(other)
    with pytest.raises(BufferError):
        full.coalesce(other)
    view.release()
    with pytest.raises(TypeError):
        full.coalesce(b"bytes")
    other.release()
    with pytest.raises(ValueError, match="released"):
        full.coalesce(other)


def test_buffers_go_out_with_sendmsg() -> None:
    skb = skb_with(b"head")
    for part in (b"one", b"two"):
        skb.add_frag(frag_with(part))
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.sendmsg(skb.buffers())
        assert right.recv(100) == b"headonetwo"
    assert netdev_alloc_skb(10).buffers() == []


def test_it_can_be_received_into() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    skb = netdev_alloc_skb(100)
    with left, right:
        left.send(b"datagram")
        skb.trim(right.recv_into(skb.put(100)))
    assert skb.tobytes() == b"datagram"


def test_build_skb_takes_the_whole_fragment() -> None:
    cache = PageFragCache(PagePool())
    frag = cache.alloc(2048)
    skb = build_skb(frag)
    assert (skb.headroom, skb.tailroom, skb.len) == (0, 2048 - 320, 0)
    assert repr(frag) == "<Fragment released>"
    skb.reserve(64)
    skb.put(b"built").release()
    assert skb.tobytes() == b"built"
    assert cache.pool.stats().live_bytes == 2048
    skb.release()
    assert cache.pool.stats().live_bytes == 0


def test_build_skb_refuses_and_leaves_the_fragment() -> None:
    cache = PageFragCache(PagePool())
    for wrong, error in ((b"bytes", TypeError), (None, TypeError), (bytearray(2048), TypeError)):
        with pytest.raises(error):
            build_skb(wrong)
    frag = cache.alloc(320)
    with pytest.raises(ValueError, match=r"."):
        build_skb(frag)
    assert frag.nbytes == 320
    frag = cache.alloc(2048)
    with pytest.raises(TypeError, match="read-only"):
        build_skb(frag.toreadonly())
    view = memoryview(frag)
    with pytest.raises(BufferError):
        build_skb(frag)
    view.release()
    part = frag[:10]
    with pytest.raises(ValueError, match="shares"):
        build_skb(frag)
    part.release()
    assert build_skb(frag).tailroom == 1728


def test_release_waits_for_views_and_is_idempotent() -> None:
    skb = skb_with(b"data")
    view = memoryview(skb)
    with pytest.raises(BufferError):
        skb.release()
    view.release()
    skb.release()
    skb.release()
    uses: list[Callable[[], object]] = [
        lambda: skb.len,
        lambda: len(skb),
        lambda: skb.put(1),
        skb.clone,
        lambda: skb.frags,
        lambda: memoryview(skb),
        skb.linearize,
        skb.buffers,
        skb.tobytes,
    ]
    for use in uses:
        with pytest.raises(ValueError, match="released skb"):
            use()
    assert repr(skb) == "<SkBuff released>"
    assert bool(skb)


def test_truesize_is_never_below_the_memory_held() -> None:
    netdev = NetdevCache(PagePool())
    cache = PageFragCache(netdev.pool)
    kept: list[SkBuff] = []
    for number in range(200):
        skb = netdev.alloc_skb(number * 13 % 3000 + 1)
        for _ in range(number % 5):
            skb.add_frag(cache.alloc(number * 29 % 4000 + 1))
        if number % 3 == 0:
            kept.append(skb.clone())
        if number % 4 == 0 and kept:
            kept[-1].coalesce(skb) or kept.append(skb)
        else:
            kept.append(skb)
    del skb
    assert sum(one.truesize for one in kept) >= netdev.pool.stats().live_bytes
    kept.clear()
    assert netdev.pool.audit().live_bytes == 0


def test_repr() -> None:
    assert repr(skb_with(b"data")).startswith("<SkBuff len=4 data_len=0 frags=0 headroom=64")
    with pytest.raises(TypeError):
        SkBuff()


def test_data_that_is_shared_is_lent_for_reading_only() -> None:
    skb = skb_with(b"shared")
    with skb.__buffer__(0) as view:
        assert view.tobytes() == b"shared"
        assert not view.readonly
    twin = skb.clone()
    with pytest.raises(TypeError, match="read-write"):
        struct.pack_into("B", skb, 0, 1)
    with skb.__buffer__(0) as view:
        assert view.readonly
    twin.release()
    # No view is left of those that were refused.
    skb.put(1).release()
    assert skb.tobytes()[:6] == b"shared"
