"""A collector whose parsing has outgrown one process: batches go to the workers of a Dask cluster.

    python examples/collector_dask.py 0.0.0.0:9000 --scheduler tcp://10.0.0.1:8786

Without a scheduler a cluster is started on this machine. A batch travels in a frame for each of its
runs of memory, copied by the kernel's sockets and by nobody of ours, and a worker reads its packets
where they were received.
"""

from __future__ import annotations

import argparse
import socket
from collections import Counter, deque

from distributed import Client, Future

from pagefrag import Batch, RxRing


def parse(batch: Batch) -> Counter[tuple[str, int]]:
    """Count bytes by sender; on a worker. Put your parser here: each packet is a buffer."""
    counts: Counter[tuple[str, int]] = Counter()
    for packet, sender in zip(batch, batch.addresses, strict=True):
        counts[sender[:2]] += len(packet)
    return counts


def collect(
    client: Client, sock: socket.socket, *, in_flight: int = 16, idle: float | None = None
) -> Counter[tuple[str, int]]:
    """Hand batches out until nothing comes for *idle* seconds; at most *in_flight* at a time."""
    total: Counter[tuple[str, int]] = Counter()
    waiting: deque[Future] = deque()
    with RxRing(sock, slots=256) as ring:
        while batch := ring.recv(max=1024, timeout=idle):
            waiting.append(client.submit(parse, client.scatter(batch, hash=False), pure=False))
            del batch  # the cluster has it now
            if len(waiting) > in_flight:
                total += waiting.popleft().result()
    for answer in waiting:
        total += answer.result()
    return total


def main() -> None:
    """Collect until interrupted, or until nothing has come for some seconds."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("address", help="host:port to receive at")
    options.add_argument("--scheduler", help="of a running cluster")
    options.add_argument("--idle", type=float, help="seconds without packets after which to end")
    args = options.parse_args()
    host, _, port = args.address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, Client(args.scheduler) as client:
        sock.bind((host, int(port)))
        for sender, size in collect(client, sock, idle=args.idle).most_common():
            print(*sender, size)


if __name__ == "__main__":
    main()
