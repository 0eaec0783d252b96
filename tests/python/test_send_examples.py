"""`examples/echo.py` and `examples/forward.py` do what they say, as processes of their own."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SIZES = [0, 1, 1472, 9000]
LONG = 60.0  # seconds: only reached by a broken build


@contextmanager
def running(name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """Start an example; lend its process and the address that it prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            host, port = process.stdout.readline().split()[1].split(":")
            yield process, (host, int(port))
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C and return what was printed."""
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=LONG)
    assert process.returncode == 0, told
    return told


def packets(count: int) -> list[bytes]:
    chance = random.Random(count)
    return [chance.randbytes(chance.choice([*SIZES, 100, 1200])) for _ in range(count)]


def test_echo_answers_everybody_with_their_own_bytes() -> None:
    with (
        running("echo.py") as (process, address),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.settimeout(LONG)
            sock.connect(address)
        for first, second in zip(packets(200), reversed(packets(200)), strict=True):
            one.send(first)
            two.send(second)
            assert one.recv(65536) == first
            assert two.recv(65536) == second
        assert ended(process) == ("echo: 400 answered\n", "")


def test_echo_goes_on_when_a_client_is_gone() -> None:
    with (
        running("echo.py") as (process, address),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stays,
    ):
        stays.settimeout(LONG)
        for _ in range(10):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as leaves:
                leaves.sendto(b"nobody waits for the answer", address)
            stays.sendto(b"still there?", address)
            assert stays.recv(100) == b"still there?"
        assert ended(process)[0] == "echo: 20 answered\n"


def test_forward_numbers_what_it_passes_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(LONG)
        host, port = sink.getsockname()
        with (
            running("forward.py", host, str(port)) as (process, address),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        ):
            sent = packets(200)
            for number, packet in enumerate(sent):
                source.sendto(packet, address)
                assert sink.recv(65536) == number.to_bytes(8, "big") + packet
            assert ended(process) == ("forward: 200 passed on\n", "")
