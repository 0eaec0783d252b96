"""Faults of Python code that AddressSanitizer must find in the module.

    python tests/sanitize/stale.py address|NAME|sound-address

lists them, commits one, or does the same things right (``planted.py``). Each keeps the raw address
of bytes that it has given back, as a C extension may that forgets its buffer, and touches them
with ``ctypes``. The region is still mapped, so without the sanitizer nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traces import engine
from traces.decode import random_trace
from traces.model import world

from pagefrag import PageFragCache, PagePool

TRACES = 40


def address_of(buffer: Any) -> int:
    """Return where the bytes of *buffer* are; nothing looks at them afterwards."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def read(stale: int) -> None:
    """Read bytes that are nobody's: more than one, which the interpreter would not copy."""
    ctypes.string_at(stale, 16)


def buried(cache: PageFragCache, size: int) -> tuple[Any, list[Any]]:
    """Return a fragment, and others behind it, so that it is not what was carved last."""
    frag = cache.alloc(size)
    return frag, cache.alloc_many(2, 64)


def released() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    stale = address_of(frag)
    frag.release()
    read(stale)


def released_last() -> None:
    cache = PageFragCache(PagePool())
    frag = cache.alloc(1500)
    stale = address_of(frag)
    frag.release()
    read(stale)


def collected() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    stale = address_of(frag)
    del frag
    read(stale)


def released_by_a_thread() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    stale = address_of(frag)
    thread = threading.Thread(target=frag.release)
    thread.start()
    thread.join()
    read(stale)


def released_slice() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    part = frag[700:800]
    stale = address_of(part)
    frag.release()
    part.release()
    read(stale)


def released_view() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    with memoryview(frag)[100:] as view:
        stale = address_of(view)
    frag.release()
    read(stale)


def cut_off() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    stale = address_of(frag) + 1024
    frag.trim(64)
    read(stale)


def behind() -> None:
    frag = PageFragCache(PagePool()).alloc(1500)
    read(address_of(frag) + frag.capacity)


def room_of_a_commit() -> None:
    room = PageFragCache(PagePool()).prepare(2048)
    stale = address_of(room) + 64
    _frag = room.commit(64)
    read(stale)


def written() -> None:
    frag, _others = buried(PageFragCache(PagePool()), 1500)
    stale = address_of(frag)
    frag.release()
    ctypes.memset(stale, 7, 1)


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        released,
        released_last,
        collected,
        released_by_a_thread,
        released_slice,
        released_view,
        cut_off,
        behind,
        room_of_a_commit,
        written,
    )
}


def sound() -> None:
    """Run traces: what they touch is theirs, and what they read is what the model says."""
    lines = 0
    for seed in range(TRACES):
        trace = random_trace(seed, 100)
        log = engine.log(trace)
        assert log == world.log(trace)
        lines += log.count("\n")
    print(f"{lines} lines of {TRACES} traces, all as the model says")


def main(words: list[str]) -> int:
    """Do what the *words* say."""
    match words:
        case ["address"]:
            print("\n".join(FAULTS))
        case ["sound-address"]:
            sound()
        case [name] if name in FAULTS:
            FAULTS[name]()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
