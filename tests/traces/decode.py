"""What a trace says; ``README.md`` has the format, ``mod.rs`` the same in Rust."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

PAGES = (4 << 10, 8 << 10, 32 << 10, 128 << 10)
THREADS = 3
REGION = 2 << 20
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

FAULTS = (None, "map", "unmap", "advise", "ends", None, None, None)
OPS = (
    "alloc",
    "build_skb",
    "alloc_bytes",
    "alloc_many",
    "netdev_frag",
    "netdev_skb",
    "poll",
    "napi_frag",
    "napi_skb",
    "consume",
    "prepare",
    "commit",
    "release",
    "release",
    "write",
    "read",
    "slice",
    "readonly",
    "trim",
    "put",
    "push",
    "pull",
    "reserve",
    "add_frag",
    "clone",
    "view",
    "unview",
    "exit",
    "drain",
    "trim_pool",
    "audit",
    "cycle",
)
# What becomes of whole packets has one number: the argument chooses.
PACKET = ("build_skb", "linearize", "coalesce")


@dataclass(frozen=True)
class Config:
    """What the head of a trace says."""

    page: int
    regions: int
    init_on_alloc: bool
    init_on_free: bool
    faults: int

    @property
    def plan(self) -> int:
        """What fails, as the preloaded library has it."""
        return self.faults if self.fault else 0

    @property
    def fault(self) -> str | None:
        """Which of the pool's calls to the system fails."""
        return FAULTS[self.faults % 8]

    def hits(self, number: int) -> bool:
        """Does call *number* fail?"""
        first = self.faults >> 4
        return number == first or (number > first and bool(self.faults & 8))

    def __str__(self) -> str:
        """Return the first line of each log."""
        init = f"alloc={int(self.init_on_alloc)} free={int(self.init_on_free)}"
        return f"page={self.page} regions={self.regions} {init} faults={self.plan}"


class Step(NamedTuple):
    """One step."""

    op: str
    thread: int
    handle: int
    arg: int


def _op(number: int, arg: int) -> str:
    op = OPS[number % 32]
    return PACKET[arg % 3] if op in PACKET else op


def decode(trace: bytes) -> tuple[Config, Iterator[Step]]:
    """Return the head of *trace*, and its steps."""
    head = trace[:4].ljust(4, b"\0")
    config = Config(
        page=PAGES[head[0] % 4],
        regions=head[1] % 4,
        init_on_alloc=bool(head[2] & 1),
        init_on_free=bool(head[2] & 2),
        faults=head[3],
    )
    body = trace[4:]
    body = body[: len(body) // 8 * 8]
    steps = (
        Step(_op(op, arg), thread % THREADS, handle, arg)
        for op, thread, handle, arg in struct.iter_unpack("<BBHI", body)
    )
    return config, steps


def size_of(arg: int, page: int) -> int:
    """Return the size that an argument asks for."""
    n = arg >> 8
    match arg % 8:
        case 0 | 1 | 2 | 3:
            return 1 + n % 2048
        case 4:
            return 64 * (1 + n % 32)
        case 5:
            return 1 + n % (page + 8)
        case 6:
            edges = (0, 1, 63, 64, 65, 1500, 2048, page - 1, page, page + 1, (1 << 31) - 1)
            return edges[n % len(edges)]
        case _:
            return 1 + n % 64


def align_of(arg: int) -> int:
    """Return the alignment that an argument asks for."""
    return 1 << ((arg >> 3) % 16) if arg & 0x80 else 1


def _sequence(words: int) -> bytes:
    """Return the first *words* of the sequence of which every pattern is a part."""
    return b"".join((index * _GOLDEN & _MASK).to_bytes(8, "little") for index in range(words))


# A pattern begins at the word that its seed names; the longest fills a page.
SEEDS = 1 << 16
_SEQUENCE = _sequence(SEEDS + PAGES[-1] // 8)


def pattern(seed: int, length: int) -> bytes:
    """Return *length* bytes of the pattern of *seed*."""
    first = seed % SEEDS * 8
    return _SEQUENCE[first : first + length]


def digest(text: bytes) -> int:
    """Return the CRC-32 of *text*."""
    return zlib.crc32(text)


def random_trace(seed: int, steps: int) -> bytes:
    """Return a trace of so many random *steps* without a fault (splitmix64)."""
    state = seed

    def following() -> bytes:
        nonlocal state
        state = state + _GOLDEN & _MASK
        word = state
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
        return (word ^ word >> 31).to_bytes(8, "little")

    return following()[:3] + b"\0" + b"".join(following() for _ in range(steps))
