"""What rings and kept packets hold: each question is asked in a process of its own.

A process that has held much before hides what it takes next, so nothing here is measured in the
process of the races. Memory is the proportional set size, which the kernel tells.
"""

from __future__ import annotations

import gc
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from pagefrag import Batch, Fragment, PageFragCache, PagePool, RxRing
from rings.road import UDP_SEGMENT, Packets, receiving_socket

__all__ = ["alone", "idle_ring", "kept_packets", "kept_small"]

Answer = TypeVar("Answer")

MESSAGES = 24
"""Sent before each look: what goes into any socket's buffer."""


def alone(question: Callable[..., Answer], *arguments: object) -> Answer:
    """Return what *question* answers in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        return executor.submit(question, *arguments).result()


def resident() -> int:
    """Return the bytes of memory behind this process, shared ones in part."""
    gc.collect()
    with Path("/proc/self/smaps_rollup").open(encoding="ascii") as told:
        for line in told:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise OSError("no Pss here")


def _send(sock: socket.socket, packets: Packets, messages: int) -> int:
    """Send so many messages to *sock*; return how many packets they have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(sock.getsockname())
        if packets.cut:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, packets.size)
        message = bytes(packets.size * packets.segments)
        for _ in range(messages):
            sender.send(message)
    return messages * packets.segments


def _batches(ring: RxRing, sock: socket.socket, packets: Packets, count: int) -> Iterator[Batch]:
    """Send and receive until *count* packets have come."""
    while count > 0:
        waiting = _send(sock, packets, MESSAGES)
        count -= waiting
        while waiting:
            batch = ring.recv(64, 5)
            waiting -= len(batch)
            yield batch


def idle_ring(gro: bool, rings: int = 200) -> dict[str, float]:
    """Return what a ring holds that has received and is idle, out of *rings* on one pool."""
    packets = Packets(1200, cut=gro)
    pool = PagePool()
    socks = [receiving_socket() for _ in range(rings)]
    before = resident()
    made = []
    for sock in socks:
        ring = RxRing(sock, gro=gro, cache=PageFragCache(pool))
        for batch in _batches(ring, sock, packets, 400):
            batch.release()
        made.append(ring)
    taken = resident() - before
    held = pool.stats().held_bytes
    for ring, sock in zip(made, socks, strict=True):
        ring.close()
        sock.close()
    return {"resident_bytes": round(taken / rings), "held_bytes": round(held / rings)}


def kept_packets(
    packets: Packets, gro: bool, copybreak: int, keep: int, one_in: int
) -> dict[str, float]:
    """Return what a pool holds while one packet in *one_in* is kept, *keep* of them."""
    pool = PagePool()
    kept: list[Fragment] = []
    with receiving_socket() as sock:
        ring = RxRing(sock, gro=gro, copybreak=copybreak, cache=PageFragCache(pool))
        seen = 0
        for batch in _batches(ring, sock, packets, keep * one_in):
            kept += [batch[index] for index in range(-seen % one_in, len(batch), one_in)]
            seen += len(batch)
            batch.release()
        del kept[keep:]
        stats = pool.stats()
        ring.close()
    payload = sum(frag.nbytes for frag in kept)
    assert payload == keep * packets.size
    return {
        "held_bytes": stats.held_bytes,
        "live_bytes": stats.live_bytes,
        "payload_bytes": payload,
        "held_to_live": stats.held_bytes / stats.live_bytes,
        "held_to_payload": stats.held_bytes / payload,
    }


def kept_small(as_bytes: bool, size: int = 64, keep: int = 200_000) -> dict[str, float]:
    """Return what each of *keep* packets takes that are kept one by one.

    The ring and its first region are in it: few packets look dearer than many.
    """
    packets = Packets(size, cut=False)
    kept: list[bytes | Fragment | None] = [None] * keep
    with receiving_socket() as sock:
        before, seen = resident(), 0
        ring = RxRing(sock, gro=False, cache=PageFragCache(PagePool()))
        for batch in _batches(ring, sock, packets, keep):
            for frag in batch:
                if seen < keep:
                    kept[seen] = frag.tobytes() if as_bytes else frag
                    seen += 1
            batch.release()
        del batch, frag
        taken = resident() - before
        ring.close()
    assert all(len(packet or b"") == size for packet in kept)
    return {"resident_bytes": round(taken / keep, 1)}
