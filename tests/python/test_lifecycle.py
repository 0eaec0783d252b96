"""Signals, collections, forks, ends of interpreters: at any point, nothing is lost."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from campaigns import forks

from pagefrag import (
    ContextError,
    Fragment,
    NapiCache,
    NetdevCache,
    PageFragCache,
    PagePool,
    RxRing,
    TxRing,
    netdev_alloc_frag,
)

SECRET = 0xA5


def spend(cache: PageFragCache, noise: random.Random) -> None:
    """Take, share, look, reserve and give back."""
    frag = cache.alloc(noise.randrange(1, 5000))
    part = frag[: frag.nbytes // 2]
    with memoryview(part) as view:
        frag.hex()
        del view
    with cache.prepare(noise.randrange(1, 2000)) as room:
        if noise.random() < 0.5:
            room.commit(1)
    cache.alloc_many(3, 700)
    part.release()
    frag.toreadonly().copy(cache=cache)


class Traffic:
    """Rings, polls and skbs of one pool."""

    def __init__(self, cache: PageFragCache) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect(self.sock.getsockname())
        self.rx, self.tx = RxRing(self.sock, cache=cache), TxRing(self.sender)
        self.napi, self.netdev = NapiCache(cache.pool), NetdevCache(cache.pool)
        self.received = 0

    def spend(self, cache: PageFragCache, noise: random.Random) -> None:
        """Build packets, send and receive them, and let go of some half way."""
        size = noise.randrange(1, 1400)
        text = bytes([size % 256]) * size
        frag = cache.alloc(size)
        frag[:] = text
        skb = self.netdev.alloc_skb(size)
        skb.put(text[: size // 2]).release()
        skb.add_frag(frag[size // 2 :])
        with self.napi.poll() as poll:
            poll.consume_skb(poll.alloc_skb(size))
            poll.alloc_frag(size)
        self.tx.send([frag, skb, text])
        self.tx.flush()
        for packet in self.rx.recv(timeout=0):
            self.received += 1
            assert set(packet.tobytes()) == {packet.nbytes % 256}

    def close(self) -> None:
        for part in (self.tx, self.rx, self.sender, self.sock):
            part.close()
        del self.napi, self.netdev


def assert_nothing_is_left(cache: PageFragCache) -> None:
    gc.collect()
    cache.drain()
    cache.pool.trim()
    stats = cache.pool.audit()
    assert (stats.live_bytes, stats.regions_mapped) == (0, 0)


@contextmanager
def alarms(every: float, handler: Callable[[], None]) -> Iterator[None]:
    """Have *handler* called *every* so many seconds, counted from its end.

    From its end: where it takes longer than that, handlers of handlers would leave no time for
    anything else.
    """
    over = False

    def called(*_: object) -> None:
        try:
            handler()
        finally:
            if not over:
                signal.setitimer(signal.ITIMER_REAL, every)

    before = signal.signal(signal.SIGALRM, called)
    signal.setitimer(signal.ITIMER_REAL, every)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_handlers_that_allocate_at_10_khz_disturb_nothing() -> None:
    cache, noise, calls = PageFragCache(PagePool()), random.Random(1), []

    def handler() -> None:
        calls.append(cache.alloc(100).nbytes)
        cache.alloc_many(2, 3000)

    with alarms(0.0001, handler):
        while len(calls) < 1000:
            spend(cache, noise)
    assert set(calls) == {100}
    assert_nothing_is_left(cache)


def test_an_interrupt_at_any_point_loses_nothing() -> None:
    cache, noise = PageFragCache(PagePool()), random.Random(2)
    interrupts, armed = 0, False

    def interrupt() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    with alarms(0.0003, interrupt):
        while interrupts < 500:
            try:
                while True:
                    armed = True  # again: one may be raised where nothing can be
                    spend(cache, noise)
            except KeyboardInterrupt:
                interrupts += 1
    assert_nothing_is_left(cache)


def test_handlers_that_allocate_at_10_khz_disturb_no_ring() -> None:
    cache, noise, calls = PageFragCache(PagePool()), random.Random(5), 0
    traffic = Traffic(cache)

    def handler() -> None:
        nonlocal calls
        calls += 1
        cache.alloc_many(2, 3000)
        with contextlib.suppress(ContextError):  # into a ring that is in a call
            traffic.rx.recv(timeout=0)

    with alarms(0.0001, handler):
        while calls < 1000:
            traffic.spend(cache, noise)
    assert traffic.received > 0
    traffic.close()
    assert_nothing_is_left(cache)


def test_an_interrupt_at_any_point_leaves_rings_and_polls_whole() -> None:
    cache, noise = PageFragCache(PagePool()), random.Random(6)
    traffic = Traffic(cache)
    interrupts, raised, armed = 0, 0, False

    def interrupt() -> None:
        nonlocal raised, armed
        if armed:
            armed = False
            raised += 1
            raise KeyboardInterrupt

    with alarms(0.0003, interrupt):
        while interrupts < 500:
            try:
                while True:
                    armed = True
                    traffic.spend(cache, noise)
            except KeyboardInterrupt:
                interrupts += 1
    assert interrupts == raised, "some were raised where nobody heard of them"
    before = traffic.received
    while traffic.received < before + 3:
        traffic.spend(cache, noise)
    traffic.close()
    assert_nothing_is_left(cache)


class Late:
    """Part of a cycle; its end allocates and frees."""

    def __init__(self, cache: PageFragCache, frag: Fragment) -> None:
        self.itself, self.cache, self.frag = self, cache, frag

    def __del__(self) -> None:
        self.cache.alloc(64)
        self.frag.release()


def test_a_collection_inside_an_allocation_may_allocate_and_free() -> None:
    cache = PageFragCache(PagePool())
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for size in range(1, 2000):
            Late(cache, cache.alloc(size))
            cache.alloc_many(2, size)
    finally:
        gc.set_threshold(*before)
    assert_nothing_is_left(cache)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children_of_busy_threads_go_on_at_once() -> None:
    assert forks.campaign(25) == (0, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_every_start_method_have_their_own(method: str) -> None:
    here = netdev_alloc_frag(1000)
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        children = pool.map(forks.start_over, [b"a" * 3000] * 4)
    assert os.getpid() not in children
    assert here.nbytes == 1000


ENDS = {
    "views": "import numpy; kept = numpy.frombuffer(cache.alloc(100), dtype='u1')",
    "a cycle": "c = [cache.alloc(100)]; c.append(c)",
    "a daemon thread inside an allocation": (
        "def work():\n"
        "    while True: cache.alloc_many(10, 1000)\n"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.05)"
    ),
    "a daemon thread that waits in a ring": (
        "ring = pagefrag.RxRing(sock)\n"
        "threading.Thread(target=ring.recv, daemon=True).start(); time.sleep(0.05)"
    ),
    "a thread's own storage": (
        "local = threading.local(); local.frag = cache.alloc(10)\n"
        "def work(): local.frag = cache.alloc(10)\n"
        "t = threading.Thread(target=work); t.start(); t.join()"
    ),
    "an exit handler": "atexit.register(lambda: cache.alloc_many(10, 100))",
    "a module that forgets everything": "sys.modules['pagefrag'] = None",
    "an exception": "kept = cache.alloc(100); sys.exit(0)",
    "a finalizer that is refused": (
        "class Late:\n"
        "    frag, gone = cache.alloc(10), cache.alloc(10)\n"
        "    def __del__(self):\n"
        "        try: self.frag[99]\n"
        "        except IndexError: self.gone.release()\n"
        "        try: self.gone.tobytes()\n"
        "        except ValueError: pass\n"
        "kept = Late()"
    ),
    "a finalizer that shares what is tracked": (
        "class Late:\n"
        "    frag = pagefrag.PageFragCache(pagefrag.PagePool(track=1)).alloc(10)\n"
        "    def __del__(self): memoryview(self.frag); self.frag[1:]\n"
        "kept = Late()"
    ),
    "a finalizer that lends": (
        "class Late:\n"
        "    frag, other = cache.alloc(10), bytearray(10)\n"
        "    def __del__(self):\n"
        "        self.frag[:] = self.other; self.frag == self.other; self.other.append(0)\n"
        "kept = Late()"
    ),
}
START = (
    "import atexit, socket, sys, threading, time, pagefrag\n"
    "cache = pagefrag.PageFragCache(pagefrag.PagePool())\n"
    "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind(('127.0.0.1', 0))\n"
)


@pytest.mark.parametrize("shape", ENDS)
def test_an_interpreter_ends_with(shape: str) -> None:
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", START + ENDS[shape]], capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("when", ["init_on_alloc", "init_on_free"])
def test_with_wiping_no_secret_is_ever_read_back(when: str) -> None:
    pool = PagePool(init_on_alloc=when == "init_on_alloc", init_on_free=when == "init_on_free")
    caches, noise = [PageFragCache(pool, granule=g) for g in (64, 1)], random.Random(3)
    for _ in range(20_000):
        frag = noise.choice(caches).alloc(noise.randrange(1, 3000))
        assert frag.tobytes().count(0) == frag.nbytes
        frag[:] = bytes([SECRET]) * frag.nbytes
        if noise.random() < 0.2:
            frag.trim(noise.randrange(frag.nbytes + 1))


def test_a_daemon_thread_s_fragments_come_home_when_it_ends() -> None:
    cache = PageFragCache(PagePool())
    kept: list[Fragment] = []

    def work() -> None:
        kept.extend(cache.alloc_many(20, 1000))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    while cache.pool.stats().pages_orphaned == 0:
        time.sleep(0.001)  # the system's thread ends a little after Python's
    kept.clear()
    assert_nothing_is_left(cache)
