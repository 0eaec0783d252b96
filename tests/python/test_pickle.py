"""Pickles of fragments and batches: out of band nothing is copied, in band it is copied once."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pagefrag
import pickle_worker
from machine import needs_gro
from pagefrag import Batch, Fragment, PageFragCache, PagefragError, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def fragment(content: bytes = b"ping", pool: PagePool | None = None) -> Fragment:
    frag = PageFragCache(pool or PagePool()).alloc(max(len(content), 1)).trim(len(content))
    frag[:] = content
    return frag


def receive(packets: list[bytes], pool: PagePool | None = None, **options: Any) -> Batch:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for packet in packets:
            sock.sendto(packet, sock.getsockname())
        cache = PageFragCache(pool or PagePool())
        with RxRing(sock, cache=cache, **options) as ring:
            batch = ring.recv(timeout=LONG)
        cache.drain()
    assert len(batch) == len(packets)
    return batch


def frames_of(thing: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    frames: list[pickle.PickleBuffer] = []
    return pickle.dumps(thing, 5, buffer_callback=frames.append), frames


def address(lent: Any) -> int:
    return int(np.frombuffer(lent, np.uint8).ctypes.data)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_fragment_comes_back_in_band(protocol: int, readonly: bool) -> None:
    for content in (b"", b"ping", bytes(range(256)) * 20):
        frag = fragment(content).toreadonly() if readonly else fragment(content)
        back = pickle.loads(pickle.dumps(frag, protocol))
        assert type(back) is Fragment
        assert back == frag
        assert (back.tobytes(), back.readonly) == (content, readonly)


def test_out_of_band_neither_side_copies() -> None:
    frag = fragment(b"x" * 3000)
    data, (frame,) = frames_of(frag)
    assert len(data) < 200
    assert address(frame) == address(frag)
    received = bytearray(frame.raw())
    back = pickle.loads(data, buffers=[received])
    assert address(back) == address(received)
    back[0] = 1
    assert received[0] == 1
    with pytest.raises(BufferError):
        received.append(0)
    back.release()
    received.append(0)


def test_what_was_received_read_only_stays_so() -> None:
    data, _ = frames_of(fragment())
    back = pickle.loads(data, buffers=[b"pong"])
    assert back.readonly
    assert hash(back) == hash(b"pong")


def test_a_frame_keeps_its_fragment_from_being_released() -> None:
    pool = PagePool()
    frag = fragment(b"ping", pool)
    _, frames = frames_of(frag)
    with pytest.raises(BufferError):
        frag.release()
    del frag
    assert bytes(frames[0].raw()) == b"ping"
    frames.clear()
    assert pool.stats().live_bytes == 0


@pytest.fixture
def lent() -> Fragment:
    """Return a fragment over somebody else's bytes."""
    return pickle.loads(pickle.dumps(fragment(bytes(range(100))), 5))  # type: ignore[no-any-return]


def test_a_fragment_out_of_a_pickle_does_what_others_do(lent: Fragment) -> None:
    assert (lent.nbytes, lent.capacity, lent.offset, lent.pinned_bytes) == (100, 100, 0, 0)
    part = lent[10:20]
    assert (part.page, part.offset, part.pinned_bytes) == (lent.page, 10, 90)
    part[0] = 255
    assert lent[10] == 255
    lent.release()
    assert part[0] == 255
    assert part.trim(5).tobytes() == bytes([255, 11, 12, 13, 14])
    assert part.toreadonly().readonly
    assert part.copy().capacity == 64
    assert pickle.loads(pickle.dumps(part, 5)) == part
    assert "len=5" in repr(part)


def test_a_fragment_out_of_a_pickle_is_no_part_of_a_packet(lent: Fragment) -> None:
    skb = pagefrag.netdev_alloc_skb(100)
    with pytest.raises(ValueError, match="copy"):
        skb.add_frag(lent)
    with pytest.raises(ValueError, match="another object's"):
        pagefrag.build_skb(pickle.loads(pickle.dumps(fragment(bytes(1000)), 5)))
    skb.add_frag(lent.copy())
    assert skb.len == 100


def test_a_fragment_out_of_a_pickle_can_be_sent(lent: Fragment) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with pagefrag.TxRing(sock) as ring:
            ring.send([lent, lent[:3]], to=sock.getsockname())
        assert sock.recv(200) == bytes(range(100))
        assert sock.recv(200) == bytes(range(3))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_comes_back_in_band(protocol: int) -> None:
    packets = [bytes([size % 256]) * size for size in (0, 1, 12, 100, 1200, 2000, 3000)]
    batch = receive(packets, timestamps=True)
    back = pickle.loads(pickle.dumps(batch, protocol))
    assert type(back) is Batch
    assert [frag.tobytes() for frag in back] == [frag.tobytes() for frag in batch]
    for name in ("lengths", "wire_lengths", "timestamps", "interfaces", "truncated", "segments"):
        assert list(getattr(back, name)) == list(getattr(batch, name))
    assert back.addresses == batch.addresses
    assert back.discarded == batch.discarded
    assert list(back.offsets) == [frag.offset for frag in back]
    assert list(back.pages) == [frag.page for frag in back]
    assert back.to_arrow().equals(batch.to_arrow())
    assert back[1].readonly
    assert back.nbytes == batch.nbytes


def test_a_batch_is_a_few_frames_of_its_own_memory() -> None:
    batch = receive([bytes(200)] * 64)
    data, frames = frames_of(batch)
    assert len(frames) == len(batch.runs()) == 1
    assert address(frames[0]) == address(batch[0])
    received = [bytes(frame.raw()) for frame in frames]
    back = pickle.loads(data, buffers=received)
    assert address(back[0]) == address(received[0])
    assert back.to_numpy()["address"].tolist() == [
        address(received[0]) + 256 * number for number in range(64)
    ]
    assert [frame.raw().nbytes for frame in frames_of(back)[1]] == [len(received[0])]


def test_a_frame_shows_nothing_but_the_batch() -> None:
    """Between two packets of a page lies what is somebody else's: it is in no frame."""
    pool = PagePool()
    batch = receive([b"packet" * 200] * 20, pool)
    secrets = PageFragCache(pool).alloc_many(200, 64)
    for secret in secrets:
        secret[:] = b"secret!!" * 8
    assert len(frames_of(batch)[1]) > 1
    for frame in frames_of(batch)[1]:
        assert b"secret" not in bytes(frame.raw())


def test_frames_keep_their_memory_when_the_batch_is_gone() -> None:
    pool = PagePool()
    batch = receive([bytes(1000)] * 10, pool)
    _, frames = frames_of(batch)
    batch.release()
    assert pool.stats().live_bytes == 10 * 1024
    frames.clear()
    assert pool.stats().live_bytes == 0


def test_what_was_released_is_not_pickled() -> None:
    frag, batch = fragment(), receive([b"x"] * 3)
    frag.release()
    for protocol in PROTOCOLS:
        with pytest.raises(ValueError, match="operation forbidden on released fragment"):
            pickle.dumps(frag, protocol)
    batch.release()
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ValueError, match="operation forbidden on released batch"):
            use(batch)  # type: ignore[operator]


@pytest.mark.parametrize("make", [fragment, lambda: receive([b"x"] * 3)])
def test_a_pickle_of_a_newer_layout_is_one_clear_error(make: Callable[[], Any]) -> None:
    restore, (version, *rest) = make().__reduce_ex__(5)
    assert version == 1
    assert restore(1, *rest) is not None
    for state in (rest, [], [object()] * 9):
        if restore.__name__ == "_restore_fragment" and len(state) != 2:
            continue
        with pytest.raises(PagefragError, match="layout 2, of a newer pagefrag"):
            restore(2, *state)


@given(st.binary(max_size=100), st.lists(st.binary(max_size=30), max_size=2), st.integers(0, 3))
def test_a_damaged_table_is_an_error_and_no_more(
    table: bytes, runs: list[bytes], rows: int
) -> None:
    restore = pagefrag._pagefrag._restore_batch  # type: ignore[attr-defined]
    for damaged in (table, table.ljust(33 * rows, b"\0")[: 33 * rows]):
        try:
            batch = restore(1, damaged, [b""], 0, runs)
        except ValueError:
            continue
        assert sum(map(len, batch)) <= len(batch) * 30


def test_copies_share_and_deep_copies_do_not() -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    frag = cache.alloc(4)
    frag[:] = b"ping"
    shallow, deep = copy.copy(frag), copy.deepcopy(frag)
    frag[0] = 0
    assert (shallow.tobytes(), deep.tobytes()) == (b"\0ing", b"ping")
    assert pool.stats().live_bytes == 2 * 64, "the deep copy is of the same pool"
    fixed = frag.toreadonly()
    assert copy.copy(fixed).readonly
    assert copy.deepcopy(fixed).readonly
    batch = receive([b"ping"] * 3, pool)
    live = pool.stats().live_bytes
    shallow_batch, deep_batch = copy.copy(batch), copy.deepcopy(batch)
    assert pool.stats().live_bytes == live
    assert [frag.tobytes() for frag in shallow_batch] == [frag.tobytes() for frag in deep_batch]
    assert address(shallow_batch[0]) == address(batch[0]) != address(deep_batch[0])
    assert shallow_batch.addresses == batch.addresses


def test_a_copy_is_of_the_fragments_own_pool() -> None:
    pool = PagePool(4096, max_bytes=2 << 20)
    cache = PageFragCache(pool)
    frag = cache.alloc(4)
    frag[:] = b"ping"
    copies = [frag.copy() for _ in range(1000)]
    assert all(each == frag for each in copies)
    assert pool.stats().live_bytes == 1001 * 64
    assert pool.stats().pages_in_use <= 1001 // 64 + 2
    whole = cache.alloc(4096)
    with pytest.raises(pagefrag.PoolExhausted):
        copies.extend(whole.copy() for _ in range(1000))
    live = pool.stats().live_bytes
    del cache
    copies.append(frag.copy())
    assert copies[-1] == b"ping"
    assert pool.stats().live_bytes == live, "no cache is left: from the default pool"
    del copies, whole, frag
    gc.collect()
    pool.trim()
    assert pool.audit().regions_mapped == 0


def test_sizes_are_those_of_the_memory() -> None:
    batch = receive([bytes(1500)] * 20)
    assert 20 * 2048 <= sys.getsizeof(batch) <= 20 * 2048 + 20 * 200 + 200  # whole buffers
    assert len(batch[0]) == 1500
    assert 20 * 1536 <= sys.getsizeof(batch) <= 20 * 1536 + 20 * 200 + 200
    back = pickle.loads(pickle.dumps(batch))
    assert 30_000 <= sys.getsizeof(back) <= 20 * 1536 + 20 * 200 + 200
    list(batch)
    assert sys.getsizeof(batch) >= 20 * 1536
    batch.release()
    assert sys.getsizeof(batch) < 20 * 200


def test_what_the_kernel_joined_is_few_frames() -> None:
    pool = PagePool(1 << 17)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.bind(("127.0.0.1", 0))
        sender.connect(sock.getsockname())
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        with RxRing(sock, cache=PageFragCache(pool)) as ring:
            needs_gro(ring)
            sender.send(bytes(40_000))
            batch = ring.recv(timeout=LONG)
    assert len(batch) == 40
    assert 40_000 <= sys.getsizeof(batch) <= 40 * 1024 + 40 * 200 + 200
    data, frames = frames_of(batch)
    assert len(frames) == len(batch.runs()) <= 4, "neighbours in a page are one frame"
    assert len(pickle.loads(data, buffers=frames)) == 40


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_other_processes_get_what_was_sent(method: str) -> None:
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=pickle_worker.answer, args=(there,))
    process.start()
    try:
        batch = receive([bytes([size]) * size for size in (0, 5, 200)] * 5, timestamps=True)
        for thing in (fragment(b"x" * 5000), fragment().toreadonly(), batch):
            here.send(thing)
            told, back = here.recv()
            assert told == pickle_worker.described(thing) == pickle_worker.described(back)
        here.send(None)
    finally:
        process.join()
        here.close()
        there.close()
    assert process.exitcode == 0


@pytest.mark.parametrize("name", [b"", b"\x63", b"\x63\x00elsewhere", b"\x11\x00short"])
def test_a_sender_of_a_family_that_no_ring_has_is_nobody(name: bytes) -> None:
    restore, (version, table, _, *rest) = receive([b"x"]).__reduce_ex__(5)
    batch = restore(version, table, [name], *rest)
    assert batch.addresses == (None,)
    assert batch[0] == b"x"
