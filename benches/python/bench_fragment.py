"""What does a fragment cost in Python, against the cheapest objects Python has? (R8)

``python benches/python/bench_fragment.py`` measures with pyperf: several processes for each arm,
bound to one processor, medians. ``--quick`` takes one process and a moment.

Taking and dropping is compared for 64 to 65,536 bytes: ``cache.alloc``, ``alloc_many`` (for each
of 64), ``object()``, ``bytearray``, ``bytes``, ``numpy.empty`` and a slice of one ``memoryview``.
Then what is done with one: slices, views, release.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from timeit import Timer
from typing import Any

import numpy as np
import pyperf

import pagefrag
import record

SIZES = (64, 2048, 8192, 65536)
MANY = 64

# 65,536 bytes do not fit in a page of the usual size; a rounder one is fair to all others.
POOL = pagefrag.PagePool(page_size=1 << 18)
LARGE = memoryview(bytearray(1 << 17))


@dataclass(frozen=True)
class Arm:
    """One statement and the names in it; *each* is how many things it takes."""

    group: str
    name: str
    parameter: str
    statement: str
    words: dict[str, Any] = field(default_factory=dict)
    each: int = 1


def taking(size: int) -> list[Arm]:
    """Return the arms that take *size* bytes and drop them at once."""
    cache = pagefrag.PageFragCache(POOL if size > 32768 else pagefrag.PagePool())
    found = {
        "cache.alloc": (f"take({size})", {"take": cache.alloc}),
        "object()": ("take()", {"take": object}),
        "bytearray": (f"take({size})", {"take": bytearray}),
        "bytes": (f"take({size})", {"take": bytes}),
        "numpy.empty": (f"take({size}, kind)", {"take": np.empty, "kind": np.uint8}),
        "slice of a memoryview": (f"view[:{size}]", {"view": LARGE}),
    }
    arms = [
        Arm("take and drop", name, str(size), statement, words)
        for name, (statement, words) in found.items()
    ]
    many = {"take": cache.alloc_many}
    statement = f"take({MANY}, {size})"
    return [*arms, Arm("take and drop", f"alloc_many({MANY})", str(size), statement, many, MANY)]


def using() -> list[Arm]:
    """Return the arms that do something with a fragment of 2,048 bytes, rivals beside."""
    cache = pagefrag.PageFragCache()
    ours = cache.alloc(2048)
    subjects: dict[str, Any] = {
        "pagefrag": ours,
        "memoryview": memoryview(bytearray(2048)),
        "bytes": bytes(2048),
        "bytearray": bytearray(2048),
        "numpy": np.empty(2048, np.uint8),
    }
    arms = [
        Arm(group, name, "2048", statement, {"it": it})
        for group, statement in (
            ("slice [4:20]", "it[4:20]"),
            ("memoryview of it", "memoryview(it)"),
            ("copy to bytes", "bytes(it)"),
        )
        for name, it in subjects.items()
    ]
    alloc = {"take": cache.alloc}
    return [
        *arms,
        Arm("release", "alloc and drop", "2048", "take(2048)", alloc),
        Arm("release", "alloc and release()", "2048", "take(2048).release()", alloc),
    ]


def main() -> None:
    """Measure all arms, print them, keep them."""
    quick = "--quick" in sys.argv
    if quick:
        sys.argv.remove("--quick")
    runner = pyperf.Runner(
        processes=1 if quick else 2, values=5, warmups=1, min_time=0.005 if quick else 0.01
    )
    runner.argparser.set_defaults(affinity="0", quiet=True)
    rows = []
    for arm in [arm for size in SIZES for arm in taking(size)] + using():
        name = f"{arm.group}, {arm.parameter}: {arm.name}"
        # Not `runner.timeit`, which keeps what it found to itself.
        timer = Timer(arm.statement, "import gc; gc.enable()", globals=arm.words)
        found = runner.bench_time_func(
            name, timer.timeit, **({"inner_loops": arm.each} if arm.each > 1 else {})
        )
        if found is not None and not runner.args.worker:
            nanoseconds = found.median() * 1e9
            print(f"{name:<48} {nanoseconds:9.1f} ns")
            rows.append(record.row(arm.group, arm.name, arm.parameter, ns=nanoseconds))
    if rows:
        record.keep("fragment", rows)


if __name__ == "__main__":
    main()
