"""The road of the demo: a receiving socket, the process that sends to it, and the pace."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

from pagefrag.packets import SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["SILENCE", "Sender", "dropped", "receiving_socket", "window"]

SILENCE = 0.2
"""Seconds a receiver waits before it asks whether the sender is still there."""

_RECEIVE_BUFFER = 4 << 20
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_MEMINFO_DROPS = 8
_TIMEVAL = struct.Struct("@ll")


def receiving_socket() -> socket.socket:
    """Return a bound UDP socket on loopback with a large receive buffer.

    It blocks for at most :data:`SILENCE` seconds by ``SO_RCVTIMEO``: unlike a Python
    timeout this costs no second system call for each packet.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(0, int(SILENCE * 1e6)))
    sock.bind(("127.0.0.1", 0))
    return sock


def window(sock: socket.socket, size: int) -> int:
    """Return how many packets of *size* bytes half the receive buffer of *sock* can hold.

    The kernel charges a packet about twice its bytes, and a few hundred more.
    """
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return max(8, granted // (2 * (size + 640)) // 2)


def dropped(sock: socket.socket) -> int | None:
    """Return how many packets the kernel dropped at *sock*; None where it does not tell."""
    try:
        words = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return None
    if len(words) < _MEMINFO.size:
        return None
    return int(_MEMINFO.unpack(words)[_MEMINFO_DROPS])


class Sender:
    """A process that sends *count* packets to *sock* and ends."""

    def __init__(
        self, sock: socket.socket, count: int, size: int, command: Sequence[str] | None = None
    ) -> None:
        """Start it; *command* replaces the sending program (for tests)."""
        self.window: int = window(sock, size)
        ours, theirs = socket.socketpair()
        port = sock.getsockname()[1]
        with theirs:
            numbers = (port, theirs.fileno(), count, size, self.window)
            self._process = subprocess.Popen(
                [*(command or (sys.executable, "-m", "pagefrag.sender")), *map(str, numbers)],
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C on a terminal is for us alone
            )
        self._control = ours

    def reached(self, sequence: int) -> None:
        """Tell the sender that everything below *sequence* has arrived or is lost."""
        try:
            self._control.send(SEQUENCE.pack(sequence))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has sent everything and ended

    def finished(self) -> bool:
        """Tell whether the process has ended."""
        return self._process.poll() is not None

    def status(self) -> int:
        """Wait for the end of the process and return its exit status."""
        return self._process.wait()

    def __enter__(self) -> Self:
        """Lend the process to a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()
        self._control.close()
