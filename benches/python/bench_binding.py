"""What a fragment costs in Python: the raw type, a plain `#[pyclass]`, and what Python has.

Build the module with the rival in it, then run this file:

    maturin develop --release -m rust/python/Cargo.toml --features plain-fragment
    python benches/python/bench_binding.py

Each line is the shortest of many short runs, in turns, so that all see the same machine. The loop
around a statement costs the `pass` line; it is in every figure. Without the feature the plain
lines are left out.
"""

from __future__ import annotations

import gc
import platform
import sys
import timeit
from typing import Any

import pagefrag
from pagefrag import _pagefrag

ROUNDS = 60
NUMBER = 20_000
SIZE = 2048


def tracked_per_fragment(cache: Any) -> float:  # noqa: ANN401 - either cache
    """Return how many objects the collector gains with each fragment."""
    gc.collect()
    gc.disable()
    before = len(gc.get_objects())
    kept = [cache.alloc(64) for _ in range(1000)]
    gained = len(gc.get_objects()) - before - 1
    gc.enable()
    return gained / len(kept)


def statements() -> tuple[dict[str, str], dict[str, Any]]:
    """Return what is measured, by name, and the names it uses."""
    names: dict[str, Any] = {
        "cache": pagefrag.PageFragCache(pagefrag.PagePool()),
        "frag": pagefrag.PageFragCache().alloc(64),
        "view": memoryview(bytes(64)),
    }
    found = {
        "pass": "pass",
        "object()": "object()",
        f"bytearray({SIZE})": f"bytearray({SIZE})",
        f"bytes({SIZE})": f"bytes({SIZE})",
        "raw: alloc and drop": f"cache.alloc({SIZE})",
        "raw: alloc and drop, 64 bytes": "cache.alloc(64)",
        "raw: alloc(align=64) and drop": f"cache.alloc({SIZE}, align=64)",
        "raw: alloc_many(64), each": f"cache.alloc_many(64, {SIZE})",
        "raw: memoryview": "memoryview(frag)",
        "raw: slice": "frag[4:20]",
        "memoryview: slice": "view[4:20]",
        "raw: index": "frag[4]",
        "memoryview: index": "view[4]",
    }
    if hasattr(_pagefrag, "PlainCache"):
        names["plain"] = _pagefrag.PlainCache(pagefrag.PagePool())
        names["plain_frag"] = names["plain"].alloc(64)
        found |= {
            "plain: alloc and drop": f"plain.alloc({SIZE})",
            "plain: alloc and drop, bare argument": f"plain.alloc_bare({SIZE})",
            "plain: memoryview": "memoryview(plain_frag)",
        }
    return found, names


def measure(found: dict[str, str], names: dict[str, Any]) -> dict[str, float]:
    """Return nanoseconds for each statement."""
    best = dict.fromkeys(found, float("inf"))
    for _ in range(ROUNDS):
        for name, statement in found.items():
            number = NUMBER // 64 if name.endswith("each") else NUMBER
            took = timeit.timeit(statement, globals=names, number=number)
            per = number * 64 if name.endswith("each") else number
            best[name] = min(best[name], took / per * 1e9)
    return best


def main() -> int:
    """Print the figures and the ratios that the project promises."""
    found, names = statements()
    print(
        f"python {platform.python_version()}, {platform.machine()}, pagefrag {pagefrag.__version__}"
    )
    best = measure(found, names)
    for name, took in best.items():
        print(f"{name:<40} {took:8.1f} ns")
    raw = best["raw: alloc and drop"]
    print(f"R8  alloc({SIZE}) / object()        {raw / best['object()']:5.2f}   (promised 1.00)")
    ratio = raw / best[f"bytearray({SIZE})"]
    print(f"R8  alloc({SIZE}) / bytearray({SIZE}) {ratio:5.2f}   (promised 0.25)")
    for kind in ("cache", "plain"):
        if kind in names:
            print(f"objects tracked per fragment, {kind}: {tracked_per_fragment(names[kind]):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
