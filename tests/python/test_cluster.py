"""Fragments and batches in Dask and ZeroMQ: no copy of ours, right sizes, no early reuse."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import zmq
from dask.sizeof import sizeof
from distributed import Client, LocalCluster
from distributed.protocol import deserialize, serialize

from pagefrag import Batch, Fragment, PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "collector_dask.py"


def receive(packets: list[bytes]) -> Batch:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for packet in packets:
            sock.sendto(packet, sock.getsockname())
        with RxRing(sock) as ring:
            return ring.recv(timeout=LONG)


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("collector_dask", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["collector_dask"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["collector_dask"]


def test_dask_counts_the_memory() -> None:
    frag, batch = PageFragCache().alloc(2000), receive([bytes(1000)] * 20)
    assert sizeof(frag) == sys.getsizeof(frag) + 2048
    assert sizeof(batch) == sys.getsizeof(batch) >= 20 * 1024
    assert sizeof([frag, batch]) >= sizeof(frag) + sizeof(batch)
    frag.release()
    assert sizeof(frag) == sys.getsizeof(frag)


def test_dask_takes_a_batch_as_frames_of_its_own_memory() -> None:
    batch = receive([bytes([number]) * 200 for number in range(40)])
    header, frames = serialize(batch)
    views = [memoryview(frame) for frame in frames[1:]]
    assert [len(view) for view in views] == [len(run) for run in batch.runs()]
    back = deserialize(header, frames)
    assert [frag.tobytes() for frag in back] == [frag.tobytes() for frag in batch]
    assert back.to_numpy()["address"].tolist() == batch.to_numpy()["address"].tolist(), "no copy"


def test_the_collector_counts_every_byte_on_the_workers(example: ModuleType) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        client.upload_file(str(EXAMPLE))
        sock.bind(("127.0.0.1", 0))
        sender.bind(("127.0.0.1", 0))
        for number in range(100):
            sender.sendto(bytes(number * 10), sock.getsockname())
        counts = example.collect(client, sock, idle=1.0)
        assert counts == {sender.getsockname(): sum(number * 10 for number in range(100))}


def test_the_collector_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--help"], capture_output=True, text=True, check=True
    )
    assert "--scheduler" in done.stdout


@pytest.fixture
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    with (
        zmq.Context() as context,
        context.socket(zmq.PUSH) as push,
        context.socket(zmq.PULL) as pull,
    ):
        pull.setsockopt(zmq.RCVTIMEO, 60_000)
        push.connect(f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}")
        yield push, pull


SIZE = 1 << 20


def filled(cache: PageFragCache) -> Fragment:
    frag = cache.alloc(SIZE)
    frag[:] = b"mine" * (SIZE // 4)
    return frag


def test_a_view_that_zeromq_sends_keeps_its_fragment_from_being_released(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    push, pull = pair
    cache = PageFragCache(PagePool(SIZE))
    frag = filled(cache)
    frame = zmq.Frame(memoryview(frag), copy=False)
    with pytest.raises(BufferError):
        frag.release()
    push.send(frame, copy=False)
    del frag, frame
    others = [cache.alloc(SIZE) for _ in range(4)]
    for other in others:
        other[:] = bytes(SIZE)
    assert pull.recv() == b"mine" * (SIZE // 4)


def test_a_fragment_that_zeromq_sends_lives_until_it_is_sent(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    """Zeromq keeps the object and no view: dropping it is safe, `release` needs a memoryview."""
    push, pull = pair
    cache = PageFragCache(PagePool(SIZE))
    frag = filled(cache)
    push.send(frag, copy=False)
    del frag
    for other in [cache.alloc(SIZE) for _ in range(4)]:
        other[:] = bytes(SIZE)
    assert pull.recv() == b"mine" * (SIZE // 4)


def test_a_fragment_that_is_released_early_is_sent_as_what_came_after() -> None:
    """Zeromq has an address and no view, so `release` cannot know: why it gets a memoryview."""
    cache = PageFragCache(PagePool(SIZE))
    frag = filled(cache)
    frame = zmq.Frame(frag, copy=False)
    frag.release()  # no BufferError
    other = cache.alloc(SIZE)
    other[:] = b"else" * (SIZE // 4)
    assert frame.bytes == b"else" * (SIZE // 4)
