"""``python -m pagefrag recv``: receive from anybody until interrupted, and tell the figures."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import pagefrag
from pagefrag.loopback import SILENCE
from pagefrag.table import render

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

__all__ = ["Address", "Listener", "listen", "main", "parse_address"]

Address = tuple[str, int]

_RECEIVE_BUFFER = 4 << 20
_BATCH = 64


def parse_address(text: str) -> Address:
    """Split ``HOST:PORT``; an IPv6 host stands in brackets.

    >>> parse_address("127.0.0.1:9000"), parse_address("[::1]:53")
    (('127.0.0.1', 9000), ('::1', 53))
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 host stands in brackets, as in [::1]:9000, not {text!r}")
    if not (colon and host and port.isascii() and port.isdigit()):
        raise ValueError(f"expected HOST:PORT, not {text!r}")
    if len(port) > 5 or int(port) > 65_535:
        raise ValueError(f"a port is at most 65535, not {port:.20}")
    return host, int(port)


def listen(address: Address) -> socket.socket:
    """Return a UDP socket bound to *address*; `OSError` when it cannot be had."""
    found = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


@dataclass(frozen=True)
class _Look:
    """The counters at one moment."""

    time: float
    packets: int
    rows: list[tuple[str, int]]

    def line(self, before: _Look) -> str:
        """Write the figures and the rate since *before* on one line."""
        seconds = self.time - before.time
        rate = (self.packets - before.packets) / seconds if seconds > 0 else 0.0
        return "  ".join([f"{rate:,.0f} packets/s", *(f"{name} {n:,}" for name, n in self.rows)])


class Listener:
    """A ring on one socket, the packets it keeps, and its figures."""

    def __init__(self, sock: socket.socket, *, keep: int = 0, buffer: int = 2048) -> None:
        """Receive from *sock* into a pool of its own; the newest *keep* packets stay alive."""
        self._pool = pagefrag.PagePool()
        self._cache = pagefrag.PageFragCache(self._pool)
        self._ring = pagefrag.RxRing(sock, slots=_BATCH, buf_size=buffer, cache=self._cache)
        self._kept: deque[pagefrag.Fragment] = deque(maxlen=keep)
        self._start = time.monotonic()

    def receive(self) -> None:
        """Wait a moment for packets and take what there is."""
        batch = self._ring.recv(_BATCH, SILENCE)
        if self._kept.maxlen:
            self._kept.extend(batch)

    def look(self) -> _Look:
        """Read the counters."""
        queue, pool = self._ring.stats(), self._pool.stats(huge=False)
        rows = [
            ("packets", queue.rx_packets),
            ("bytes", queue.rx_bytes),
            ("lost", queue.rx_hw_drop_overruns),
            ("rx_alloc_fail", queue.rx_alloc_fail),
            ("held", pool.held_bytes),
            ("live", pool.live_bytes),
            ("pinned", pool.pinned_bytes),
            ("regions", pool.regions_mapped),
        ]
        return _Look(time.monotonic(), queue.rx_packets, rows)

    def summary(self) -> str:
        """Give everything back and write the final table."""
        last = self.look()
        kept = len(self._kept)
        self._kept.clear()
        self._ring.close()
        self._cache.drain()
        self._pool.trim()
        stats = self._pool.audit()
        seconds = last.time - self._start
        rows = [
            *last.rows,
            ("packets kept", kept),
            ("regions at peak", stats.regions_peak),
            ("regions after trim()", stats.regions_mapped),
            ("packets per second", round(last.packets / seconds) if seconds > 0 else 0),
        ]
        return render((f"{seconds:.1f} seconds", "RxRing"), rows)


@contextmanager
def _interruptible() -> Generator[Callable[[], bool], None, None]:
    """Yield a question: has somebody asked us to stop? Signals only raise a flag."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(stream: TextIO, line: str) -> None:
    """Show the newest figures: over the old ones on a terminal, below them elsewhere."""
    if stream.isatty():
        stream.write(f"\r\x1b[K{line}")
    else:
        stream.write(f"{line}\n")
    stream.flush()


def main(sock: socket.socket, *, keep: int, buffer: int, interval: float) -> int:
    """Receive from *sock* until SIGINT or SIGTERM; return the exit status."""
    with sock, _interruptible() as asked:
        listener = Listener(sock, keep=keep, buffer=buffer)
        host, port = sock.getsockname()[:2]
        print(f"listening on {host} port {port}; Ctrl-C ends", flush=True)
        before = listener.look()
        while not asked():
            listener.receive()
            if time.monotonic() - before.time >= interval:
                now = listener.look()
                _tell(sys.stdout, now.line(before))
                before = now
        print(f"\n{listener.summary()}", flush=True)
    return 0
