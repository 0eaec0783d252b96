"""Fragments and batches as NumPy arrays: the same memory, kept as long as an array lives."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest

from pagefrag import Batch, PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build


def receive(sizes: list[int], pool: PagePool, **options: bool) -> tuple[Batch, tuple[str, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for number, size in enumerate(sizes):
            sock.sendto(struct.pack(">I", number) + bytes(size - 4), sock.getsockname())
        cache = PageFragCache(pool)
        with RxRing(sock, cache=cache, **options) as ring:
            batch = ring.recv(timeout=LONG)
        cache.drain()
        return batch, sock.getsockname()


def test_an_array_over_a_fragment_is_its_memory() -> None:
    pool = PagePool()
    fragment = PageFragCache(pool).alloc(64)
    array = np.asarray(fragment)
    assert (array.dtype, array.shape) == (np.uint8, (64,))
    array[:] = range(64)
    assert fragment.tobytes() == bytes(range(64))
    assert np.asarray(fragment[16:32]).ctypes.data == array.ctypes.data + 16
    assert not np.asarray(fragment.toreadonly()).flags.writeable
    with pytest.raises(BufferError):
        fragment.release()
    del fragment
    assert pool.stats().live_bytes == 64
    assert array[63] == 63
    del array
    assert pool.stats().live_bytes == 0


def test_a_record_tells_where_a_packet_is() -> None:
    batch, sender = receive([4, 100, 300, 1200, 2000] * 5, PagePool(), timestamps=True)
    records = batch.to_numpy()
    assert records.dtype.itemsize == 56
    assert records.shape == (25,)
    assert not records.flags.writeable
    assert records["length"].tolist() == list(batch.lengths)
    assert records["wire_length"].tolist() == list(batch.wire_lengths)
    assert records["interface"].tolist() == list(batch.interfaces)
    assert records["truncated"].tolist() == list(batch.truncated)
    assert records["segment"].tolist() == list(batch.segments)
    assert records["timestamp"].astype(np.int64).tolist() == list(batch.timestamps)
    assert set(records["port"].tolist()) == {sender[1]}
    assert {tuple(each) for each in records["source"][:, 12:].tolist()} == {(127, 0, 0, 1)}
    fragments = [np.asarray(fragment).ctypes.data for fragment in batch]
    assert records["address"].tolist() == fragments


def test_run_and_start_find_every_byte() -> None:
    batch, _ = receive([4, 100, 300, 1200, 2000] * 5, PagePool())
    runs = [np.asarray(run) for run in batch.runs()]
    assert not any(run.flags.writeable for run in runs)
    for record, fragment in zip(batch.to_numpy(), batch, strict=True):
        run, start = runs[record["run"]], int(record["start"])
        assert run.ctypes.data + start == record["address"]
        assert run[start : start + record["length"]].tobytes() == fragment.tobytes()


def test_headers_of_a_run_are_read_without_a_loop() -> None:
    """What the records are for: one expression for a field of all packets."""
    batch, _ = receive([200] * 50, PagePool())
    records, (run,) = batch.to_numpy(), batch.runs()
    where = records["start"][:, None] + np.arange(4)
    numbers = np.asarray(run)[where].view(">u4").ravel()
    assert numbers.tolist() == list(range(50))


@pytest.mark.parametrize("what", ["to_numpy", "runs"])
def test_arrays_keep_the_memory_of_the_batch(what: str) -> None:
    pool = PagePool()
    batch, _ = receive([1500] * 10, pool)
    kept = getattr(batch, what)()
    part = kept[3:5]
    batch.release()
    del batch, kept
    assert pool.stats().live_bytes == 10 * 1536
    del part
    assert pool.stats().live_bytes == 0


def test_no_time_is_not_a_time() -> None:
    batch, _ = receive([10] * 3, PagePool())
    assert np.isnat(batch.to_numpy()["timestamp"]).all()


def test_a_batch_of_nothing_is_an_array_of_nothing(sock: socket.socket) -> None:
    with RxRing(sock) as ring:
        records = ring.recv(timeout=0).to_numpy()
    assert records.shape == (0,)
    assert "start" in (records.dtype.names or ())
