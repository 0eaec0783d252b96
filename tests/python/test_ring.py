"""`RxRing`: datagrams into fragments, waiting, closing, and pools at their limit."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import time
import weakref

import pytest

import pagefrag
from actors import LONG, started, until
from machine import needs_gro
from pagefrag import Batch, ContextError, Fragment, PageFragCache, PagePool, RxRing

UDP_SEGMENT, UDP_GRO = 103, 104


def test_empty_datagrams_are_packets(sock: socket.socket, sender: socket.socket) -> None:
    for packet in (b"", b"x", b""):
        sender.send(packet)
    with RxRing(sock) as ring:
        assert [frag.tobytes() for frag in ring.recv(timeout=LONG)] == [b"", b"x", b""]


def test_long_datagrams_are_cut_and_told(sock: socket.socket, sender: socket.socket) -> None:
    sender.send(b"a" * 3000)
    sender.send(b"b" * 100)
    with RxRing(sock, buf_size=1000) as ring:
        batch = ring.recv(timeout=LONG)
        assert list(batch.lengths) == [1000, 100]
        assert list(batch.wire_lengths) == [3000, 100]
        assert ring.stats().truncated == 1


def test_max_is_kept_and_the_rest_waits(sock: socket.socket, sender: socket.socket) -> None:
    for number in range(10):
        sender.send(bytes([number]))
    with RxRing(sock, slots=8) as ring:
        assert [frag[0] for frag in ring.recv(3, LONG)] == [0, 1, 2]
        got: list[int] = []
        while len(got) < 7:
            got += [frag[0] for frag in ring.recv(timeout=LONG)]
        assert got == [3, 4, 5, 6, 7, 8, 9]
        assert not ring.recv(timeout=0)


def test_nothing_there_is_an_empty_batch(sock: socket.socket) -> None:
    with RxRing(sock) as ring:
        for timeout in (0, 0.0, 0.001, 1e-12):
            batch = ring.recv(timeout=timeout)
            assert (len(batch), bool(batch), list(batch)) == (0, False, [])
        assert batch.addresses == ()
        assert batch.discarded == 0


def test_packets_are_fragments_of_the_cache(sock: socket.socket, sender: socket.socket) -> None:
    cache = PageFragCache(PagePool())
    with RxRing(sock, cache=cache) as ring:
        assert ring.cache is cache
        sender.send(b"x" * 1000)
        batch = ring.recv(timeout=LONG)
        frag = batch[0]
        assert not frag.readonly
        frag[0] = 0
        assert list(batch.offsets) == [frag.offset]
        assert list(batch.pages) == [frag.page]
    batch.release()
    frag.release()
    cache.drain()
    assert cache.pool.audit().live_bytes == 0


def test_fragments_outlive_ring_batch_and_socket() -> None:
    pool = PagePool()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for number in range(30):
            sock.sendto(bytes([number]) * 500, sock.getsockname())
        ring = RxRing(sock, cache=PageFragCache(pool))
        frags = list(ring.recv(timeout=LONG))
        ring.close()
    del ring
    gc.collect()
    for number, frag in enumerate(frags):
        assert frag == bytes([number]) * 500
    frags.clear()
    del frag
    pool.trim()
    assert pool.audit().regions_mapped == 0


def test_many_packets_kept_and_checked(sock: socket.socket, sender: socket.socket) -> None:
    pool = PagePool()
    kept: dict[int, Fragment] = {}
    with RxRing(sock, cache=PageFragCache(pool)) as ring:
        for number in range(5000):
            sender.send(number.to_bytes(4, "big") * (number % 100 + 1))
            if number % 16 == 15:
                for frag in ring.recv(timeout=LONG):
                    label = int.from_bytes(frag[:4].tobytes(), "big")
                    assert frag == label.to_bytes(4, "big") * (label % 100 + 1)
                    if label % 10 == 0:
                        kept[label] = frag
        for label, frag in kept.items():
            assert frag == label.to_bytes(4, "big") * (label % 100 + 1)
        assert ring.stats().rx_packets >= 4900
    del frag
    kept.clear()
    pool.trim()
    assert pool.audit().regions_mapped == 0


def test_a_pool_at_its_limit_counts_and_recovers(
    sock: socket.socket, sender: socket.socket
) -> None:
    cache = PageFragCache(PagePool(max_bytes=2 << 20))
    ring = RxRing(sock, cache=cache)
    hog = []
    while (frag := cache.try_alloc(32768)) is not None:
        hog.append(frag)
    del frag
    while (one := cache.try_alloc(64)) is not None:
        hog.append(one)
    kept: list[Batch] = []
    lost = 0
    for _ in range(20):
        for _ in range(20):
            sender.send(b"x" * 1500)
        batch = ring.recv(timeout=LONG)
        lost += batch.discarded
        kept.append(batch)
    assert lost > 0
    assert ring.stats().rx_alloc_fail == lost
    assert ring.stats().rx_packets == sum(map(len, kept))
    hog.clear()
    kept.clear()
    del batch
    while ring.recv(timeout=0):
        pass
    sender.send(b"again")
    assert ring.recv(timeout=LONG)[0] == b"again"
    ring.close()


def test_a_socket_closed_under_the_ring_is_an_os_error(sock: socket.socket) -> None:
    ring = RxRing(sock)
    sock.close()
    for _ in range(2):
        with pytest.raises(OSError, match="closed") as refused:
            ring.recv(timeout=LONG)
        assert refused.value.errno == errno.EBADF
    ring.close()


def test_a_number_used_again_is_not_read_from(sock: socket.socket) -> None:
    ring = RxRing(sock)
    number = sock.fileno()
    sock.close()
    others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    assert number in {other.fileno() for other in others}
    with pytest.raises(OSError, match="closed"):
        ring.recv(timeout=0)
    for other in others:
        other.close()
    ring.close()


@pytest.mark.parametrize("order", ["ring first", "socket first", "never the ring"])
def test_the_port_is_free_when_both_are_closed(order: str) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    address = sock.getsockname()
    sock.sendto(b"x", address)
    ring = RxRing(sock)
    batch = ring.recv(timeout=LONG)
    if order == "ring first":
        ring.close()
    sock.close()
    if order == "socket first":
        ring.close()
    if order == "never the ring":
        with pytest.raises(OSError, match="closed"):
            ring.recv(timeout=0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)
    assert batch[0] == b"x"
    assert ring.stats().rx_packets == 1


def test_a_socket_that_refers_to_its_ring_is_collected() -> None:
    class Mine(socket.socket):
        ring: RxRing

    sock = Mine(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.ring = RxRing(sock)
    watch = weakref.ref(sock.ring)
    sock.close()
    del sock
    with pytest.warns(ResourceWarning, match="unclosed <RxRing"):
        gc.collect()
    assert watch() is None


def test_close_is_idempotent_and_final(sock: socket.socket, sender: socket.socket) -> None:
    pool = PagePool()
    ring = RxRing(sock, cache=PageFragCache(pool))
    sender.send(b"x")
    ring.recv(timeout=LONG)
    assert ring.fileno() == sock.fileno()
    ring.close()
    ring.close()
    ring.drain()
    assert ring.fileno() == -1
    assert ring.stats().rx_packets == 1
    assert repr(ring) == "<RxRing closed>"
    with pytest.raises(ValueError, match="closed ring"):
        ring.recv(timeout=0)
    with pytest.raises(ValueError, match="closed ring"), ring:
        pass
    ring.cache.drain()
    assert pool.audit().pages_in_use == 0
    sender.send(b"for the socket")
    assert sock.recv(100) == b"for the socket"


def test_drain_gives_back_the_waiting_buffers(sock: socket.socket, sender: socket.socket) -> None:
    pool = PagePool()
    ring = RxRing(sock, cache=PageFragCache(pool))
    sender.send(b"x")
    batch = ring.recv(timeout=LONG)
    ring.drain()
    assert pool.stats().live_bytes == batch[0].capacity
    sender.send(b"y")
    assert ring.recv(timeout=LONG)[0] == b"y"
    ring.close()


def test_waiting_lets_other_threads_run(sock: socket.socket, sender: socket.socket) -> None:
    with RxRing(sock) as ring:
        thread, found = started(lambda: ring.recv(timeout=None))
        until(lambda: ring.stats().waits > 0)
        time.sleep(0.1)
        total = sum(range(100_000))
        sender.send(b"x")
        thread.join()
        assert total == 4_999_950_000
        assert found[0][0] == b"x"
        assert ring.stats().waits == 1  # however often it looked for signals meanwhile


def test_close_wakes_who_waits(sock: socket.socket) -> None:
    ring = RxRing(sock)
    thread, found = started(lambda: ring.recv(timeout=None))
    until(lambda: ring.stats().waits > 0)
    ring.close()
    thread.join()
    assert isinstance(found[0], ValueError)
    assert "closed ring" in str(found[0])


def test_closing_the_socket_wakes_who_waits(sock: socket.socket) -> None:
    ring = RxRing(sock)
    thread, found = started(lambda: ring.recv(timeout=None))
    until(lambda: ring.stats().waits > 0)
    sock.close()
    thread.join()
    assert isinstance(found[0], OSError)
    assert found[0].errno == errno.EBADF
    ring.close()


def test_two_threads_in_recv_is_a_context_error(sock: socket.socket, sender: socket.socket) -> None:
    with RxRing(sock) as ring:
        thread, found = started(lambda: ring.recv(timeout=None))
        until(lambda: ring.stats().waits > 0)
        with pytest.raises(ContextError, match="another call is receiving"):
            ring.recv(timeout=0)
        sender.send(b"x")
        thread.join()
        assert found[0][0] == b"x"
        assert len(ring.recv(timeout=0)) == 0


def test_a_signal_interrupts_at_once(sock: socket.socket) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with RxRing(sock) as ring:
            with pytest.raises(KeyboardInterrupt):
                ring.recv(timeout=None)
            assert len(ring.recv(timeout=0)) == 0
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_returns_does_not_end_the_wait(
    sock: socket.socket, sender: socket.socket
) -> None:
    seen: list[Exception] = []

    def answer(*_: object) -> None:
        try:
            ring.recv(timeout=0)
        except ContextError as error:
            seen.append(error)
        sender.send(b"from the handler")

    before = signal.signal(signal.SIGALRM, answer)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with RxRing(sock) as ring:
            assert ring.recv(timeout=None)[0] == b"from the handler"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == 1


def test_a_shut_down_socket_gives_an_empty_batch(
    sock: socket.socket, sender: socket.socket
) -> None:
    with RxRing(sock) as ring:
        sock.connect(sender.getsockname())
        thread, found = started(lambda: ring.recv(timeout=None))
        until(lambda: ring.stats().waits > 0)
        sock.shutdown(socket.SHUT_RDWR)
        thread.join()
        assert isinstance(found[0], Batch)
        assert len(found[0]) == 0


def kernel_joins() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        except OSError:
            return False
    return True


def test_gro_is_on_whatever_the_pages_if_the_kernel_can(sock: socket.socket) -> None:
    for page_size in (4096, 32768, 1 << 20):
        with RxRing(sock, cache=PageFragCache(PagePool(page_size))) as ring:
            assert ring.gro is kernel_joins()
    with RxRing(sock) as ring:
        assert ring.gro is kernel_joins()
    assert ring.gro is False
    with RxRing(sock, gro=False) as ring:
        assert ring.gro is False


def test_a_ring_that_closes_leaves_the_other_its_joined_packets(
    sock: socket.socket, sender: socket.socket
) -> None:
    with RxRing(sock, timestamps=True) as ring:
        needs_gro(ring)
        other = RxRing(sock, gro=False)
        assert other.gro is True
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.send(bytes(3500))
        other.close()
        sender.send(bytes(3500))
        lengths: list[int] = []
        while len(lengths) < 8:
            batch = ring.recv(timeout=LONG)
            lengths += batch.lengths
            assert all(batch.timestamps)
    assert lengths == [1000, 1000, 1000, 500] * 2
    assert sock.getsockopt(socket.IPPROTO_UDP, UDP_GRO) == 0


def test_what_waits_is_told_and_comes_first(sock: socket.socket, sender: socket.socket) -> None:
    with RxRing(sock) as ring:
        needs_gro(ring)
        assert ring.pending == 0
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        sender.send(b"".join(bytes([number]) * 100 for number in range(10)))
        got = [frag[0] for frag in ring.recv(3, LONG)]
        assert ring.pending == 7
        sender.send(b"later")
        while ring.pending:
            got += [frag[0] for frag in ring.recv(2, 0)]
        assert got == list(range(10))
        assert ring.recv(3, LONG)[0] == b"later"
    assert ring.pending == 0


def test_large_pages_receive_the_same_packets(sock: socket.socket, sender: socket.socket) -> None:
    with RxRing(sock, cache=PageFragCache(PagePool(1 << 20)), buf_size=65535) as ring:
        sent = [bytes([number]) * (number * 600 + 1) for number in range(60)]
        got: list[bytes] = []
        for packet in sent:
            sender.send(packet)
            got += [frag.tobytes() for frag in ring.recv(timeout=LONG)]
        while len(got) < len(sent):
            got += [frag.tobytes() for frag in ring.recv(timeout=LONG)]
        assert got == sent


def test_the_ring_keeps_its_socket_and_nothing_more() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    watch = weakref.ref(sock)
    sock.sendto(b"x", sock.getsockname())
    ring = RxRing(sock)
    del sock
    assert ring.recv(timeout=LONG)[0] == b"x"
    ring.close()
    found = watch()
    assert found is not None
    found.close()
    gone = weakref.ref(ring)
    del ring
    assert gone() is None


def test_the_default_cache_is_the_rings_own(sock: socket.socket) -> None:
    with RxRing(sock) as ring, RxRing(sock) as other:
        assert ring.cache is not other.cache
        assert ring.cache.pool is pagefrag.default_pool()


def test_a_wait_sleeps_though_the_error_queue_is_full(
    sock: socket.socket, sender: socket.socket
) -> None:
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        dead = gone.getsockname()
    sock.sendto(b"x", dead)
    with RxRing(sock) as ring:
        with pytest.raises(ConnectionRefusedError):
            ring.recv(timeout=LONG)
        start, busy = time.monotonic(), time.thread_time()
        assert not ring.recv(timeout=0.5)
        assert time.monotonic() - start >= 0.5
        assert time.thread_time() - busy < 0.1
        sender.send(b"after all")
        assert ring.recv(timeout=LONG)[0] == b"after all"


def test_a_wait_counts_once_however_long(sock: socket.socket) -> None:
    with RxRing(sock) as ring:
        ring.recv(timeout=0)
        assert ring.stats().waits == 0
        for waits in (1, 2):
            ring.recv(timeout=0.1)
            assert ring.stats().waits == waits


def test_the_number_of_a_closed_socket_is_not_told(sock: socket.socket) -> None:
    with RxRing(sock) as ring:
        assert ring.fileno() == sock.fileno()
        sock.close()
        with open(os.devnull, "rb") as stranger:  # noqa: PTH123 - takes the number
            assert stranger.fileno() >= 0
            assert ring.fileno() == -1


def test_an_error_on_the_way_to_a_socket_is_passed_on() -> None:
    class Broken:
        @property
        def fileno(self) -> object:
            raise MemoryError

    with pytest.raises(MemoryError):
        RxRing(Broken())  # type: ignore[arg-type]


def test_packets_that_a_close_leaves_behind_are_counted(
    sock: socket.socket, sender: socket.socket
) -> None:
    ring = RxRing(sock)
    needs_gro(ring)
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
    sender.send(bytes(10 * 100))
    got = len(ring.recv(3, LONG))
    assert got == 3
    ring.close()
    stats = ring.stats()
    assert stats.rx_packets + stats.rx_hw_drops == 10
    assert stats.rx_hw_drop_overruns == 0
