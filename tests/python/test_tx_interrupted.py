"""`TxRing` when others come in between: forks, signals, threads, a close. Nothing goes twice."""

from __future__ import annotations

import errno
import socket
import threading

import pytest

from actors import LONG, alarmed, child, started, until
from link import Link
from pagefrag import ContextError, SendError, TxRing

TOO_LONG = bytes(65_508)


def packets(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") * 500 for number in range(count)]


def stop() -> None:
    raise KeyboardInterrupt


def test_a_forked_child_does_not_send_what_its_parent_has_queued(
    link: Link, stuffed: socket.socket
) -> None:
    sent = packets(20)
    with TxRing(stuffed, gso=False) as ring:
        ring.send(sent, timeout=0)
        assert ring.queued

        def nothing_queued() -> None:
            assert ring.flush(timeout=0) == ring.close() == 0

        assert child(nothing_queued) == 0
        link.answer()
        ring.flush()
        assert link.arrived(20) == sent


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("act", ["close", "stats", "flush", "send", "__repr__", "__exit__", "drop"])
def test_a_child_never_hangs_though_a_thread_of_the_parent_waits_in_a_send(
    link: Link, stuffed: socket.socket, act: str
) -> None:
    sent = packets(30)
    rings = [TxRing(stuffed, slots=8, gso=False)]
    thread, found = started(lambda: rings[0].send(sent))
    until(lambda: rings[0].stats().waits > 0)

    def look() -> None:
        if act == "drop":
            rings.clear()
        elif act == "send":
            with pytest.raises(TypeError):
                rings[0].send(None)  # type: ignore[arg-type]
        else:
            getattr(rings[0], act)(*[None] * 3 * (act == "__exit__"))

    assert [child(look) for _ in range(10)] == [0] * 10
    link.answer()
    thread.join()
    rings[0].flush()
    assert (found, rings[0].stats().tx_packets) == ([30], 30)
    assert link.arrived(30) == sent
    rings[0].close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("act", ["close", "stats", "drop"])
def test_a_child_never_hangs_though_a_thread_of_the_parent_is_in_a_system_call(
    sender: socket.socket, act: str
) -> None:
    rings = [TxRing(sender, slots=1024, gso=False)]
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            rings[0].send([b"x" * 1400] * 1024)

    def look() -> None:
        if act == "drop":
            rings.clear()
        else:
            getattr(rings[0], act)()

    thread, found = started(flood)
    try:
        assert [child(look) for _ in range(15)] == [0] * 15
    finally:
        over.set()
        thread.join()
    assert found == [None]
    assert rings[0].stats().tx_packets % 1024 == 0
    assert rings[0].close() == 0


def test_ctrl_c_tells_what_was_taken_and_what_failed_and_the_rest_stays_queued(
    link: Link, stuffed: socket.socket
) -> None:
    sent = packets(30)
    ring = TxRing(stuffed, slots=8, gso=False)
    with alarmed(stop), pytest.raises(KeyboardInterrupt) as caught:
        ring.send([TOO_LONG, *sent])
    told = caught.value.__context__
    assert isinstance(told, SendError)
    ((index, why),) = told.failed
    assert (index, why.errno) == (0, errno.EMSGSIZE)
    assert 8 < told.accepted < 31
    assert ring.queued == 8
    link.answer()
    # Sent again from where it ended, everything is there once.
    assert ring.send(sent[told.accepted - 1 :]) == 31 - told.accepted
    ring.flush()
    assert link.arrived(30) == sent
    assert (ring.stats().tx_packets, ring.stats().tx_hw_drops) == (30, 1)
    ring.close()


def test_ctrl_c_in_a_flush_keeps_the_queue(link: Link, stuffed: socket.socket) -> None:
    sent = packets(10)
    with TxRing(stuffed, gso=False) as ring:
        ring.send(sent, timeout=0)
        waiting = ring.queued
        with alarmed(stop), pytest.raises(KeyboardInterrupt) as caught:
            ring.flush()
        told = caught.value.__context__
        assert isinstance(told, SendError)
        assert (told.errno, told.failed, told.accepted) == (errno.EINTR, (), 0)
        assert ring.queued == waiting > 0
        link.answer()
        ring.flush()
        assert link.arrived(10) == sent


def test_what_a_handler_raises_keeps_its_own_context(link: Link, stuffed: socket.socket) -> None:
    assert link

    def fail() -> None:
        try:
            int("first")
        except ValueError as error:
            raise LookupError("second") from error

    ring = TxRing(stuffed, slots=4, gso=False)
    with alarmed(fail), pytest.raises(LookupError, match="second") as caught:
        ring.send(packets(30))
    first = caught.value.__context__
    assert isinstance(first, ValueError)
    assert isinstance(first.__context__, SendError)
    ring.close()


def test_a_handler_that_returns_does_not_end_the_wait(link: Link, stuffed: socket.socket) -> None:
    sent = packets(30)
    with TxRing(stuffed, slots=4, gso=False) as ring:
        with alarmed(link.answer):
            assert ring.send(sent) == 30
        ring.flush()
        assert link.arrived(30) == sent


def test_a_handler_may_close_the_ring(link: Link, stuffed: socket.socket) -> None:
    assert link
    ring = TxRing(stuffed, slots=4, gso=False)
    with alarmed(ring.close), pytest.raises(ValueError, match="closed ring"):
        ring.send(packets(30))


def test_an_exception_in_the_block_gives_up_what_waits(link: Link, stuffed: socket.socket) -> None:
    assert link
    ring = TxRing(stuffed, gso=False)
    ring.send(packets(10), timeout=0)
    waiting = ring.queued
    with pytest.raises(KeyError), ring:
        raise KeyError
    assert ring.stats().tx_hw_drops == waiting > 0


def test_closing_wakes_a_thread_that_waits_and_tells_it_what_was_taken(
    link: Link, stuffed: socket.socket
) -> None:
    sent = packets(50)
    ring = TxRing(stuffed, slots=4, gso=False)
    thread, found = started(lambda: ring.send([TOO_LONG, *sent]))
    until(lambda: ring.stats().waits > 0)
    given_up = ring.close()
    thread.join(LONG)
    assert isinstance(found[0], ValueError)
    told = found[0].__context__
    assert isinstance(told, SendError)
    assert [index for index, _ in told.failed] == [0]
    assert given_up == 4
    link.answer()
    went = told.accepted - 1 - given_up
    assert link.arrived(went) == sent[:went]
    stats = ring.stats()
    assert (stats.tx_packets, stats.tx_hw_drops) == (went, 1 + given_up)


def test_closing_the_socket_wakes_a_thread_that_waits(link: Link, stuffed: socket.socket) -> None:
    assert link
    ring = TxRing(stuffed, slots=4, gso=False)
    thread, found = started(lambda: ring.send(packets(50)))
    until(lambda: ring.stats().waits > 0)
    stuffed.close()
    thread.join(LONG)
    assert isinstance(found[0], OSError)
    assert found[0].errno == errno.EBADF
    assert isinstance(found[0].__context__, SendError)
    assert ring.fileno() == -1


def test_two_threads_do_not_send_and_the_second_is_told(link: Link, stuffed: socket.socket) -> None:
    ring = TxRing(stuffed, slots=4, gso=False)
    thread, found = started(lambda: ring.send(packets(50)))
    until(lambda: ring.stats().waits > 0)
    with pytest.raises(ContextError, match="another call is sending"):
        ring.send(b"x")
    with pytest.raises(ContextError):
        ring.flush()
    link.answer()
    thread.join(LONG)
    ring.flush()
    assert found == [50]
    assert link.arrived(50) == packets(50)
    ring.close()


def test_threads_that_close_while_others_send_end_with_one_answer(
    sender: socket.socket,
) -> None:
    for _ in range(20):
        ring = TxRing(sender, gso=False)
        floods = [started(lambda ring=ring: [ring.send([b"x"] * 64) for _ in range(10_000)])]
        floods += [started(ring.close) for _ in range(2)]
        for thread, _ in floods:
            thread.join(LONG)
        (ended,), *closers = (found for _, found in floods)
        assert isinstance(ended, ValueError)
        assert sum(found[0] for found in closers) == 0
        assert ring.stats().tx_packets % 64 == 0
