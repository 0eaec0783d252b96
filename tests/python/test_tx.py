"""`TxRing`: datagrams out of any buffer, sent once or told; closing."""

from __future__ import annotations

import array
import errno
import gc
import socket
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pagefrag
from actors import LONG, started
from machine import bound
from pagefrag import (
    Batch,
    PageFragCache,
    PagefragError,
    PagePool,
    RxRing,
    SendError,
    TxRing,
    TxStats,
    build_skb,
    netdev_alloc_skb,
)

SO_NO_CHECK = 11
SIZES = [0, 1, 1472, 9000, 65_507]


def udp(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = bound(family)
    sock.settimeout(LONG)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return sock


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    with udp() as sock:
        yield sock


@pytest.fixture
def sock(sink: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(sink.getsockname())
        yield sock


def read(sink: socket.socket, count: int) -> list[bytes]:
    """Read *count* datagrams and see that there is not one more."""
    got = [sink.recv(65536) for _ in range(count)]
    sink.setblocking(False)
    with pytest.raises(BlockingIOError):
        sink.recv(1)
    sink.settimeout(LONG)
    return got


def sent_or_told(ring: TxRing, buffers: list[bytes]) -> OSError | None:
    """Send *buffers*, all of which go; return what was told about earlier datagrams."""
    try:
        assert ring.send(buffers) == len(buffers)
    except SendError as error:
        assert (error.failed, error.accepted) == ((), len(buffers))  # noqa: PT017 - either will do
        return error
    return None


def packets(sizes: list[int]) -> list[bytes]:
    return [np.random.default_rng(seed).bytes(size) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("gso", [False, True])
def test_what_is_sent_arrives(family: socket.AddressFamily, gso: bool) -> None:
    sent = packets(SIZES + [1200] * 30 + [7] * 5)
    with udp(family) as sink, socket.socket(family, socket.SOCK_DGRAM) as sock:
        with TxRing(sock, gso=gso) as ring:
            assert ring.send(sent, to=sink.getsockname()) == len(sent)
            assert ring.flush() == ring.queued == 0
            stats = ring.stats()
        assert read(sink, len(sent)) == sent
    assert isinstance(stats, TxStats)
    assert (stats.tx_packets, stats.tx_bytes) == (len(sent), sum(map(len, sent)))
    assert (stats.tx_hw_gso_packets, stats.tx_hw_gso_wire_packets) == ((2, 35) if gso else (0, 0))
    assert (stats.batches, stats.tx_hw_drops, stats.gso_refused) == (1, 0, 0)


def test_every_kind_of_buffer_is_sent_as_its_bytes(
    sock: socket.socket, sink: socket.socket
) -> None:
    cache = PageFragCache()
    frag = cache.alloc(5)
    frag[:] = b"frag!"
    skb = netdev_alloc_skb(100)
    skb.put(b"body").release()
    skb.push(b"head").release()
    skb.add_frag(frag)
    buffers: list[Any] = [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview")[2:],
        array.array("H", [1, 2, 3]),
        np.arange(12, dtype=np.float32).reshape(3, 4),
        frag,
        frag[1:3],
        frag.toreadonly(),
        skb,
        skb.clone(),
        netdev_alloc_skb(10),
    ]
    expected = [bytes(skb.tobytes() if buffer is skb else buffer) for buffer in buffers[:9]]
    expected[8] = b"headbodyfrag!"
    with TxRing(sock) as ring:
        assert ring.send(buffers) == len(buffers)
    assert read(sink, len(buffers)) == [*expected, b"headbodyfrag!", b""]


def test_one_buffer_is_one_datagram(sock: socket.socket, sink: socket.socket) -> None:
    with TxRing(sock) as ring:
        for buffer in (b"one", PageFragCache().alloc(3).tobytes(), bytearray(b"two")):
            assert ring.send(buffer) == 1
        assert ring.send([]) == ring.send(()) == 0
        assert ring.send(bytes([n]) for n in range(3)) == 3
    assert len(read(sink, 6)) == 6


def test_each_has_its_own_destination(sock: socket.socket, sink: socket.socket) -> None:
    with udp() as other, udp() as third, TxRing(third) as ring:
        there, here = other.getsockname(), sink.getsockname()
        assert ring.send([b"1", b"2", b"3", b"4"], to=[here, there, there, here]) == 4
        assert read(sink, 2) == [b"1", b"4"]
        assert read(other, 2) == [b"2", b"3"]
        with TxRing(sock) as connected:
            connected.send([b"5", b"6"], to=iter([None, there]))
        assert read(sink, 1) == [b"5"]
        assert read(other, 1) == [b"6"]


def test_names_are_looked_up(sink: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, TxRing(sock) as ring:
        ring.send(b"by name", to=("localhost", sink.getsockname()[1]))
        with pytest.raises(socket.gaierror):
            ring.send(b"x", to=("no such host.invalid", 1))
    assert read(sink, 1) == [b"by name"]


def test_an_ipv6_address_keeps_its_scope() -> None:
    with udp(socket.AF_INET6) as sink, udp(socket.AF_INET6) as sock:
        host, port, _, _ = sink.getsockname()
        with TxRing(sock) as ring:
            ring.send([b"two", b"four"], to=[(host, port), (host, port, 0, 0)])
        assert read(sink, 2) == [b"two", b"four"]


@pytest.mark.parametrize("how", ["batch", "addresses"])
def test_a_batch_goes_back_to_its_senders(sink: socket.socket, how: str) -> None:
    with udp() as one, udp() as two, RxRing(sink) as rx, TxRing(sink) as tx:
        for number in range(5):
            one.sendto(bytes([number]) * 300, sink.getsockname())
            two.sendto(bytes([number]) * 600, sink.getsockname())
        got = 0
        while got < 10:
            batch = rx.recv(timeout=LONG)
            assert isinstance(batch, Batch)
            got += tx.send(batch, to=batch if how == "batch" else batch.addresses)
        assert read(one, 5) == [bytes([number]) * 300 for number in range(5)]
        assert read(two, 5) == [bytes([number]) * 600 for number in range(5)]


def test_a_batch_and_its_slices_are_sent_whatever_was_taken_out(
    sock: socket.socket, sink: socket.socket
) -> None:
    pool = PagePool()
    with udp() as source, RxRing(source, cache=PageFragCache(pool)) as rx, TxRing(sock) as tx:
        sent = [bytes([number]) * 300 for number in range(8)]
        for packet in sent:
            source.sendto(packet, source.getsockname())
        batch = rx.recv(timeout=LONG)
        taken = batch[3]
        assert tx.send(batch) == 8
        assert tx.send(batch[::-2]) == 4
        assert read(sink, 12) == sent + sent[::-2]
        taken[:] = b"!" * 300
        assert tx.send(batch) == 8
        assert read(sink, 8) == [*sent[:3], b"!" * 300, *sent[4:]]
        taken.release()
        with pytest.raises(ValueError, match="released fragment"):
            tx.send(batch)
        batch.release()
        with pytest.raises(ValueError, match="released batch"):
            tx.send(batch)
        with pytest.raises(ValueError, match="8 addresses for 1"):
            tx.send(b"x", to=batch)
        assert read(sink, 0) == []
    assert pool.stats().live_bytes == 0


def test_a_batch_is_sent_without_an_object_for_each_packet(
    sock: socket.socket, sink: socket.socket
) -> None:
    # Read without a ring as well: joined datagrams would be one there.
    with udp() as source, RxRing(source, gro=False) as rx, TxRing(sock) as tx:
        for _ in range(64):
            source.sendto(b"x" * 300, source.getsockname())
        batch = rx.recv(timeout=LONG)
        tx.send(batch, to=batch)  # everything that is made once was made
        for _ in range(64):
            source.recv(300)
        before = sys.getallocatedblocks()
        tx.send(batch)
        tx.send(batch, to=batch)
        assert sys.getallocatedblocks() - before < 5
        assert len(read(sink, 64)) == 64


def test_a_packet_without_an_ip_address_is_not_answered(sock: socket.socket) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, RxRing(ours) as rx, TxRing(sock) as tx:
        theirs.send(b"x")
        batch = rx.recv(timeout=LONG)
        with pytest.raises(ValueError, match="no IP address"):
            tx.send(batch, to=batch)
        assert tx.queued == tx.stats().tx_packets == 0


def test_a_unix_socket_that_is_full_is_waited_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    sent = packets([100 + number % 50 for number in range(1000)])
    with ours, theirs, TxRing(ours, slots=1024) as ring:
        assert ring.send(sent) == 1000
        assert 0 < ring.queued < 1000
        thread, found = started(lambda: [theirs.recv(200) for _ in sent])
        assert ring.flush() == 0
        thread.join()
        assert found == [sent]
        with pytest.raises(SendError, match="Invalid argument"):
            ring.send(b"x", to=("127.0.0.1", 9))
        theirs.close()
        with pytest.raises(SendError) as caught:
            ring.send(b"nobody")
        assert [index for index, _ in caught.value.failed] == [0]
        assert ring.stats().tx_packets == 1000


def test_with_the_error_queue_on_nothing_is_cut_and_everything_arrives_once(
    sock: socket.socket, sink: socket.socket
) -> None:
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    with TxRing(sock) as ring:
        assert ring.gso is False
        ring.send([b"same"] * 10)
        assert (ring.stats().tx_hw_gso_packets, ring.stats().tx_packets) == (0, 10)
    assert read(sink, 10) == [b"same"] * 10


def test_more_than_the_slots_goes_in_several_calls(
    sock: socket.socket, sink: socket.socket
) -> None:
    sent = packets([200 + number % 3 for number in range(100)])
    with TxRing(sock, slots=8) as ring:
        assert ring.send(sent) == 100
        assert (ring.stats().batches, ring.stats().largest_batch) == (13, 8)
    assert read(sink, 100) == sent


def test_buffers_are_let_go_when_the_kernel_has_them(sock: socket.socket) -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    frag, skb, plain = cache.alloc(1000), build_skb(cache.alloc(2048)), bytearray(10)
    behind = cache.alloc(100)
    skb.add_frag(behind)
    with TxRing(sock) as ring:
        ring.send([frag, skb, plain, bytes(1000)])
        plain.append(1)
        for thing in (frag, skb, behind):
            thing.release()
    assert pool.stats().live_bytes == 0


def test_a_datagram_that_is_too_long_is_told_by_index(
    sock: socket.socket, sink: socket.socket
) -> None:
    with TxRing(sock) as ring:
        with pytest.raises(SendError, match="Message too long") as caught:
            ring.send([b"a", bytes(65_508), b"b", bytes(70_000)])
        error = caught.value
        assert isinstance(error, PagefragError)
        assert isinstance(error, OSError)
        assert (error.errno, error.accepted) == (errno.EMSGSIZE, 4)
        assert [index for index, _ in error.failed] == [1, 3]
        assert {why.errno for _, why in error.failed} == {errno.EMSGSIZE}
        assert (ring.stats().tx_packets, ring.stats().tx_hw_drop_errors) == (2, 2)
    assert read(sink, 2) == [b"a", b"b"]


@pytest.mark.parametrize("gso", [False, True])
def test_a_refused_port_is_told_and_the_next_listener_gets_everything_once(gso: bool) -> None:
    with udp() as gone:
        address = gone.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        with TxRing(sock, gso=gso) as ring:
            # The second call hears of the first one, if that has not heard already.
            told = [sent_or_told(ring, [b"nobody", b"there"]) for _ in range(2)]
            assert {error.errno for error in told if error} == {errno.ECONNREFUSED}
            sent_or_told(ring, [b"clears what is still told"])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
                back.bind(address)
                back.settimeout(LONG)
                sent_or_told(ring, [b"once", b"only"])
                assert read(back, 2) == [b"once", b"only"]
            assert ring.stats().tx_hw_drops == 0


def test_without_segmentation_the_ring_goes_on(sock: socket.socket, sink: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    with TxRing(sock) as ring:
        for _ in range(3):
            ring.send([b"same"] * 10)
        stats = ring.stats()
        assert (stats.gso_refused, stats.tx_hw_gso_packets, stats.tx_packets) == (1, 0, 30)
    assert read(sink, 30) == [b"same"] * 30


def test_a_burst_beyond_the_send_buffer_arrives_whole(
    sock: socket.socket, sink: socket.socket
) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sent = packets([1400] * 500)
    with TxRing(sock) as ring:
        assert ring.send(sent) == 500
    assert read(sink, 500) == sent


# --- closing --------------------------------------------------------


def test_a_closed_ring_refuses_and_keeps_its_counters(
    sock: socket.socket, sink: socket.socket
) -> None:
    ring = TxRing(sock)
    ring.send([b"a", b"b"])
    assert (ring.fileno(), ring.gso) == (sock.fileno(), True)
    ring.close()
    assert (ring.fileno(), ring.gso, repr(ring)) == (-1, False, "<TxRing closed>")
    assert ring.stats().tx_packets == 2
    for use in (lambda: ring.send(b"x"), ring.flush, ring.__enter__):
        with pytest.raises(ValueError, match="closed ring"):
            use()
    sock.send(b"the socket stays open")
    assert len(read(sink, 3)) == 3


def test_a_closed_socket_is_an_error_and_frees_its_port(sink: socket.socket) -> None:
    sock = udp()
    address = sock.getsockname()
    ring = TxRing(sock)
    ring.send(b"x", to=sink.getsockname())
    assert ring.fileno() == sock.fileno()
    sock.close()
    assert ring.fileno() == -1  # the number may be anybody's now
    with pytest.raises(OSError, match="closed") as caught:
        ring.send(b"x", to=sink.getsockname())
    assert caught.value.errno == errno.EBADF
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)


def test_a_socket_that_is_shut_down_is_told_and_keeps_the_queue(sock: socket.socket) -> None:
    ring = TxRing(sock)
    sock.shutdown(socket.SHUT_WR)
    with pytest.raises(SendError) as caught:
        ring.send([b"a", b"b"])
    assert (caught.value.errno, caught.value.failed, caught.value.accepted) == (errno.EPIPE, (), 2)
    assert ring.close() == 2


def test_an_exception_in_the_block_does_not_wait(sock: socket.socket) -> None:
    with pytest.raises(KeyError), TxRing(sock) as ring:
        raise KeyError
    assert repr(ring) == "<TxRing closed>"


def test_a_finalizer_may_send(sock: socket.socket, sink: socket.socket) -> None:
    ring = TxRing(sock)

    class Last(bytearray):
        def __del__(self) -> None:
            ring.send(b"last words")

    ring.send([Last(b"first")])
    gc.collect()
    assert read(sink, 2) == [b"first", b"last words"]
    ring.close()


def test_a_ring_leaves_no_references(sock: socket.socket) -> None:
    thing = bytearray(10)
    before = sys.getrefcount(thing)
    ring = TxRing(sock)
    for _ in range(10):
        ring.send([thing, bytes(65_508)][:1])
        with pytest.raises(SendError):
            ring.send([thing, bytes(65_508)])
    assert sys.getrefcount(thing) == before
    gone = weakref.ref(ring)
    ring.close()
    del ring
    gc.collect()
    assert gone() is None


def test_send_error_is_a_frozen_habit() -> None:
    assert (SendError.failed, SendError.accepted) == ((), 0)
    assert issubclass(SendError, (pagefrag.PagefragError, OSError))


def test_a_host_with_a_scope_is_looked_up() -> None:
    with udp(socket.AF_INET6) as sink, udp(socket.AF_INET6) as sock, TxRing(sock) as ring:
        assert ring.send(b"scoped", to=("::1%1", sink.getsockname()[1])) == 1
        assert read(sink, 1) == [b"scoped"]
