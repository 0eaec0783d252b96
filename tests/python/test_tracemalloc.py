"""`PagePool(tracemalloc=True)`: a trace for each region, in a domain of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from pagefrag import PageFragCache, PagePool, RxRing
from pagefrag import _pagefrag as compiled

REGION = 2 << 20
LONG = 60.0


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start(5)
    yield
    tracemalloc.stop()


def regions() -> list[tracemalloc.Trace]:
    """Return the traces in our domain."""
    ours = tracemalloc.DomainFilter(True, PagePool.TRACEMALLOC_DOMAIN)
    return list(tracemalloc.take_snapshot().filter_traces([ours]).traces)


def asks(cache: PageFragCache, pages: int) -> list[object]:
    return list(cache.alloc_many(pages, 32768))


pytestmark = pytest.mark.usefixtures("traced")


def test_a_region_is_a_trace_of_who_needed_it() -> None:
    cache = PageFragCache(PagePool(tracemalloc=True))
    kept = asks(cache, 65)
    found = regions()
    assert [trace.size for trace in found] == [REGION, REGION]
    assert {trace.traceback[-1].lineno for trace in found} == {asks.__code__.co_firstlineno + 1}
    assert {trace.traceback[-1].filename for trace in found} == {__file__}
    del kept


def test_what_is_unmapped_is_gone_from_the_books() -> None:
    pool = PagePool(tracemalloc=True)
    cache = PageFragCache(pool)
    kept = asks(cache, 65)
    assert len(regions()) == 2
    del kept
    cache.drain()
    assert pool.trim() == 2
    assert regions() == []


def test_a_pool_that_is_dropped_takes_its_traces_along() -> None:
    cache = PageFragCache(PagePool(tracemalloc=True))
    kept = asks(cache, 1)
    del cache
    assert len(regions()) == 1  # the fragment keeps it
    del kept
    assert regions() == []


def test_a_last_fragment_that_goes_on_another_thread_ends_the_trace() -> None:
    kept = asks(PageFragCache(PagePool(tracemalloc=True)), 1)
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert regions() == []


def test_a_ring_maps_while_others_run_and_is_traced(sock: object) -> None:
    import socket  # noqa: PLC0415 - for its type

    assert isinstance(sock, socket.socket)
    with RxRing(sock, cache=PageFragCache(PagePool(tracemalloc=True))) as ring:
        ring.recv(timeout=0)
        assert [trace.size for trace in regions()] == [REGION]


def test_other_pools_are_in_nobodys_books() -> None:
    pool = PagePool()
    kept = asks(PageFragCache(pool), 1)
    assert (pool.tracemalloc, regions()) == (False, [])
    del kept


def test_threads_that_map_at_once_are_all_noted() -> None:
    cache = PageFragCache(PagePool(tracemalloc=True))
    kept: list[list[object]] = []
    threads = [threading.Thread(target=lambda: kept.append(asks(cache, 64))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(regions()) == cache.pool.stats().regions_mapped >= 8


def test_a_region_that_was_mapped_before_the_books_were_opened_is_no_trouble() -> None:
    tracemalloc.stop()
    pool = PagePool(tracemalloc=True)
    cache = PageFragCache(pool)
    kept = asks(cache, 1)
    tracemalloc.start()
    assert regions() == []
    del kept
    cache.drain()
    assert pool.trim() == 1
    assert regions() == []


def test_a_python_that_lends_no_books_is_one_clear_error() -> None:
    script = """
import ctypes, pagefrag
class Nothing: pass
ctypes.pythonapi = Nothing()
try:
    pagefrag.PagePool(tracemalloc=True)
except pagefrag.PagefragError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("this Python does not lend tracemalloc: "), done.stderr


@pytest.mark.parametrize("stop", ["", "tracemalloc.stop()"])
def test_the_end_of_the_interpreter_is_no_accident(stop: str) -> None:
    script = f"""
import tracemalloc, sys, threading
from pagefrag import PageFragCache, PagePool
tracemalloc.start()
cache = PageFragCache(PagePool(tracemalloc=True))
sys.kept = cache.alloc_many(100, 32768)
local = threading.local()
local.kept = cache.alloc(1)
{stop}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_daemon_thread_that_maps_while_the_interpreter_ends_is_no_accident() -> None:
    script = """
import socket, sys, threading, time, tracemalloc
from pagefrag import PageFragCache, PagePool, RxRing
tracemalloc.start()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
cache = PageFragCache(PagePool(tracemalloc=True))
ring = RxRing(sock, slots=1024, buf_size=32768, cache=cache)
mapped = threading.Event()
def work():
    while True:
        ring.recv(max=1024, timeout=0)  # maps 16 regions while others run
        mapped.set()
        ring.drain(), cache.drain(), cache.pool.trim()
class Late:
    def __del__(self, sleep=time.sleep):
        sleep(0.2)  # others may run once more, until they want the interpreter
sys.kept = Late()
threading.Thread(target=work, daemon=True).start()
mapped.wait()
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_domain_is_nobody_elses() -> None:
    assert int.from_bytes(b"page", "big") == PagePool.TRACEMALLOC_DOMAIN
    assert compiled.PagePool.TRACEMALLOC_DOMAIN not in (0, 389047)  # Python's and NumPy's
