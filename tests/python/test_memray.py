"""memray sees each region as a mapping, made where Python asked for the memory."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("memray") is None, reason="memray is not installed"
)

REGION = 2 << 20

PROGRAM = """
import sys
import memray
from pagefrag import PageFragCache, PagePool

def keep_packets(cache):
    return cache.alloc_many(80, 32768)

cache = PageFragCache(PagePool(huge_pages="never"))
with memray.Tracker(sys.argv[1]):
    kept = keep_packets(cache)
    if sys.argv[2] == "released":
        del kept
        cache.drain()
        cache.pool.trim()
reader = memray.FileReader(sys.argv[1])

def ours(records):
    inside = lambda record: "keep_packets" in [name for name, *_ in record.stack_trace()]
    return sum(record.size for record in records if inside(record))

each, left = reader.get_allocation_records(), reader.get_leaked_allocation_records()
mmaps = [record for record in each if memray.AllocatorType(record.allocator).name == "MMAP"]
print(ours(mmaps), ours(left))
"""


def seen(folder: Path, fate: str) -> tuple[int, int]:
    """Return the bytes that memray saw Python's `keep_packets` map, and those that were left."""
    command = [sys.executable, "-c", PROGRAM, str(folder / "trace.bin"), fate]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mapped, left = done.stdout.split()
    return int(mapped), int(left)


def test_regions_are_mappings_of_who_asked(tmp_path: Path) -> None:
    mapped, left = seen(tmp_path, "kept")
    assert mapped >= 2 * REGION
    # 80 pages of 32 KiB are two regions, each with the header that describes it.
    assert 2 * REGION <= left < 3 * REGION


def test_what_was_unmapped_is_gone(tmp_path: Path) -> None:
    mapped, left = seen(tmp_path, "released")
    assert mapped >= 2 * REGION
    assert left < REGION
