"""The sending process of the demo: plain sockets, nothing of ours in the way.

``python -m pagefrag.sender PORT CONTROL_FD COUNT SIZE WINDOW`` sends COUNT packets of SIZE
bytes to 127.0.0.1:PORT. It never has more than WINDOW packets on the way: the receiver
writes the sequence number it has reached to CONTROL_FD, eight bytes each time. A silent
receiver does not stop the sender for good: after :data:`PATIENCE` seconds the packets on
the way are taken for lost.

Where the kernel knows ``UDP_SEGMENT`` one system call sends a run of packets (GSO); they
are still separate datagrams when they reach the receiver's socket.
"""

from __future__ import annotations

import socket
import sys

from pagefrag.packets import BODIES, SEQUENCE, bodies

__all__ = ["PATIENCE", "burst_length", "main", "send_all"]

PATIENCE = 0.25
"""Seconds without a word from the receiver after which the window opens again."""

_UDP_SEGMENT = 103
_LARGEST_DATAGRAM = 65_507
_MOST_SEGMENTS = 64


def burst_length(size: int, window: int) -> int:
    """Return how many packets of *size* bytes one system call may send: a power of two.

    >>> burst_length(1200, 1000), burst_length(1200, 8), burst_length(40_000, 1000)
    (32, 2, 1)
    """
    most = max(1, min(_MOST_SEGMENTS, _LARGEST_DATAGRAM // size, window // 4))
    return 1 << (most.bit_length() - 1)


class _Window:
    """How far the sender may run ahead of what the receiver has confirmed."""

    def __init__(self, control: socket.socket, size: int) -> None:
        self._control = control
        self._size = size
        self._reached = 0
        self._rest = b""
        control.settimeout(PATIENCE)

    def wait_for_room(self, sent: int, wanted: int) -> None:
        """Return when *wanted* more packets fit behind the *sent* ones."""
        while sent + wanted - self._reached > self._size:
            try:
                word = self._control.recv(4096)
            except TimeoutError:
                self._reached = sent
                return
            if not word:
                raise SystemExit("sender: the receiver went away")
            self._take(self._rest + word)

    def _take(self, word: bytes) -> None:
        whole = len(word) // SEQUENCE.size * SEQUENCE.size
        if whole:
            (self._reached,) = SEQUENCE.unpack_from(word, whole - SEQUENCE.size)
        self._rest = word[whole:]


def _segmenting(sock: socket.socket, size: int) -> bool:
    """Ask the kernel to cut what we send into packets of *size*; tell whether it will."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
    except OSError:
        return False
    return True


def send_all(
    sock: socket.socket, control: socket.socket, count: int, size: int, window: int
) -> None:
    """Send packets 0 to *count* - 1 over the connected socket *sock*."""
    room = _Window(control, window)
    burst = burst_length(size, window)
    if burst > 1 and not _segmenting(sock, size):
        burst = 1
    buffers = _bursts(size, burst)
    places = range(0, burst * size, size)
    for first in range(0, count, burst):
        here = min(burst, count - first)
        buffer = buffers[first // burst % len(buffers)]
        for sequence, place in zip(range(first, first + here), places, strict=False):
            SEQUENCE.pack_into(buffer, place, sequence)
        room.wait_for_room(first, here)
        sock.send(buffer[: here * size])


def _bursts(size: int, burst: int) -> list[memoryview]:
    """Return the bodies of all bursts, with room for the numbers: they come round again."""
    texts = bodies(size)
    number = bytes(SEQUENCE.size)
    return [
        memoryview(bytearray(b"".join(number + text for text in texts[first : first + burst])))
        for first in range(0, BODIES, burst)
    ]


def main(arguments: list[str]) -> None:
    """Send as the command line says."""
    port, control_fd, count, size, window = map(int, arguments)
    with (
        socket.socket(fileno=control_fd) as control,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(("127.0.0.1", port))
        send_all(sock, control, count, size, window)


if __name__ == "__main__":
    main(sys.argv[1:])
