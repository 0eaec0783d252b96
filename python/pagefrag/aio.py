"""Receive under asyncio: ``async for batch in ring``, on any event loop that watches descriptors.

The loop watches a duplicate of the ring's descriptor, and only while somebody waits. So nothing
is left behind by a cancelled or closed iteration, a transport on the same socket keeps its own
place in the loop, and a number that is closed and used again is never listened to. A ring that is
closed says so at once, from any thread; a socket that is closed under it cannot, and is looked at
now and then.

>>> import asyncio, socket
>>> async def first() -> bytes:
...     with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
...         sock.bind(("127.0.0.1", 0))
...         sock.sendto(b"ping", sock.getsockname())
...         with RxRing(sock) as ring:
...             async for batch in ring:
...                 return batch[0].tobytes()
...     return b""
>>> asyncio.run(first())
b'ping'
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from functools import partial
from typing import TYPE_CHECKING, Self

from ._pagefrag import ContextError

if TYPE_CHECKING:
    from ._pagefrag import Batch, RxRing

__all__ = ["Batches", "batches"]

_LOOK = 0.05
"""Seconds after which a wait looks whether the socket was closed under the ring."""

_TURN = 16
"""Batches in a row that were there already, after which other tasks get their turn."""

_REST = 0.001
"""Seconds of rest when the socket is said to be readable and nothing comes.

Somebody else may have taken it; or there is an error in the socket's error queue
(``IP_RECVERR``), which stays until its reader takes it.
"""


class Batches:
    """The batches of a ring, one after the other; ends when the ring is closed or shut down.

    A closed socket is an `OSError`, as from `RxRing.recv`; so is what the network answers on a
    connected socket, after which the iterator can be asked again. No packet is lost to a
    cancellation. One task at a time: another one that asks meanwhile gets a `ContextError`.
    """

    def __init__(self, ring: RxRing, max: int = 64) -> None:  # noqa: A002 - the name in `recv`
        """Iterate over *ring*, in batches of at most *max* packets."""
        self._ring = ring
        self._max = max
        self._in_a_row = 0

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> Batch:
        """Return the next batch; it is empty only if all of its packets were thrown away."""
        if self._ring._awaited:
            msg = "another task is waiting for this ring"
            raise ContextError(msg)
        if self._in_a_row >= _TURN:
            self._in_a_row = 0
            await asyncio.sleep(0)
        self._in_a_row += 1
        while (batch := self._there()) is None:
            self._in_a_row = 0
            if await self._readable():
                if (batch := self._there()) is not None:
                    break
                self._end_if_shut_down()
                await asyncio.sleep(_REST)
        return batch

    def _there(self) -> Batch | None:
        """Return what is there without waiting."""
        try:
            batch = self._ring.recv(self._max, 0)
        except ValueError:
            if self._ring.fileno() < 0:
                raise StopAsyncIteration from None
            raise
        return batch if batch or batch.discarded else None

    async def _readable(self) -> bool:
        """Wait until the socket is readable, but not for long; tell whether it is."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()
        self._ring._await(partial(_wake, loop, told))
        try:
            if (number := self._ring.fileno()) < 0:
                return False  # closed since we looked
            watched = os.dup(number)
            try:
                loop.add_reader(watched, _tell, told, True)
                look = loop.call_later(_LOOK, _tell, told, False)
                try:
                    return await told
                finally:
                    look.cancel()
                    loop.remove_reader(watched)
            finally:
                os.close(watched)
        finally:
            self._ring._await(None)

    def _end_if_shut_down(self) -> None:
        """Raise `StopAsyncIteration` if the socket was shut down for reading."""
        if self._ring.fileno() < 0:
            return
        looked = select.poll()
        looked.register(self._ring.fileno(), select.POLLRDHUP)
        if any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in looked.poll(0)):
            raise StopAsyncIteration


def _wake(loop: asyncio.AbstractEventLoop, told: asyncio.Future[bool]) -> None:
    """End the wait, from whichever thread; a loop that is closed waits for nothing."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_tell, told, False)


def _tell(told: asyncio.Future[bool], what: bool) -> None:
    if not told.done():
        told.set_result(what)


def batches(ring: RxRing, max: int = 64) -> Batches:  # noqa: A002 - the name in `recv`
    """Return the batches of *ring* as an asynchronous iterator, at most *max* packets in each.

    ``async for batch in ring`` does the same with 64.

    >>> import socket
    >>> with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, RxRing(sock) as ring:
    ...     batches(ring, max=8).__class__.__name__
    'Batches'
    """
    return Batches(ring, max)
