"""No exception is made under a lock: making one may collect garbage, which may want the lock."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable

import pytest

from actors import child
from pagefrag import NapiCache, PageFragCache, PagePool, RxRing, TxRing, netdev_alloc_skb

Refused = Callable[[], object]
Maker = Callable[[socket.socket], Refused]


def released_skb(_: socket.socket) -> Refused:
    skb = netdev_alloc_skb(100)
    skb.release()
    return lambda: skb.len


def viewed_skb(_: socket.socket) -> Refused:
    skb = netdev_alloc_skb(100)
    view = skb.put(5)
    return lambda: (skb.linearize(), view)


def overfull_skb(_: socket.socket) -> Refused:
    skb = netdev_alloc_skb(100)
    return lambda: skb.put(10_000)


def released_reservation(_: socket.socket) -> Refused:
    room = PageFragCache(PagePool()).prepare(100)
    room.release()
    return lambda: room.nbytes


def viewed_reservation(_: socket.socket) -> Refused:
    room = PageFragCache(PagePool()).prepare(100)
    view = memoryview(room)
    return lambda: (room.commit(1), view)


def batch_with_a_released_packet(sock: socket.socket) -> Refused:
    sock.sendto(b"packet", sock.getsockname())
    with RxRing(sock) as ring:
        batch = ring.recv(timeout=5)
    batch[0].release()
    return batch.runs


def released_batch(sock: socket.socket) -> Refused:
    with RxRing(sock) as ring:
        batch = ring.recv(timeout=0)
    batch.release()
    return lambda: batch[:]


def closed_ring(sock: socket.socket) -> Refused:
    ring = RxRing(sock)
    ring.close()
    return lambda: ring.recv(timeout=0)


def closed_tx_ring(sock: socket.socket) -> Refused:
    ring = TxRing(sock)
    ring.close()
    return lambda: ring.send(b"datagram", to=("127.0.0.1", 9))


def napi_outside_a_poll(_: socket.socket) -> Refused:
    napi = NapiCache(PagePool())
    return lambda: napi.alloc_frag(64)


def is_refused(ask: Refused) -> bool:
    try:
        ask()
    except (ValueError, BufferError, RuntimeError):
        return True
    return False


class Late:
    """Part of a cycle; its end asks for the same once more."""

    def __init__(self, ask: Refused) -> None:
        self.itself, self.ask = self, ask

    def __del__(self) -> None:
        is_refused(self.ask)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "maker",
    [
        released_skb,
        viewed_skb,
        overfull_skb,
        released_reservation,
        viewed_reservation,
        released_batch,
        batch_with_a_released_packet,
        closed_ring,
        closed_tx_ring,
        napi_outside_a_poll,
    ],
)
def test_a_finalizer_may_ask_while_the_exception_is_made(maker: Maker, sock: socket.socket) -> None:
    ask = maker(sock)

    def often() -> None:
        for turn in range(3000):
            # So that each allocation on the way is the one that collects, one time or the other.
            gc.set_threshold(turn % 3 + 1)
            Late(ask)
            assert is_refused(ask)

    assert child(often) == 0
