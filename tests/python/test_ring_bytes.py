"""Whatever road a packet takes, its reader sees the bytes that were sent and none that were there.

Every byte that a ring may find in its memory is a secret: the pool is full of them when the ring
comes, and each packet is written over with it before it is given back. Packets are random bytes,
so a byte of the secret, of another packet or of this one in the wrong place is seen.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from link import Link
from machine import needs_gro
from pagefrag import (
    Batch,
    Fragment,
    NetdevCache,
    PageFragCache,
    PagePool,
    RxRing,
    TxRing,
    netdev_alloc_skb,
)

LONG = 60.0  # seconds: only reached by a broken build
UDP_SEGMENT = 103
EXPERIMENT = 0x88B5
"""IEEE 802's EtherType for local experiments."""
SECRET = b"\xa5"
EDGES = (0, 1, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 1472, 2047, 2048, 2049, 9000)
MOST = 60_000
"""Bytes that are on their way at a time: a socket's buffer holds as many."""


def hidden(pool: PagePool, regions: int = 3) -> PageFragCache:
    """Return a cache of *pool*, in whose free pages nothing but the secret is left."""
    cache = PageFragCache(pool)
    page = pool.page_size
    for frag in cache.alloc_many(regions * (2 << 20) // page, page):
        frag[:] = SECRET * page
        frag.release()
    cache.drain()
    assert cache.alloc(page).tobytes() == SECRET * page, "nothing to be seen"
    return cache


def give_back(batch: Batch) -> None:
    """Write over all packets that may be written, and release them."""
    for frag in batch:
        if not frag.readonly:
            frag[:] = SECRET * frag.nbytes
    batch.release()


def assert_same(shown: list[bytes], sent: list[bytes]) -> None:
    """Tell the first byte that is another one; to compare all at length would take minutes."""
    assert [len(packet) for packet in shown] == [len(packet) for packet in sent]
    for number, (here, there) in enumerate(zip(shown, sent, strict=True)):
        if here != there:
            wrong = next(at for at, byte in enumerate(here) if byte != there[at])
            pytest.fail(
                f"byte {wrong} of packet {number} is {here[wrong]:#x}, not {there[wrong]:#x}"
            )


class Sender:
    """Sends random packets, alone or as what the kernel cuts and joins again."""

    def __init__(self, sock: socket.socket, seed: int) -> None:
        self.sock = sock
        self.chance = random.Random(seed)

    def alone(self) -> list[bytes]:
        """Send packets of all sizes, one by one."""
        sent: list[bytes] = []
        while sum(map(len, sent)) < MOST // 3 and len(sent) < 60:
            size = self.chance.choice((*EDGES, self.chance.randrange(3000)))
            sent.append(self.chance.randbytes(size))
            self.sock.send(sent[-1])
        return sent

    def joined(self, size: int = 0, count: int = 0) -> list[bytes]:
        """Send packets of one size, of which the last may be shorter, as one."""
        size = size or self.chance.choice((1, 64, 200, 256, 700, 1200, 1472, 9000))
        count = count or self.chance.randrange(2, min(64, MOST // size) + 1)
        all_ = self.chance.randbytes(size * count - self.chance.randrange(size))
        self.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        self.sock.send(all_)
        self.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        return [all_[at : at + size] for at in range(0, len(all_), size)]


def by_fragment(batch: Batch) -> list[bytes]:
    return [frag.tobytes() for frag in batch]


def by_view(batch: Batch) -> list[bytes]:
    shown = []
    for frag in batch:
        with memoryview(frag) as view:
            shown.append(bytes(view))
    return shown


def by_part(batch: Batch) -> list[bytes]:
    return [
        b"".join(frag[at : at + 100].tobytes() for at in range(0, len(frag), 100)) for frag in batch
    ]


def by_record(batch: Batch) -> list[bytes]:
    # An empty packet lies nowhere.
    runs = [*batch.runs(), b""]
    return [
        bytes(
            runs[record["run"] if record["length"] else -1][record["start"] :][: record["length"]]
        )
        for record in batch.to_numpy()
    ]


def elsewhere(batch: Batch) -> list[bytes]:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.extend(map(bytes, batch)))
    thread.start()
    thread.join()
    return found


LOOKS: tuple[Callable[[Batch], list[bytes]], ...] = (
    by_fragment,
    by_view,
    by_part,
    by_record,
    elsewhere,
)


@pytest.mark.parametrize("copybreak", [0, 256, 4096])
@pytest.mark.parametrize("buf_size", [100, 2048, 1 << 16])
@pytest.mark.parametrize("gro", [False, True])
def test_every_look_at_every_packet_shows_what_was_sent(
    gro: bool, buf_size: int, copybreak: int, sock: socket.socket, sender: socket.socket
) -> None:
    page = max(buf_size, 32 << 10)
    cache = hidden(PagePool(page))
    traffic = Sender(sender, 1)
    ways = itertools.cycle([traffic.alone, traffic.joined])
    looks = itertools.cycle(LOOKS)
    with RxRing(sock, gro=gro, buf_size=buf_size, copybreak=copybreak, cache=cache) as ring:
        for _ in range(60):
            sent = next(ways)()
            while sent:
                batch = ring.recv(traffic.chance.randrange(1, 65), LONG)
                expected, sent = sent[: len(batch)], sent[len(batch) :]
                assert list(batch.wire_lengths) == [len(packet) for packet in expected]
                # In a joined packet a buffer holds what fits of all of them.
                assert_same(next(looks)(batch), [packet[:buf_size] for packet in expected])
                give_back(batch)
            if traffic.chance.random() < 0.2:
                ring.drain()


@pytest.mark.parametrize("look", LOOKS)
def test_what_stays_where_it_landed_shows_what_was_sent(
    look: Callable[[Batch], list[bytes]], sock: socket.socket, sender: socket.socket
) -> None:
    traffic = Sender(sender, 2)
    ring = RxRing(sock, cache=hidden(PagePool()))
    needs_gro(ring)
    kept: list[tuple[Batch, list[bytes]]] = []
    for size, count in [(1200, 50), (1472, 40), (700, 64), (64, 64)] * 6:
        # After one like it a super-buffer stays, and its batch is looked at much later.
        for _ in range(2):
            sent = traffic.joined(size, count)
            kept.append((ring.recv(timeout=LONG), sent))
        if len(kept) > 9:
            batch, expected = kept.pop(traffic.chance.randrange(len(kept)))
            assert_same(look(batch), expected)
            give_back(batch)
    ring.close()
    for batch, expected in kept:
        assert_same(look(batch), expected)
        give_back(batch)


def test_a_unix_socket_shows_what_was_sent() -> None:
    chance = random.Random(6)
    looks = itertools.cycle(LOOKS)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, RxRing(right, cache=hidden(PagePool())) as ring:
        for _ in range(300):
            sizes = [chance.choice((*EDGES, chance.randrange(3000))) for _ in range(8)]
            sent = [chance.randbytes(size) for size in sizes]
            for packet in sent:
                left.send(packet)
            batch = ring.recv(timeout=LONG)
            assert list(batch.wire_lengths) == sizes
            assert_same(next(looks)(batch), [packet[:2048] for packet in sent])
            give_back(batch)


def test_a_packet_socket_shows_the_frames_that_came(link: Link) -> None:
    chance = random.Random(7)
    looks = itertools.cycle(LOOKS)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENT)) as sock:
        sock.bind((link.name.rstrip(b"\0").decode(), EXPERIMENT))
        with RxRing(sock, buf_size=1024, cache=hidden(PagePool())) as ring:
            for _ in range(300):
                sizes = [chance.choice((0, 1, 46, 1009, 1010, 1011, 1500)) for _ in range(8)]
                head = b"\xff" * 6 + chance.randbytes(6) + EXPERIMENT.to_bytes(2, "big")
                sent = [head + chance.randbytes(size) for size in sizes]
                for frame in sent:
                    os.write(link.tap, frame)
                shown: list[bytes] = []
                while len(shown) < len(sent):
                    batch = ring.recv(timeout=LONG)
                    shown += next(looks)(batch)
                    give_back(batch)
                assert_same(shown, [frame[:1024] for frame in sent])


@pytest.mark.parametrize("gro", [False, True])
def test_without_memory_what_comes_is_what_was_sent(
    gro: bool, sock: socket.socket, sender: socket.socket
) -> None:
    pool = PagePool(max_bytes=2 << 20)
    cache = hidden(pool, regions=1)
    traffic = Sender(sender, 3)
    waiting: list[bytes] = []
    shown = 0
    with RxRing(sock, gro=gro, cache=cache) as ring:
        for turn in range(60):
            hoard: list[Fragment] = []
            for size in (32768, 1024, 64) if turn % 2 else ():
                while (frag := cache.try_alloc(size)) is not None:
                    hoard.append(frag)
            waiting += traffic.joined() if turn % 3 else traffic.alone()
            batch = ring.recv(timeout=LONG)
            while batch or ring.pending:
                # Some may be lost, and are counted; the others come as they are, in order.
                for frag in batch:
                    packet = frag.tobytes()
                    found = next((n for n, sent in enumerate(waiting) if sent[:2048] == packet), -1)
                    assert found >= 0, f"turn {turn}: nobody has sent {packet[:40]!r}"
                    del waiting[: found + 1]
                    shown += 1
                give_back(batch)
                batch = ring.recv(timeout=0)
            for frag in hoard:
                frag[:] = SECRET * frag.nbytes
            hoard.clear()
        assert ring.stats().rx_alloc_fail > 100 or not ring.gro
        assert shown > 500


def shapes(chance: random.Random, cache: PageFragCache) -> Iterator[tuple[object, bytes]]:
    """Yield what can be sent, and its bytes, which lie among secrets."""
    netdev = NetdevCache(cache.pool)
    for _ in range(400):
        size = chance.choice((1, 63, 64, 65, 300, chance.randrange(1, 1473)))
        text = chance.randbytes(size)
        frag = cache.alloc(size)
        frag[:] = text
        yield frag, text
        longer = cache.alloc(size + chance.randrange(200))
        longer[:] = SECRET * longer.nbytes
        longer[:size] = text
        yield longer[:size], text
        yield longer.trim(size), text
        with cache.prepare(size) as room:
            with memoryview(room) as view:
                view[:size] = text
            yield room.commit(size), text
        for alloc in (netdev.alloc_skb, netdev_alloc_skb):
            skb = alloc(size)
            skb.put(text).release()
            cut = chance.randrange(size)
            skb.pull(cut).release()
            skb.add_frag(frag[:cut])
            yield skb, text[cut:] + text[:cut]


def test_what_is_sent_has_no_byte_but_its_own(sock: socket.socket, sender: socket.socket) -> None:
    chance = random.Random(4)
    sock.settimeout(LONG)
    with TxRing(sender) as ring:
        waiting: list[bytes] = []
        for buffer, text in shapes(chance, hidden(PagePool())):
            ring.send([buffer])
            waiting.append(text)
            if chance.random() < 0.2:
                ring.flush()
                assert_same([sock.recv(1 << 16) for _ in waiting], waiting)
                waiting.clear()


def test_what_is_sent_on_is_what_came(sock: socket.socket, sender: socket.socket) -> None:
    traffic = Sender(sender, 5)
    sender.settimeout(LONG)
    cache = hidden(PagePool())
    with RxRing(sock, buf_size=16 << 10, cache=cache) as ring, TxRing(sock) as back:
        for turn in range(80):
            sent = traffic.joined() if turn % 2 else traffic.alone()
            expected = iter(sent)
            for _ in itertools.repeat(None):
                batch = ring.recv(timeout=0)
                if not batch:
                    break
                back.send(batch, to=batch)
                back.flush()
                answered = [sender.recv(1 << 16) for _ in batch]
                assert_same(answered, list(itertools.islice(expected, len(batch))))
                give_back(batch)
            assert next(expected, None) is None
