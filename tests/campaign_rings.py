"""Send many datagrams through a ring and check every byte of each: IPv4 and IPv6, GRO on and off.

Half of them go to a ring whose buffers hold any datagram, half to one with the usual buffers and
pages, where long ones are cut.

``make campaign-rings`` sends a million on each of the four ways; ARGS="COUNT SECONDS SEED" sends
another number, ends after so many seconds on each way, and repeats the campaign of a seed.

Bursts are cut by the kernel (GSO) into datagrams of one size and a shorter last one. A burst fits
the socket's buffer and is received before the next one, so that nothing may be missing, doubled or
out of order. Some fragments are kept for a while and checked again when they are given back.
"""

from __future__ import annotations

import itertools
import random
import secrets
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass

from pagefrag import Fragment, PageFragCache, PagePool, RxRing

WAYS = tuple(itertools.product((socket.AF_INET, socket.AF_INET6), (True, False)))
"""Family, and whether the kernel may join packets."""

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
SIZES = (1, 2, 7, 8, 63, 64, 65, 100, 255, 256, 257, 512, 1200, 1472, 2047, 2048, 9000)
ALONE = (0, *SIZES, 30_000, 65_507)
"""Sizes of datagrams that are sent one by one."""

BUFFERS = (1 << 16, 2048)
"""Bytes of a ring's buffers."""

MOST = 60_000
SEGMENTS = 64
KEPT = 500
UDP_SEGMENT = 103
PATIENCE = 20.0
"""Seconds after which a datagram on the loopback is taken for lost."""


@dataclass
class Report:
    """What a campaign came to."""

    packets: int
    joined: int
    seconds: float


class Campaign:
    """A ring, somebody who sends to it, and fragments that are kept for a while."""

    def __init__(self, family: int, gro: bool, seed: int, buf_size: int = 1 << 16) -> None:
        self._chance = random.Random(seed)
        self._arena = self._chance.randbytes(1 << 20)
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.bind((HOSTS[socket.AddressFamily(family)], 0))
        self._sender = socket.socket(family, socket.SOCK_DGRAM)
        self._sender.connect(self._sock.getsockname())
        self._most = buf_size
        self._pool = PagePool(max(buf_size, 1 << 15))
        self._ring = RxRing(
            self._sock, gro=gro, buf_size=buf_size, slots=16, cache=PageFragCache(self._pool)
        )
        self._cut = 0
        self._kept: deque[tuple[Fragment, bytes]] = deque()
        self._sent = 0

    def run(self, count: int, seconds: float) -> Report:
        """Send and check *count* datagrams, or as many as go in *seconds*."""
        start = time.monotonic()
        with self._sock, self._sender, self._ring:
            while self._sent < count and time.monotonic() - start < seconds:
                self._check(self._send())
            joined = self._ring.stats().rx_hw_gro_wire_packets
            spent = time.monotonic() - start
            self._end()
        return Report(self._sent, joined, spent)

    def _send(self) -> list[memoryview]:
        """Send a burst and return its datagrams."""
        if self._chance.random() < 0.1:
            size, segments, last = self._chance.choice(ALONE), 1, 0
        else:
            size = self._chance.choice(SIZES)
            segments = self._chance.randint(1, min(SEGMENTS - 1, MOST // size))
            last = self._chance.randint(0, size)
        total = size * segments + last
        where = self._chance.randrange(len(self._arena) - total)
        burst = memoryview(self._arena)[where : where + total]
        self._sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size if total > size else 0)
        self._sender.send(burst)
        cut = range(0, total, size) if size else ()
        return [burst[at : at + size] for at in cut] or [burst]

    def _check(self, expected: list[memoryview]) -> None:
        """Receive what was sent, in order; fail at the first byte that is wrong."""
        got = 0
        while got < len(expected):
            batch = self._ring.recv(self._chance.randint(1, 100), PATIENCE)
            assert batch, f"{len(expected) - got} datagrams of {len(expected)} did not come"
            for frag, wire_length in zip(batch, batch.wire_lengths, strict=True):
                sent = expected[got]
                assert wire_length == len(sent)
                assert frag == sent[: self._most], (
                    f"datagram {self._sent + got} is not what was sent"
                )
                self._cut += len(frag) < wire_length
                if self._chance.random() < 0.01:
                    self._kept.append((frag, frag.tobytes()))
                got += 1
        assert got == len(expected), "more came than was sent"
        self._sent += got
        while len(self._kept) > KEPT:
            self._give_back()

    def _give_back(self) -> None:
        frag, expected = self._kept.popleft()
        assert frag == expected, "a fragment that was kept has changed"
        frag.release()

    def _end(self) -> None:
        """Give everything back and see that nothing is left."""
        while self._kept:
            self._give_back()
        stats = self._ring.stats()
        assert stats.rx_packets == self._sent
        assert (stats.rx_alloc_fail, stats.rx_hw_drop_overruns) == (0, 0)
        assert stats.truncated == self._cut
        assert (self._cut > 0) == (self._most < max(ALONE)), "long ones are cut, and no others"
        assert not self._ring.recv(timeout=0), "more came than was sent"
        cache = self._ring.cache
        self._ring.close()
        cache.drain()
        self._pool.trim()
        assert self._pool.audit().regions_mapped == 0


def main(count: int = 1_000_000, seconds: float = 120, seed: int | None = None) -> int:
    """Go all ways and print how it went; 1 if *seconds* was too short for one."""
    seed = secrets.randbits(32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    short = False
    for (family, gro), buf_size in itertools.product(WAYS, BUFFERS):
        found = Campaign(family, gro, seed, buf_size).run(count // 2, seconds / 2)
        short |= found.packets < count // 2
        name = "IPv4" if family == socket.AF_INET else "IPv6"
        print(
            f"{name}, GRO {'on ' if gro else 'off'}, buffers of {buf_size:6,}: "
            f"{found.packets:,} datagrams checked, "
            f"{found.joined:,} of them joined, {found.seconds:.1f} s",
            flush=True,
        )
    return int(short)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
