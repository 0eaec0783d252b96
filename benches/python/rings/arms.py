"""The receivers: each gets the same packets and looks at the length of every one of them.

An arm receives in the two ways in which the races use it: for some time from a sender that does
not stop, or all that waits in a full socket; in the same loop. What it adds up is compared with
what must have come, and `sample` gives the bytes themselves, received with the same calls.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pagefrag import Batch, PageFragCache, PagePool, RxRing
from rings.road import Place, Program, holds, receiving_socket

__all__ = ["Arm", "Tally", "asyncio_arm", "loop_arm", "ring_arm", "socket_arm", "uvloop_arm"]

BUFFER = 2048
CHUNK = range(256)
"""Packets between two looks at the clock, where they are received one by one."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

clock = time.perf_counter
add_up, as_array = np.add.reduce, np.asarray


@dataclass
class Tally:
    """What was received, and what it took."""

    packets: int = 0
    bytes: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    """Seconds of the receiving thread's processor."""


class Receiver(ABC):
    """One way to receive, with a socket of its own."""

    def __init__(self, size: int) -> None:
        """Open the socket; packets are of *size* bytes."""
        self.size = size
        self.sock = receiving_socket()

    @abstractmethod
    def run(self, seconds: float) -> Tally:
        """Receive for so long."""

    @abstractmethod
    def drain(self, expected: int) -> Tally:
        """Receive what is there: *expected* packets, unless the kernel has joined some."""

    @abstractmethod
    def check(self, expected: int) -> tuple[int, int]:
        """Receive what is there, with the same calls; return how many came and were wrong."""

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class OwnReceiver(Receiver):
    """A receiver in this process: two loops are all that one differs in from another."""

    def run(self, seconds: float) -> Tally:
        """Receive for so long."""
        self.sock.setblocking(True)
        return self._timed(clock() + seconds, math.inf)

    def drain(self, expected: int) -> Tally:
        """Receive what is there."""
        self.sock.setblocking(False)
        return self._timed(math.inf, expected)

    def check(self, expected: int) -> tuple[int, int]:
        """Receive what is there, and look at every byte."""
        self.sock.setblocking(False)
        packets = self.sample(expected)
        return len(packets), sum(not holds(packet, self.size) for packet in packets)

    def _timed(self, end: float, expected: float) -> Tally:
        busy, start = time.thread_time(), clock()
        packets, total = self.receive(end, expected)
        return Tally(packets, total, clock() - start, time.thread_time() - busy)

    @abstractmethod
    def receive(self, end: float, expected: float) -> tuple[int, int]:
        """Receive until *end*, or until nothing comes; return packets and bytes."""

    @abstractmethod
    def sample(self, expected: int) -> list[bytes]:
        """Return what is there."""


class SocketReceiver(OwnReceiver):
    """One system call and one object for a packet."""

    def take(self) -> Callable[[int], bytes]:
        """Return the call."""
        return self.sock.recv

    def receive(self, end: float, expected: float) -> tuple[int, int]:  # noqa: ARG002
        """Receive one by one."""
        take = self.take()
        packets = total = index = 0
        try:
            while clock() < end:
                for index in CHUNK:  # noqa: B007 - needed when it ends early
                    total += len(take(BUFFER))
                packets += len(CHUNK)
        except BlockingIOError:
            packets += index
        return packets, total

    def sample(self, expected: int) -> list[bytes]:
        """Receive one by one."""
        take = self.take()
        return [take(BUFFER) for _ in range(expected)]


class AddressReceiver(SocketReceiver):
    """The same, with the address of the sender."""

    def receive(self, end: float, expected: float) -> tuple[int, int]:  # noqa: ARG002
        """Receive one by one."""
        take = self.sock.recvfrom
        packets = total = index = 0
        try:
            while clock() < end:
                for index in CHUNK:  # noqa: B007 - needed when it ends early
                    data, _ = take(BUFFER)
                    total += len(data)
                packets += len(CHUNK)
        except BlockingIOError:
            packets += index
        return packets, total

    def sample(self, expected: int) -> list[bytes]:
        """Receive one by one."""
        return [self.sock.recvfrom(BUFFER)[0] for _ in range(expected)]


class IntoReceiver(SocketReceiver):
    """Into one buffer that never changes."""

    def receive(self, end: float, expected: float) -> tuple[int, int]:  # noqa: ARG002
        """Receive one by one."""
        take, room = self.sock.recv_into, bytearray(BUFFER)
        packets = total = index = 0
        try:
            while clock() < end:
                for index in CHUNK:  # noqa: B007 - needed when it ends early
                    total += take(room)
                packets += len(CHUNK)
        except BlockingIOError:
            packets += index
        return packets, total

    def sample(self, expected: int) -> list[bytes]:
        """Receive one by one."""
        room = bytearray(BUFFER)
        return [bytes(room[: self.sock.recv_into(room)]) for _ in range(expected)]


class _Counter(asyncio.DatagramProtocol):
    """Count what comes, and stop at *expected*."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expected: float) -> None:
        self._loop, self._expected = loop, expected
        self.packets = self.bytes = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002
        """Count a packet."""
        self.packets += 1
        self.bytes += len(data)
        if self.packets >= self._expected:
            self._loop.stop()


class _Keeper(_Counter):
    """Keep what comes as well."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expected: float) -> None:
        super().__init__(loop, expected)
        self.kept: list[bytes] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Keep a packet."""
        self.kept.append(bytes(data))
        super().datagram_received(data, addr)


P = TypeVar("P", bound=_Counter)


def large_blocks(from_heap: bool) -> None:
    """Have glibc give blocks of a quarter of a MiB as a process does that has freed one, or none.

    asyncio asks for as much for each packet. Until the process has once given back a block of that
    size, each is mapped and unmapped by the kernel; afterwards it comes from the heap. Which of
    both a program sees is history, so the bench asks for both.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        least = 1 << (20 if from_heap else 17)
        mallopt(_M_MMAP_THRESHOLD, least)
        mallopt(_M_TRIM_THRESHOLD, 2 * least)


class ProtocolReceiver(OwnReceiver):
    """A datagram protocol on an event loop: a callback for a packet."""

    longest = 2.0
    """Seconds that a drain may take; only reached when packets are missing."""

    def __init__(
        self, size: int, make: Callable[[], asyncio.AbstractEventLoop], from_heap: bool = False
    ) -> None:
        """Make the loop."""
        super().__init__(size)
        self._loop = make()
        self._from_heap = from_heap

    def _serve(
        self, kind: Callable[[asyncio.AbstractEventLoop, float], P], end: float, expected: float
    ) -> P:
        loop = self._loop
        large_blocks(self._from_heap)
        sock = self.sock.dup()
        sock.setblocking(False)
        transport, protocol = loop.run_until_complete(
            loop.create_datagram_endpoint(lambda: kind(loop, expected), sock=sock)
        )
        if protocol.packets < expected:
            handle = loop.call_later(min(end - clock(), self.longest), loop.stop)
            loop.run_forever()
            handle.cancel()
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
        return protocol

    def receive(self, end: float, expected: float) -> tuple[int, int]:
        """Run the loop."""
        found = self._serve(_Counter, end, expected)
        return found.packets, found.bytes

    def sample(self, expected: int) -> list[bytes]:
        """Run the loop."""
        return self._serve(_Keeper, math.inf, expected).kept

    def close(self) -> None:
        """Close the loop too."""
        self._loop.close()
        super().close()


class RingReceiver(OwnReceiver):
    """A ring, whose batches are read as arrays."""

    def __init__(self, size: int, gro: bool, most: int, copybreak: int) -> None:
        """Make the ring over a pool as everybody gets it."""
        super().__init__(size)
        self._most = most
        self.ring = RxRing(self.sock, gro=gro, copybreak=copybreak, cache=PageFragCache(PagePool()))

    def receive(self, end: float, expected: float) -> tuple[int, int]:  # noqa: ARG002
        """Receive batches."""
        receive, look, most = self.ring.recv, self.look, self._most
        timeout = 0 if end == math.inf else 0.5
        packets = total = 0
        while clock() < end:
            batch = receive(most, timeout)
            here = len(batch)
            if not here:
                break
            packets += here
            total += look(batch)
        return packets, total

    @staticmethod
    def look(batch: Batch) -> int:
        """Add up the lengths as an array; NumPy takes longer for what is not one yet."""
        return int(add_up(as_array(batch.lengths)))

    def sample(self, expected: int) -> list[bytes]:  # noqa: ARG002
        """Receive batches."""
        found: list[bytes] = []
        while batch := self.ring.recv(self._most, 0):
            found += [frag.tobytes() for frag in batch]
        return found

    def close(self) -> None:
        """Close the ring too."""
        self.ring.close()
        super().close()


class FragmentReceiver(RingReceiver):
    """A ring, each of whose packets is looked at as a fragment."""

    @staticmethod
    def look(batch: Batch) -> int:
        """Add up the lengths of the fragments."""
        total = 0
        for frag in batch:
            total += len(frag)
        return total


class CopyReceiver(RingReceiver):
    """A ring, each of whose packets is copied into `bytes`."""

    @staticmethod
    def look(batch: Batch) -> int:
        """Add up the lengths of the copies."""
        total = 0
        for frag in batch:
            total += len(frag.tobytes())
        return total


class LoopReceiver(Receiver):
    """A loop around ``recvmmsg`` in a process without Python."""

    def __init__(self, size: int, command: str, processor: int, slots: int, gro: bool) -> None:
        """Start it."""
        super().__init__(size)
        fd = self.sock.fileno()
        words = [command, "receive", str(fd), str(size), str(slots), "gro" if gro else "plain"]
        self._program = Program(words, processor, (fd,))
        assert self._program.hear() == "ready"

    def _ask(self, command: str) -> tuple[Tally, int]:
        self._program.say(command)
        packets, total, wrong, time_, busy, _ = map(int, self._program.hear().split())
        return Tally(packets, total, time_ / 1e9, busy / 1e9), wrong

    def run(self, seconds: float) -> Tally:
        """Let it receive for so long."""
        self.sock.setblocking(True)
        return self._ask(f"run {seconds * 1000:.0f}")[0]

    def drain(self, expected: int) -> Tally:  # noqa: ARG002
        """Let it receive what is there."""
        return self._ask("drain")[0]

    def check(self, expected: int) -> tuple[int, int]:  # noqa: ARG002
        """Let it look at every byte."""
        tally, wrong = self._ask("check")
        return tally.packets, wrong

    def close(self) -> None:
        """End the program too."""
        self._program.close()
        super().close()


@dataclass(frozen=True)
class Arm:
    """A name, and how to make the receiver for packets of some size."""

    name: str
    make: Callable[[int], Receiver]
    joins: bool = False
    """Whether it has the kernel join packets."""


def socket_arm(method: str) -> Arm:
    """Return an arm that calls this method of a socket."""
    kinds = {"recv": SocketReceiver, "recv_into": IntoReceiver, "recvfrom": AddressReceiver}
    return Arm(f"socket.{method}", kinds[method])


def asyncio_arm(from_heap: bool) -> Arm:
    """Return the event loop that comes with Python."""
    name = "asyncio, after a large free" if from_heap else "asyncio"
    return Arm(name, lambda size: ProtocolReceiver(size, asyncio.new_event_loop, from_heap))


def uvloop_arm() -> Arm | None:
    """Return the faster event loop, where it is installed."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 - may be missing

    return Arm("uvloop", lambda size: ProtocolReceiver(size, uvloop.new_event_loop))


READ_AS: dict[str, type[RingReceiver]] = {
    "arrays": RingReceiver,
    "fragments": FragmentReceiver,
    "bytes": CopyReceiver,
}


def ring_arm(read_as: str, gro: bool, most: int = 256, copybreak: int = 256) -> Arm:
    """Return a ring whose packets are read in one of three ways."""
    kind = READ_AS[read_as]
    name = f"RxRing as {read_as}{', GRO' if gro else ''}"
    return Arm(name, lambda size: kind(size, gro, most, copybreak), gro)


def loop_arm(command: str, place: Place, slots: int, gro: bool) -> Arm:
    """Return the loop without Python."""
    name = f"C-speed loop{', GRO' if gro else ''}"
    return Arm(name, lambda size: LoopReceiver(size, command, place.receiver, slots, gro), gro)
