"""Networks of a test's own: an empty one, and a link that takes nothing until it is told to."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, SIOCSARP = 0x8916, 0x891C, 0x8914, 0x8955
IFF_UP_RUNNING = 0x41


class Network:
    """A namespace with a loopback device and nothing else, for the calling thread until it leaves.

    What other programs send is not seen here.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._check(self._libc.unshare(CLONE_NEWNET))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP_RUNNING))
        except OSError:
            self.leave()
            raise

    def _check(self, answer: int) -> None:
        if answer < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def leave(self) -> None:
        self._check(self._libc.setns(self._home, CLONE_NEWNET))
        os.close(self._home)


class Link:
    """A point-to-point ethernet device in a namespace of its own, for the calling thread.

    As long as nobody has told the hardware address of the neighbour, the kernel keeps what is
    sent to it, charged to the sending socket, until that is full.
    """

    there = ("198.51.100.2", 9)

    def __init__(self) -> None:
        self.tap = -1
        self._network = Network()
        try:
            self._build()
        except OSError:
            self.close()
            raise

    def _build(self) -> None:
        self.tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        tap_without_header = struct.pack("16sH22x", b"", 0x1002)
        self.name = fcntl.ioctl(self.tap, TUNSETIFF, tap_without_header)[:16]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for request, value in (
                (SIOCSIFADDR, self._address("198.51.100.1")),
                (SIOCSIFNETMASK, self._address("255.255.255.252")),
                (SIOCSIFFLAGS, struct.pack("H22x", IFF_UP_RUNNING)),
            ):
                fcntl.ioctl(sock, request, self.name + value)
        # After so many seconds of asking for the neighbour the kernel drops what it keeps for it:
        # three, unless it lets us say more.
        name = self.name.rstrip(b"\0").decode()
        asked = Path(f"/proc/sys/net/ipv4/neigh/{name}/mcast_solicit")
        with contextlib.suppress(OSError):
            asked.write_text("1000", encoding="ascii")

    @staticmethod
    def _address(host: str) -> bytes:
        return struct.pack("HH4s16x", socket.AF_INET, 0, socket.inet_aton(host))

    def answer(self) -> None:
        """Tell the neighbour's hardware address: what waits goes out."""
        hardware = struct.pack("H6s8x", 1, b"\x02\0\0\0\0\x09")
        complete_and_permanent = struct.pack("i16x", 0x06)
        entry = self._address(self.there[0])[:16] + hardware + complete_and_permanent
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, SIOCSARP, entry + self.name)

    def payloads(self) -> list[bytes]:
        """Return the datagrams that came out."""
        found = []
        while True:
            try:
                frame = os.read(self.tap, 2048)
            except BlockingIOError:
                return found
            if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP:
                length = int.from_bytes(frame[38:40], "big")
                found.append(frame[42 : 34 + length])

    def arrived(self, count: int) -> list[bytes]:
        """Return what comes out of the link, once *count* datagrams have."""
        found: list[bytes] = []
        while len(found) < count:
            found += self.payloads()
            time.sleep(0.001)
        return found + self.payloads()

    def close(self) -> None:
        if self.tap >= 0:
            os.close(self.tap)
        self._network.leave()
