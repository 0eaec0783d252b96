"""Others who act while a test looks: threads, forked children, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["LONG", "alarmed", "child", "started", "until"]

LONG = 60.0  # seconds: only reached by a broken build


def started(act: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """Start *act* on a thread; what it returns or raises comes into the list."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    while not true():
        time.sleep(0.001)


def child(act: Callable[[], object]) -> int:
    """Fork, run *act* in the child, and return its status; -SIGALRM when it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        try:
            act()
        except BaseException:  # noqa: BLE001, RUF100 - the child must not return
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def alarmed(act: Callable[[], object], after: float = 0.05) -> Iterator[None]:
    """Run *act* in a signal handler, *after* so many seconds."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
