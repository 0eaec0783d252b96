"""What a test needs of the machine it runs on: it is skipped, with the reason, where that lacks."""

from __future__ import annotations

import socket

import pytest

from pagefrag import RxRing

__all__ = ["HOSTS", "bound", "needs_gro"]

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def bound(family: int = socket.AF_INET) -> socket.socket:
    """Return a UDP socket on the loopback of *family*, if there is one."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((HOSTS[socket.AddressFamily(family)], 0))
    except OSError:
        sock.close()
        pytest.skip(f"no loopback {HOSTS[socket.AddressFamily(family)]} here")
    return sock


def needs_gro(ring: RxRing) -> None:
    """Go on if the kernel joins datagrams for *ring*."""
    if not ring.gro:
        ring.close()
        pytest.skip("this kernel has no UDP_GRO")
