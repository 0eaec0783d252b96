"""Rings against others: iperf3, plain sockets, processes that are killed, devices of our own."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from actors import LONG, until
from link import Link
from pagefrag import PageFragCache, PagePool, RxRing, TxRing

ETH_P_ALL = 3
SIZES = [0, 1, 1472, 9000, 65_507]


def udp(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return sock


class Relay:
    """Stands between an iperf3 client on 127.0.0.2 and its server on 127.0.0.1, on one port.

    The control connection goes straight through; the datagrams through rings, both ways.
    """

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.control = socket.create_server(("127.0.0.2", self.port))
        self.front, self.back = udp("127.0.0.2", self.port), udp()
        self.back.connect(("127.0.0.1", self.port))
        self.client: Any = None
        self.passed_on = self.refused = 0
        self.numbers: list[int] = []
        self.over = threading.Event()
        self.opened: list[socket.socket] = []
        self.rings = [RxRing(self.front, buf_size=4096), RxRing(self.back, buf_size=4096)]
        acts = (self._there, self._back_again, self._control)
        self.threads = [threading.Thread(target=act) for act in acts]
        for thread in [*self.threads]:
            thread.start()

    def _there(self) -> None:
        with TxRing(self.back) as tx:
            while not self.over.is_set():
                with self.rings[0].recv(timeout=0.02) as batch:
                    if not batch:
                        continue
                    self.client = batch.addresses[-1]
                    # Seconds, microseconds, number; what opens the stream is shorter.
                    self.numbers += [
                        int.from_bytes(frag[8:12], "big") for frag in batch if len(frag) > 16
                    ]
                    try:
                        tx.send(batch)
                    except ConnectionRefusedError:  # the server has ended, and we are late
                        self.refused += len(batch)
            with suppress(ConnectionRefusedError):
                tx.flush()
            self.passed_on = tx.stats().tx_packets

    def _back_again(self) -> None:
        with TxRing(self.front) as tx:
            while not self.over.is_set():
                with suppress(ConnectionRefusedError), self.rings[1].recv(timeout=0.02) as batch:
                    tx.send(batch, to=self.client)

    def _control(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self.control.accept()
                theirs = socket.create_connection(("127.0.0.1", self.port))
                self.opened += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    self.threads.append(threading.Thread(target=self._pass, args=pair))
                    self.threads[-1].start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def seen(self) -> int:
        """How many datagrams came here, or were dropped in front of us."""
        return len(self.numbers) + self.rings[0].stats().rx_hw_drop_overruns

    def close(self) -> None:
        self.over.set()
        for sock in (self.control, *self.opened):
            with suppress(OSError):  # an end that is closed already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(LONG)
        for thing in (*self.rings, *self.opened, self.control, self.front, self.back):
            thing.close()


@contextmanager
def relayed() -> Iterator[Relay]:
    relay = Relay()
    command = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", "127.0.0.1"]
    command += ["-p", str(relay.port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()  # a line of dashes: it listens
            yield relay
        finally:
            server.kill()
            relay.close()


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
@pytest.mark.parametrize("length", [64, 1200, 1448])
def test_iperf3_counts_every_datagram_that_rings_have_relayed(length: int) -> None:
    count = 3000
    with relayed() as relay:
        command = ["iperf3", "--client", "127.0.0.2", "-p", str(relay.port), "--udp", "--json"]
        command += ["--length", str(length), "--blockcount", str(count), "--bitrate", "10M"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout)
        assert done.returncode == 0, told
        sent = told["end"]["streams"][0]["udp"]
        # The client does not wait for what it sent: on a busy machine the relay has it later.
        until(lambda: relay.seen() >= sent["packets"] - 1)
        numbers, stats = relay.numbers, relay.rings[0].stats()
    assert numbers == sorted(set(numbers)), "each once and in order"
    assert sent["packets"] >= count
    total = len(numbers) + stats.rx_hw_drop_overruns
    assert numbers[-1] <= total <= sent["packets"] + 2
    # All of it was passed on; what its own buffer has no room for is the server's loss.
    assert relay.passed_on <= stats.rx_packets <= relay.passed_on + relay.refused
    assert (sent["out_of_order"], sent["lost_packets"] < count) == (0, True)
    assert stats.rx_hw_drop_overruns <= sent["lost_packets"]
    assert stats.rx_packets - len(numbers) <= 2  # what opens the stream


def test_plain_sockets_send_and_receive_every_size() -> None:
    sent = [os.urandom(size) for size in SIZES]
    cache = PageFragCache(PagePool(1 << 17))
    with udp() as ours, udp() as theirs:
        with RxRing(ours, buf_size=65_536, cache=cache) as rx, TxRing(ours) as tx:
            for packet in sent:
                theirs.sendto(packet, ours.getsockname())
            got = 0
            while got < len(sent):
                with rx.recv(timeout=LONG) as batch:
                    assert [bytes(frag) for frag in batch] == sent[got : got + len(batch)]
                    got += tx.send(batch, to=batch)
        theirs.settimeout(LONG)
        assert [theirs.recv(65_536) for _ in sent] == sent


def test_a_burst_beyond_the_receive_buffer_is_counted_exactly() -> None:
    with udp() as sock, udp() as sender:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        with RxRing(sock, gro=False) as rx, TxRing(sender, gso=False) as tx:
            got = 0
            for _ in range(5):
                assert tx.send([b"x" * 500] * 2000, to=sock.getsockname()) == 2000
                while batch := rx.recv(timeout=0):
                    got += len(batch)
            stats = rx.stats()
    assert 0 < got < 10_000
    assert (stats.rx_packets, stats.rx_hw_drop_overruns) == (got, 10_000 - got)
    assert stats.rx_hw_drops == stats.rx_hw_drop_overruns


SENDER = """
import itertools, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", int(sys.argv[1])))
for number in itertools.count():
    sock.send(number.to_bytes(4, "big") * 50)
"""


def test_a_sender_that_is_killed_leaves_whole_packets_and_a_ring_that_goes_on() -> None:
    numbers: list[int] = []
    with udp() as sock, RxRing(sock) as ring:
        command = [sys.executable, "-c", SENDER, str(sock.getsockname()[1])]
        with subprocess.Popen(command) as sender:
            while batch := ring.recv(timeout=LONG if len(numbers) < 5000 else 0.2):
                for frag in batch:
                    number = frag[:4].tobytes()
                    assert frag == number * 50
                    numbers.append(int.from_bytes(number, "big"))
                if len(numbers) >= 5000:
                    sender.send_signal(signal.SIGKILL)
        assert sender.returncode == -signal.SIGKILL
        assert numbers == sorted(set(numbers))
        lost = ring.stats().rx_hw_drop_overruns
        assert numbers[-1] + 1 - len(numbers) <= lost
        sock.sendto(b"the next one", sock.getsockname())
        assert ring.recv(timeout=LONG)[0] == b"the next one"


THINGS = ("socket", "ring", "batch", "pool", "cache")


@pytest.mark.parametrize("first", THINGS)
def test_things_can_be_closed_in_any_order(first: str) -> None:
    rest = [thing for thing in THINGS if thing != first]
    for order in itertools.permutations(rest):
        pool: PagePool | None = PagePool()
        cache = PageFragCache(pool)
        sock = udp()
        sock.sendto(b"x" * 700, sock.getsockname())
        sock.sendto(b"y" * 700, sock.getsockname())
        rx, tx = RxRing(sock, cache=cache), TxRing(sock)
        batch = rx.recv(timeout=LONG)
        kept = batch[1]
        assert tx.send(batch, to=batch) == 2
        for thing in (first, *order):
            if thing == "socket":
                sock.close()
            elif thing == "ring":
                rx.close()
                assert tx.close() == 0
            elif thing == "batch":
                batch.release()
            elif thing == "pool":
                pool = None
            else:
                cache.drain()
            assert kept == b"y" * 700, order
        rx.close()
        pool = cache.pool
        kept.release()
        cache.drain()
        pool.trim()
        assert pool.audit().regions_mapped == 0, order
        del rx, tx, batch, sock
    gc.collect()


def bound(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((name, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return sock


def link_is_up(name: str) -> bool:
    command = ["ip", "-oneline", "link", "show", name]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return "state UP" in shown.stdout


def test_frames_of_a_tap_device_come_whole_and_in_order(link: Link) -> None:
    head = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x09\x88\xb5"  # an ethertype for experiments
    frames = [head + number.to_bytes(2, "big") * 600 for number in range(200)]
    with bound(link.name.rstrip(b"\0").decode()) as sock, RxRing(sock) as ring:
        got: list[bytes] = []
        for frame in frames:
            os.write(link.tap, frame)
            got += [frag.tobytes() for frag in ring.recv(timeout=0)]
        while len([frame for frame in got if frame.startswith(head)]) < len(frames):
            got += [frag.tobytes() for frag in ring.recv(timeout=LONG)]
    assert [frame for frame in got if frame.startswith(head)] == frames


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip (iproute2) is not installed")
def test_frames_cross_a_veth_pair(link: Link) -> None:
    assert link  # a network namespace of our own
    made = ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no veth pair here: {done.stderr.strip()}")
    for name in ("near", "far"):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)  # noqa: S607
    until(lambda: link_is_up("near") and link_is_up("far"))
    head = b"\xff" * 6 + b"\x02\0\0\0\0\x09\x88\xb5"
    frames = [head + number.to_bytes(2, "big") * 600 for number in range(200)]
    with bound("near") as near, bound("far") as far, RxRing(far, timestamps=True) as ring:
        got: list[bytes] = []
        for frame in frames:
            near.send(frame)
        while len(got) < len(frames):
            with ring.recv(timeout=LONG) as batch:
                ours = [frag.tobytes() for frag in batch]
                got += [frame for frame in ours if frame.startswith(head)]
                assert set(batch.interfaces) == {socket.if_nametoindex("far")}
        assert ring.stats().rx_hw_drop_overruns == 0
    assert got == frames
