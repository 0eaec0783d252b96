"""`async for batch in ring`: waiting, cancelling, closing, under asyncio and uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from machine import needs_gro
from pagefrag import ContextError, PageFragCache, PagePool, RxRing, aio
from pagefrag.aio import batches

LONG = 60.0  # seconds: only reached by a broken build

Run = Callable[[Coroutine[Any, Any, Any]], Any]


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, LONG))

    return run


def descriptors() -> set[str]:
    """Name what is open now, but for what is open only because we look."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def test_packets_come_whole_and_in_order(
    run: Run, sock: socket.socket, sender: socket.socket
) -> None:
    async def send() -> None:
        for number in range(2000):
            sender.send(number.to_bytes(4, "big"))
            if number % 50 == 49:
                await asyncio.sleep(0)

    async def receive() -> list[int]:
        got: list[int] = []
        sending = asyncio.ensure_future(send())
        with RxRing(sock) as ring:
            async for batch in ring:
                got += [int.from_bytes(frag, "big") for frag in batch]
                if len(got) >= 2000:
                    break
        await sending
        return got

    assert run(receive()) == list(range(2000))


def test_a_wait_lets_other_tasks_run(run: Run, sock: socket.socket, sender: socket.socket) -> None:
    async def both() -> int:
        turns = 0
        with RxRing(sock) as ring:
            first = asyncio.ensure_future(anext(aiter(ring)))
            for _ in range(10):
                await asyncio.sleep(0.001)
                turns += 1
            assert not first.done()
            sender.send(b"x")
            assert (await first)[0] == b"x"
            assert ring.stats().rx_packets == 1
        return turns

    assert run(both()) == 10


def test_a_flood_lets_other_tasks_run(run: Run, sock: socket.socket, sender: socket.socket) -> None:
    async def flooded() -> tuple[int, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.ensure_future(count())
        seen = 0
        with RxRing(sock) as ring:
            sender.send(b"x")
            async for _ in batches(ring, max=1):
                sender.send(b"x")
                seen += 1
                if seen == 200:
                    break
        counting.cancel()
        return seen, turns

    seen, turns = run(flooded())
    assert seen == 200
    assert turns >= 10


def test_max_is_kept(run: Run, sock: socket.socket, sender: socket.socket) -> None:
    for _ in range(10):
        sender.send(b"x")

    async def lengths() -> list[int]:
        found = []
        with RxRing(sock) as ring:
            async for batch in batches(ring, max=4):
                found.append(len(batch))
                if sum(found) == 10:
                    break
        return found

    assert run(lengths()) == [4, 4, 2]


def test_cancelling_loses_nothing_and_leaves_nothing(
    run: Run, sock: socket.socket, sender: socket.socket
) -> None:
    async def many() -> None:
        cancelled = 0
        with RxRing(sock) as ring:
            reading = aiter(ring)
            await asyncio.sleep(0)
            before = descriptors()
            got: list[int] = []
            for number in range(50):
                waiting = asyncio.ensure_future(anext(reading))
                await asyncio.sleep(0)
                if number % 2:
                    sender.send(number.to_bytes(1, "big"))
                waiting.cancel()
                try:
                    got += [frag[0] for frag in await waiting]
                except asyncio.CancelledError:
                    cancelled += 1
            assert cancelled >= 25
            assert descriptors() == before
            while len(got) < 25:
                got += [frag[0] for frag in await anext(reading)]
            assert got == list(range(1, 50, 2))

    run(many())


def test_a_timeout_is_a_cancellation(run: Run, sock: socket.socket, sender: socket.socket) -> None:
    async def timed() -> bytes:
        with RxRing(sock) as ring:
            reading = aiter(ring)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reading), 0.02)
            sender.send(b"late")
            return (await anext(reading))[0].tobytes()

    assert run(timed()) == b"late"


@pytest.mark.parametrize("thread", [False, True])
def test_closing_the_ring_ends_the_iteration(run: Run, sock: socket.socket, thread: bool) -> None:
    async def closed() -> int:
        ring = RxRing(sock)

        async def read() -> int:
            return len([batch async for batch in ring])

        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0.01)
        if thread:
            closing = threading.Thread(target=ring.close)
            closing.start()
            closing.join()
        else:
            ring.close()
        return await reading

    assert run(closed()) == 0
    assert sock.fileno() > 0


def test_closing_the_socket_is_an_error(run: Run) -> None:
    async def closed() -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        waiting = asyncio.ensure_future(anext(aiter(RxRing(sock))))
        await asyncio.sleep(0.01)
        sock.close()
        with pytest.raises(OSError, match="closed") as told:
            await waiting
        assert told.value.errno == errno.EBADF
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(address)

    run(closed())


def test_shutting_down_ends_the_iteration(
    run: Run, sock: socket.socket, sender: socket.socket
) -> None:
    async def shut() -> list[bytes]:
        got: list[bytes] = []
        sock.connect(sender.getsockname())
        sender.send(b"last")
        with RxRing(sock) as ring:
            asyncio.get_running_loop().call_later(0.02, sock.shutdown, socket.SHUT_RDWR)
            async for batch in ring:
                got += [frag.tobytes() for frag in batch]
        return got

    assert run(shut()) == [b"last"]


def test_an_error_is_told_and_the_iterator_goes_on(run: Run, sock: socket.socket) -> None:
    async def refused() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            address = peer.getsockname()
        sock.connect(address)
        with RxRing(sock) as ring:
            reading = aiter(ring)
            sock.send(b"nobody there")
            with pytest.raises(ConnectionRefusedError):
                await anext(reading)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind(address)
                peer.sendto(b"here", sock.getsockname())
            assert (await anext(reading))[0] == b"here"

    run(refused())


def test_an_error_that_stays_does_not_make_the_wait_spin(run: Run, sock: socket.socket) -> None:
    ip_recverr = 11

    async def wait() -> float:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            address = peer.getsockname()
        sock.setsockopt(socket.IPPROTO_IP, ip_recverr, 1)
        sock.connect(address)
        sock.send(b"nobody there")
        with RxRing(sock) as ring:
            reading = aiter(ring)
            with pytest.raises(ConnectionRefusedError):
                await anext(reading)
            before = resource.getrusage(resource.RUSAGE_THREAD)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reading), 0.5)
            after = resource.getrusage(resource.RUSAGE_THREAD)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert run(wait()) < 0.25


def test_a_pool_at_its_limit_gives_empty_batches(
    run: Run, sock: socket.socket, sender: socket.socket
) -> None:
    async def starved() -> tuple[int, int]:
        cache = PageFragCache(PagePool(max_bytes=2 << 20))
        kept = cache.alloc_many(64, 32768)
        with RxRing(sock, cache=cache) as ring:
            reading = aiter(ring)
            sender.send(b"lost")
            batch = await anext(reading)
            kept.clear()
            sender.send(b"x")
            later = await anext(reading)
            return batch.discarded, len(later)

    assert run(starved()) == (1, 1)


def test_a_transport_on_the_same_socket_keeps_its_place(run: Run, sock: socket.socket) -> None:
    class Nothing(asyncio.DatagramProtocol):
        pass

    async def both() -> None:
        loop = asyncio.get_running_loop()
        twin = sock.dup()
        twin.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(Nothing, sock=twin)
        with RxRing(sock) as ring:
            waiting = asyncio.ensure_future(anext(aiter(ring)))
            await asyncio.sleep(0.01)
            waiting.cancel()
        assert not transport.is_closing()
        transport.close()
        await asyncio.sleep(0)

    run(both())


def test_two_rings_are_read_side_by_side(run: Run) -> None:
    async def both() -> list[int]:
        with contextlib.ExitStack() as stack:
            rings = []
            for _ in range(2):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.bind(("127.0.0.1", 0))
                rings.append((sock, stack.enter_context(RxRing(sock))))

            async def read(ring: RxRing) -> int:
                count = 0
                async for batch in ring:
                    count += len(batch)
                    if count == 100:
                        break
                return count

            reading = asyncio.gather(*(read(ring) for _, ring in rings))
            await asyncio.sleep(0)
            for _ in range(100):
                for sock, _ in rings:
                    sock.sendto(b"x", sock.getsockname())
            return await reading

    assert run(both()) == [100, 100]


def test_nothing_is_left_open(run: Run, sock: socket.socket, sender: socket.socket) -> None:
    def once() -> None:
        async def read() -> None:
            with RxRing(sock) as ring:
                asyncio.get_running_loop().call_later(0.005, sender.send, b"x")
                async for _ in ring:
                    return

        run(read())

    once()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    for _ in range(5):
        once()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("thread", [False, True])
def test_closing_is_seen_at_once_and_not_by_looking_now_and_then(
    run: Run, sock: socket.socket, thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "_LOOK", 1e6)

    async def closed() -> str:
        ring = RxRing(sock)
        reading = asyncio.ensure_future(anext(aiter(ring), "ended"))
        while not ring._awaited:
            await asyncio.sleep(0)
        if thread:
            await asyncio.get_running_loop().run_in_executor(None, ring.close)
        else:
            ring.close()
        ended = await reading
        assert not ring._awaited
        return ended  # type: ignore[return-value]

    assert run(closed()) == "ended"


def test_packets_that_the_ring_has_already_are_not_waited_for(
    run: Run, sender: socket.socket, sock: socket.socket
) -> None:
    async def read() -> list[int]:
        with RxRing(sock, cache=PageFragCache(PagePool(65536))) as ring:
            needs_gro(ring)
            sender.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
            sender.send(bytes(10 * 100))
            reading = batches(ring, max=3)
            found = [len(await anext(reading))]
            while sum(found) < 10:
                step = anext(reading).__await__()
                with pytest.raises(StopIteration) as there:  # without the loop in between
                    next(step)
                found.append(len(there.value.value))
            return found

    assert run(read()) == [3, 3, 3, 1]


def test_a_second_task_is_told_and_the_first_goes_on(
    run: Run, sock: socket.socket, sender: socket.socket
) -> None:
    async def two() -> None:
        with RxRing(sock) as ring:
            first = asyncio.ensure_future(anext(aiter(ring)))
            while not ring._awaited:
                await asyncio.sleep(0)
            sender.send(b"for the first")
            for _ in range(2):
                with pytest.raises(ContextError, match="another task is waiting"):
                    await anext(aiter(ring))
            assert (await first)[0] == b"for the first"
            sender.send(b"for anybody")
            assert (await anext(aiter(ring)))[0] == b"for anybody"

    run(two())


def test_a_number_that_makes_no_sense_is_the_rings_own_error(run: Run, sock: socket.socket) -> None:
    async def ask() -> None:
        with RxRing(sock) as ring:
            with pytest.raises(ValueError, match="max"):
                await anext(batches(ring, max=0))
            assert ring.fileno() >= 0

    run(ask())


class Closing(aio.Batches):
    """Somebody closes the ring right after the iterator has looked so many times."""

    def __init__(self, ring: RxRing, looks: int, steal: Callable[[], object]) -> None:
        super().__init__(ring)
        self._rings, self._looks, self._steal = ring, looks, steal

    def _there(self) -> Any:
        self._looks -= 1
        if self._looks == 0:
            self._steal()
        found = super()._there()
        if self._looks == 0:
            self._rings.close()
        return found


@pytest.mark.parametrize("looks", [1, 2], ids=["before it waits", "after it has waited"])
def test_a_ring_that_is_closed_between_two_steps_ends_the_iteration(
    run: Run, sock: socket.socket, sender: socket.socket, looks: int
) -> None:
    async def read() -> list[Any]:
        steal: Callable[[], object] = lambda: None  # noqa: E731
        if looks == 2:
            # A packet wakes it, which somebody else takes before it looks.
            asyncio.get_running_loop().call_later(0.01, sender.send, b"x")
            steal = lambda: sock.recv(10)  # noqa: E731
        return [batch async for batch in Closing(RxRing(sock), looks, steal)]

    assert run(read()) == []
