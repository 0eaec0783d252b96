"""Packets that the kernel has joined: they lie where they landed until their batch is opened."""

from __future__ import annotations

import pickle
import random
import socket
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from machine import needs_gro
from pagefrag import Batch, PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build
UDP_SEGMENT = 103
SIZE, COUNT = 1200, 54
FULL = SIZE * COUNT


@pytest.fixture
def ring(sock: socket.socket, sender: socket.socket) -> Iterator[RxRing]:
    ring = RxRing(sock, cache=PageFragCache(PagePool()))
    needs_gro(ring)
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
    # After one like them, super-buffers stay.
    sender.send(bytes(FULL))
    assert len(ring.recv(timeout=LONG)) == COUNT
    yield ring
    ring.close()


def landed(ring: RxRing, sender: socket.socket, seed: int = 1) -> tuple[Batch, list[bytes]]:
    """A batch that nobody has opened, and its packets."""
    sent = random.Random(seed).randbytes(FULL)
    sender.send(sent)
    batch = ring.recv(timeout=LONG)
    assert len(batch) == COUNT
    return batch, [sent[at : at + SIZE] for at in range(0, FULL, SIZE)]


def held(ring: RxRing) -> int:
    ring.drain()
    return ring.cache.pool.stats().live_bytes


def test_numbers_open_nothing_and_a_fragment_opens_all(ring: RxRing, sender: socket.socket) -> None:
    batch, packets = landed(ring, sender)
    assert list(batch.lengths) == list(batch.wire_lengths) == [SIZE] * COUNT
    assert set(batch.addresses) == {sender.getsockname()}
    assert not any(batch.truncated)
    assert all(batch.segments)
    assert held(ring) == 64 * 1024, "as it landed"
    assert batch[7].tobytes() == packets[7]
    assert held(ring) == COUNT * batch[0].capacity
    assert [frag.tobytes() for frag in batch] == packets


@pytest.mark.parametrize(
    "look",
    [
        lambda batch: [frag.tobytes() for frag in batch],
        lambda batch: [bytes(fragment) for fragment in pickle.loads(pickle.dumps(batch))],
        lambda batch: [frag.tobytes() for frag in batch[:]],
        lambda batch: [
            bytes(batch.runs()[record["run"]][record["start"] :][: record["length"]])
            for record in batch.to_numpy()
        ],
    ],
)
def test_whatever_opens_it_shows_every_byte(
    ring: RxRing, sender: socket.socket, look: Callable[[Batch], list[bytes]]
) -> None:
    batch, packets = landed(ring, sender)
    assert look(batch) == packets
    assert [frag.tobytes() for frag in batch] == packets


def test_pages_and_offsets_are_those_of_the_fragments(ring: RxRing, sender: socket.socket) -> None:
    batch, _ = landed(ring, sender)
    pages, offsets = list(batch.pages), list(batch.offsets)
    assert pages == [frag.page for frag in batch]
    assert offsets == [frag.offset for frag in batch]
    batch.release()
    assert (list(batch.pages), list(batch.offsets)) == (pages, offsets)


def test_one_that_was_released_unopened_has_given_everything_back(
    ring: RxRing, sender: socket.socket
) -> None:
    batch, _ = landed(ring, sender)
    batch.release()
    assert held(ring) == 0
    assert len(list(batch.pages)) == len(list(batch.offsets)) == COUNT
    with pytest.raises(ValueError, match="released batch"):
        batch[0]


def test_another_thread_opens_it_after_the_ring_is_gone(
    ring: RxRing, sender: socket.socket
) -> None:
    batch, packets = landed(ring, sender)
    pool = ring.cache.pool
    ring.close()
    found: list[bytes] = []
    thread = threading.Thread(target=lambda all_: found.extend(map(bytes, all_)), args=(batch,))
    thread.start()
    thread.join()
    assert found == packets
    assert [frag.tobytes() for frag in batch] == packets
    batch.release()
    assert pool.stats().live_bytes == 0


def test_packets_that_are_kept_keep_nothing_else(ring: RxRing, sender: socket.socket) -> None:
    kept = []
    for seed in range(400):
        batch, packets = landed(ring, sender, seed)
        kept += [(batch[at], packets[at]) for at in range(seed % 20, COUNT, 20)]
        batch.release()
    ring.drain()
    stats = ring.cache.pool.stats()
    assert stats.live_bytes == sum(frag.capacity for frag, _ in kept)
    assert stats.held_bytes < 2 * stats.live_bytes
    assert all(frag.tobytes() == packet for frag, packet in kept)


def test_unopened_batches_that_are_kept_hold_little_more_than_their_packets(
    ring: RxRing, sender: socket.socket
) -> None:
    kept = []
    sizes = [FULL, FULL - 700, 50 * SIZE, 42 * SIZE, 30 * SIZE, 5 * SIZE]
    for _ in range(20):
        for size in sizes:
            sender.send(bytes(size))
            kept.append(ring.recv(timeout=LONG))
    payload = sum(int(np.sum(batch.lengths)) for batch in kept)
    assert payload == 20 * sum(sizes)
    assert held(ring) < 1.4 * payload


def test_without_memory_for_copies_it_shows_every_byte_all_the_same(
    sock: socket.socket, sender: socket.socket
) -> None:
    cache = PageFragCache(PagePool(max_bytes=2 << 20))
    ring = RxRing(sock, cache=cache)
    needs_gro(ring)
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
    sender.send(bytes(FULL))
    ring.recv(timeout=LONG).release()
    batch, packets = landed(ring, sender)
    hoard = []
    for size in (32768, 1024, 64):
        while (frag := cache.try_alloc(size)) is not None:
            hoard.append(frag)
    assert [frag.tobytes() for frag in batch] == packets
    batch[3][:] = b"!" * SIZE
    batch[5].release()
    packets[3] = b"!" * SIZE
    others = [at for at in range(COUNT) if at != 5]
    assert [batch[at].tobytes() for at in others] == [packets[at] for at in others]
    assert ring.stats().rx_alloc_fail == 0
    before = cache.pool.stats().live_bytes
    batch.release()
    assert cache.pool.stats().live_bytes <= before - 2 * (32768 - 64)
    ring.close()
