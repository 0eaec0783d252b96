"""The numbers of a batch: a buffer, a sequence, and one object whatever it holds."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from pagefrag import Batch, Numbers, RxRing

LONG = 10.0
LENGTHS = [1, 300, 0, 64, 300]


@pytest.fixture
def batch(sock: socket.socket, sender: socket.socket) -> Iterator[Batch]:
    for length in LENGTHS:
        sender.send(bytes(length))
    with RxRing(sock, timestamps=True) as ring:
        found = ring.recv(timeout=LONG)
        assert len(found) == len(LENGTHS)
        yield found


ALL = (
    "lengths",
    "wire_lengths",
    "offsets",
    "pages",
    "timestamps",
    "interfaces",
    "truncated",
    "segments",
)


@pytest.mark.parametrize("name", ALL)
def test_numbers_are_what_a_memoryview_of_them_is(batch: Batch, name: str) -> None:
    numbers: Numbers = getattr(batch, name)
    view = memoryview(numbers)
    assert (view.format, view.itemsize, view.nbytes) == (
        numbers.format,
        numbers.itemsize,
        numbers.nbytes,
    )
    assert (view.ndim, view.shape, view.readonly) == (1, (len(LENGTHS),), True)
    assert view.c_contiguous
    assert view.tolist() == numbers.tolist() == list(numbers) == list(numbers[:])
    assert [type(number) for number in numbers] == [type(number) for number in view]
    assert view.tobytes() == numbers.tobytes() == bytes(numbers)
    assert numbers == view
    assert numbers == getattr(batch, name)
    assert len(numbers) == len(LENGTHS)
    array = np.asarray(numbers)
    assert array.tolist() == numbers.tolist()
    assert np.shares_memory(array, np.asarray(numbers))
    assert array.flags.aligned
    assert not array.flags.writeable


def test_numbers_are_a_sequence(batch: Batch) -> None:
    lengths = batch.lengths
    assert [lengths[index] for index in range(-5, 5)] == LENGTHS * 2
    assert list(lengths[1:4:2]) == [300, 64]
    assert lengths[::-1].tolist() == LENGTHS[::-1]
    assert 300 in lengths
    assert 7 not in lengths
    assert sum(lengths) == sum(LENGTHS)
    for index in (5, -6, 2**62, -(2**63), sys.maxsize, 2**70):
        with pytest.raises(IndexError):
            lengths[index]
    for key in ("a", 1.0, None):
        with pytest.raises(TypeError):
            lengths[key]  # type: ignore[call-overload]
    assert repr(lengths) == f"<Numbers {LENGTHS} of format 'I'>"
    assert lengths != batch.offsets
    assert lengths != LENGTHS
    with pytest.raises(TypeError):
        hash(lengths)
    with pytest.raises(TypeError):
        memoryview(lengths)[0] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        Numbers()


def test_numbers_outlive_their_batch(batch: Batch) -> None:
    lengths, array = batch.lengths, np.asarray(batch.lengths)
    batch.release()
    assert list(lengths) == list(batch.lengths) == array.tolist() == LENGTHS


def test_a_batch_read_as_an_array_is_two_objects(
    sock: socket.socket, sender: socket.socket
) -> None:
    most, batches = 64, 10
    kept: list[object] = [None] * (2 * batches)
    with RxRing(sock, slots=most) as ring:

        def receive() -> Batch:
            for _ in range(most):
                sender.send(bytes(100))
            found = ring.recv(most, LONG)
            assert len(found) == most
            return found

        assert len(receive().lengths) == most
        gc.collect()
        made = 0
        for index in range(batches):
            batch = receive()
            kept[index] = batch
            before = sys.getallocatedblocks()
            kept[batches + index] = batch.lengths
            made += sys.getallocatedblocks() - before
    assert made <= batches + 2


def test_numbers_lend_themselves_by_name_and_never_for_writing(batch: Batch) -> None:
    view = batch.lengths.__buffer__(284)  # PyBUF_FULL_RO
    assert view.tolist() == LENGTHS
    with pytest.raises(BufferError, match="not writable"):
        batch.lengths.__buffer__(285)


def test_the_size_of_numbers_is_that_of_what_they_hold(batch: Batch) -> None:
    lengths = batch.lengths
    times = batch.timestamps
    assert sys.getsizeof(lengths) >= len(LENGTHS) * 4
    assert sys.getsizeof(times) - sys.getsizeof(lengths) == len(LENGTHS) * (8 - 4)
