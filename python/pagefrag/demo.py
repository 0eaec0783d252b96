"""The main job: a million datagrams from a real sender, every byte checked.

Two receivers do the same work one after the other, each against a sender process of its
own: an :class:`~pagefrag.RxRing`, and a plain loop over ``socket.recv_into``. Both check
every packet in the same loop and keep the same packets. The table at the end puts them
side by side, with what the ring's pool held while the packets were kept.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pagefrag
from pagefrag.loopback import SILENCE, Sender, dropped, receiving_socket
from pagefrag.packets import BODIES, SEQUENCE, Expectation
from pagefrag.progress import Advance, progress
from pagefrag.table import Row, render

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from typing_extensions import Buffer

__all__ = [
    "BUFFER",
    "Job",
    "Keep",
    "Outcome",
    "Packet",
    "Packets",
    "Pool",
    "main",
    "receive_plain",
    "receive_ring",
]

Packet = pagefrag.Fragment | memoryview
Packets = Generator[Packet, None, None]
Keep = Callable[[Packet], "Buffer"]

BUFFER = 2048
"""Bytes of a receive buffer; larger when the packets are."""

_BATCH = 64


@dataclass(frozen=True)
class Job:
    """What is to be sent, and how many of the packets are kept."""

    count: int = 1_000_000
    size: int = 1_200
    keep: int = 10_000
    page_size: int = 32_768
    sender: Sequence[str] | None = None

    @property
    def buffer(self) -> int:
        """Bytes that a receiver offers for one packet."""
        return max(BUFFER, self.size)

    @property
    def stride(self) -> int:
        """One packet in so many is kept."""
        return max(1, self.count // max(1, self.keep))


@dataclass
class Pool:
    """What the ring's pool held: before, while the packets were kept, and after."""

    regions_before: int
    regions_peak: int = 0
    regions_after: int = 0
    held: int = 0
    live: int = 0
    pinned: int = 0
    rx_alloc_fail: int = 0


@dataclass
class Outcome:
    """What one receiver saw."""

    count: int
    received: int = 0
    damaged: int = 0
    timed: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    dropped: int | None = None
    sender_status: int = 0
    kept: list[Buffer] = field(default_factory=list)
    pool: Pool | None = None

    @property
    def lost(self) -> int:
        """Sequence numbers that never came."""
        return self.count - self.received - self.damaged

    @property
    def rate(self) -> float:
        """Packets per second, from the first packet to the last that was timed."""
        return self.timed / self.seconds if self.seconds else 0.0

    @property
    def cost(self) -> float | None:
        """Nanoseconds of the receiver's processor for a packet, the checking included."""
        return self.busy / self.received * 1e9 if self.received else None

    @property
    def good(self) -> bool:
        """Tell whether packets came and none was corrupted."""
        return self.received > 0 and not self.damaged and not self.sender_status


class _Steps:
    """What is due at certain sequence numbers: a word to the sender, a packet to keep."""

    def __init__(
        self,
        job: Job,
        sender: Sender,
        outcome: Outcome,
        keep: Keep,
        advance: Advance,
    ) -> None:
        self._sender, self._outcome, self._keep, self._advance = sender, outcome, keep, advance
        self._keep_every = job.stride
        self._word_every = max(1, sender.window // 8)
        self._next_keep = 1
        self._next_word = self._word_every
        self._end = job.count
        self._most = job.keep

    def take(self, packet: Packet, following: int) -> int:
        """Do what is due before packet *following*; return when to call again."""
        if following >= self._next_keep:
            self._keep_one(packet, following)
        if following >= self._next_word:
            self._sender.reached(following)
            self._advance(following)
            self._next_word = following + self._word_every
        if following >= self._end:
            self._advance(following)
        return min(self._next_keep, self._next_word, self._end)

    def _keep_one(self, packet: Packet, following: int) -> None:
        kept = self._outcome.kept
        if len(kept) < self._most:
            kept.append(self._keep(packet))
        self._next_keep = following + self._keep_every if len(kept) < self._most else self._end


def _check(packets: Iterable[Packet], job: Job, outcome: Outcome, steps: _Steps) -> None:
    """Compare every packet with what its number says; both receivers run this loop."""
    read, write = SEQUENCE.unpack_from, SEQUENCE.pack_into
    templates = Expectation(job.size).templates
    sequence: int
    following = received = damaged = 0
    due = 1
    start, busy = time.perf_counter(), time.process_time()
    for packet in packets:
        if not received:
            start, busy = time.perf_counter(), time.process_time()
        try:
            (sequence,) = read(packet)
        except struct.error:
            damaged += 1
            continue
        template = templates[sequence % BODIES]
        write(template, 0, sequence)
        # A number below the last one is a packet that was overwritten by a later one.
        if template != packet or not following <= sequence < job.count:
            damaged += 1
            continue
        following = sequence + 1
        received += 1
        if following >= due:
            due = steps.take(packet, following)
            # Not at the end: if the last packets are lost, that is a silence later.
            outcome.timed, outcome.seconds = received, time.perf_counter() - start
            if following == job.count:
                break
    outcome.busy = time.process_time() - busy
    outcome.received, outcome.damaged = received, damaged


def _check_kept(job: Job, outcome: Outcome) -> None:
    """Look at the kept packets again: nothing that came later may have touched them."""
    expected = Expectation(job.size)
    outcome.damaged += sum(not expected.holds(packet) for packet in outcome.kept)


def _plain_packets(sock: socket.socket, size: int, sender: Sender) -> Packets:
    buffer = memoryview(bytearray(size))
    receive = sock.recv_into
    while True:
        ended = sender.finished()
        try:
            while True:
                yield buffer[: receive(buffer)]
        except BlockingIOError:
            if ended:
                return


def _ring_packets(ring: pagefrag.RxRing, sender: Sender) -> Packets:
    while True:
        ended = sender.finished()
        while batch := ring.recv(_BATCH, SILENCE):
            yield from batch
        if ended:
            return


def _receive(
    job: Job,
    sock: socket.socket,
    source: Callable[[Sender], Packets],
    keep: Keep,
    title: str,
) -> Outcome:
    outcome = Outcome(job.count)
    with (
        progress(title, job.count) as advance,
        Sender(sock, job.count, job.size, job.sender) as sender,
        closing(source(sender)) as packets,
    ):
        _check(packets, job, outcome, _Steps(job, sender, outcome, keep, advance))
        outcome.sender_status = sender.status()
    outcome.dropped = dropped(sock)
    return outcome


def receive_plain(job: Job) -> Outcome:
    """Receive with ``socket.recv_into`` into one buffer; what is kept is copied."""
    with receiving_socket() as sock:
        outcome = _receive(
            job, sock, lambda sender: _plain_packets(sock, job.buffer, sender), bytes, "recv_into"
        )
    _check_kept(job, outcome)
    return outcome


def receive_ring(job: Job) -> Outcome:
    """Receive with a ring over a pool of its own; what is kept is the fragment itself."""
    pool = pagefrag.PagePool(job.page_size)
    figures = Pool(regions_before=pool.stats().regions_mapped)
    cache = pagefrag.PageFragCache(pool)
    with receiving_socket() as sock:
        ring = pagefrag.RxRing(sock, slots=_BATCH, buf_size=job.buffer, cache=cache)
        outcome = _receive(
            job,
            sock,
            lambda sender: _ring_packets(ring, sender),
            lambda packet: packet,
            "RxRing   ",
        )
        _look_at_pool(pool, figures)
        figures.rx_alloc_fail = ring.stats().rx_alloc_fail
        _check_kept(job, outcome)
        outcome.kept.clear()
        ring.close()
    cache.drain()
    pool.trim()
    figures.regions_after = pool.audit().regions_mapped
    outcome.pool = figures
    return outcome


def _look_at_pool(pool: pagefrag.PagePool, figures: Pool) -> None:
    stats = pool.stats()
    figures.held, figures.live = stats.held_bytes, stats.live_bytes
    figures.pinned, figures.regions_peak = stats.pinned_bytes, stats.regions_peak


def _rows(job: Job, ring: Outcome, plain: Outcome) -> list[Row]:
    both = [
        ("packets received", "received"),
        ("packets per second", "rate"),
        ("processor time per packet, ns", "cost"),
        ("packets corrupted", "damaged"),
        ("packets lost (numbers missing)", "lost"),
        ("dropped by the kernel at the socket", "dropped"),
    ]
    rows: list[Row] = [(label, getattr(ring, name), getattr(plain, name)) for label, name in both]
    if ring.pool is None:
        return rows
    kept = f"while {min(job.keep, job.count):,} packets are kept"
    ours = [
        ("rx_alloc_fail", ring.pool.rx_alloc_fail),
        (f"held bytes {kept}", ring.pool.held),
        (f"live bytes {kept}", ring.pool.live),
        (f"pinned bytes {kept}", ring.pool.pinned),
        ("regions mapped before", ring.pool.regions_before),
        ("regions mapped at peak", ring.pool.regions_peak),
        ("regions mapped after trim()", ring.pool.regions_after),
    ]
    return rows + [(label, figure, None) for label, figure in ours]


def main(job: Job) -> int:
    """Run both receivers, print the table, and return the exit status."""
    ring, plain = receive_ring(job), receive_plain(job)
    print(f"\n{job.count:,} datagrams of {job.size:,} bytes over loopback, every byte checked\n")
    print(render(("", "RxRing", "socket.recv_into"), _rows(job, ring, plain)))
    if plain.rate:
        print(f"\nRxRing receives {ring.rate / plain.rate:.2f} times as many packets per second.")
    if ring.good and plain.good:
        return 0
    print(f"pagefrag: {_complaint(ring, plain)}", file=sys.stderr)
    return 1


def _complaint(*outcomes: Outcome) -> str:
    if any(outcome.damaged for outcome in outcomes):
        return f"{sum(outcome.damaged for outcome in outcomes):,} packets were corrupted"
    if any(outcome.sender_status for outcome in outcomes):
        return "the sender failed"
    return "no packet arrived"
