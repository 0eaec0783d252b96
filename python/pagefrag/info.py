"""What runs here, as text for a bug report: ``show_versions()``, ``python -m pagefrag info``."""

from __future__ import annotations

import mmap
import os
import platform
import re
import socket
import sys
from importlib import metadata
from pathlib import Path

import pagefrag

__all__ = ["cuts", "facts", "huge_page_state", "joins", "main", "processor", "show_versions"]

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PROCESSORS = Path("/proc/cpuinfo")

# What people use fragments with and no extra brings.
_COMPANIONS = ("dask", "distributed", "polars", "pyzmq", "ray", "uvloop")


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


def processor() -> str:
    """Return what the processors are called, and how many of them this process may use."""
    try:
        text = _PROCESSORS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1] if found else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} of {os.cpu_count()}"


def joins() -> bool:
    """Tell whether the kernel joins datagrams for a ring (``UDP_GRO``).

    >>> joins() in (True, False)
    True
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pagefrag.RxRing(sock) as ring:
        return ring.gro


def cuts() -> bool:
    """Tell whether the kernel cuts datagrams for a ring (``UDP_SEGMENT``).

    >>> cuts() in (True, False)
    True
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pagefrag.TxRing(sock) as ring:
        return ring.gso


def _interpreter() -> str:
    """Return version and name, and whether threads run at once."""
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    threads = "GIL" if enabled else "free-threaded"
    return f"{platform.python_version()} ({platform.python_implementation()}, {threads})"


def _optional() -> dict[str, str]:
    """Return the versions of what the extras bring, installed or not, and of companions."""
    asked = [re.match(r"[\w.-]+", line) for line in metadata.requires("pagefrag") or ()]
    extras = {found[0] for found in asked if found}
    versions: dict[str, str] = {}
    for name in sorted(extras | set(_COMPANIONS)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in extras:
                versions[name] = "not installed"
    return versions


def facts() -> dict[str, str]:
    """Return what there is to know, in the order in which it is printed."""
    return {
        "pagefrag": pagefrag.__version__,
        "build": ", ".join(pagefrag.build_features()),
        "python": _interpreter(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": processor(),
        "byte order": sys.byteorder,
        "OS page": f"{mmap.PAGESIZE:,} bytes",
        "page": f"{pagefrag.default_pool().page_size:,} bytes",
        "huge pages": huge_page_state(),
        "UDP_GRO": "yes" if joins() else "no",
        "UDP_SEGMENT": "yes" if cuts() else "no",
        **_optional(),
    }


def show_versions() -> None:
    """Print what a bug report needs: versions, the build, the machine, what the kernel can do.

    `python -m pagefrag info` prints the same.

    >>> show_versions()
    pagefrag ...
    build ...
    python ...
    """
    found = facts()
    width = max(map(len, found))
    for name, fact in found.items():
        print(f"{name:<{width}}  {fact}")


def main() -> int:
    """Print the facts; return the exit status."""
    show_versions()
    return 0
