"""The sending examples pass fragments on where they lie."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

from actors import LONG
from pagefrag import Batch, NetdevCache, PageFragCache, PagePool, RxRing, TxRing

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CODE_LINES_OF_A_PAGE = 60


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_forward_hangs_the_fragments_themselves_behind_its_numbers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        pool = PagePool()
        with RxRing(sock, cache=PageFragCache(pool)) as ring:
            for size in (1000, 1200, 1472):
                sock.sendto(b"x" * size, sock.getsockname())
            batch = ring.recv(timeout=LONG)
            skbs = example("forward").numbered(batch, 7, NetdevCache(pool))
            places = [(skb.frags[0].page, skb.frags[0].offset) for skb in skbs]
            assert places == list(zip(batch.pages, batch.offsets, strict=True))
            assert [skb.len for skb in skbs] == [8 + length for length in batch.lengths]


def test_echo_sends_the_batch_as_it_came_and_carves_nothing() -> None:
    sent: list[tuple[Any, Any]] = []
    pool = PagePool()

    class Watched:
        """Stands before a `TxRing` and looks at what it is given."""

        def __init__(self, ring: TxRing) -> None:
            self.ring = ring

        def send(self, buffers: Any, to: Any = None) -> int:
            before = pool.stats().live_bytes
            count = self.ring.send(buffers, to)
            sent.append((buffers, to))
            assert pool.stats().live_bytes == before
            sock.shutdown(socket.SHUT_RD)
            return count

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(LONG)
            client.bind(("127.0.0.1", 0))
            sock.connect(client.getsockname())
            client.sendto(b"there and back", sock.getsockname())
            with RxRing(sock, cache=PageFragCache(pool)) as rx, TxRing(sock) as tx:
                example("echo").echo(rx, Watched(tx))
                assert client.recv(100) == b"there and back"
    ((buffers, to),) = sent
    assert isinstance(buffers, Batch)
    assert to is buffers
    assert pool.stats().live_bytes == 0


def test_the_sending_examples_are_a_page_each() -> None:
    for name in ("echo", "forward"):
        lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
        assert sum(bool(line.strip()) for line in lines) <= CODE_LINES_OF_A_PAGE, name
