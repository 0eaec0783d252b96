"""Several queues on one port: the kernel deals flows out to sockets, each with a ring of its own.

python examples/reuseport.py threads|processes QUEUES [PORT]

Each thread or process has its socket (SO_REUSEPORT), its ring and its cache, and shares nothing
with the others: no lock, and no memory that two processors write. All packets of one sender go
to one queue.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import socket
import sys
import threading
import time
from typing import Any, Protocol

import numpy as np

from pagefrag import RxRing


class Stop(Protocol):
    """Set when it is time to end: an event of threads or of processes."""

    def is_set(self) -> bool:
        """Tell whether it is."""


class Told(Protocol):
    """Where the queues say how it goes: a queue of threads or of processes."""

    def put(self, word: object, /) -> None:
        """Say *word*."""


def listen(port: int) -> socket.socket:
    """Return one of several sockets on *port*."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def receive(number: int, port: int, stop: Stop, told: Told) -> None:
    """Receive on queue *number* until *stop* is set; tell when it listens and what it counted."""
    packets = size = 0
    with listen(port) as sock, RxRing(sock) as ring:
        told.put(number)
        listening = True
        while listening:
            with ring.recv(timeout=0.05) as batch:
                listening = bool(batch) or not stop.is_set()
                packets += len(batch)
                size += int(np.asarray(batch.lengths).sum())
    told.put((number, packets, size))


def receive_alone(number: int, port: int, stop: Stop, told: Told) -> None:
    """Do the same in a process of its own: Ctrl-C is for the first process to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    receive(number, port, stop, told)


def main(kind: str, queues: int, port: int = 0) -> None:
    """Start the queues, wait for Ctrl-C, and print what each has received."""
    workers: list[Any]
    stop: Any
    told: Any
    numbers = range(queues)
    with listen(port) as first:  # finds the port, and goes before packets are wanted
        port = first.getsockname()[1]
        if kind == "threads":
            stop, told = threading.Event(), queue.Queue()
            start: Any = threading.Thread
            target = receive
        else:
            spawn = multiprocessing.get_context("spawn")
            stop, told = spawn.Event(), spawn.Queue()
            start, target = spawn.Process, receive_alone
        workers = [start(target=target, args=(n, port, stop, told)) for n in numbers]
        for worker in workers:
            worker.start()
        for _ in numbers:
            told.get()
    try:
        print(f"reuseport: 127.0.0.1:{port}", flush=True)
        while True:
            time.sleep(0.1)  # short: a signal just before a wait does not end that wait
    except KeyboardInterrupt:
        stop.set()
    for number, packets, size in sorted(told.get() for _ in numbers):
        print(f"queue {number}: {packets} packets, {size} bytes")
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
