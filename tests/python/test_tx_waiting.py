"""`TxRing` on a socket without room: what waits, who is told, and that nothing goes twice."""

from __future__ import annotations

import socket

import pytest

from actors import LONG
from link import Link
from pagefrag import Batch, PageFragCache, PagePool, RxRing, TxRing, build_skb


def packets(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") * 500 for number in range(count)]


@pytest.mark.parametrize("gso", [False, True])
def test_what_the_socket_has_no_room_for_waits_and_goes_once_in_order(
    link: Link, stuffed: socket.socket, gso: bool
) -> None:
    # The kernel lets one message go beyond the buffer, so there are several.
    count = 200 if gso else 20
    sent = packets(count)
    with TxRing(stuffed, slots=256, gso=gso) as ring:
        assert ring.send(sent, timeout=0) == count
        assert 0 < ring.queued < count
        waiting = ring.queued
        assert ring.flush(timeout=0.05) == waiting
        stats = ring.stats()
        assert (stats.tx_stop, stats.tx_wake, stats.tx_packets) == (1, 0, count - waiting)
        link.answer()
        assert ring.flush(timeout=LONG) == 0
        assert (ring.stats().tx_packets, ring.stats().tx_hw_drops) == (count, 0)
        assert ring.stats().tx_wake >= 1
        assert link.arrived(count) == sent


def test_a_full_ring_takes_the_first_ones_and_says_how_many(
    link: Link, stuffed: socket.socket
) -> None:
    sent = packets(50)
    with TxRing(stuffed, slots=8, gso=False) as ring:
        taken = ring.send(sent, timeout=0.05)
        assert 8 < taken < 50
        assert ring.queued == 8
        assert ring.send(sent[taken:], timeout=0) == 0
        link.answer()
        assert ring.send(sent[taken:], timeout=LONG) == 50 - taken
        ring.flush()
        assert link.arrived(50) == sent


def test_buffers_that_wait_cannot_be_released(link: Link, stuffed: socket.socket) -> None:
    cache = PageFragCache(PagePool())
    frags = [cache.alloc(1000) for _ in range(12)]
    skb = build_skb(cache.alloc(2048))
    plain = bytearray(100)
    with TxRing(stuffed, gso=False) as ring:
        ring.send([*frags, skb, plain], timeout=0)
        assert ring.queued > 3
        for thing in (frags[-1], skb):
            with pytest.raises(BufferError):
                thing.release()
        with pytest.raises(BufferError):
            plain.append(1)
        frags[0].release()
        link.answer()
        ring.flush()
        for thing in (*frags, skb):
            thing.release()
        plain.append(1)
    assert cache.pool.stats().live_bytes == 0


def test_close_tells_what_was_given_up(link: Link, stuffed: socket.socket) -> None:
    ring = TxRing(stuffed, gso=False)
    ring.send([bytes(1000)] * 10, timeout=0)
    waiting = ring.queued
    assert waiting
    assert ring.close() == waiting
    assert ring.stats().tx_hw_drops == waiting
    assert ring.close() == 0
    link.answer()
    assert len(link.arrived(10 - waiting)) == 10 - waiting


def test_a_forgotten_ring_tells_how_many_it_gave_up(link: Link, stuffed: socket.socket) -> None:
    assert link
    ring = TxRing(stuffed, gso=False)
    ring.send([bytes(1000)] * 10, timeout=0)
    told = f"unclosed <TxRing .*>: {ring.queued} datagrams were not sent"
    with pytest.warns(ResourceWarning, match=told):
        del ring


def a_batch(pool: PagePool, packets: list[bytes]) -> Batch:
    """Return *packets* as they come out of a ring."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, RxRing(ours, cache=PageFragCache(pool)) as ring:
        for packet in packets:
            theirs.send(packet)
        return ring.recv(timeout=LONG)


def test_packets_of_a_batch_are_read_where_they_lie_and_only_those_are_kept(
    link: Link, stuffed: socket.socket
) -> None:
    pool, sent = PagePool(), packets(10)
    batch = a_batch(pool, sent)
    live = pool.stats().live_bytes
    with TxRing(stuffed, gso=False) as ring:
        assert ring.send(batch, timeout=0) == 10
        waiting = ring.queued
        assert 3 < waiting < 10
        assert pool.stats().live_bytes == live  # no copy
        # What is written before the kernel has read it is what arrives.
        batch[9][:4] = b"late"
        assert batch[9].page == batch.pages[9]
        batch.release()
        kept = pool.stats().live_bytes
        assert kept * 10 == live * waiting
        link.answer()
        ring.flush()
        assert pool.stats().live_bytes == 0
        assert link.arrived(10) == [*sent[:9], b"late" + sent[9][4:]]


def test_fragments_of_a_batch_that_waits_can_be_released(
    link: Link, stuffed: socket.socket
) -> None:
    pool, sent = PagePool(), packets(10)
    batch = a_batch(pool, sent)
    before = batch[8]
    with TxRing(stuffed, gso=False) as ring:
        ring.send(batch, timeout=0)
        before.release()
        batch[9].release()
        batch.release()
        link.answer()
        ring.flush()
        assert link.arrived(10) == sent
    assert pool.stats().live_bytes == 0
