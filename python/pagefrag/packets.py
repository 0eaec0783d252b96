"""Packets whose every byte follows from their sequence number.

A packet is eight bytes of sequence number, little-endian, and a body. The bodies are
256 blocks of fixed pseudo-random bytes; which one a packet carries follows from its
number. A byte that comes from another packet, or that was overwritten after it was
received, is therefore seen.
"""

from __future__ import annotations

import random
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BODIES", "HEADER", "SEQUENCE", "Expectation", "bodies"]

SEQUENCE = Struct("<Q")
HEADER = SEQUENCE.size
BODIES = 256
"""How many different bodies there are; a power of two."""

_SEED = 2_048


def bodies(size: int) -> list[bytes]:
    """Return the bodies of packets of *size* bytes, one for each sequence number modulo 256.

    >>> [len(body) for body in bodies(12)[:3]]
    [4, 4, 4]
    >>> bodies(12) == bodies(12)
    True
    """
    source = random.Random(_SEED)  # noqa: S311 - a pattern, not a secret
    return [source.randbytes(size - HEADER) for _ in range(BODIES)]


class Expectation:
    """What packets of one size must look like.

    >>> expected = Expectation(16)
    >>> packet = expected.packet(7)
    >>> expected.holds(packet), expected.holds(packet[:-1] + b"!")
    (True, False)
    """

    def __init__(self, size: int) -> None:
        """Prepare one template per body; a check then writes eight bytes and compares."""
        self.size = size
        self.templates: list[bytearray] = [bytearray(HEADER) + body for body in bodies(size)]

    def packet(self, sequence: int) -> bytes:
        """Return packet number *sequence*."""
        template = self.templates[sequence % BODIES]
        SEQUENCE.pack_into(template, 0, sequence)
        return bytes(template)

    def holds(self, packet: Buffer) -> bool:
        """Tell whether *packet* is, byte for byte, the one whose number it carries."""
        view = memoryview(packet)
        if view.nbytes != self.size:
            return False
        sequence: int
        (sequence,) = SEQUENCE.unpack_from(view)
        template = self.templates[sequence % BODIES]
        SEQUENCE.pack_into(template, 0, sequence)
        return bool(template == view)  # pyright: ignore[reportUnnecessaryComparison] - both are bytes
