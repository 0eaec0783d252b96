"""Rings and rough peers: all sizes, floods, senders that die, closing in any order."""

from __future__ import annotations

import itertools
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import campaign_rings
import pytest
from campaign_rings import BUFFERS, WAYS, Campaign

from machine import HOSTS, bound
from pagefrag import PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build

WORDS = [f"{'IPv6' if family == socket.AF_INET6 else 'IPv4'}-{gro}" for family, gro in WAYS]


@pytest.mark.parametrize("buf_size", BUFFERS)
@pytest.mark.parametrize(("family", "gro"), WAYS, ids=WORDS)
def test_twenty_thousand_datagrams_are_what_was_sent(
    family: socket.AddressFamily, gro: bool, buf_size: int
) -> None:
    bound(family).close()
    report = Campaign(family, gro, seed=1, buf_size=buf_size).run(20_000, math.inf)
    assert report.packets >= 20_000
    assert (report.joined > 0) == gro


def test_the_campaign_sees_a_wrong_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Campaign._send

    def other(self: Campaign) -> list[memoryview]:
        sent = [bytearray(packet) for packet in send(self)]
        sent[-1][-1:] = b"" if not sent[-1] else bytes([sent[-1][-1] ^ 1])
        return [memoryview(packet) for packet in sent]

    monkeypatch.setattr(campaign_rings.Campaign, "_send", other)
    with pytest.raises(AssertionError, match="is not what was sent"):
        Campaign(socket.AF_INET, False, seed=2).run(1000, LONG)


@pytest.mark.parametrize(("family", "gro"), WAYS, ids=WORDS)
def test_datagrams_of_all_sizes(family: socket.AddressFamily, gro: bool) -> None:
    bound(family).close()
    cache = PageFragCache(PagePool(1 << 16))
    with (
        socket.socket(family, socket.SOCK_DGRAM) as sock,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        sock.bind((HOSTS[family], 0))
        sender.connect(sock.getsockname())
        with RxRing(sock, gro=gro, buf_size=1 << 16, cache=cache) as ring:
            for size in (0, 1, 1472, 9000, 65_507, 0, 65_507, 1):
                packet = os.urandom(size)
                sender.send(packet)
                batch = ring.recv(timeout=LONG)
                assert [frag.tobytes() for frag in batch] == [packet]
                assert not any(batch.truncated)
            assert ring.stats().truncated == 0


@pytest.mark.parametrize("gro", [False, True])
def test_a_burst_larger_than_the_buffer_is_counted_to_the_last(gro: bool) -> None:
    cache = PageFragCache(PagePool(1 << 16))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        sock.bind(("127.0.0.1", 0))
        sender.connect(sock.getsockname())
        with RxRing(sock, gro=gro, cache=cache) as ring:
            for round_ in range(3):
                for number in range(1000):
                    sender.send((round_ * 1000 + number).to_bytes(4, "big") * 100)
                got: list[int] = []
                while batch := ring.recv(timeout=0):
                    for frag in batch:
                        label = int.from_bytes(frag[:4], "big")
                        assert frag == label.to_bytes(4, "big") * 100
                        got.append(label)
                stats = ring.stats()
                assert got == sorted(set(got))
                assert 0 < len(got) < 1000
                assert stats.rx_packets + stats.rx_hw_drop_overruns == (round_ + 1) * 1000
            assert stats.rx_hw_drops == stats.rx_hw_drop_overruns


SENDER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", int(sys.argv[1])))
number = 0
while True:
    sock.send(number.to_bytes(4, "big") * 300)
    number += 1
"""


def test_a_sender_that_dies_leaves_whole_packets_and_a_working_ring(sock: socket.socket) -> None:
    port = sock.getsockname()[1]
    with RxRing(sock, cache=PageFragCache(PagePool(1 << 16))) as ring:
        for _ in range(2):
            with subprocess.Popen([sys.executable, "-c", SENDER, str(port)]) as process:
                seen, last = 0, -1
                while True:
                    batch = ring.recv(timeout=LONG if process.returncode is None else 0)
                    if not batch:
                        break
                    for frag in batch:
                        label = int.from_bytes(frag[:4], "big")
                        assert frag == label.to_bytes(4, "big") * 300
                        assert label > last
                        last = label
                    seen += len(batch)
                    if seen > 2000 and process.returncode is None:
                        process.kill()
                        process.wait()
            assert seen > 2000
        assert len(ring.recv(timeout=0)) == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))), ids=str)
def test_closing_in_any_order_leaves_nothing(order: tuple[int, ...]) -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    for number in range(20):
        sock.sendto(bytes([number]) * 700, sock.getsockname())
    ring = RxRing(sock, cache=cache)
    batch = ring.recv(timeout=LONG)
    frag = batch[7]
    steps: list[Callable[[], None]] = [
        ring.close,
        sock.close,
        cache.drain,
        batch.release,
        frag.release,
    ]
    gone = False
    for step in order:
        steps[step]()
        gone |= step == 4
        assert gone or frag == bytes([7]) * 700
    cache.drain()
    pool.trim()
    assert pool.audit().regions_mapped == 0
