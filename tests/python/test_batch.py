"""`Batch`: a sequence of fragments, and arrays that make none."""

from __future__ import annotations

import gc
import socket

import numpy as np
import pytest

from machine import bound
from pagefrag import Batch, Fragment, PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build


def test_a_batch_is_a_sequence_that_makes_each_fragment_once(
    sock: socket.socket, sender: socket.socket
) -> None:
    for number in range(5):
        sender.send(bytes([number]) * 10)
    with RxRing(sock) as ring:
        batch = ring.recv(timeout=LONG)
    assert isinstance(batch[0], Fragment)
    assert batch[1] is batch[1] is batch[-4]
    assert batch[1:4] == [batch[1], batch[2], batch[3]]
    assert batch[::-2] == [batch[4], batch[2], batch[0]]
    assert list(batch)[3] is batch[3]
    for index in (5, -6, 2**62, 2**70, -(2**70)):
        with pytest.raises(IndexError):
            batch[index]
    for key in ("a", 1.0, None):
        with pytest.raises(TypeError):
            batch[key]
    with pytest.raises(TypeError):
        Batch()


def test_reading_arrays_makes_no_object_per_packet(
    sock: socket.socket, sender: socket.socket
) -> None:
    for _ in range(60):
        sender.send(b"x" * 100)
    with RxRing(sock) as ring:
        batch = ring.recv(timeout=LONG)
        gc.collect()
        gc.disable()
        try:
            before = len(gc.get_objects())
            lengths = np.asarray(batch.lengths)
            offsets = np.asarray(batch.offsets)
            pages = np.asarray(batch.pages)
            made = len(gc.get_objects()) - before
        finally:
            gc.enable()
    assert made <= 20
    assert (lengths.dtype, offsets.dtype, pages.dtype) == (np.uint32, np.uint32, np.uintp)
    assert lengths.tolist() == [100] * 60
    assert offsets.tolist() == [frag.offset for frag in batch]
    assert pages.tolist() == [frag.page for frag in batch]


def test_releasing_a_batch_leaves_what_others_hold(
    sock: socket.socket, sender: socket.socket
) -> None:
    pool = PagePool()
    ring = RxRing(sock, cache=PageFragCache(pool))
    for number in range(20):
        sender.send(bytes([number]) * 1000)
    batch = ring.recv(timeout=LONG)
    ring.close()
    kept, view = batch[3], memoryview(batch[4])
    batch.release()
    batch.release()
    assert pool.stats().live_bytes == 2 * kept.capacity
    assert (kept[0], view[0]) == (3, 4)
    assert len(batch) == 20
    assert list(batch.lengths) == [1000] * 20
    for use in (lambda: batch[0], lambda: list(batch), lambda: batch[:], batch.__enter__):
        with pytest.raises(ValueError, match="released batch"):
            use()
    assert repr(batch) == "<Batch packets=20 bytes=20000 released>"


def test_with_releases_a_batch(sock: socket.socket, sender: socket.socket) -> None:
    sender.send(b"x")
    with RxRing(sock) as ring:
        with ring.recv(timeout=LONG) as batch:
            assert repr(batch) == "<Batch packets=1 bytes=1>"
        assert "released" in repr(batch)


def test_packets_come_with_their_bytes_and_addresses(
    sock: socket.socket, sender: socket.socket
) -> None:
    sent = [bytes([number]) * (number * 7 + 1) for number in range(50)]
    for packet in sent:
        sender.send(packet)
    with RxRing(sock) as ring:
        batch = ring.recv(max=64, timeout=LONG)
        assert [frag.tobytes() for frag in batch] == sent
        assert list(batch.lengths) == list(batch.wire_lengths) == [len(packet) for packet in sent]
        assert batch.addresses == (sender.getsockname(),) * 50
        assert len({id(address) for address in batch.addresses}) == 1
        stats = ring.stats()
        assert (stats.rx_packets, stats.rx_bytes) == (50, sum(map(len, sent)))
        assert (stats.rx_alloc_fail, stats.largest_batch) == (0, 50)


def test_an_ipv6_socket_gives_ipv6_addresses() -> None:
    with bound(socket.AF_INET6) as sock:
        sock.sendto(b"six", sock.getsockname())
        with RxRing(sock) as ring, ring.recv(timeout=LONG) as batch:
            assert batch.addresses == (sock.getsockname(),)


@pytest.mark.parametrize("size", [1, 100, 257, 300, 600, 1024, 1025, 1500, 2048])
def test_what_is_kept_is_at_least_half_of_what_it_holds(size: int) -> None:
    # Of 2 KiB buffers, one packet each; joined packets have fragments of their size anyway.
    cache = PageFragCache(PagePool())
    kept: list[Fragment] = []
    with bound() as sock, RxRing(sock, gro=False, cache=cache) as ring:
        while len(kept) < 3000:
            for _ in range(40):
                sock.sendto(bytes(size), sock.getsockname())
            with ring.recv(timeout=LONG) as batch:
                kept += batch
    lines = -(-size // 64) * 64
    stats = cache.pool.stats()
    assert stats.live_bytes == len(kept) * lines
    assert stats.held_bytes <= 2 * stats.live_bytes + 4 * cache.pool.page_size
