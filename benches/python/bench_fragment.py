"""What does a fragment cost in Python, against the cheapest objects Python has? (R8)

``python benches/python/bench_fragment.py`` prints medians over many short loops, pinned to
one processor, each arm in turn so that a busy moment hits them all.
"""

from __future__ import annotations

import os
import platform
import statistics
from timeit import Timer
from typing import Any

import pagefrag

LOOPS = 5_000
REPEATS = 400

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "cache.alloc(2048)": ("take(2048)", {"take": pagefrag.PageFragCache().alloc}),
    "object()": ("take()", {"take": object}),
    "bytearray(2048)": ("take(2048)", {"take": bytearray}),
    "bytes(2048)": ("take(2048)", {"take": bytes}),
}
"""Each takes one thing and drops it at once; the callable is looked up in the same way."""


def measure() -> dict[str, float]:
    """Return nanoseconds per take and drop of each arm."""
    timers = {name: Timer(text, globals=words) for name, (text, words) in ARMS.items()}
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(REPEATS):
        for name, timer in timers.items():
            times[name].append(timer.timeit(LOOPS) / LOOPS * 1e9)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Measure and print the table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(
        f"Python {platform.python_version()}, {platform.machine()}, pagefrag {pagefrag.__version__}"
    )
    found = measure()
    ours = found["cache.alloc(2048)"]
    for name, nanoseconds in found.items():
        print(f"{name:<20} {nanoseconds:7.1f} ns   alloc costs {ours / nanoseconds:5.2f} of it")


if __name__ == "__main__":
    main()
