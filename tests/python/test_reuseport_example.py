"""`examples/reuseport.py`: what is sent is received, each flow by one queue."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "reuseport.py"
LONG = 60.0  # seconds: only reached by a broken build
QUEUES, FLOWS, PACKETS = 3, 64, 4  # all of them fit the buffer of one socket


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_every_packet_is_in_one_queue(kind: str) -> None:
    command = [sys.executable, str(EXAMPLE), kind, str(QUEUES)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            assert told.startswith("reuseport: "), process.communicate(timeout=LONG)
            host, port = told.split()[1].split(":")
            for flow in range(FLOWS):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.connect((host, int(port)))
                    for _ in range(PACKETS):
                        sender.send(bytes(flow))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LONG)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    found = re.findall(r"queue \d+: (\d+) packets, (\d+) bytes", out)
    packets = [int(count) for count, _ in found]
    assert len(packets) == QUEUES
    assert sum(packets) == FLOWS * PACKETS
    assert sum(int(size) for _, size in found) == sum(range(FLOWS)) * PACKETS
    assert all(count % PACKETS == 0 for count in packets)
    assert sum(count > 0 for count in packets) > 1, "64 flows in one of three queues"
