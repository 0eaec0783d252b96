"""Does a packet cost a heap call, or an object, when batches are read as arrays? (R11)

Two counts that have nothing to do with each other. *Objects*: what the interpreter has allocated
(`sys.getallocatedblocks`) while many batches and their arrays are kept; an object and what it
holds inside count alike. *Calls*: every malloc of the process, Python's own included, as valgrind
counts them (``PYTHONMALLOC=malloc``), in two runs that differ in the number of batches received and
in nothing else. What does not depend on the packets of a batch is paid for the batch.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from pagefrag import PageFragCache, PagePool, RxRing
from rings.road import Packets, receiving_socket

__all__ = ["calls", "has_valgrind", "main", "objects"]

HERE = Path(__file__).resolve().parents[1]
_ALLOCATIONS = re.compile(r"total heap usage: ([\d,]+) allocs")


def _filled(packets: int) -> socket.socket:
    """Return a socket in which so many packets wait."""
    sock = receiving_socket()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(sock.getsockname())
        for _ in range(packets):
            sender.send(bytes(Packets(100).size))
    return sock


def objects(most: int, batches: int = 20) -> float:
    """Return the objects that exist for each batch of *most* packets and its lengths.

    Two counts are compared: what the counting itself keeps is the same in both.
    """
    return (_kept(most, 2 * batches) - _kept(most, batches)) / batches


def _kept(most: int, batches: int) -> int:
    """Return the objects that exist for so many batches and their lengths."""
    with _filled((batches + 2) * most) as sock:
        ring = RxRing(sock, gro=False, slots=most, cache=PageFragCache(PagePool()))
        kept: list[object] = [None] * (2 * batches)
        for _ in range(2):
            assert len(ring.recv(most, 0).lengths) == most
        gc.collect()
        before = sys.getallocatedblocks()
        for index in range(batches):
            kept[index] = batch = ring.recv(most, 0)
            kept[batches + index] = batch.lengths
        after = sys.getallocatedblocks()
        del batch
        ring.close()
    return after - before


def has_valgrind() -> bool:
    """Tell whether there is a valgrind to count with."""
    return shutil.which("valgrind") is not None


def calls(most: int) -> float:
    """Return the heap calls for each batch of *most* packets and its lengths."""
    few, many = 4, 24
    return (_counted(most, many, many) - _counted(most, many, few)) / (many - few)


def _counted(most: int, filled: int, batches: int) -> int:
    """Return all heap calls of a process that receives so many batches."""
    words = [shutil.which("valgrind") or "valgrind", sys.executable, "-m", "rings.heap"]
    done = subprocess.run(
        [*words, *map(str, (most, filled, batches))],
        env={
            **os.environ,
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found = _ALLOCATIONS.search(done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


def main(most: int, filled: int, batches: int) -> None:
    """Receive as :func:`calls` wants it."""
    with _filled(most * filled) as sock:
        ring = RxRing(sock, gro=False, slots=most, cache=PageFragCache(PagePool()))
        for _ in range(batches):
            batch = ring.recv(most, 0)
            assert len(batch.lengths) == most
            batch.release()
        ring.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
