"""Pass datagrams on to another address, each with its arrival number in front.

python examples/forward.py HOST PORT [LISTEN_PORT]

The payload is not copied: the number goes into the head of a new `SkBuff`, the datagram hangs
behind it as a fragment, and the kernel gathers both.
"""

from __future__ import annotations

import socket
import sys

from pagefrag import Batch, NetdevCache, RxRing, SendError, SkBuff, TxRing


def numbered(batch: Batch, first: int, heads: NetdevCache) -> list[SkBuff]:
    """Return the datagrams of *batch* with eight bytes of sequence number in front of each."""
    skbs = []
    for number, frag in enumerate(batch, first):
        skb = heads.alloc_skb(8)
        skb.put(number.to_bytes(8, "big")).release()
        if frag.nbytes:
            skb.add_frag(frag)
        skbs.append(skb)
    return skbs


def forward(rx: RxRing, tx: TxRing) -> None:
    """Pass on whatever comes until somebody presses Ctrl-C."""
    heads = NetdevCache(rx.cache.pool)
    number = 0
    while True:
        with rx.recv(max=64) as batch:
            if not batch and not batch.discarded:
                return  # the socket was shut down: nothing comes any more
            try:
                tx.send(numbered(batch, number, heads))
            except SendError as error:
                # Nobody listens there at the moment, or one was too long: all others were sent.
                if error.accepted < len(batch):
                    raise
                print(f"forward: {error}", file=sys.stderr, flush=True)
            number += len(batch)


def main(host: str, port: int, listen: int) -> None:
    """Listen on 127.0.0.1 and send from a second socket, connected to *host* and *port*."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside,
    ):
        inside.bind(("127.0.0.1", listen))
        outside.connect((host, port))
        print(f"forward: 127.0.0.1:{inside.getsockname()[1]}", flush=True)
        with RxRing(inside, buf_size=16384) as rx, TxRing(outside) as tx:
            try:
                forward(rx, tx)
            except KeyboardInterrupt:
                print(f"forward: {tx.stats().tx_packets} passed on", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
