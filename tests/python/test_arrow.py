"""A batch as an Arrow record batch: no packet is copied, and memory lives as long as the column."""

from __future__ import annotations

import ctypes
import gc
import ipaddress
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine import bound
from pagefrag import Batch, PageFragCache, PagePool, RxRing

LONG = 60.0  # seconds: only reached by a broken build
SIZES = [0, 1, 11, 12, 13, 64, 256, 257, 1200, 2000]


def payload(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


def receive(packets: Sequence[bytes], pool: PagePool | None = None, **options: Any) -> Batch:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for packet in packets:
            sock.sendto(packet, sock.getsockname())
        cache = PageFragCache(pool or PagePool())
        with RxRing(sock, slots=256, cache=cache, **options) as ring:
            batch = ring.recv(256, timeout=LONG)
    cache.drain()
    assert len(batch) == len(packets)
    return batch


def views(column: pa.Array) -> list[tuple[int, int]]:
    """Return address and length of each value of a binary view column, as its buffers say."""
    _, described, *data = column.buffers()
    raw = np.frombuffer(described, np.int32).reshape(-1, 4)
    found = []
    for row, (length, _, buffer, offset) in enumerate(raw[: len(column)].tolist()):
        inside = described.address + row * 16 + 4
        found.append((data[buffer].address + offset if length > 12 else inside, length))
    return found


def address(fragment: Any) -> int:
    return int(np.asarray(fragment).ctypes.data)


def test_the_columns_tell_what_came() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for size in SIZES:
            sock.sendto(payload(size), sock.getsockname())
        with RxRing(sock, timestamps=True) as ring:
            batch = ring.recv(timeout=LONG)
        table = batch.to_arrow()
        table.validate(full=True)
        assert table.schema == pa.schema(
            [
                pa.field("payload", pa.binary_view(), nullable=False),
                pa.field("timestamp", pa.timestamp("ns", "UTC")),
                pa.field("source", pa.string()),
                pa.field("port", pa.uint16()),
            ]
        )
        assert table.column("payload").to_pylist() == [payload(size) for size in SIZES]
        assert table.column("timestamp").cast(pa.int64()).to_pylist() == list(batch.timestamps)
        assert table.column("source").to_pylist() == ["127.0.0.1"] * len(SIZES)
        assert table.column("port").to_pylist() == [sock.getsockname()[1]] * len(SIZES)


def test_payload_addresses_are_the_fragments_addresses() -> None:
    batch = receive([payload(size) for size in SIZES * 5])
    column = batch.to_arrow().column("payload")
    for (where, length), fragment in zip(views(column), batch, strict=True):
        assert length == len(fragment)
        if length > 12:
            assert where == address(fragment)


def test_a_join_of_the_kernel_is_one_buffer() -> None:
    """Neighbours of one page share a buffer; what is between two of them is nobody's."""
    close = receive([payload(1216)] * 20, buf_size=1216).to_arrow().column("payload")
    assert len(close.buffers()) == 2 + 1
    apart = receive([payload(1200)] * 20, buf_size=2048).to_arrow().column("payload")
    data = apart.buffers()[2:]
    assert sum(buffer.size for buffer in data) <= 20 * 1216
    padding = receive([payload(300)] * 20, copybreak=512).to_arrow().column("payload")
    assert [buffer.size for buffer in padding.buffers()[2:]] == [19 * 320 + 300]


@given(st.lists(st.binary(max_size=700), min_size=1, max_size=40), st.sampled_from([0, 64, 700]))
def test_whatever_comes_is_in_the_column(packets: list[bytes], copybreak: int) -> None:
    batch = receive(packets, copybreak=copybreak)
    table = batch.to_arrow()
    table.validate(full=True)
    assert table.column("payload").to_pylist() == packets
    assert [bytes(run) for run in batch.runs()] == [
        buffer.to_pybytes() for buffer in table.column("payload").buffers()[2:]
    ]


def test_the_column_keeps_the_memory_and_gives_it_back() -> None:
    pool = PagePool()
    batch = receive([payload(1000)] * 30, pool)
    column = batch.to_arrow().column("payload")
    batch.release()
    del batch
    assert pool.stats().live_bytes == 30 * 1024
    assert column.to_pylist() == [payload(1000)] * 30
    part = column[10:12]
    del column
    assert pool.stats().live_bytes == 30 * 1024
    assert part.to_pylist() == [payload(1000)] * 2
    del part
    pool.trim()
    assert (pool.audit().live_bytes, pool.stats().regions_mapped) == (0, 0)


def test_the_column_outlives_pool_ring_and_thread() -> None:
    found: list[pa.Array] = []

    def work() -> None:
        found.append(receive([payload(900)] * 9).to_arrow().column("payload"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert found.pop().to_pylist() == [payload(900)] * 9


class RawArray(ctypes.Structure):
    pass


RELEASE = ctypes.CFUNCTYPE(None, ctypes.POINTER(RawArray))
RawArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.c_void_p),
    ("children", ctypes.POINTER(ctypes.POINTER(RawArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", RELEASE),
    ("private_data", ctypes.c_void_p),
]


def taken(batch: Batch) -> RawArray:
    """Take the structure out of its capsule, as a consumer does."""
    _, capsule = batch.__arrow_c_array__()
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return moved(
        ctypes.POINTER(RawArray).from_buffer(ctypes.c_void_p(get(capsule, b"arrow_array")))
    )


def moved(pointer: Any) -> RawArray:
    """Move an array as the interface says: copy the structure, mark the old one as released."""
    array = RawArray()
    ctypes.pointer(array)[0] = pointer.contents
    pointer.contents.release = RELEASE()
    return array


def release(array: RawArray) -> None:
    """Release on a thread that holds no lock of the interpreter's: ctypes lets go of it."""
    thread = threading.Thread(target=array.release, args=(ctypes.byref(array),))
    thread.start()
    thread.join()
    assert not array.release


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_moved_child_is_released_by_itself_and_without_the_interpreter(first: str) -> None:
    pool = PagePool()
    batch = receive([payload(1000)] * 10, pool)
    array = taken(batch)
    batch.release()
    child = moved(array.children[0])
    assert (array.length, array.n_children, child.length) == (10, 4, 10)
    for each in (array, child) if first == "parent" else (child, array):
        release(each)
    assert pool.stats().live_bytes == 0


def test_a_capsule_that_nobody_takes_gives_everything_back() -> None:
    pool = PagePool()
    batch = receive([payload(1000)] * 10, pool)
    for _ in range(3):
        capsules = batch.__arrow_c_array__()
        del capsules
        batch.__arrow_c_schema__()
    batch.release()
    assert pool.stats().live_bytes == 0


EXIT = """
import atexit, socket, sys, threading
import pyarrow as pa
from pagefrag import RxRing
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    for _ in range(20):
        sock.sendto(b"x" * 1000, sock.getsockname())
    with RxRing(sock) as ring:
        kept = ring.recv(timeout=60).to_arrow()
sys.kept = kept
atexit.register(lambda: print(kept.column("payload")[0].as_py() == b"x" * 1000))
"""


def test_a_column_may_live_until_the_interpreter_ends() -> None:
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_batch_that_was_shared_is_read_only_from_then_on() -> None:
    batch = receive([payload(1000)] * 3)
    before = batch[0]
    batch.to_arrow()
    assert not before.readonly
    assert batch[0] is before
    assert batch[1].readonly
    with pytest.raises(TypeError, match="read-only"):
        batch[1][0] = 1


def refused(use: Callable[[], object], what: str) -> None:
    with pytest.raises(ValueError, match=f"operation forbidden on released {what}"):
        use()


def test_what_was_released_is_not_exported() -> None:
    batch = receive([payload(1000)] * 3)
    batch[1].release()
    refused(batch.to_arrow, "fragment")
    assert not batch[2].readonly, "nothing was shared"
    batch.release()
    for use in (batch.to_arrow, batch.__arrow_c_array__, batch.to_numpy, batch.runs):
        refused(use, "batch")


def test_a_trimmed_fragment_is_exported_as_it_is() -> None:
    batch = receive([payload(1000)] * 3)
    batch[1].trim(100)
    found = batch.to_arrow().column("payload").to_pylist()
    assert found == [payload(1000), payload(100), payload(1000)]


def test_times_that_were_not_asked_for_are_null() -> None:
    column = receive([b"x"] * 9).to_arrow().column("timestamp")
    assert column.null_count == 9
    assert column.to_pylist() == [None] * 9


def test_an_ipv6_sender_is_told_as_text() -> None:
    with bound(socket.AF_INET6) as sock:
        sock.sendto(b"six", sock.getsockname())
        with RxRing(sock) as ring, ring.recv(timeout=LONG) as batch:
            table = batch.to_arrow()
            record = batch.to_numpy()[0]
    assert table.column("source").to_pylist() == ["::1"]
    assert table.column("port").to_pylist() == [record["port"]]
    assert ipaddress.ip_address(record["source"].tobytes()) == ipaddress.ip_address("::1")


def test_a_sender_without_an_ip_address_is_null() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.send(b"x")
        with RxRing(other) as ring, ring.recv(timeout=LONG) as batch:
            table = batch.to_arrow()
            record = batch.to_numpy()[0]
    assert table.column("source").to_pylist() == table.column("port").to_pylist() == [None]
    assert (record["port"], record["source"].any()) == (0, False)


def nothing() -> Batch:
    with bound() as sock, RxRing(sock) as ring:
        return ring.recv(timeout=0)


def test_an_empty_batch_is_an_empty_table() -> None:
    table = nothing().to_arrow()
    table.validate(full=True)
    assert (table.num_rows, table.num_columns) == (0, 4)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_consumer_gets_the_layout_it_asks_for(kind: pa.DataType) -> None:
    batch = receive([payload(size) for size in SIZES])
    asked = batch.to_arrow().schema.set(0, pa.field("payload", kind, nullable=False))
    schema, array = batch.__arrow_c_array__(asked.__arrow_c_schema__())
    table = pa.RecordBatch._import_from_c_capsule(schema, array)
    table.validate(full=True)
    assert table.schema == asked
    assert table.column("payload").to_pylist() == [payload(size) for size in SIZES]


def test_a_layout_that_we_cannot_give_is_left_to_the_consumer() -> None:
    batch = receive([payload(10)])
    other = pa.schema([("payload", pa.int64()), ("more", pa.string())])
    schema, array = batch.__arrow_c_array__(other.__arrow_c_schema__())
    table = pa.RecordBatch._import_from_c_capsule(schema, array)
    assert table.schema.field("payload").type == pa.binary_view()
    for wrong in (5, "schema", b"", object()):
        with pytest.raises((TypeError, ValueError)):
            batch.__arrow_c_array__(wrong)


def test_the_schema_alone_is_the_schema_of_the_data() -> None:
    batch = receive([payload(10)])
    assert pa.schema(batch) == batch.to_arrow().schema


def test_polars_takes_a_batch_as_it_is() -> None:
    pl = pytest.importorskip("polars", reason="polars has no wheel for this interpreter")
    assert pl.DataFrame(nothing()).shape == (0, 4)
    pool = PagePool()
    batch = receive([payload(size) for size in SIZES], pool)
    frame = pl.DataFrame(batch)
    assert frame.columns == ["payload", "timestamp", "source", "port"]
    assert frame["payload"].to_list() == [payload(size) for size in SIZES]
    assert frame.group_by("source", "port").len()["len"].to_list() == [len(SIZES)]
    batch.release()
    held = pool.stats().live_bytes
    assert held > 0, "the frame holds the packets, not a copy of them"
    del frame
    assert pool.stats().live_bytes == 0


def test_a_table_of_many_batches_is_grouped_by_sender() -> None:
    tables = [receive([payload(100)] * 5).to_arrow() for _ in range(3)]
    table = pa.Table.from_batches(tables)
    counts = table.group_by("source").aggregate([("port", "count")])
    assert counts.column("port_count").to_pylist() == [15]


def test_reading_a_column_makes_no_object_per_packet() -> None:
    batch = receive([payload(200)] * 100)
    batch.to_arrow()
    gc.collect()
    before = len(gc.get_objects())
    column = batch.to_arrow().column("payload")
    assert len(gc.get_objects()) - before < 10
    assert len(column) == 100


WITHOUT = """
import sys
sys.modules[{module!r}] = None
import socket
from pagefrag import RxRing
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    with RxRing(sock) as ring:
        batch = ring.recv(timeout=0)
try:
    batch.{method}()
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "method", "extra"),
    [("pyarrow", "to_arrow", "pagefrag[arrow]"), ("numpy", "to_numpy", "pagefrag[numpy]")],
)
def test_a_missing_library_is_one_error_that_names_the_extra(
    module: str, method: str, extra: str
) -> None:
    program = WITHOUT.format(module=module, method=method)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1
    assert extra in done.stdout


class Schema(ctypes.Structure):
    """What the interface defines, as a consumer in C may hand it over."""

    _fields_ = (
        ("format", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("children", ctypes.POINTER(ctypes.c_void_p)),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


NAME = ctypes.create_string_buffer(b"arrow_schema")
NEW = ctypes.PYFUNCTYPE(ctypes.py_object, *[ctypes.c_void_p] * 3)(
    ("PyCapsule_New", ctypes.pythonapi)
)


@pytest.mark.parametrize("children", ["none", "released", "nameless", "another name"])
def test_a_schema_without_our_column_asks_for_nothing(children: str) -> None:
    child = Schema(format=b"z", name=None if children == "nameless" else b"another")
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(child))
    asked = Schema(format=b"+s", n_children=1, children=pointers, release=1)
    if children == "none":
        asked.children, asked.n_children = None, 0
    if children == "released":
        asked.release = None
    capsule = NEW(ctypes.addressof(asked), ctypes.addressof(NAME), None)
    batch = receive([payload(10)])
    schema, array = batch.__arrow_c_array__(capsule)
    table = pa.RecordBatch._import_from_c_capsule(schema, array)
    assert table.schema == batch.to_arrow().schema
