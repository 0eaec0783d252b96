"""What a capture says about its traffic, small enough to be replayed many times.

Every packet is twelve bytes here: how long after the one before it came, and how long it is. They
lie in memory up to `_IN_MEMORY` bytes and in a temporary file beyond, so that a capture of any
length takes no more room than its longest chunk.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagefrag.replay.capture import Record

__all__ = ["Traffic"]

_CHUNK = 8_192
_IN_MEMORY = 64 << 20
_DISORDER = 1_000_000_000
_LONGEST_STEP = (1 << 63) - 1
_LONGEST_LENGTH = (1 << 32) - 1


class Traffic:
    """The sizes and steps in time of a capture's packets, and what they are together.

    Time only goes forward here. A packet that is up to a second older than the newest one before
    it came in disorder: it comes at the same time. One that is older than that was stamped by a
    clock that had been set back: time goes on from where it was.
    """

    def __init__(self, length: Literal["wire", "captured"] = "wire") -> None:
        """Count as *length* says: the bytes on the wire, or those that the file has."""
        self.length = length
        self.sizes: Counter[int] = Counter()
        self.packets: int = 0
        self.bytes: int = 0
        self.duration: int = 0
        self.cut: int = 0
        self.untimed: int = 0
        self.disordered: int = 0
        self.set_back: int = 0
        self._newest: int | None = None
        self._steps: array[int] = array("q")
        self._lengths: array[int] = array("I")
        self._chunks: list[int] = []
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115

    def add(self, record: Record) -> None:
        """Take in the next packet."""
        wire = max(record.wire, record.captured)
        size = min(wire if self.length == "wire" else record.captured, _LONGEST_LENGTH)
        step = self._step(record.time)
        self.packets += 1
        self.bytes += size
        self.duration += step
        self.cut += record.captured < wire
        self.sizes[size] += 1
        self._steps.append(step)
        self._lengths.append(size)
        if len(self._steps) == _CHUNK:
            self._write()

    def _step(self, time: int | None) -> int:
        if time is None:
            self.untimed += 1
            return 0
        if self._newest is None:
            self._newest = time
            return 0
        step = time - self._newest
        if step < 0:
            self.disordered += 1
            if step >= -_DISORDER:
                return 0
            self.set_back += 1
        self._newest = time
        return min(max(step, 0), _LONGEST_STEP)

    def _write(self) -> None:
        if self._steps:
            self._chunks.append(len(self._steps))
            self._spool.write(self._steps.tobytes())
            self._spool.write(self._lengths.tobytes())
            del self._steps[:], self._lengths[:]

    def chunks(self) -> Iterator[Iterable[tuple[int, int]]]:
        """Yield the packets as (nanoseconds since the one before, bytes), many at a time."""
        self._write()
        self._spool.seek(0)
        for count in self._chunks:
            steps, lengths = array("q"), array("I")
            steps.frombytes(self._spool.read(count * steps.itemsize))
            lengths.frombytes(self._spool.read(count * lengths.itemsize))
            yield zip(steps, lengths, strict=True)

    def __enter__(self) -> Self:
        """Return itself; leaving closes it."""
        return self

    def __exit__(self, *_args: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give back the room of the packets."""
        self._spool.close()

    @property
    def largest(self) -> int:
        """Bytes of the longest packet."""
        return max(self.sizes)

    def quantile(self, part: float) -> int:
        """Return the bytes that *part* of the packets do not exceed (nearest rank)."""
        wanted, sizes = part * self.packets, sorted(self.sizes)
        seen = accumulate(self.sizes[size] for size in sizes)
        return next(size for size, count in zip(sizes, seen, strict=True) if count >= wanted)
