"""``python -m pagefrag info``: what runs here, for a bug report."""

from __future__ import annotations

import mmap
import platform
import sys
from pathlib import Path

import pagefrag

__all__ = ["facts", "huge_page_state", "main"]

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_page_state() -> str:
    """Return the kernel's setting for transparent huge pages, and whether a pool got one."""
    try:
        setting = _HUGE_PAGES.read_text(encoding="ascii").split("[")[1].split("]")[0]
    except (OSError, IndexError):
        return "not offered by this kernel"
    return f"{setting}; {_trial()}"


def _trial() -> str:
    """Map one region, touch all of it, and see whether huge pages stand behind it."""
    pool = pagefrag.PagePool(page_size=1 << 20)
    cache = pagefrag.PageFragCache(pool)
    first = cache.alloc(1 << 20)
    memoryview(first)[:] = bytes(first.nbytes)
    got = pool.stats().huge_bytes
    return f"{got >> 10:,} KiB of a touched region stand on huge pages"


def facts() -> dict[str, str]:
    """Return what there is to know, in the order in which it is printed."""
    return {
        "pagefrag": pagefrag.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "byte order": sys.byteorder,
        "OS page": f"{mmap.PAGESIZE:,} bytes",
        "page": f"{pagefrag.default_pool().page_size:,} bytes",
        "huge pages": huge_page_state(),
        "build": ", ".join(pagefrag.build_features()),
    }


def main() -> int:
    """Print the facts; return the exit status."""
    found = facts()
    width = max(map(len, found))
    for name, fact in found.items():
        print(f"{name:<{width}}  {fact}")
    return 0
