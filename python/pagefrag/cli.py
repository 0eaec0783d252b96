"""The command line: words in, an exit status out.

Status 0 is success, 1 a failed job (a corrupted packet), 2 bad input, told in one line.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "run"]

_SMALLEST_PACKET = 8
_LARGEST_PACKET = 32_768
_PAGE_SIZES = [1 << shift for shift in range(12, 21)]


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.splitlines())}\n")


class _Between:
    """An integer from *low* to *high*, for argparse."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}") from None
        if not self._low <= number <= self._high:
            raise argparse.ArgumentTypeError(
                f"expected {self._low:,} to {self._high:,}, not {number:,}"
            )
        return number


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="receive a million datagrams from a sender process, check every byte, print a table",
    )
    demo.add_argument(
        "--count", type=_Between(1, 1 << 40), default=1_000_000, help="packets to send"
    )
    demo.add_argument(
        "--size",
        type=_Between(_SMALLEST_PACKET, _LARGEST_PACKET),
        default=1_200,
        help="bytes of a packet",
    )
    demo.add_argument(
        "--keep", type=_Between(0, 1 << 24), default=10_000, help="packets kept while the rest come"
    )
    demo.add_argument(
        "--page-size",
        type=int,
        choices=_PAGE_SIZES,
        default=32_768,
        metavar="BYTES",
        help="page of the ring's pool, a power of two",
    )
    demo.set_defaults(job=_demo)


def _add_recv(commands: argparse._SubParsersAction[_Parser]) -> None:
    recv = commands.add_parser("recv", help="receive from any sender until interrupted")
    recv.add_argument("--udp", metavar="HOST:PORT", required=True, help="where to listen")
    recv.add_argument(
        "--keep", type=_Between(0, 1 << 24), default=0, help="the newest packets kept alive"
    )
    recv.add_argument(
        "--buffer",
        type=_Between(64, _LARGEST_PACKET),
        default=2_048,
        help="bytes of a receive buffer",
    )
    recv.add_argument(
        "--interval",
        type=_Between(1, 3_600),
        default=1,
        help="seconds between two lines of figures",
    )
    recv.set_defaults(job=_recv)


def _add_info(commands: argparse._SubParsersAction[_Parser]) -> None:
    info = commands.add_parser("info", help="versions, OS page, huge pages, build features")
    info.set_defaults(job=_info)


def _parser() -> _Parser:
    parser = _Parser(prog="pagefrag", description="Packet buffers as page fragments.")
    parser.set_defaults(job=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    for add in (_add_demo, _add_recv, _add_info):
        add(commands)
    return parser


def _demo(chosen: argparse.Namespace, parser: _Parser) -> int:
    from pagefrag import demo  # noqa: PLC0415 - `--help` needs none of it

    if chosen.size > chosen.page_size:
        parser.error(f"a packet of {chosen.size:,} bytes does not fit {chosen.page_size:,}")
    job = demo.Job(
        count=chosen.count, size=chosen.size, keep=chosen.keep, page_size=chosen.page_size
    )
    return demo.main(job)


def _recv(chosen: argparse.Namespace, parser: _Parser) -> int:
    from pagefrag import recv  # noqa: PLC0415

    try:
        sock = recv.listen(recv.parse_address(chosen.udp))
    except ValueError as error:
        parser.error(f"--udp: {error}")
    except OSError as error:
        parser.error(f"cannot listen on {chosen.udp}: {error.strerror or error}")
    return recv.main(sock, keep=chosen.keep, buffer=chosen.buffer, interval=chosen.interval)


def _info(_chosen: argparse.Namespace, _parser: _Parser) -> int:
    from pagefrag import info  # noqa: PLC0415

    return info.main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; bad input leaves by ``SystemExit(2)``."""
    parser = _parser()
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if chosen.job is None:
        parser.error("a COMMAND is missing")
    return int(chosen.job(chosen, parser))


def run() -> NoReturn:
    """Run the command of this process and exit."""
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # else whoever read us has gone
            print(f"pagefrag: {error.strerror or error}", file=sys.stderr)
        _forget_output()
        status = 1
    sys.exit(status)


def _forget_output() -> None:
    """Send what is still to be written nowhere, so that the exit does not try again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
