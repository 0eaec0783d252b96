"""Send every datagram back to where it came from.

python examples/echo.py [PORT]        (0, the default: any port that is free)

The bytes stay where the kernel wrote them on arrival; the kernel reads them there when they
leave. Try it with ``nc -u 127.0.0.1 PORT``.
"""

from __future__ import annotations

import socket
import sys

from pagefrag import RxRing, SendError, TxRing


def echo(rx: RxRing, tx: TxRing) -> None:
    """Answer whatever comes, a batch at a time, until somebody presses Ctrl-C."""
    while True:
        with rx.recv(max=64) as batch:
            if not batch and not batch.discarded:
                return  # the socket was shut down: nothing comes any more
            try:
                tx.send(batch, to=batch)
            except SendError as error:
                # Everything else was sent. An answer that cannot be delivered is the sender's
                # loss, as everywhere in UDP; an error of the socket itself ends the server.
                if error.accepted < len(batch):
                    raise
                print(f"echo: {error}", file=sys.stderr, flush=True)


def main(port: int) -> None:
    """Serve on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        print(f"echo: 127.0.0.1:{sock.getsockname()[1]}", flush=True)
        with RxRing(sock, buf_size=16384) as rx, TxRing(sock) as tx:
            try:
                echo(rx, tx)
            except KeyboardInterrupt:
                print(f"echo: {tx.stats().tx_packets} answered", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
