"""`Fragment` behaves as `memoryview` does, and frees what it says it frees."""

from __future__ import annotations

import array
import ctypes
import functools
import gc
import hashlib
import importlib.util
import itertools
import operator
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pagefrag
from pagefrag import Fragment, PageFragCache, PagePool

BYTES = bytes(range(256))


@pytest.fixture
def cache() -> PageFragCache:
    return PageFragCache(PagePool())


def filled(cache: PageFragCache, content: bytes) -> Fragment:
    frag = cache.alloc(max(len(content), 1)).trim(len(content))
    frag[:] = content
    return frag


def test_a_second_import_has_the_same_type(cache: PageFragCache) -> None:
    spec = importlib.util.find_spec("pagefrag._pagefrag")
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.Fragment is Fragment
    assert type(cache.alloc(1)) is Fragment


def test_it_cannot_be_made_by_hand_nor_subclassed() -> None:
    with pytest.raises(TypeError):
        Fragment()
    with pytest.raises(TypeError):
        type("Mine", (Fragment,), {})
    with pytest.raises(TypeError):
        Fragment.mine = 1


def test_a_fragment_adds_no_object_to_the_collector(cache: PageFragCache) -> None:
    cache.alloc(1)  # the thread's first brings an object of the thread's own
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        kept = cache.alloc_many(1000, 64)
        parts = [frag[1:5] for frag in kept]
        tracked = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert not any(map(gc.is_tracked, kept))
    assert not any(map(gc.is_tracked, parts))
    assert tracked <= 4  # the two lists


def test_it_adds_its_header_and_forty_bytes_at_most(cache: PageFragCache) -> None:
    assert sys.getsizeof(cache.alloc(2048)) <= object.__basicsize__ + 40


def test_the_first_page_is_carved_upwards_in_lines() -> None:
    cache = PageFragCache(PagePool())
    frags = [cache.alloc(1500) for _ in range(21)]
    assert [frag.offset for frag in frags] == list(range(0, 21 * 1536, 1536))
    assert len({frag.page for frag in frags}) == 1
    assert all((frag.nbytes, frag.capacity) == (1500, 1536) for frag in frags)


@given(content=st.binary(max_size=300))
def test_reading_is_what_memoryview_reads(content: bytes) -> None:
    frag, view = filled(PageFragCache(), content), memoryview(content)
    assert len(frag) == frag.nbytes == len(content)
    assert bool(frag) is bool(content)
    assert list(frag) == list(view)
    assert frag.tobytes() == bytes(frag) == content
    assert memoryview(frag).tolist() == view.tolist()
    assert frag.hex() == content.hex()
    assert frag.hex(":", 3) == content.hex(":", 3)
    assert list(reversed(frag)) == list(reversed(view))
    assert (0 in frag) is (0 in content)


@given(
    content=st.binary(max_size=40),
    start=st.none() | st.integers(-60, 60),
    stop=st.none() | st.integers(-60, 60),
    new=st.binary(max_size=10),
)
def test_slices_are_those_of_memoryview_and_share(
    content: bytes, start: int | None, stop: int | None, new: bytes
) -> None:
    frag, twin = filled(PageFragCache(), content), bytearray(content)
    part = frag[start:stop]
    assert part == content[start:stop]
    assert isinstance(part, Fragment)
    assert not part.readonly
    view = memoryview(twin)[start:stop]
    if len(new) == len(view):
        view[:] = new
        frag[start:stop] = new
        assert part == new
    else:
        with pytest.raises(ValueError, match="cannot assign"):
            frag[start:stop] = new
    assert frag == twin


@given(content=st.binary(max_size=20), index=st.integers(-30, 30), value=st.integers(-5, 300))
def test_single_bytes_are_those_of_memoryview(content: bytes, index: int, value: int) -> None:
    frag, twin = filled(PageFragCache(), content), memoryview(bytearray(content))

    def outcome(of: Any, act: Callable[[Any], Any]) -> Any:
        try:
            return act(of)
        except (IndexError, ValueError) as error:
            return type(error)

    def store(of: Any) -> None:
        of[index] = value

    assert outcome(frag, lambda of: of[index]) == outcome(twin, lambda of: of[index])
    assert outcome(frag, store) == outcome(twin, store)
    assert frag == twin


@pytest.mark.parametrize("step", [2, -1, 3, -2])
def test_other_steps_are_refused(cache: PageFragCache, step: int) -> None:
    frag = filled(cache, BYTES)
    with pytest.raises(ValueError, match="step 1"):
        frag[::step]
    with pytest.raises(ValueError, match="step 1"):
        frag[::step] = b""
    with pytest.raises(ValueError, match="zero"):
        frag[::0]
    assert frag == BYTES


@pytest.mark.parametrize("key", ["a", 1.0, None, (1, 2), b""])
def test_other_keys_are_type_errors(cache: PageFragCache, key: Any) -> None:
    frag = filled(cache, BYTES)
    with pytest.raises(TypeError):
        frag[key]
    with pytest.raises(TypeError):
        frag[key] = 1
    with pytest.raises(TypeError, match="delete"):
        del frag[0]
    with pytest.raises(IndexError):
        frag[2**70]


def test_indices_of_c_are_counted_from_the_end_once(cache: PageFragCache) -> None:
    get = ctypes.pythonapi.PySequence_GetItem
    get.restype, get.argtypes = ctypes.py_object, (ctypes.py_object, ctypes.c_ssize_t)
    frag = filled(cache, b"abc")
    assert [get(frag, index) for index in (-3, -1, 0, 2)] == [97, 99, 97, 99]
    for index in (-7, -6, -5, -4, 3, 4):
        with pytest.raises(IndexError):
            get(frag, index)


@pytest.mark.parametrize("value", ["a", 1.5, None, b"a"])
def test_other_values_are_type_errors(cache: PageFragCache, value: Any) -> None:
    frag = filled(cache, BYTES)
    with pytest.raises(TypeError):
        frag[0] = value
    assert frag == BYTES


@pytest.mark.parametrize("value", ["abcd", 4, None, [1, 2, 3, 4]])
def test_a_slice_takes_bytes_only(cache: PageFragCache, value: Any) -> None:
    frag = filled(cache, BYTES)
    with pytest.raises(TypeError):
        frag[0:4] = value
    with pytest.raises(ValueError, match="single bytes"):
        frag[0:4] = array.array("I", [7])
    assert frag == BYTES


def test_a_slice_takes_every_exporter_of_bytes(cache: PageFragCache) -> None:
    frag = filled(cache, bytes(4))
    sources: list[Any] = [
        b"abcd",
        bytearray(b"bcde"),
        memoryview(b"cdef"),
        array.array("B", b"defg"),
        memoryview(b"e-f-g-h-")[::2],
        filled(cache, b"fghi"),
        np.frombuffer(b"ghij", np.uint8),
    ]
    for source in sources:
        frag[:] = source
        assert frag == bytes(source)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes lend buffers from 3.12 on")
@pytest.mark.parametrize("whole", [True, False])
def test_bytes_that_lend_something_else_are_refused(cache: PageFragCache, whole: bool) -> None:
    class Backwards(bytes):
        def __buffer__(self, flags: int) -> memoryview:
            return memoryview(BYTES)[::-1]

    class Odd(np.ndarray[Any, Any]):
        def __bytes__(self) -> bytes:
            return Backwards(len(BYTES))

    frag = filled(cache, bytes(len(BYTES)))
    odd = np.zeros(2 * len(BYTES), np.uint8)[::2].view(Odd)
    skb = pagefrag.netdev_alloc_skb(1000)
    take = functools.partial(operator.setitem, frag, slice(None)) if whole else skb.put
    with pytest.raises(ValueError, match="consecutive"):
        take(odd)
    assert frag == bytes(len(BYTES))


class Header(ctypes.BigEndianStructure):
    _fields_ = (("kind", ctypes.c_uint8), ("code", ctypes.c_uint8), ("check", ctypes.c_uint16))


@pytest.mark.parametrize(
    "source",
    [
        (ctypes.c_ubyte * 4)(1, 2, 255, 4),
        (ctypes.c_byte * 4)(1, 2, -1, 4),
        (ctypes.c_char * 4)(*b"abcd"),
        (ctypes.c_uint16 * 2)(1, 2),
        (ctypes.c_ubyte * 2 * 2)(),
        Header(8, 0, 0x1234),
        ctypes.c_uint32(7),
    ],
    ids=lambda source: type(source).__name__,
)
def test_structures_of_c_are_bytes(cache: PageFragCache, source: Any) -> None:
    frag = filled(cache, bytes(4))
    frag[:] = source
    assert frag.tobytes() == bytes(source)
    assert pagefrag.netdev_alloc_skb(100).put(source) == bytes(source)
    with pytest.raises(ValueError, match="cannot assign 4 bytes"):
        frag[1:] = source


def test_equality_with_structures_of_c_is_that_of_memoryview(cache: PageFragCache) -> None:
    frag = filled(cache, bytes((1, 2, 255, 4)))
    assert frag == (ctypes.c_ubyte * 4)(1, 2, 255, 4)
    assert frag != (ctypes.c_ubyte * 4)(1, 2, 255, 5)
    assert frag != (ctypes.c_byte * 4)(1, 2, -1, 4)
    assert frag[:2] == (ctypes.c_byte * 2)(1, 2)
    for other in ((ctypes.c_uint16 * 2)(1, 2), (ctypes.c_ubyte * 2 * 2)(), Header(8, 0, 1)):
        assert (frag == other) is (memoryview(frag) == memoryview(other))


def test_overlapping_assignment_moves(cache: PageFragCache) -> None:
    frag, twin = filled(cache, BYTES), bytearray(BYTES)
    frag[10:200] = frag[0:190]
    twin[10:200] = twin[0:190]
    assert frag == twin


EQUALS: Sequence[Any] = [
    b"abc",
    bytearray(b"abc"),
    memoryview(b"abc"),
    memoryview(b"a-b-c-")[::2],
    memoryview(b"abc").cast("b"),
    memoryview(b"abc").cast("c"),
    memoryview(b"abc\xff"),
    memoryview(b"\xff\xff\xff").cast("b"),
    array.array("B", b"abc"),
    array.array("b", b"abc"),
    array.array("I", [1]),
    np.frombuffer(b"abc", np.uint8),
    b"abd",
    b"ab",
    b"",
    "abc",
    97,
    None,
    [97, 98, 99],
]


@pytest.mark.parametrize("other", EQUALS, ids=repr)
@pytest.mark.parametrize("content", [b"abc", b"", b"\xff\xff\xff"])
def test_equality_is_that_of_memoryview(cache: PageFragCache, content: bytes, other: Any) -> None:
    frag, view = filled(cache, content), memoryview(content)
    if isinstance(other, np.ndarray):
        assert bool(np.all(frag == other)) is bool(np.all(view == other))
        return
    assert (frag == other) is (view == other)
    assert (frag != other) is (view != other)
    assert (other == frag) is (other == view)


def test_there_is_no_order(cache: PageFragCache) -> None:
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError):
            compare(cache.alloc(1), b"a")


def test_hash_follows_memoryview(cache: PageFragCache) -> None:
    frag = filled(cache, b"abc")
    with pytest.raises(ValueError, match="cannot hash writable"):
        hash(frag)
    fixed = frag.toreadonly()
    assert hash(fixed) == hash(b"abc") == hash(memoryview(b"abc"))
    assert hash(memoryview(fixed)) == hash(b"abc")
    assert {fixed: 1}[b"abc"] == 1
    fixed.release()
    with pytest.raises(ValueError, match="released"):
        hash(fixed)


def test_read_only_is_for_good(cache: PageFragCache) -> None:
    frag = filled(cache, b"abc")
    fixed = frag.toreadonly()
    assert (frag.readonly, fixed.readonly) == (False, True)
    assert fixed[1:].readonly
    assert fixed.toreadonly().readonly
    assert memoryview(fixed).readonly
    for write in (
        lambda: operator.setitem(fixed, 0, 1),
        lambda: operator.setitem(fixed, slice(0, 1), b"x"),
    ):
        with pytest.raises(TypeError, match="read-only"):
            write()
    with pytest.raises((BufferError, TypeError)):
        struct.pack_into("B", fixed, 0, 1)
    assert not np.frombuffer(fixed, np.uint8).flags.writeable
    frag[0] = ord("x")
    assert fixed == b"xbc"


def test_consumers_of_buffers_take_it(cache: PageFragCache) -> None:
    frag = filled(cache, BYTES)
    assert struct.unpack_from(">HI", frag, 1) == struct.unpack_from(">HI", BYTES, 1)
    struct.pack_into(">H", frag, 0, 0x1234)
    assert frag[0] == 0x12
    assert zlib.crc32(frag) == zlib.crc32(frag.tobytes())
    assert hashlib.sha256(frag).digest() == hashlib.sha256(frag.tobytes()).digest()
    assert b"".join([frag[:2], frag[2:4]]) == frag[:4]
    numbers = np.frombuffer(frag, np.uint8)
    assert numbers.flags.writeable
    numbers[:] = 7
    assert set(frag) == {7}
    assert np.asarray(frag).dtype == np.uint8


def test_views_hold_the_bytes_beyond_the_object(cache: PageFragCache) -> None:
    numbers = np.frombuffer(filled(cache, BYTES), np.uint8)
    churn = [cache.alloc(256) for _ in range(1000)]
    for frag in churn:
        frag[:] = bytes(256)
    assert numbers.tobytes() == BYTES


def test_the_view_is_plain_bytes(cache: PageFragCache) -> None:
    view = memoryview(cache.alloc(10))
    assert (view.format, view.itemsize, view.ndim, view.contiguous) == ("B", 1, 1, True)
    assert (view.shape, view.strides) == ((10,), (1,))
    assert view.obj is not None
    empty = memoryview(cache.alloc(10)[5:5])
    assert (empty.nbytes, bytes(empty)) == (0, b"")


def test_release_waits_for_views_and_is_idempotent(cache: PageFragCache) -> None:
    frag = cache.alloc(100)
    first, second = memoryview(frag), memoryview(frag)
    with pytest.raises(BufferError, match="2 views"):
        frag.release()
    first.release()
    with pytest.raises(BufferError, match="1 view of"):
        frag.release()
    with pytest.raises(BufferError):
        frag.trim(1)
    assert frag.nbytes == 100
    second.release()
    frag.release()
    frag.release()


def test_release_frees_at_once() -> None:
    pool = PagePool()
    frag = PageFragCache(pool).alloc(2048)
    assert pool.stats().live_bytes == 2048
    frag.release()
    assert pool.stats().live_bytes == 0


USES: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "bool": bool,
    "index": lambda frag: frag[0],
    "slice": lambda frag: frag[0:1],
    "set": lambda frag: operator.setitem(frag, 0, 1),
    "set slice": lambda frag: operator.setitem(frag, slice(0, 1), b"a"),
    "iterate": list,
    "memoryview": memoryview,
    "numpy": lambda frag: np.frombuffer(frag, np.uint8),
    "enter": lambda frag: frag.__enter__(),
    "trim": lambda frag: frag.trim(1),
    **{name: operator.methodcaller(name) for name in ("tobytes", "hex", "toreadonly", "copy")},
    **{
        name: operator.attrgetter(name)
        for name in ("nbytes", "capacity", "page", "offset", "readonly", "pinned_bytes")
    },
    "skb": pagefrag.build_skb,
    "add_frag": lambda frag: pagefrag.netdev_alloc_skb(10).add_frag(frag),
    "assign from": lambda frag: operator.setitem(PageFragCache().alloc(1), slice(None), frag),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_use_after_release_is_a_value_error(
    cache: PageFragCache, use: Callable[[Fragment], object]
) -> None:
    frag = cache.alloc(100)
    frag.release()
    with pytest.raises(ValueError, match="operation forbidden on released fragment"):
        use(frag)
    assert repr(frag) == "<Fragment released>"


def test_a_released_fragment_equals_itself_only(cache: PageFragCache) -> None:
    frag, other = cache.alloc(1), cache.alloc(1)
    frag.release()
    assert frag == frag  # noqa: PLR0124
    assert frag != other
    assert other != frag
    assert frag != b""
    other.release()
    assert frag != other


def test_with_releases(cache: PageFragCache) -> None:
    with cache.alloc(10) as frag:
        frag[0] = 1
    with pytest.raises(ValueError, match="released"):
        len(frag)
    with pytest.raises(ValueError, match="released"), frag:
        pass
    with pytest.raises(ZeroDivisionError), cache.alloc(10) as frag:
        1 / 0  # noqa: B018
    with pytest.raises(BufferError), cache.alloc(10) as frag:
        view = memoryview(frag)
    view.release()


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 65, 100, 1999, 2000])
def test_trim_keeps_the_first_bytes_and_frees_the_lines_behind(keep: int) -> None:
    pool = PagePool()
    frag = PageFragCache(pool).alloc(2000)
    frag[:] = (BYTES * 8)[:2000]
    assert frag.trim(keep) is frag
    assert frag == (BYTES * 8)[:keep]
    lines = max(1, -(-keep // 64))
    assert pool.stats().live_bytes == frag.capacity == lines * 64
    frag.release()
    assert pool.audit().live_bytes == 0


def test_what_was_trimmed_is_carved_again() -> None:
    cache = PageFragCache(PagePool())
    kept = [cache.alloc(2048).trim(64) for _ in range(64)]
    # 16 heads of 64 bytes are one line in 32 each: the rest of the pages is there again.
    more = [cache.alloc(1024) for _ in range(64)]
    assert cache.pool.stats().pages_in_use <= 5
    spans = sorted((frag.page, frag.offset, frag.offset + frag.capacity) for frag in kept + more)
    for (page, _, end), (other, start, _) in itertools.pairwise(spans):
        assert page != other or end <= start


def test_trim_does_not_take_from_sharers() -> None:
    pool = PagePool()
    frag = PageFragCache(pool).alloc(2000)
    tail = frag[1000:]
    frag.trim(10)
    tail[:] = b"t" * 1000
    assert pool.stats().live_bytes == 2048
    assert (len(frag), len(tail)) == (10, 1000)
    frag.release()
    assert tail == b"t" * 1000
    tail.release()
    assert pool.stats().live_bytes == 0


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (101, ValueError),
        (-1, ValueError),
        (2**63, OverflowError),
        (1.0, TypeError),
        (True, TypeError),
    ],
)
def test_trim_refuses(cache: PageFragCache, n: Any, error: type[Exception]) -> None:
    frag = cache.alloc(100)
    with pytest.raises(error):
        frag.trim(n)
    assert (frag.nbytes, frag.capacity) == (100, 128)


def test_sub_fragments_keep_the_memory(cache: PageFragCache) -> None:
    frag = filled(cache, BYTES)
    part = frag[10:20][2:4]
    frag.release()
    assert part == BYTES[12:14]
    part[0] = 0
    assert part == b"\0" + BYTES[13:14]


@pytest.mark.parametrize("size", [0, 1, 100, 32768, 200_000])
def test_copy_has_memory_of_its_own(size: int) -> None:
    cache = PageFragCache(PagePool(1 << 20))
    frag = filled(cache, bytes(i % 251 for i in range(size)))
    for copy in (frag.copy(), frag.copy(cache=cache), frag.toreadonly().copy()):
        assert copy == frag
        assert not copy.readonly
        if size:
            copy[0] ^= 0xFF
            assert copy[0] != frag[0]
    with pytest.raises(TypeError):
        frag.copy(cache)
    with pytest.raises(TypeError):
        frag.copy(other=1)
    with pytest.raises(TypeError):
        frag.copy(cache=1)


def test_repr_tells_state_and_no_content(cache: PageFragCache) -> None:
    frag = filled(cache, b"secret")
    assert "secret" not in repr(frag)
    assert f"len=6 cap=64 page={frag.page:#x}+{frag.offset} exports=0 rw" in repr(frag)
    view = memoryview(frag)
    assert "exports=1" in repr(frag)
    assert " ro>" in repr(frag.toreadonly())
    view.release()


def test_it_has_no_dict(cache: PageFragCache) -> None:
    with pytest.raises(AttributeError):
        cache.alloc(1).note = 1


def test_contents_stay_put_under_churn() -> None:
    cache = PageFragCache(PagePool(4096))
    kept: list[tuple[Fragment, bytes]] = []
    for turn in range(3000):
        size = turn * 37 % 1500 + 1
        content = bytes([turn % 256]) * size
        kept.append((filled(cache, content), content))
        if turn % 3:
            frag, expected = kept.pop(turn * 7 % len(kept))
            assert frag == expected
            frag.release()
    for frag, expected in kept:
        assert frag == expected
    kept.clear()
    del frag
    assert cache.pool.audit().live_bytes == 0
