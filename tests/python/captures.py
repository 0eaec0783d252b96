"""Captures written by hand, byte for byte, in every variant that there is."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pagefrag.replay.capture import Record
from pagefrag.replay.traffic import Traffic

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Packet:
    """*time* in nanoseconds; *captured* is *wire* unless the packet was cut."""

    time: int
    wire: int
    captured: int | None = None
    interface: int = 0

    @property
    def data(self) -> bytes:
        return bytes(self.wire if self.captured is None else self.captured)


def steady(count: int, size: int, step: int, start: int = 1_700_000_000 * SECOND) -> list[Packet]:
    """Return *count* packets of *size* bytes, one every *step* nanoseconds."""
    return [Packet(start + index * step, size) for index in range(count)]


def classic_header(order: str = "<", *, nano: bool = False, snap: int = 65_535) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snap, 1)


def classic_record(packet: Packet, order: str = "<", *, nano: bool = False) -> bytes:
    seconds, rest = divmod(packet.time, SECOND)
    part = rest if nano else rest // 1_000
    head = struct.pack(f"{order}IIII", seconds, part, len(packet.data), packet.wire)
    return head + packet.data


def classic(packets: Iterable[Packet], order: str = "<", *, nano: bool = False) -> bytes:
    """Return a classic capture."""
    records = (classic_record(packet, order, nano=nano) for packet in packets)
    return classic_header(order, nano=nano) + b"".join(records)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


@dataclass(frozen=True)
class Interface:
    """*resolution* as in ``if_tsresol`` (None: not said), *offset* in seconds, *snap* length."""

    resolution: int | None = None
    offset: int | None = None
    snap: int = 0

    def block(self, order: str = "<") -> bytes:
        options = b""
        if self.resolution is not None:
            options += option(9, bytes([self.resolution]), order)
        if self.offset is not None:
            options += option(14, struct.pack(f"{order}q", self.offset), order)
        if options:
            options += option(0, b"", order)
        return block(1, struct.pack(f"{order}HHI", 1, 0, self.snap) + options, order)

    def ticks(self, time: int) -> int:
        time -= (self.offset or 0) * SECOND
        resolution = 6 if self.resolution is None else self.resolution
        base = 2 if resolution & 0x80 else 10
        return time * base ** (resolution & 0x7F) // SECOND


def enhanced(
    packet: Packet, interface: Interface, order: str = "<", comment: bytes | None = None
) -> bytes:
    ticks = interface.ticks(packet.time)
    head = (packet.interface, ticks >> 32, ticks & 0xFFFFFFFF, len(packet.data), packet.wire)
    body = struct.pack(f"{order}IIIII", *head) + packet.data
    if comment is not None:
        body += bytes(-len(body) % 4) + option(1, comment, order) + option(0, b"", order)
    return block(6, body, order)


def obsolete(packet: Packet, interface: Interface, order: str = "<") -> bytes:
    ticks = interface.ticks(packet.time)
    head = (packet.interface, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(packet.data), packet.wire)
    return block(2, struct.pack(f"{order}HHIIII", *head) + packet.data, order)


def simple(wire: int, captured: int, order: str = "<") -> bytes:
    return block(3, struct.pack(f"{order}I", wire) + bytes(captured), order)


def pcapng(
    packets: Iterable[Packet], order: str = "<", interfaces: Sequence[Interface] = (Interface(),)
) -> bytes:
    """Return a pcapng capture of one section."""
    start = section(order) + b"".join(interface.block(order) for interface in interfaces)
    return start + b"".join(
        enhanced(packet, interfaces[packet.interface], order) for packet in packets
    )


@contextmanager
def traffic_of(
    packets: Iterable[Packet], length: Literal["wire", "captured"] = "wire"
) -> Iterator[Traffic]:
    """Lend what would be replayed of *packets*."""
    with Traffic(length) as traffic:
        for packet in packets:
            traffic.add(Record(packet.time, len(packet.data), packet.wire))
        yield traffic


def replayed(traffic: Traffic) -> list[tuple[int, int]]:
    """Return all packets as (nanoseconds since the one before, bytes)."""
    return [packet for chunk in traffic.chunks() for packet in chunk]
