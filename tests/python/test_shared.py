"""One object in the hands of several threads: each call is whole, and what two want one gets.

Written for interpreters without a global lock, where the threads really run at once; elsewhere they
take turns as often as the interpreter lets them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors import LONG, started, until
from pagefrag import (
    Batch,
    ContextError,
    Fragment,
    NapiCache,
    PageFragCache,
    PagePool,
    RxRing,
    SkBuff,
    TxRing,
    build_skb,
    netdev_alloc_skb,
)

ROUNDS = 300


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Let threads take turns as often as possible where they have to."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race(*acts: Callable[[], object]) -> list[Any]:
    """Let the *acts* begin together; return what each returned or raised."""
    outcomes: list[Any] = [None] * len(acts)
    start = threading.Barrier(len(acts))

    def run(number: int) -> None:
        start.wait()
        try:
            outcomes[number] = acts[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def refused(outcomes: list[Any], kind: type[Exception], why: str) -> list[Any]:
    """Return what was not refused; all that was, was of this *kind* and said *why*."""
    for error in outcomes:
        if isinstance(error, Exception):
            assert isinstance(error, kind), repr(error)
            assert why in str(error), repr(error)
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]


@pytest.fixture
def pool() -> Iterator[PagePool]:
    pool = PagePool()
    yield pool
    gc.collect()  # exceptions, their frames, and what these were working with
    assert pool.audit().live_bytes == 0


def filled(cache: PageFragCache, size: int = 64, byte: int = 0x72) -> Fragment:
    frag = cache.alloc(size)
    frag[:] = bytes([byte]) * size
    return frag


def test_importing_it_leaves_the_global_lock_as_it_is() -> None:
    code = "import sys, pagefrag; print(getattr(sys, '_is_gil_enabled', lambda: True)())"
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout.strip() == str(not sysconfig.get_config_var("Py_GIL_DISABLED")).encode()


def test_a_fragment_is_released_once_or_not_while_it_is_looked_at(pool: PagePool) -> None:
    cache = PageFragCache(pool)

    def look(frag: Fragment) -> bytes:
        with memoryview(frag) as view:
            return view.tobytes()

    for _ in range(ROUNDS):
        frag = filled(cache)
        outcomes = race(
            lambda frag=frag: look(frag), frag.release, lambda frag=frag: look(frag), frag.release
        )
        for seen in refused(outcomes[::2], ValueError, "released fragment"):
            assert seen == b"r" * 64
        refused(outcomes[1::2], BufferError, "of this fragment still exist")
        frag.release()


def test_of_release_trim_and_build_skb_each_finds_a_whole_fragment(pool: PagePool) -> None:
    cache = PageFragCache(pool)
    for _ in range(ROUNDS):
        frag = filled(cache, 1000)
        skb, trimmed, released, part = race(
            lambda frag=frag: build_skb(frag),
            lambda frag=frag: frag.trim(500),
            frag.release,
            lambda frag=frag: frag[10:20].tobytes(),
        )
        assert isinstance(skb, (SkBuff, ValueError, BufferError)), skb
        assert isinstance(trimmed, (Fragment, ValueError, BufferError)), trimmed
        assert isinstance(released, (type(None), BufferError)), released
        assert part == b"r" * 10 or isinstance(part, ValueError), part
        if isinstance(skb, SkBuff):
            skb.put(4).release()
            assert len(skb) == 4
        frag.release()


def test_a_weak_reference_ends_with_its_fragment_on_whatever_thread(pool: PagePool) -> None:
    cache = PageFragCache(pool)
    for _ in range(ROUNDS):
        frags = [filled(cache) for _ in range(20)]
        first = [weakref.ref(frag) for frag in frags]
        second = [weakref.ref(frag) for frag in frags]

        def ask(watches: list[weakref.ref[Fragment]] = second) -> int:
            return sum(len(frag) == 64 for watch in watches if (frag := watch()) is not None)

        outcomes = race(frags.clear, first.clear, ask, second.copy().clear)
        assert refused(outcomes, AssertionError, "") == outcomes
        assert all(watch() is None for watch in second)


def received(pool: PagePool, packets: int) -> Batch:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for number in range(packets):
            sock.sendto(bytes([number]) * 700, sock.getsockname())
        cache = PageFragCache(pool)
        with RxRing(sock, cache=cache) as ring:
            batch = ring.recv(packets, timeout=LONG)
        cache.drain()
    assert len(batch) == packets
    return batch


def test_a_batch_makes_one_fragment_of_a_packet_for_all(pool: PagePool) -> None:
    for _ in range(30):
        batch = received(pool, 16)
        found = race(*[lambda batch=batch: list(batch)] * 4)
        for frags in zip(*found, strict=True):
            assert len({id(frag) for frag in frags}) == 1
        assert [frag[0] for frag in found[0]] == list(range(16))
        del found, frags


def test_a_batch_that_is_released_is_whole_or_gone(pool: PagePool) -> None:
    for _ in range(30):
        batch = received(pool, 16)
        outcomes = race(
            lambda batch=batch: [frag[0] for frag in batch],
            lambda batch=batch: sum(run.nbytes for run in batch.runs()) >= 16 * 700,
            lambda batch=batch: batch[15].tobytes(),
            batch.release,
            batch.release,
        )
        refused(outcomes, ValueError, "released batch")
        whole = [list(range(16)), True, bytes([15]) * 700, None, None]
        for outcome, wanted in zip(outcomes, whole, strict=True):
            assert outcome == wanted or isinstance(outcome, ValueError)
        del batch, outcomes


def test_room_is_committed_once(pool: PagePool) -> None:
    cache = PageFragCache(pool)
    for size in range(1, ROUNDS):
        room = cache.prepare(1000)
        outcomes = race(*[lambda room=room, size=size: room.commit(size)] * 3)
        (frag,) = refused(outcomes, ValueError, "released reservation")
        assert len(frag) == size
        del frag, outcomes


def test_a_poll_is_entered_by_one_thread() -> None:
    napi = NapiCache(PagePool())
    for _ in range(ROUNDS):
        poll = napi.poll()

        def enter(poll: Any = poll) -> bool:
            with poll as ctx:
                ctx.consume_skb(ctx.alloc_skb(100))
            return True

        assert refused(race(enter, enter, enter), ContextError, "") == [True]
    assert "polling" not in repr(napi)


def test_pieces_of_a_packet_are_added_one_after_the_other() -> None:
    def put(skb: SkBuff, byte: bytes) -> None:
        for _ in range(50):
            skb.put(byte * 3).release()

    for _ in range(20):
        skb = netdev_alloc_skb(1500)
        put_each = [lambda skb=skb, byte=byte: put(skb, byte) for byte in (b"a", b"b", b"c")]
        assert race(*put_each) == [None] * 3
        content = skb.tobytes()
        pieces = {content[at : at + 3] for at in range(0, len(content), 3)}
        assert (len(content), pieces) == (450, {b"aaa", b"bbb", b"ccc"})


def test_a_packet_is_taken_once() -> None:
    for _ in range(ROUNDS):
        skb, first, second = (netdev_alloc_skb(1000) for _ in range(3))
        skb.put(b"data" * 20).release()
        outcomes = race(
            lambda first=first, skb=skb: first.coalesce(skb),
            lambda second=second, skb=skb: second.coalesce(skb),
        )
        assert refused(outcomes, ValueError, "released skb") in ([True], [True, False])
        assert sorted([len(first), len(second)]) == [0, 80]


def test_what_two_threads_receive_on_one_ring_comes_once(
    sock: socket.socket, sender: socket.socket
) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    for number in range(1000):
        sender.send(number.to_bytes(4, "big"))
    with RxRing(sock) as ring:

        def receive() -> list[int]:
            numbers: list[int] = []
            silent = 0
            while silent < 50:
                try:
                    batch = ring.recv(max=7, timeout=0)
                except ContextError as error:
                    assert "another call is receiving" in str(error)  # noqa: PT017 - it may be
                    continue
                silent = 0 if len(batch) else silent + 1
                numbers += [int.from_bytes(packet, "big") for packet in batch]
            return numbers

        each = race(receive, receive, receive)
    assert sorted(itertools.chain(*each)) == list(range(1000))
    assert all(numbers == sorted(numbers) for numbers in each)


def test_what_two_threads_send_on_one_ring_goes_once(
    sock: socket.socket, sender: socket.socket
) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    with TxRing(sender) as ring:

        def send(first: int) -> None:
            for number in range(first, first + 200):
                while True:
                    with contextlib.suppress(ContextError):
                        assert ring.send([number.to_bytes(4, "big")]) == 1
                        break

        assert race(*[lambda first=first: send(first) for first in (0, 200, 400)]) == [None] * 3
    with RxRing(sock) as receiver:
        found: list[int] = []
        while batch := receiver.recv(timeout=0):
            found += [int.from_bytes(packet, "big") for packet in batch]
    assert sorted(found) == list(range(600))


def test_closing_while_others_receive_ends_them(sock: socket.socket) -> None:
    for _ in range(20):
        ring = RxRing(sock)

        def receive(ring: RxRing = ring) -> None:
            while True:
                with contextlib.suppress(ContextError):
                    ring.recv(timeout=0.001)

        outcomes = race(receive, receive, ring.close, ring.close, ring.drain)
        assert refused(outcomes, ValueError, "closed ring") == [None] * 3
        assert len(outcomes) == 5


def test_counters_can_be_asked_for_at_any_time(pool: PagePool) -> None:
    cache = PageFragCache(pool)

    def carve() -> None:
        for size in range(1, 2000, 3):
            cache.alloc_many(2, size)

    def ask() -> int:
        return sum(pool.stats().pages_in_use >= 0 for _ in range(200)) + bool(cache.stats())

    assert race(carve, ask, carve, ask) == [None, 201, None, 201]


def test_caches_made_on_many_threads_are_found_by_copies() -> None:
    def work() -> bool:
        cache = PageFragCache(PagePool())
        frag = filled(cache)
        return all(frag.copy() == b"r" * 64 for _ in range(50))

    assert race(*[work] * 6) == [True] * 6


FIRST_USE = """
import threading
start = threading.Barrier(6)
found = []
def use():
    start.wait()
    import pagefrag
    found.append((pagefrag.default_pool(), pagefrag.Fragment, pagefrag.PoolExhausted))
    pagefrag.netdev_alloc_frag(100)
    pagefrag.default_pool().stats()
threads = [threading.Thread(target=use) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 6 and len(set(found)) == 1, found
"""


def test_the_first_use_on_many_threads_at_once() -> None:
    for _ in range(5):
        command = [sys.executable, "-W", "error", "-c", FIRST_USE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_thread_that_waits_takes_back_what_others_dropped(
    pool: PagePool, sock: socket.socket, sender: socket.socket
) -> None:
    cache, made = PageFragCache(pool), threading.Event()
    kept: list[Fragment] = []
    with RxRing(sock) as ring:

        def receive() -> Batch:
            kept.extend(cache.alloc_many(10, 1000))
            made.set()
            return ring.recv(timeout=LONG)

        thread, found = started(receive)
        made.wait()
        kept.clear()
        until(lambda: pool.stats().live_bytes == 0)
        assert thread.is_alive()
        sender.send(b"the end")
        thread.join()
    assert found[0][0] == b"the end"


def test_released_on_another_thread_is_given_back_at_once(pool: PagePool) -> None:
    cache, kept, made, over = PageFragCache(pool), [], threading.Event(), threading.Event()

    def make() -> None:
        kept.extend(cache.alloc_many(10, 1000))
        made.set()
        over.wait()

    maker = threading.Thread(target=make)
    maker.start()
    made.wait()
    for frag in kept:
        frag.release()
    assert pool.stats().live_bytes == 0
    over.set()
    maker.join()
    kept.clear()
