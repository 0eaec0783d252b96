"""The road of the ring benches: who sends, through which socket, and what was lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pagefrag import info

__all__ = [
    "Flood",
    "Packets",
    "Place",
    "Program",
    "Sender",
    "build",
    "discard",
    "drops",
    "holds",
    "receiving_socket",
]

UDP_SEGMENT = 103
LARGEST_MESSAGE = 65_507
MOST_SEGMENTS = 64
PATIENCE = struct.pack("@ll", 0, 500_000)
"""Half a second: longer than any gap between packets, unless there are no more."""

_RECEIVE_BUFFER = 4 << 20
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8


ROOT = Path(__file__).resolve().parents[3]


def build(*options: str) -> str:
    """Build the program at the other end and return where it is."""
    cargo = shutil.which(os.environ.get("CARGO", "cargo"))
    if cargo is None:
        raise FileNotFoundError("no cargo here to build the sender with")
    words = ["build", "--locked", "-p", "pagefrag-traffic", "--message-format=json", *options]
    told = subprocess.run(
        [cargo, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    made = [json.loads(line).get("executable") for line in told.splitlines()]
    return next(str(path) for path in made if path)


def receiving_socket() -> socket.socket:
    """Return a bound UDP socket on loopback with the largest buffer that anybody gets."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, PATIENCE)
    sock.bind(("127.0.0.1", 0))
    return sock


def drops(sock: socket.socket) -> int:
    """Return how often the kernel found no room at *sock*: a super-buffer counts once."""
    words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(words)[_MEMINFO_DROPS])


def discard(sock: socket.socket) -> None:
    """Throw away what waits in *sock*."""
    with suppress(BlockingIOError):
        while True:
            sock.recv(1, socket.MSG_DONTWAIT)


def holds(packet: bytes, size: int) -> bool:
    """Tell whether *packet* is one of the sender's, byte for byte."""
    number = int.from_bytes(packet[:8], "little")
    return packet == packet[:8] + bytes([number * 7 % 251]) * (size - 8)


@dataclass(frozen=True)
class Packets:
    """What is sent: packets of *size* bytes, alone or several to a message that the kernel cuts."""

    size: int
    cut: bool = True
    lent: bool = True

    @property
    def segments(self) -> int:
        """How many packets a message has."""
        return min(MOST_SEGMENTS, LARGEST_MESSAGE // self.size) if self.cut else 1

    @property
    def way(self) -> str:
        """How their bytes come into the kernel."""
        return "lend" if self.cut and self.lent else "copy"

    def __str__(self) -> str:
        """Say it in a title."""
        how = ("GSO, sendfile" if self.lent else "GSO, sendmmsg") if self.cut else "one by one"
        return f"{self.size} B, {how}"


@dataclass(frozen=True)
class Place:
    """What this machine has: a processor for each end, and what its kernel can join and cut."""

    receiver: int
    sender: int
    gro: bool
    gso: bool
    lends: bool

    @property
    def has_two(self) -> bool:
        """Tell whether both ends can run at once."""
        return self.receiver != self.sender

    @classmethod
    def here(cls) -> Place:
        """Look at this machine."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(
            receiver=allowed[0],
            sender=allowed[1] if len(allowed) > 1 else allowed[0],
            gro=info.joins(),
            gso=info.cuts(),
            lends=_lends(),
        )

    def missing(self) -> list[str]:
        """Say what is not here, and what that does to the figures."""
        return [
            text
            for there, text in [
                (self.has_two, "one processor: only full sockets are drained, nothing is raced"),
                (self.gro, "no UDP_GRO: nothing is joined"),
                (self.gso, "no UDP_SEGMENT: packets are sent one by one, nothing is joined"),
                (self.lends, "no sendfile to a socket that cuts: the sender copies"),
            ]
            if not there
        ]


def _lends() -> bool:
    """Send one file as three datagrams and see whether they come whole."""
    fd = os.memfd_create("trial")
    with (
        os.fdopen(fd, "wb", buffering=0) as file,
        receiving_socket() as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        file.write(bytes(3000))
        sender.connect(sock.getsockname())
        try:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
            os.sendfile(sender.fileno(), fd, 0, 3000)
            return [len(sock.recv(4000)) for _ in range(3)] == [1000] * 3
        except OSError:
            return False


class Program:
    """A program that is given a command a line and answers with a line."""

    def __init__(self, command: list[str], processor: int, fds: tuple[int, ...] = ()) -> None:
        """Start it on *processor*."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {processor})
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=fds,
            )
        finally:
            os.sched_setaffinity(0, before)

    def say(self, command: str) -> None:
        """Give a command."""
        assert self._process.stdin
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Wait for the answer."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the program ended with status {self._process.wait()}")
        return line.strip()

    def close(self) -> None:
        """End its input, and wait for it to go."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Flood:
    """What a sender that did not stop has sent."""

    packets: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Packets per second."""
        return self.packets / self.seconds if self.seconds else 0.0


class Sender:
    """A process that sends on demand."""

    def __init__(self, program: str, place: Place) -> None:
        """Start it on the sender's processor."""
        self._program = Program([program, "send"], place.sender)

    def burst(self, sock: socket.socket, packets: Packets, count: int) -> int:
        """Send at least *count* packets to *sock*; return how many went."""
        self._program.say(f"burst {self._line(sock, packets)} {count}")
        return int(self._program.hear().split()[0])

    @contextmanager
    def flood(self, sock: socket.socket, packets: Packets) -> Iterator[Flood]:
        """Send to *sock* as fast as possible until the end of the block."""
        told = Flood()
        self._program.say(f"flood {self._line(sock, packets)}")
        try:
            time.sleep(0.02)  # until its messages are written
            yield told
        finally:
            self._program.say("stop")
            count, nanoseconds = map(int, self._program.hear().split())
            told.packets, told.seconds = count, nanoseconds / 1e9
            discard(sock)

    @staticmethod
    def _line(sock: socket.socket, packets: Packets) -> str:
        port = sock.getsockname()[1]
        return f"{packets.way} {port} {packets.size} {packets.segments}"

    def __enter__(self) -> Self:
        """Lend it to a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._program.close()
