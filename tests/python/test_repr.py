"""What a class shows of itself in a debugger, a log and a notebook: its state, never its bytes."""

from __future__ import annotations

import dataclasses
import re
import socket
from html.parser import HTMLParser
from typing import Any

import pytest

import pagefrag
from pagefrag import NapiCache, NetdevCache, PageFragCache, PagePool, RxRing, TxRing

LONG = 60.0


def test_a_pool_tells_its_pages_what_it_holds_and_its_limit() -> None:
    pool = PagePool(4096, max_bytes=4 << 20)
    frag = PageFragCache(pool).alloc(100)
    assert frag.nbytes == 100
    assert repr(pool) == "<PagePool page_size=4096 held=4096 live=128 max_bytes=4194304>"


def test_a_cache_tells_how_it_packs_and_what_it_holds() -> None:
    cache = PageFragCache(PagePool(4096), granule=1)
    assert repr(cache) == "<PageFragCache granule=1 page_size=4096 held=0>"
    frag = cache.alloc(100)
    assert frag.nbytes == 100
    assert repr(cache) == "<PageFragCache granule=1 page_size=4096 held=4096>"


def test_a_receiving_ring_tells_its_socket_its_slots_and_what_waits(
    sock: socket.socket, sender: socket.socket
) -> None:
    start = f"<RxRing fd={sock.fileno()} family=AF_INET slots=8 "
    with RxRing(sock, slots=8) as ring:
        assert repr(ring) == f"{start}pending=0 rx_packets=0>"
        sender.send(b"ping")
        ring.recv(timeout=LONG)
        assert repr(ring) == f"{start}pending=0 rx_packets=1>"
    assert repr(ring) == "<RxRing closed>"


def test_a_sending_ring_tells_its_socket_its_slots_and_what_waits(sender: socket.socket) -> None:
    start = f"<TxRing fd={sender.fileno()} family=AF_INET slots=8 "
    with TxRing(sender, slots=8) as ring:
        ring.send([b"one", b"two"])
        assert repr(ring) == f"{start}queued=0 tx_packets=2>"
    assert repr(ring) == "<TxRing closed>"


def test_a_ring_over_something_like_a_socket_has_no_family(sock: socket.socket) -> None:
    class Like:
        def fileno(self) -> int:
            return sock.fileno()

        @property
        def family(self) -> int:
            raise ZeroDivisionError

    with RxRing(Like()) as ring:
        assert " family=? " in repr(ring)


def everything(sock: socket.socket) -> dict[str, Any]:
    """Return an object of each public class, and the reservation and the rings in use."""
    pool = PagePool()
    cache = PageFragCache(pool)
    frag, skb = cache.alloc(6), pagefrag.netdev_alloc_skb(100)
    frag[:] = b"secret"
    skb.put(b"secret").release()
    ring = RxRing(sock)
    sock.sendto(b"secret", sock.getsockname())
    batch = ring.recv(timeout=LONG)
    napi = NapiCache(pool)
    things = [pool, cache, frag, skb, ring, batch, batch.lengths, TxRing(sock), cache.prepare(64)]
    things += [napi, napi.poll(), NetdevCache(pool)]
    return {type(thing).__name__: thing for thing in things}


def test_every_class_tells_its_state_and_no_bytes(sock: socket.socket) -> None:
    shown = everything(sock)
    classes = {
        name
        for name in pagefrag.__all__
        if isinstance(getattr(pagefrag, name), type)
        and not issubclass(getattr(pagefrag, name), Exception)
        and not dataclasses.is_dataclass(getattr(pagefrag, name))  # those show all they are
    }
    assert set(shown) == classes
    for name, thing in shown.items():
        text = repr(thing)
        assert re.fullmatch(rf"<{name} .*\d.*>", text), text
        assert "object at 0x" not in text
        assert "secret" not in text
    shown["RxRing"].close()
    shown["TxRing"].close()


# --- in a notebook ----------------------------------------------------------


class Page(HTMLParser):
    """Reads HTML: its text, its tags, and whether each that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def widths(self) -> list[float]:
        return [float(attrs["width"] or 0) for tag, attrs in self.tags if tag == "rect"]


def test_a_pool_draws_how_full_it_is() -> None:
    pool = PagePool(max_bytes=4 << 20)
    cache = PageFragCache(pool)
    kept = [cache.alloc(32768) for _ in range(32)]
    assert kept
    page = Page(pool._repr_html_())
    # A quarter of the limit is alive, a quarter is free, and half is not mapped.
    assert page.widths == [120.0, 120.0, 240.0]
    text = " ".join(page.words)
    for word in ("live 1,048,576", "free 1,048,576", "not mapped 2,097,152"):
        assert word in text
    assert "4,194,304 bytes" in text


def test_a_pool_that_holds_nothing_says_so() -> None:
    page = Page(PagePool()._repr_html_())
    assert page.widths == []
    assert "nothing mapped" in page.words


def test_a_ring_draws_what_its_packets_take(sock: socket.socket, sender: socket.socket) -> None:
    pool = PagePool(max_bytes=4 << 20)
    with RxRing(sock, cache=PageFragCache(pool)) as ring:
        sender.send(b"ping")
        batch = ring.recv(timeout=LONG)
        page = Page(ring._repr_html_())
        assert sum(page.widths) == pytest.approx(480, abs=0.5)
        assert repr(ring) in page.words
        assert page.words[page.words.index("rx_packets") + 1] == "1"
        assert batch
    assert "<RxRing closed>" in Page(ring._repr_html_()).words


def test_what_others_have_named_is_escaped(sock: socket.socket) -> None:
    class Family:
        name = "<script>alert('x')</script>"

    class Like:
        family = Family

        def fileno(self) -> int:
            return sock.fileno()

    with RxRing(Like()) as ring:
        html = ring._repr_html_()
        assert "<script" not in html
        assert repr(ring) in Page(html).words
