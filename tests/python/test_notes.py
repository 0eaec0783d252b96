"""What the kernel tells beside the bytes: timestamps, interfaces, truncation, segments."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest

from machine import HOSTS, bound, needs_gro
from pagefrag import PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build

SO_TIMESTAMP = 29
SO_TIMESTAMPNS = 35
UDP_SEGMENT = 103
IP_PKTINFO = 8


def wait_for_stamps(ring: RxRing, sender: socket.socket) -> None:
    """Return when packets get their time on arrival, and no more when they are read."""
    arrived = False
    while not arrived:
        sender.send(b"x")
        after = time.time_ns()
        time.sleep(0.01)
        arrived = ring.recv(timeout=LONG).timestamps[0] <= after


def test_timestamps_are_nanoseconds_of_the_clock_and_ascend(
    sock: socket.socket, sender: socket.socket
) -> None:
    with RxRing(sock, timestamps=True) as ring:
        wait_for_stamps(ring, sender)
        before = time.time_ns()
        for number in range(20):
            sender.send(bytes(number))
        after = time.time_ns()
        time.sleep(0.01)
        batch = ring.recv(timeout=LONG)
    stamps = np.asarray(batch.timestamps)
    assert (stamps.dtype, stamps.shape) == (np.int64, (20,))
    assert before <= stamps[0]
    assert stamps[-1] <= after
    assert (np.diff(stamps) >= 0).all()
    assert (np.diff(stamps) > 0).any()


def test_arrays_are_taken_without_a_copy(sock: socket.socket, sender: socket.socket) -> None:
    sender.send(b"x")
    with RxRing(sock, timestamps=True) as ring:
        batch = ring.recv(timeout=LONG)
    for view, kind in (
        (batch.lengths, np.uint32),
        (batch.wire_lengths, np.uint32),
        (batch.offsets, np.uint32),
        (batch.pages, np.uintp),
        (batch.timestamps, np.int64),
        (batch.interfaces, np.uint32),
        (batch.truncated, np.bool_),
        (batch.segments, np.bool_),
    ):
        array = np.asarray(view)
        assert array.dtype == kind
        assert array.ctypes.data == np.frombuffer(view, np.uint8).ctypes.data
        batch.release()
        assert array.tolist() == view.tolist()


def test_without_timestamps_there_are_none(sock: socket.socket, sender: socket.socket) -> None:
    sender.send(b"x")
    with RxRing(sock) as ring:
        batch = ring.recv(timeout=LONG)
        assert sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS) == 0
    assert list(batch.timestamps) == [0]
    assert list(batch.interfaces) == [0]


@pytest.mark.parametrize("micros", [0, 1])
def test_the_option_is_put_back_as_it_was(sock: socket.socket, micros: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, micros)
    with RxRing(sock, timestamps=True, interfaces=True):
        assert sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, IP_PKTINFO) == 1
    assert sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS) == 0
    assert sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMP) == micros
    assert sock.getsockopt(socket.IPPROTO_IP, IP_PKTINFO) == 0


@pytest.mark.parametrize("family", HOSTS)
@pytest.mark.parametrize("gro", [False, True])
def test_each_packet_tells_its_interface_and_time(family: int, gro: bool) -> None:
    with bound(family) as sock:
        pool = PagePool(65536)
        with RxRing(
            sock, gro=gro, timestamps=True, interfaces=True, cache=PageFragCache(pool)
        ) as ring:
            for _ in range(5):
                sock.sendto(b"x", sock.getsockname())
            interfaces: list[int] = []
            stamps: list[int] = []
            while len(stamps) < 5:
                batch = ring.recv(timeout=LONG)
                interfaces += batch.interfaces
                stamps += batch.timestamps
    assert interfaces == [socket.if_nametoindex("lo")] * 5
    assert abs(time.time_ns() - stamps[0]) < LONG * 1e9


def test_a_mapped_address_on_an_ipv6_socket_tells_its_interface() -> None:
    with bound(socket.AF_INET6) as probe:
        probe.close()
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        with RxRing(sock, interfaces=True) as ring:
            sender.sendto(b"x", ("127.0.0.1", sock.getsockname()[1]))
            batch = ring.recv(timeout=LONG)
    assert list(batch.interfaces) == [socket.if_nametoindex("lo")]
    assert batch.addresses[0][0] == "::ffff:127.0.0.1"


def test_truncation_is_told_for_each_packet(sock: socket.socket, sender: socket.socket) -> None:
    for size in (100, 101, 0, 3000):
        sender.send(bytes(size))
    with RxRing(sock, buf_size=100) as ring:
        batch = ring.recv(timeout=LONG)
    assert list(batch.truncated) == [False, True, False, True]
    assert list(batch.wire_lengths) == [100, 101, 0, 3000]


def test_segments_are_told_and_share_their_time(sock: socket.socket, sender: socket.socket) -> None:
    with RxRing(sock, timestamps=True) as ring:
        needs_gro(ring)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.send(bytes(4500))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        sender.send(b"alone")
        lengths: list[int] = []
        marks: list[bool] = []
        stamps: list[int] = []
        while len(lengths) < 6:
            batch = ring.recv(timeout=LONG)
            lengths += batch.lengths
            marks += batch.segments
            stamps += batch.timestamps
    assert lengths == [1000, 1000, 1000, 1000, 500, 5]
    assert marks == [True] * 5 + [False]
    assert len(set(stamps[:5])) == 1
    assert stamps[5] >= stamps[0] > 0
