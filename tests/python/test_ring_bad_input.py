"""What rings say to what they cannot do: one clear error for each, and nothing changes."""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from actors import LONG
from machine import needs_gro
from pagefrag import (
    ContextError,
    PageFragCache,
    PagePool,
    RxRing,
    SendError,
    TxRing,
    netdev_alloc_skb,
)

RINGS: list[type[RxRing] | type[TxRing]] = [RxRing, TxRing]


class Odd:
    """Something like a socket whose `fileno` does as told."""

    def __init__(self, number: Any) -> None:
        self._number = number

    def fileno(self) -> Any:
        if isinstance(self._number, Exception):
            raise self._number
        return self._number


def _closed() -> socket.socket:
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.close()
    return gone


def _seqpacket() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    return ours


FOREIGN: dict[str, tuple[Callable[[], Any], int]] = {
    "stream": (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), errno.EPROTOTYPE),
    "seqpacket": (_seqpacket, errno.EPROTOTYPE),
    "netlink": (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM), errno.EAFNOSUPPORT),
    "closed": (_closed, errno.EBADF),
    "file": (lambda: open(os.devnull, "rb"), errno.ENOTSOCK),  # noqa: PTH123, SIM115
    "pipe": (lambda: os.fdopen(os.pipe()[0], "rb"), errno.ENOTSOCK),
    "closed number": (lambda: Odd(-1), errno.EBADF),
    "number of nothing": (lambda: Odd(987_654), errno.EBADF),
}


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_no_ring_can_be_over_is_refused_with_its_number(
    ring: type[RxRing] | type[TxRing], foreign: str
) -> None:
    make, number = FOREIGN[foreign]
    thing = make()
    try:
        with pytest.raises(OSError) as refused:  # noqa: PT011 - the number is looked at
            ring(thing)
        assert refused.value.errno == number
    finally:
        getattr(thing, "close", lambda: None)()


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(
    ("thing", "error"),
    [
        (3, TypeError),
        (None, TypeError),
        ("socket", TypeError),
        (b"socket", TypeError),
        (Odd("3"), TypeError),
        (Odd(2**40), OverflowError),
        (Odd(ZeroDivisionError()), ZeroDivisionError),
    ],
    ids=repr,
)
def test_what_is_not_a_socket_is_refused(
    ring: type[RxRing] | type[TxRing], thing: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ring(thing)


SLOTS: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-1, ValueError),
    (10**6, ValueError),
    (2**64, OverflowError),
    (True, TypeError),
    (64.0, TypeError),
    (None, TypeError),
]


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(("slots", "error"), SLOTS, ids=repr)
def test_slots_out_of_range_are_refused(
    sock: socket.socket, ring: type[RxRing] | type[TxRing], slots: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ring(sock, slots=slots)


@pytest.mark.parametrize(
    ("ring", "named", "error"),
    [
        (RxRing, {"buf_size": 0}, ValueError),
        (RxRing, {"buf_size": -1}, ValueError),
        (RxRing, {"buf_size": 32769}, ValueError),
        (RxRing, {"buf_size": 2048.0}, TypeError),
        (RxRing, {"buf_size": True}, TypeError),
        (RxRing, {"copybreak": -1}, ValueError),
        (RxRing, {"copybreak": None}, TypeError),
        (RxRing, {"cache": PagePool()}, TypeError),
        (RxRing, {"gro": 1}, TypeError),
        (RxRing, {"window": 1}, TypeError),
        (TxRing, {"gso": 1}, TypeError),
        (TxRing, {"gso": None}, TypeError),
        (TxRing, {"buf_size": 2048}, TypeError),
    ],
    ids=repr,
)
def test_bad_options(sock: socket.socket, ring: Any, named: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ring(sock, **named)


@pytest.fixture(params=["recv", "send", "flush"])
def waiting(
    request: pytest.FixtureRequest, sock: socket.socket, sender: socket.socket
) -> Iterator[Callable[[Any], object]]:
    """A call that can wait, as a function of its timeout; has what it needs at once."""
    with ExitStack() as stack:
        if request.param == "recv":
            rx = stack.enter_context(RxRing(sock))

            def recv(timeout: Any) -> object:
                sender.send(b"x")
                return rx.recv(timeout=timeout)

            yield recv
        else:
            tx = stack.enter_context(TxRing(sender))
            if request.param == "send":
                yield lambda timeout: tx.send(b"x", timeout=timeout)
            else:
                yield lambda timeout: tx.flush(timeout=timeout)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf"), -1e300])
def test_bad_timeouts(waiting: Callable[[Any], object], timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        waiting(timeout)


@pytest.mark.parametrize("timeout", ["1", b"1", [], object()], ids=repr)
def test_a_timeout_is_a_number(waiting: Callable[[Any], object], timeout: Any) -> None:
    with pytest.raises(TypeError):
        waiting(timeout)


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e300, 10**9, 10**300])
def test_a_huge_timeout_is_for_ever(waiting: Callable[[Any], object], timeout: Any) -> None:
    waiting(timeout)


@pytest.mark.parametrize(
    ("most", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2**63, OverflowError),
        (True, TypeError),
        (1.5, TypeError),
        (None, TypeError),
    ],
)
def test_bad_max(sock: socket.socket, most: Any, error: type[Exception]) -> None:
    with RxRing(sock) as ring:
        with pytest.raises(error):
            ring.recv(most, timeout=0)
        assert len(ring.recv(timeout=0)) == 0


@pytest.mark.parametrize(
    ("buffers", "to", "error"),
    [
        (None, None, TypeError),
        (["text"], None, TypeError),
        ("text", None, TypeError),
        ([b"a", 5], None, TypeError),
        (np.arange(10)[::2], None, BufferError),
        ([b"a", b"b"], [("127.0.0.1", 9)], ValueError),
        ([b"a"], [("127.0.0.1", 9)] * 2, ValueError),
        (b"a", ("127.0.0.1",), TypeError),
        (b"a", ("127.0.0.1", "9"), TypeError),
        (b"a", ("127.0.0.1", 9, 0), TypeError),
        (b"a", ("127.0.0.1", 65536), OverflowError),
        (b"a", ["127.0.0.1", 9], TypeError),
        (b"a", 9, TypeError),
        (b"a", ("127.0.0.1", -1), OverflowError),
        (b"a", ("127.0.0.1", 9.0), TypeError),
        (b"a", (b"127.0.0.1", 9), TypeError),
        (b"a", ("::1", 9, 0, 2**32), OverflowError),
        (b"a", ("no such host.invalid", 9), socket.gaierror),
        (memoryview(bytes(12)).cast("B", (3, 4))[::2], None, (BufferError, NotImplementedError)),
        (np.asfortranarray(np.zeros((3, 4))), None, BufferError),
    ],
)
def test_bad_arguments_send_nothing(
    sock: socket.socket, sender: socket.socket, buffers: Any, to: Any, error: type[Exception]
) -> None:
    with TxRing(sender) as ring:
        with pytest.raises(error):
            ring.send(buffers, to)
        assert (ring.queued, ring.stats().tx_packets) == (0, 0)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)


def test_released_buffers_are_refused_and_nothing_stays_held(sender: socket.socket) -> None:
    frag, gone = PageFragCache().alloc(10), PageFragCache().alloc(10)
    gone.release()
    skb = netdev_alloc_skb(10)
    with TxRing(sender) as ring:
        with pytest.raises(ValueError, match="released fragment"):
            ring.send([frag, skb, gone])
        frag.release()
        skb.release()
        with pytest.raises(ValueError, match="released skb"):
            ring.send(skb)


def test_what_the_kernel_does_not_send_there_is_told_by_index(sock: socket.socket) -> None:
    there = sock.getsockname()
    cases = [
        (("::1", 9), errno.EAFNOSUPPORT),
        (("127.0.0.1", 0), errno.EINVAL),
        (("255.255.255.255", 9), errno.EACCES),
        (None, errno.EDESTADDRREQ),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain, TxRing(plain) as ring:
        with pytest.raises(SendError) as caught:
            ring.send([b"x"] * 6, to=[there, *(to for to, _ in cases), there])
        told = [(index, why.errno) for index, why in caught.value.failed]
        assert told == [(nth, number) for nth, (_, number) in enumerate(cases, 1)]
        assert caught.value.accepted == 6
        assert ring.stats().tx_packets == 2


def test_a_batch_after_release_is_an_error_whatever_is_asked_of_its_packets(
    sock: socket.socket, sender: socket.socket
) -> None:
    with RxRing(sock) as ring:
        sender.send(b"kept")
        sender.send(b"gone")
        batch = ring.recv(2, timeout=LONG)
        while len(batch) < 2:
            batch = ring.recv(2, timeout=LONG)
        kept = batch[0]
    batch.release()
    batch.release()
    uses: list[Callable[[], object]] = [
        lambda: batch[0],
        lambda: batch[-1],
        lambda: batch[:],
        lambda: list(batch),
        lambda: b"".join(batch),
        batch.__enter__,
    ]
    for use in uses:
        with pytest.raises(ValueError, match="released batch"):
            use()
    # What was known of the packets beside their bytes stays, and so does what was taken out.
    assert (len(batch), list(batch.lengths)) == (2, [4, 4])
    assert len(batch.addresses) == len(batch.pages) == 2
    assert "released" in repr(batch)
    assert kept == b"kept"
    kept.release()


@pytest.mark.parametrize("index", [2, -3, 10**6, 2**63, -(2**63) - 1])
def test_an_index_out_of_range(sock: socket.socket, sender: socket.socket, index: int) -> None:
    with RxRing(sock) as ring:
        sender.send(b"x")
        batch = ring.recv(timeout=LONG)
        with pytest.raises((IndexError, OverflowError)):
            batch[index]
        for strange in (1.0, "0", None):
            with pytest.raises(TypeError):
                batch[strange]  # type: ignore[call-overload]


def test_a_ring_is_awaited_by_one_and_told_even_if_that_one_fails(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def fails() -> None:
        raise RuntimeError("nobody hears this")

    with RxRing(sock) as ring:
        ring._await(fails)
        gc.collect()  # looks at who waits
        with pytest.raises(ContextError, match="another task is waiting"):
            ring._await(print)
    assert ring.fileno() == -1
    assert [str(told.exc_value) for told in unraisable] == ["nobody hears this"]


NO_ADDRESSES = """
import resource, socket
import pagefrag
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    first = pagefrag.RxRing(sock, slots=64)
    pagefrag.RxRing(sock, slots=1, gro=False).close()
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), -1))
    try:
        pagefrag.RxRing(sock, slots=1024, gro=False)
    except MemoryError as error:
        print(type(error).__name__, error)
    sock.sendto(b"x", sock.getsockname())
    assert first.recv(timeout=60)[0] == b"x"
    first.close()
"""


def test_a_ring_without_addresses_for_joined_packets_is_a_memory_error(
    sock: socket.socket,
) -> None:
    with RxRing(sock) as ring:
        needs_gro(ring)
    command = [sys.executable, "-c", NO_ADDRESSES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "PoolExhausted out of memory\n"), done.stderr
