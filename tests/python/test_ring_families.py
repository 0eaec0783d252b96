"""Rings over UNIX datagram sockets and packet sockets."""

from __future__ import annotations

import array
import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from link import Network
from pagefrag import PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build

ETH_P_ALL = 3
LOOPBACK_HEADER = 14


def unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def test_a_pair_of_unix_sockets_keeps_bounds_and_bytes() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sent = [bytes([number]) * (number * 30) for number in range(60)]
    with left, right, RxRing(left) as ring:
        got: list[bytes] = []
        for packet in sent:
            right.send(packet)
            batch = ring.recv(timeout=LONG)
            got += [frag.tobytes() for frag in batch]
            assert batch.addresses == (None,)
        assert ring.stats().rx_packets == 60
    assert got == sent


def test_unix_addresses_are_those_of_the_socket_module(tmp_path: Path) -> None:
    short, long = tmp_path / "s", tmp_path / ("l" * (100 - len(os.fspath(tmp_path))))
    assert len(os.fspath(long)) > 28
    names: list[str | bytes | None] = [
        os.fspath(short),
        os.fspath(long),
        b"\0abstract " + os.urandom(8),
        b"\0" + os.urandom(40),
        None,
    ]
    with unix() as sock, unix() as plain:
        sock.bind(os.fspath(tmp_path / "ring"))
        plain.bind(os.fspath(tmp_path / "plain"))
        with RxRing(sock) as ring:
            for name in names:
                with unix() as sender:
                    if name is not None:
                        sender.bind(name)
                    sender.sendto(b"x", sock.getsockname())
                    sender.sendto(b"x", plain.getsockname())
            batch = ring.recv(timeout=LONG)
            told = [plain.recvfrom(10)[1] for _ in names]
    assert list(batch.addresses) == told == names


def test_unix_datagrams_of_any_size() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    cache = PageFragCache(PagePool(1 << 17))
    with left, right, RxRing(left, buf_size=1 << 17, cache=cache) as ring:
        assert not ring.gro
        for size in (0, 1, 1472, 9000, 65_507, 100_000):
            packet = os.urandom(size)
            right.send(packet)
            assert ring.recv(timeout=LONG)[0] == packet


def test_unix_timestamps() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, RxRing(left, timestamps=True, interfaces=True) as ring:
        before = time.time_ns()
        right.send(b"x")
        batch = ring.recv(timeout=LONG)
        assert before <= batch.timestamps[0] <= time.time_ns()
        assert list(batch.interfaces) == [0]


@pytest.mark.parametrize("timestamps", [False, True])
def test_descriptors_that_come_along_do_not_stay_open(timestamps: bool) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reader, writer = os.pipe()
    with left, right, RxRing(left, timestamps=timestamps) as ring:
        rights = array.array("i", [writer] * 5)
        for _ in range(3):
            right.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert len(ring.recv(timeout=LONG)) == 3
        os.close(writer)
        # The last writer is gone: the pipe has come to its end.
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_senders_process_does_not_stay_open() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, RxRing(left, timestamps=True) as ring:
        try:
            left.setsockopt(socket.SOL_SOCKET, 76, 1)  # SO_PASSPIDFD
        except OSError:
            pytest.skip("this kernel has no SO_PASSPIDFD")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            right.send(b"x")
        assert len(ring.recv(timeout=LONG)) == 5
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_unix_sender_that_dies_leaves_its_packets() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, RxRing(left) as ring:
        right.send(b"last words")
        right.close()
        assert ring.recv(timeout=LONG)[0] == b"last words"
        # An end of a pair is connected: the kernel tells once that the other has gone.
        with contextlib.suppress(ConnectionResetError):
            assert len(ring.recv(timeout=0)) == 0
        assert len(ring.recv(timeout=0.05)) == 0


@pytest.fixture
def network() -> Iterator[None]:
    """A loopback device that no other program uses, or the common one where that is not allowed."""
    try:
        own = Network()
    except PermissionError:
        yield
        return
    yield
    own.leave()


@pytest.fixture
def packet_socket(network: None) -> Iterator[socket.socket]:  # noqa: ARG001 - where it is bound
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    except PermissionError:
        pytest.skip("packet sockets need CAP_NET_RAW")
    with sock:
        sock.bind(("lo", 0))
        yield sock


def test_a_packet_socket_gives_frames_and_addresses(
    packet_socket: socket.socket, sender: socket.socket
) -> None:
    pattern = os.urandom(600)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as plain,
    ):
        plain.bind(("lo", 0))
        plain.settimeout(LONG)
        with RxRing(packet_socket, timestamps=True) as ring:
            assert not ring.gro
            before = time.time_ns()
            sender.send(pattern)
            expected: list[tuple[bytes, object]] = []
            while len(expected) < 2:
                frame, address = plain.recvfrom(65535)
                if pattern in frame:
                    expected.append((frame, address))
            got: list[tuple[bytes, object]] = []
            while len(got) < 2:
                batch = ring.recv(timeout=LONG)
                for index, frag in enumerate(batch):
                    if pattern in frag.tobytes():
                        got.append((frag.tobytes(), batch.addresses[index]))
                        assert batch.timestamps[index] >= before
                assert set(batch.interfaces) == {socket.if_nametoindex("lo")}
            assert got == expected
            assert {address[2] for _, address in got} == {0, 4}  # to us, and outgoing


def test_a_packet_socket_of_datagrams_has_no_link_header(
    packet_socket: socket.socket, sender: socket.socket
) -> None:
    packet_socket.close()
    pattern = os.urandom(300)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as cooked:
        cooked.bind(("lo", 0x0800))
        with RxRing(cooked, buf_size=100) as ring:
            sender.send(pattern)
            while True:
                batch = ring.recv(timeout=LONG)
                found = [i for i, frag in enumerate(batch) if pattern[:50] in frag.tobytes()]
                if found:
                    break
            assert batch.lengths[found[0]] == 100
            assert batch.wire_lengths[found[0]] == 20 + 8 + 300
            assert batch.truncated[found[0]]
            assert batch[found[0]][0] == 0x45


def test_an_error_that_stays_does_not_make_the_wait_spin(sock: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    sock.connect(address)
    sock.send(b"nobody there")
    with RxRing(sock) as ring:
        with pytest.raises(ConnectionRefusedError):
            ring.recv(timeout=LONG)
        before = resource.getrusage(resource.RUSAGE_THREAD)
        assert len(ring.recv(timeout=0.5)) == 0
        after = resource.getrusage(resource.RUSAGE_THREAD)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert used < 0.25
        # The queue is still its owner's, and packets still come.
        assert sock.recvmsg(100, 1000, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(address)
            peer.sendto(b"here", sock.getsockname())
        assert ring.recv(timeout=LONG)[0] == b"here"
