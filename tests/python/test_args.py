"""Every argument that is a whole number is read by one rule, CPython's own.

What is no integer is a `TypeError`, also `True` and `1.0`. What no `Py_ssize_t` holds is an
`OverflowError`, as in `bytearray(2**63)` and `sock.recv(2**63)`. All else that is out of range
is a `ValueError` that names the argument or says what was allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import pagefrag
from pagefrag import NapiCache, PageFragCache, PagePool, RxRing, TxRing

CACHE = PageFragCache()
TAKES_ANY_SIZE = ("PagePool max_bytes", "poll budget", "RxRing copybreak", "recv max")


def committed(used: Any) -> None:
    with CACHE.prepare(100) as room:
        room.commit(used)


def polled(how: Callable[[Any], object]) -> None:
    with NapiCache().poll() as ctx:
        how(ctx)


def received(sock: Any, most: Any) -> None:
    with RxRing(sock, slots=1) as ring:
        ring.recv(max=most, timeout=0)


# Each with the socket of the test and the number to try.
DOORS: dict[str, Callable[[Any, Any], object]] = {
    "PagePool page_size": lambda _, n: PagePool(n),
    "PagePool max_bytes": lambda _, n: PagePool(max_bytes=n),
    "PagePool track": lambda _, n: PagePool(track=n),
    "PageFragCache granule": lambda _, n: PageFragCache(granule=n),
    "alloc": lambda _, n: CACHE.alloc(n),
    "alloc align": lambda _, n: CACHE.alloc(1, align=n),
    "try_alloc": lambda _, n: CACHE.try_alloc(n),
    "alloc_many": lambda _, n: CACHE.alloc_many(1, n),
    "prepare": lambda _, n: CACHE.prepare(n),
    "commit": lambda _, n: committed(n),
    "trim": lambda _, n: CACHE.alloc(64).trim(n),
    "netdev_alloc_frag": lambda _, n: pagefrag.netdev_alloc_frag(n),
    "netdev_alloc_skb": lambda _, n: pagefrag.netdev_alloc_skb(n),
    "napi alloc_frag": lambda _, n: polled(lambda ctx: ctx.alloc_frag(n)),
    "napi alloc_skb": lambda _, n: polled(lambda ctx: ctx.alloc_skb(n)),
    "poll budget": lambda _, n: NapiCache().poll(budget=n),
    "SkBuff put": lambda _, n: pagefrag.netdev_alloc_skb(100).put(n),
    "SkBuff push": lambda _, n: pagefrag.netdev_alloc_skb(100).push(n),
    "SkBuff pull": lambda _, n: pagefrag.netdev_alloc_skb(100).pull(n),
    "SkBuff trim": lambda _, n: pagefrag.netdev_alloc_skb(100).trim(n),
    "SkBuff reserve": lambda _, n: pagefrag.netdev_alloc_skb(100).reserve(n),
    "RxRing slots": lambda sock, n: RxRing(sock, slots=n).close(),
    "RxRing buf_size": lambda sock, n: RxRing(sock, buf_size=n).close(),
    "RxRing copybreak": lambda sock, n: RxRing(sock, copybreak=n).close(),
    "recv max": received,
    "TxRing slots": lambda sock, n: TxRing(sock, slots=n).close(),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", [2**63, 2**64, 2**200, -(2**63) - 1, -(2**64)])
def test_what_no_machine_word_holds_is_an_overflow(door: str, bad: int, sock: Any) -> None:
    with pytest.raises(OverflowError):
        DOORS[door](sock, bad)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", [-1, -(2**31), -sys.maxsize])
def test_what_is_negative_is_a_value_error(door: str, bad: int, sock: Any) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        DOORS[door](sock, bad)


@pytest.mark.parametrize("door", [door for door in DOORS if door not in TAKES_ANY_SIZE])
@pytest.mark.parametrize("bad", [2**31, 2**32, 2**62, sys.maxsize])
def test_what_is_too_large_is_a_value_error(door: str, bad: int, sock: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says what is allowed
        DOORS[door](sock, bad)


@pytest.mark.parametrize("door", TAKES_ANY_SIZE)
def test_a_limit_may_be_as_large_as_a_word(door: str, sock: Any) -> None:
    DOORS[door](sock, sys.maxsize)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", [True, 1.0, "1", 1j], ids=repr)
def test_what_is_no_integer_is_a_type_error(door: str, bad: Any, sock: Any) -> None:
    with pytest.raises(TypeError):
        DOORS[door](sock, bad)
