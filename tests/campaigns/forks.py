"""Fork while eight threads are busy: the child must be able to go on at once.

    python tests/campaigns/forks.py [FORKS [THREADS]]

The threads take, share, look at and give back fragments, each from one shared cache. The child
takes and frees from the same cache, from a new one and from a new pool, frees what the parent's
threads have carved, and must come to its end within seconds: what hangs is killed by its own
alarm and counted.

The fragments that the child frees were taken out of the shared deque before the fork: without a
global lock a deque, list or dict that another thread is just using stays locked in the child for
good. That is CPython's, and the child keeps off it; ours has no such lock.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import deque

from pagefrag import Fragment, PageFragCache, PagePool, netdev_alloc_skb

PATIENCE = 20
"""Seconds after which a child counts as hanging: far longer than anything takes here."""

SHARED = 64
"""Fragments that the threads share."""


class Busy:
    """Threads that do everything at once, and what they share."""

    def __init__(self, threads: int) -> None:
        self.cache = PageFragCache(PagePool(max_bytes=64 << 20))
        self.shared: deque[Fragment] = deque(maxlen=SHARED)
        self.stop = threading.Event()
        # Forks wait for their turn among the threads: let turns be short.
        self.turn = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        self.threads = [threading.Thread(target=self._work, args=(n,)) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _work(self, seed: int) -> None:
        noise = random.Random(seed)
        own: list[Fragment] = []
        while not self.stop.is_set():
            frag = self.cache.alloc(noise.randrange(1, 4096))
            with memoryview(frag) as view:
                view[0] = 1
            own.append(frag[: noise.randrange(1, frag.nbytes + 1)])
            self.shared.append(frag)
            if len(own) > 50:
                own.clear()

    def end(self) -> None:
        """Let them come to their end."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        sys.setswitchinterval(self.turn)
        self.shared.clear()

    def taken(self) -> list[Fragment]:
        """Take out what is shared now."""
        found: list[Fragment] = []
        with contextlib.suppress(IndexError):
            while len(found) < SHARED:
                found.append(self.shared.popleft())
        return found


def live_on(busy: Busy, taken: list[Fragment]) -> None:
    """What a child does first."""
    first = busy.cache.alloc(1000)
    first[:] = b"c" * 1000
    many = busy.cache.alloc_many(40, 1500)
    taken.clear()
    assert first.tobytes() == b"c" * 1000
    del first, many
    skb = netdev_alloc_skb(100)
    skb.put(b"child").release()
    assert skb.tobytes() == b"child"
    busy.cache.drain()
    busy.cache.pool.trim()
    pool = PagePool()
    cache = PageFragCache(pool)
    cache.alloc_many(10, 3000)
    cache.drain()
    pool.trim()
    assert pool.audit().regions_mapped == 0


def start_over(text: bytes) -> int:
    """Do in a process of its own what any program does; return its number."""
    pool = PagePool()
    cache = PageFragCache(pool)
    frag = cache.alloc(len(text))
    frag[:] = text
    netdev_alloc_skb(100).release()
    assert frag.tobytes() == text
    del frag
    cache.drain()
    pool.trim()
    assert pool.audit().regions_mapped == 0
    return os.getpid()


def fork_once(busy: Busy) -> int:
    """Return what a child ended with: 0 when it could do everything."""
    taken = busy.taken()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            live_on(busy, taken)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def campaign(forks: int, threads: int = 8) -> tuple[int, int]:
    """Fork so often; return how many children hung and how many failed."""
    busy = Busy(threads)
    hung = failed = 0
    try:
        for _ in range(forks):
            status = fork_once(busy)
            hung += status == -signal.SIGALRM
            failed += status not in (0, -signal.SIGALRM)
    finally:
        busy.end()
    busy.cache.drain()
    busy.cache.pool.trim()
    assert busy.cache.pool.audit().live_bytes == 0
    return hung, failed


def main(words: list[str]) -> int:
    """Run the campaign that the *words* ask for."""
    forks = int(words[0]) if words else 10_000
    threads = int(words[1]) if len(words) > 1 else 8
    # A fork with threads is what this is about.
    warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
    started = time.monotonic()
    hung, failed = campaign(forks, threads)
    seconds = time.monotonic() - started
    print(
        f"{forks} forks with {threads} busy threads, {hung} hung, {failed} failed, {seconds:.0f} s"
    )
    return int(hung + failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
