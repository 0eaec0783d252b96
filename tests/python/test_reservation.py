"""`prepare` shows room without taking it; `commit` takes what was used, where it was shown."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagefrag import Fragment, PageFragCache, PagePool


@pytest.fixture
def cache() -> PageFragCache:
    return PageFragCache(PagePool())


def test_commit_lies_where_the_room_was_shown(cache: PageFragCache) -> None:
    room = cache.prepare(1000)
    page, offset = room.page, room.offset
    memoryview(room)[:5] = b"hello"
    frag = room.commit(5)
    assert (frag.page, frag.offset, frag.nbytes) == (page, offset, 5)
    assert frag == b"hello"


def test_what_is_not_committed_was_never_taken(cache: PageFragCache) -> None:
    first = cache.alloc(64)
    with cache.prepare(1000):
        pass
    cache.prepare(1000)
    cache.prepare(1000).release()
    assert cache.pool.audit().live_bytes == 64
    second = cache.alloc(64)
    assert (second.page, second.offset) == (first.page, 64)


def test_unused_room_is_carved_next(cache: PageFragCache) -> None:
    frags = [cache.prepare(1000).commit(65) for _ in range(4)]
    assert [frag.offset for frag in frags] == [0, 128, 256, 384]
    assert cache.pool.audit().live_bytes == 4 * 128


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 1), st.booleans()), max_size=40))
def test_page_and_offset_do_not_change_between(
    asked: list[tuple[int, float, bool]],
) -> None:
    cache = PageFragCache(PagePool(4096))
    kept: list[tuple[Fragment, bytes]] = []
    for number, (size, part, between) in enumerate(asked):
        with cache.prepare(size) as room:
            assert len(room) >= size
            used = max(1, int(len(room) * part))
            page, offset = room.page, room.offset
            if between:
                other = cache.alloc(100)
                other[:] = bytes([255]) * 100
                kept.append((other, bytes([255]) * 100))
            content = bytes([number]) * used
            memoryview(room)[:used] = content
            frag = room.commit(used)
        assert (frag.page, frag.offset, frag.nbytes) == (page, offset, used)
        kept.append((frag, content))
    for frag, content in kept:
        assert frag == content
    assert cache.pool.audit().live_bytes == sum(frag.capacity for frag, _ in kept)


def test_it_is_a_buffer_to_receive_into(cache: PageFragCache) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, cache.prepare(2048) as room:
        left.send(b"datagram")
        frag = room.commit(right.recv_into(room, 2048))
    assert frag == b"datagram"


@pytest.mark.parametrize(
    ("used", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (32769, ValueError),
        (2**31, ValueError),
        (2**32 + 1, ValueError),
        (2**63, OverflowError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_a_refused_commit_leaves_the_room(
    cache: PageFragCache, used: Any, error: type[Exception]
) -> None:
    room = cache.prepare(100)
    with pytest.raises(error):
        room.commit(used)
    assert room.commit(100).nbytes == 100


def test_a_view_alive_holds_it(cache: PageFragCache) -> None:
    room = cache.prepare(100)
    view = memoryview(room)
    with pytest.raises(BufferError, match=r"1 view of this reservation still exists$"):
        room.commit(10)
    with pytest.raises(BufferError):
        room.release()
    with pytest.raises(BufferError), room:
        pass
    view[:2] = b"ok"
    view.release()
    assert room.commit(2) == b"ok"


def test_it_is_used_once(cache: PageFragCache) -> None:
    room = cache.prepare(100)
    room.commit(10)
    room.release()
    for use in (
        lambda: room.commit(1),
        lambda: len(room),
        lambda: room.page,
        lambda: room.offset,
        lambda: room.nbytes,
        lambda: memoryview(room),
        room.__enter__,
    ):
        with pytest.raises(ValueError, match="released reservation"):
            use()
    assert repr(room) == "<Reservation released>"


def test_another_thread_may_commit(cache: PageFragCache) -> None:
    room = cache.prepare(100)
    done: list[Fragment] = []
    thread = threading.Thread(target=lambda: done.append(room.commit(10)))
    thread.start()
    thread.join()
    assert done[0].nbytes == 10
    assert cache.alloc(100).nbytes == 100
    assert cache.pool.audit().live_bytes == done[0].capacity


def test_repr(cache: PageFragCache) -> None:
    room = cache.prepare(100)
    assert repr(room) == f"<Reservation len={len(room)} page={room.page:#x}+0>"


def test_room_is_lent_by_name_for_writing(cache: PageFragCache) -> None:
    room = cache.prepare(100)
    with room.__buffer__(1) as view:
        view[:5] = b"hello"
        with pytest.raises(BufferError, match="view"):
            room.commit(5)
    assert room.commit(5) == b"hello"
