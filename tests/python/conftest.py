"""What many tests start from: a bound UDP socket and a sender to it, and a socket without room."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Iterator

import hypothesis
import pytest

from link import Link

# A script starts what it puts in the background with SIGINT ignored; tests hear it all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the example.
hypothesis.settings.register_profile("pagefrag", deadline=None)
hypothesis.settings.load_profile("pagefrag")


def pytest_collection_finish() -> None:
    # Many tests have the collector run. All that was imported is here to stay: it need not be
    # looked through each time.
    gc.collect()
    gc.freeze()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def sender(sock: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(sock.getsockname())
        yield sender


@pytest.fixture
def link() -> Iterator[Link]:
    try:
        link = Link()
    except OSError as error:
        pytest.skip(f"no link of our own: {error}")
    yield link
    link.close()


@pytest.fixture
def stuffed(link: Link) -> Iterator[socket.socket]:
    """A socket whose small buffer fills up at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.connect(link.there)
        yield sock
