"""What a ring is to a child that was forked while its parent used it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import LONG, child, started, until
from machine import needs_gro
from pagefrag import RxRing

UDP_SEGMENT = 103
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")  # the next process has one more


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_receives_though_a_thread_of_the_parent_waits(sock: socket.socket) -> None:
    ring = RxRing(sock)
    thread, _ = started(lambda: ring.recv(timeout=None))
    until(lambda: ring.stats().waits > 0)
    assert child(lambda: ring.recv(timeout=0)) == 0
    ring.close()
    thread.join()


def forked_as(number: int) -> int | None:
    """Fork until the child is process *number*; there return 0, and None if another took it."""
    for _ in range(100):
        LAST_PID.write_text(str(number - 1))
        pid = os.fork()
        if pid == 0 and os.getpid() != number:
            os._exit(0)
        if pid in (0, number):
            return pid
        os.waitpid(pid, 0)
    return None


def told_by_a_namesake_of_its_ancestor(act: Callable[[], object], of: Callable[[], object]) -> str:
    """Do *of* in a child that ends, then *act* in a grandchild with its number.

    What came of it: "done", "failed", or "taken" when another process has the number by then.
    """
    ended, ends = os.pipe()
    told, tells = os.pipe()

    def grandchild(number: int) -> str:
        os.read(ended, 1)  # its parent is no more
        pid = forked_as(number)
        if pid is None:
            return "taken"
        if pid == 0:
            signal.alarm(5)  # a fork takes no alarm along
            act()
            return ""
        return "failed" if os.waitpid(pid, 0)[1] else "done"

    def parent() -> None:
        of()
        number, status = os.getpid(), 1
        if os.fork() == 0:
            os.close(ends)
            try:
                os.write(tells, grandchild(number).encode())
                status = 0
            finally:
                os._exit(status)

    assert child(parent) == 0
    os.close(ends)
    os.close(tells)
    answer = os.read(told, 100).decode()
    os.close(ended)
    os.close(told)
    return answer


@pytest.mark.skipif(
    not os.access(LAST_PID, os.W_OK), reason="the number of a process is chosen by root only"
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_with_the_number_of_an_ancestor_has_no_thread_that_receives(
    sock: socket.socket,
) -> None:
    def receives() -> None:
        started(lambda: ring.recv(timeout=None))
        until(lambda: ring.stats().waits > 0)

    with RxRing(sock) as ring:
        for _ in range(20):  # any program on the machine may be given the number first
            answer = told_by_a_namesake_of_its_ancestor(lambda: ring.recv(timeout=0), receives)
            if answer != "taken":
                break
        assert answer == "done"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("act", ["close", "stats", "drain", "__repr__", "recv"])
def test_a_child_never_hangs_though_a_thread_of_the_parent_receives(
    sock: socket.socket, sender: socket.socket, act: str
) -> None:
    ring = RxRing(sock, slots=1024)
    stop = threading.Event()

    def receive() -> None:
        while not stop.is_set():
            ring.recv(1024, timeout=0.01)

    def send() -> None:
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        while not stop.is_set():
            sender.send(bytes(6000))

    def look() -> None:
        if act != "recv":
            getattr(ring, act)()
            return
        with contextlib.suppress(ValueError):  # closed
            ring.recv(timeout=0)

    threads = [threading.Thread(target=receive), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    try:
        assert [child(look) for _ in range(15)] == [0] * 15
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        ring.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_waits_at_a_fork_is_the_parents(sock: socket.socket, sender: socket.socket) -> None:
    with RxRing(sock) as ring:
        needs_gro(ring)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        sender.send(b"".join(bytes([number]) * 100 for number in range(10)))
        got = [frag[0] for frag in ring.recv(3, LONG)]

        def go_on() -> None:
            assert ring.pending == 0
            assert not ring.recv(timeout=0)
            sender.send(b"\x2a" * 300)  # handed out in three calls of the child
            assert [frag[0] for _ in range(3) for frag in ring.recv(1, LONG)] == [42] * 3
            ring.close()
            assert ring.stats().rx_hw_drops == 0

        assert child(go_on) == 0
        assert ring.pending == 7
        while ring.pending:
            got += [frag[0] for frag in ring.recv(2, 0)]
        assert got == list(range(10))
