"""`TxRing` on a socket without room: what waits, who is told, and that nothing goes twice."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from link import Link
from pagefrag import ContextError, PageFragCache, PagePool, TxRing, build_skb

LONG = 60.0  # seconds: only reached by a broken build


def packets(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") * 500 for number in range(count)]


@pytest.fixture
def link() -> Iterator[Link]:
    try:
        link = Link()
    except OSError as error:
        pytest.skip(f"no link of our own: {error}")
    yield link
    link.close()


@pytest.fixture
def stuffed(link: Link) -> Iterator[socket.socket]:
    """A socket whose small buffer fills up at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.connect(link.there)
        yield sock


def arrived(link: Link, count: int) -> list[bytes]:
    """Return what comes out of the link, once *count* datagrams have."""
    found: list[bytes] = []
    while len(found) < count:
        found += link.payloads()
        time.sleep(0.001)
    return found + link.payloads()


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
        assert arrived(link, count) == sent


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
        assert arrived(link, 50) == sent


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


def test_a_forked_child_does_not_send_what_its_parent_has_queued(
    link: Link, stuffed: socket.socket
) -> None:
    sent = packets(20)
    with TxRing(stuffed, gso=False) as ring:
        ring.send(sent, timeout=0)
        assert ring.queued
        child = os.fork()
        if not child:
            try:
                os._exit(ring.flush(timeout=0) or ring.close())
            finally:
                os._exit(99)
        link.answer()
        assert os.waitpid(child, 0)[1] == 0
        ring.flush()
        assert arrived(link, 20) == sent


def test_close_tells_what_was_given_up(link: Link, stuffed: socket.socket) -> None:
    ring = TxRing(stuffed, gso=False)
    ring.send([bytes(1000)] * 10, timeout=0)
    waiting = ring.queued
    assert waiting
    assert ring.close() == waiting
    assert ring.stats().tx_hw_drops == waiting
    assert ring.close() == 0
    link.answer()
    assert len(arrived(link, 10 - waiting)) == 10 - waiting


def test_a_forgotten_ring_warns(link: Link, stuffed: socket.socket) -> None:
    assert link
    ring = TxRing(stuffed, gso=False)
    ring.send([bytes(1000)] * 10, timeout=0)
    with pytest.warns(ResourceWarning, match="unclosed TxRing"):
        del ring


def started(act: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """Start *act* on a thread; what it returns or raises comes into the list."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.001)


def test_closing_wakes_a_thread_that_waits_and_two_do_not_send(
    link: Link, stuffed: socket.socket
) -> None:
    assert link
    ring = TxRing(stuffed, slots=4, gso=False)
    thread, found = started(lambda: ring.send([bytes(1000)] * 50))
    until(lambda: ring.stats().waits > 1)
    with pytest.raises(ContextError, match="another call is sending"):
        ring.send(b"x")
    with pytest.raises(ContextError):
        ring.flush()
    ring.close()
    thread.join(LONG)
    assert isinstance(found[0], ValueError)


def test_a_signal_interrupts_the_wait(link: Link, stuffed: socket.socket) -> None:
    assert link

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    ring = TxRing(stuffed, gso=False)
    try:
        ring.send([bytes(1000)] * 10, timeout=0)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            ring.flush()
    finally:
        signal.signal(signal.SIGALRM, before)
        ring.close()
