"""The command line: words in, an exit status out.

Status 0 is success, 1 a failed job (a corrupted packet), 2 bad input, told in one line.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn, Protocol

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


class _Commands(Protocol):
    """Where argparse keeps the commands of a parser."""

    def add_parser(self, name: str, *, help: str) -> _Parser:  # noqa: A002 - argparse's word
        """Return the parser of another command."""
        ...


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


def _add_demo(commands: _Commands) -> None:
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


def _add_recv(commands: _Commands) -> None:
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


class _Seconds:
    """A length of time such as ``1s``, ``2.5ms`` or ``20us``, in nanoseconds, for argparse."""

    _UNITS: ClassVar[dict[str, int]] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000}
    _FORM = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?(s|ms|us)")

    def __call__(self, text: str) -> int:
        if text == "0":
            return 0
        found = self._FORM.fullmatch(text)
        if found is None:
            raise argparse.ArgumentTypeError(f"expected a time such as 1s, 20ms or 0, not {text!r}")
        whole, part = int(found[1]), found[2] or "0"
        unit = self._UNITS[found[3]]
        scale: int = 10 ** len(part)
        return whole * unit + int(part) * unit // scale


def _add_replay(commands: _Commands) -> None:
    replay = commands.add_parser(
        "replay", help="tell which pages, buffers and copybreak suit the traffic of a capture"
    )
    replay.add_argument("file", metavar="FILE", type=Path, help="a capture, pcap or pcapng")
    replay.add_argument(
        "--hold",
        metavar="TIME",
        type=_Seconds(),
        default="1s",
        help="how long each packet is kept, in capture time: 1s, 20ms, 50us, 0 (default: 1s)",
    )
    replay.add_argument(
        "--length",
        choices=["wire", "captured"],
        default="wire",
        help="which length counts where the capture cut packets (default: wire)",
    )
    replay.add_argument(
        "--page-size", type=int, choices=_PAGE_SIZES, metavar="BYTES", help="try only these pages"
    )
    replay.add_argument(
        "--buffer", type=_Between(1, 1 << 20), metavar="BYTES", help="try only these buffers"
    )
    replay.add_argument(
        "--copybreak", type=_Between(0, 1 << 20), metavar="BYTES", help="try only this copybreak"
    )
    replay.add_argument(
        "--slots", type=_Between(1, 1_024), default=64, help="buffers that are armed (default: 64)"
    )
    replay.add_argument("--json", action="store_true", help="print JSON instead of tables")
    replay.add_argument(
        "--plot", metavar="PICTURE", type=Path, help="draw what was held, to a .svg or .png"
    )
    replay.set_defaults(job=_replay)


def _add_info(commands: _Commands) -> None:
    info = commands.add_parser("info", help="versions, OS page, huge pages, build features")
    info.set_defaults(job=_info)


def _parser() -> _Parser:
    parser = _Parser(prog="pagefrag", description="Packet buffers as page fragments.")
    parser.set_defaults(job=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    for add in (_add_demo, _add_recv, _add_replay, _add_info):
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


def _replay(chosen: argparse.Namespace, parser: _Parser) -> int:
    from pagefrag import replay  # noqa: PLC0415
    from pagefrag.replay import advice, plot  # noqa: PLC0415

    fixed = advice.Fixed(chosen.page_size, chosen.buffer, chosen.copybreak, chosen.slots)
    if chosen.page_size and chosen.buffer and chosen.buffer > chosen.page_size:
        parser.error(f"a buffer of {chosen.buffer:,} bytes does not fit {chosen.page_size:,}")
    if chosen.plot:
        try:
            plot.check(chosen.plot)
        except (ValueError, plot.MissingPlotter) as error:
            parser.error(f"--plot: {error}")
    job = replay.Job(
        file=chosen.file,
        hold=chosen.hold,
        length=chosen.length,
        fixed=fixed,
        json=chosen.json,
        plot=chosen.plot,
    )
    return replay.main(job)


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
