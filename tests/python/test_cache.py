"""`PageFragCache`: what it carves, what it refuses, and that refusing changes nothing."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pagefrag
from pagefrag import PageFragCache, PagefragError, PagePool, PoolExhausted


class Index:
    """An object whose `__index__` does as told."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def __index__(self) -> int:
        found: int = self._act()
        return found


def fails() -> int:
    raise ZeroDivisionError


BAD_SIZES: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-1, ValueError),
    (-(2**63), ValueError),
    (32769, ValueError),
    (2**31, ValueError),
    (2**32, ValueError),
    (2**32 + 64, ValueError),
    (2**63 - 1, ValueError),
    (2**63, OverflowError),
    (2**64, OverflowError),
    (2**64 + 64, OverflowError),
    (-(2**70), OverflowError),
    (1.0, TypeError),
    (64.5, TypeError),
    (float("nan"), TypeError),
    (True, TypeError),
    (False, TypeError),
    (None, TypeError),
    ("64", TypeError),
    (b"64", TypeError),
    ([], TypeError),
    (object(), TypeError),
    (Index(fails), ZeroDivisionError),
    (Index(lambda: "64"), TypeError),
    (Index(lambda: 1.5), TypeError),
    (Index(lambda: -5), ValueError),
    (Index(lambda: 2**64), OverflowError),
]

BAD_ALIGNMENTS: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (3, ValueError),
    (48, ValueError),
    (65536, ValueError),
    (2**31, ValueError),
    (2**63, OverflowError),
    (-64, ValueError),
    (64.0, TypeError),
    (True, TypeError),
    (None, TypeError),
    ("64", TypeError),
    (Index(fails), ZeroDivisionError),
]

DOORS: dict[str, Callable[..., Any]] = {
    "alloc": PageFragCache.alloc,
    "try_alloc": PageFragCache.try_alloc,
    "alloc_many": lambda cache, size, **named: cache.alloc_many(3, size, **named),
}


@pytest.mark.parametrize("granule", [64, 1])
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize(("size", "error"), BAD_SIZES)
def test_bad_sizes_are_typed_errors_that_change_nothing(
    door: Callable[..., Any], size: Any, error: type[Exception], granule: Any
) -> None:
    cache = PageFragCache(PagePool(), granule=granule)
    kept = cache.alloc(100)
    before = cache.pool.stats()
    with pytest.raises(error):
        door(cache, size)
    with pytest.raises(error):
        door(cache, size=size, align=64)
    assert cache.pool.audit() == before
    if granule == 64:
        assert cache.alloc(64).offset == kept.offset + 128


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize(("align", "error"), BAD_ALIGNMENTS)
def test_bad_alignments_are_typed_errors_that_change_nothing(
    door: Callable[..., Any], align: Any, error: type[Exception]
) -> None:
    cache = PageFragCache(PagePool())
    kept = cache.alloc(100)
    before = cache.pool.stats()
    with pytest.raises(error):
        door(cache, 64, align=align)
    assert cache.pool.audit() == before
    assert cache.alloc(64).offset == kept.offset + 128


@pytest.mark.parametrize(("size", "error"), BAD_SIZES)
def test_prepare_refuses_bad_sizes(size: Any, error: type[Exception]) -> None:
    cache = PageFragCache(PagePool())
    kept = cache.alloc(100)
    before = cache.pool.stats()
    with pytest.raises(error):
        cache.prepare(size)
    assert cache.pool.audit() == before
    assert cache.alloc(64).offset == kept.offset + 128


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (-1, ValueError),
        (True, TypeError),
        (1.0, TypeError),
        ("3", TypeError),
        (2**62, MemoryError),
        (2**63, OverflowError),
        (Index(fails), ZeroDivisionError),
    ],
)
def test_alloc_many_refuses_bad_counts(count: Any, error: type[Exception]) -> None:
    cache = PageFragCache(PagePool())
    with pytest.raises(error):
        cache.alloc_many(count, 64)
    assert cache.pool.stats().regions_mapped == 0


def test_the_wrong_arguments_are_type_errors() -> None:
    cache = PageFragCache()
    wrong: list[Callable[[Any], Any]] = [
        lambda cache: cache.alloc(),
        lambda cache: cache.alloc(64, 64),
        lambda cache: cache.alloc(64, size=64),
        lambda cache: cache.alloc(64, alignment=64),
        lambda cache: cache.alloc(align=64),
        lambda cache: cache.alloc_many(1),
        lambda cache: cache.alloc_many(1, 2, 3),
        lambda cache: cache.alloc_many(size=64),
        lambda cache: type(cache).alloc(64),
        lambda cache: type(cache).alloc(object(), 64),
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call(cache)
    assert cache.alloc(size=64).nbytes == 64
    assert [frag.nbytes for frag in cache.alloc_many(size=64, count=2, align=128)] == [64, 64]


def test_an_int_subclass_and_numpy_integers_are_sizes() -> None:
    import enum  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    class Size(enum.IntEnum):
        SMALL = 100

    cache = PageFragCache()
    for size in (Size.SMALL, np.int64(100), np.uint8(100), Index(lambda: 100)):
        assert cache.alloc(size).nbytes == 100
    with pytest.raises(TypeError):
        cache.alloc(np.bool_(True))


def test_an_index_that_uses_the_cache_finds_it_in_order() -> None:
    cache = PageFragCache(PagePool())
    kept: list[Any] = []

    def reenter() -> int:
        kept.extend(cache.alloc_many(100, 1500))
        cache.drain()
        del kept[::2]
        cache.alloc(10)
        return 200

    frags = [cache.alloc(Index(reenter), align=Index(reenter) and 64) for _ in range(5)]
    frags += cache.alloc_many(3, Index(reenter))
    for number, frag in enumerate([*kept, *frags]):
        frag[:] = bytes([number % 256]) * len(frag)
    for number, frag in enumerate([*kept, *frags]):
        assert set(frag) == {number % 256}
    frags.clear()
    kept.clear()
    del frag
    assert cache.pool.audit().live_bytes == 0


def test_an_index_that_releases_cannot_pull_the_ground_away() -> None:
    cache = PageFragCache(PagePool())
    frag = cache.alloc(100)

    def release() -> int:
        frag.release()
        return 5

    with pytest.raises(ValueError, match="released"):
        frag[Index(release)]
    frag = cache.alloc(100)
    with pytest.raises(ValueError, match="released"):
        frag[0] = Index(release)
    frag = cache.alloc(100)
    with pytest.raises(BufferError):
        frag[Index(release) :]
    frag = cache.alloc(100)
    with pytest.raises(ValueError, match="released"):
        frag.trim(Index(release))


@pytest.mark.parametrize("align", [1, 2, 16, 64, 128, 1024, 4096, 32768])
def test_alignment_is_of_offset_and_address(align: int) -> None:
    cache = PageFragCache(PagePool())
    for frag in (cache.alloc(100, align=align), cache.alloc_many(20, 700, align=align)[-1]):
        assert frag.offset % align == 0
        assert (frag.page + frag.offset) % align == 0


@pytest.mark.parametrize("page_size", [4096, 32768, 65536, 1 << 20])
def test_any_size_up_to_the_page(page_size: int) -> None:
    cache = PageFragCache(PagePool(page_size))
    for size in (1, 63, 64, 65, page_size // 2, page_size - 1, page_size):
        assert cache.alloc(size).nbytes == size
    with pytest.raises(ValueError, match="above the page size"):
        cache.alloc(page_size + 1)


def test_granule_1_packs_to_the_byte() -> None:
    cache = PageFragCache(PagePool(), granule=1)
    kept = [cache.alloc(size) for size in (1, 75, 12)]
    assert [frag.offset for frag in kept] == [0, 1, 76]
    assert cache.granule == 1
    assert cache.alloc(64, align=64).offset == 128


@pytest.mark.parametrize(
    ("granule", "error"),
    [(0, ValueError), (2, ValueError), (128, ValueError), (True, TypeError), (64.0, TypeError)],
)
def test_other_granules_are_refused(granule: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        PageFragCache(granule=granule)
    with pytest.raises(TypeError):
        PageFragCache("pool")


@given(sizes=st.lists(st.integers(1, 4096), max_size=60), granule=st.sampled_from([1, 64]))
def test_living_fragments_never_overlap(sizes: list[int], granule: Any) -> None:
    cache = PageFragCache(PagePool(4096), granule=granule)
    frags = [cache.alloc(size) for size in sizes]
    spans = sorted((frag.page, frag.offset, frag.nbytes) for frag in frags)
    for (page, start, length), (other, begin, _) in itertools.pairwise(spans):
        assert page != other or start + length <= begin


def test_a_pool_at_its_limit_refuses_and_recovers() -> None:
    cache = PageFragCache(PagePool(max_bytes=4 << 20))
    kept = [cache.alloc(32768) for _ in range(128)]
    with pytest.raises(PoolExhausted) as refused:
        cache.alloc(1)
    assert isinstance(refused.value, PagefragError)
    assert isinstance(refused.value, MemoryError)
    assert cache.try_alloc(1) is None
    assert cache.try_alloc(1, align=128) is None
    with pytest.raises(PoolExhausted):
        cache.alloc_many(10, 64)
    with pytest.raises(PoolExhausted):
        cache.prepare(1)
    assert cache.pool.stats().regions_mapped == 2
    assert cache.pool.stats().exhausted >= 5
    kept.pop()
    assert cache.alloc(32768).nbytes == 32768
    kept.clear()
    assert cache.pool.audit().live_bytes == 0


def test_alloc_many_is_all_or_nothing() -> None:
    cache = PageFragCache(PagePool(max_bytes=2 << 20))
    before = cache.alloc(32768)
    with pytest.raises(PoolExhausted):
        cache.alloc_many(64, 32768)
    gc.collect()
    assert cache.pool.audit().live_bytes == 32768
    assert len(cache.alloc_many(63, 32768)) == 63
    assert cache.alloc_many(0, 64) == []
    assert before.nbytes == 32768


def test_space_behind_the_dead_is_used_again() -> None:
    cache = PageFragCache(PagePool())
    for _ in range(10_000):
        cache.alloc(1500)
    assert cache.pool.stats().pages_in_use == 1


def test_one_long_liver_does_not_hold_its_page_back() -> None:
    cache = PageFragCache(PagePool())
    kept = []
    for turn in range(20_000):
        frag = cache.alloc(64 if turn % 100 == 0 else 1500)
        if turn % 100 == 0:
            kept.append(frag)
    stats = cache.pool.stats()
    assert stats.live_bytes >= 200 * 64
    assert stats.held_bytes <= 4 * 32768


def test_drain_makes_orphans_and_the_last_drop_returns_them() -> None:
    cache = PageFragCache(PagePool())
    kept = cache.alloc_many(40, 1500)
    cache.drain()
    cache.drain()
    assert cache.pool.stats().pages_orphaned == 2
    assert cache.stats().pages == 0
    kept.clear()
    assert cache.pool.audit().pages_in_use == 0
    assert cache.pool.trim() == 1
    assert cache.pool.audit().regions_mapped == 0


def test_fragments_outlive_cache_and_pool() -> None:
    frag = PageFragCache(PagePool()).alloc(100)
    frag[:] = b"x" * 100
    gc.collect()
    assert frag == b"x" * 100
    assert frag[10:20].copy() == b"x" * 10


def test_init_on_alloc_shows_zeros_and_without_it_nothing_is_promised() -> None:
    cache = PageFragCache(PagePool(init_on_alloc=True))
    for size in (1, 100, 1500, 4000) * 20:
        frag = cache.alloc(size)
        assert not any(frag)
        frag[:] = b"\xff" * size
    for frag in cache.alloc_many(100, 333):
        assert not any(frag)


def test_the_default_pool_is_shared() -> None:
    assert PageFragCache().pool is pagefrag.default_pool()
    pool = PagePool()
    assert PageFragCache(pool).pool is pool
    assert PageFragCache(pool=pool).pool is pool


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("page_size", PagePool),
        ("granule", lambda n: PageFragCache(granule=n)),
        ("align", lambda n: pagefrag.netdev_alloc_frag(64, align=n)),
        ("align", lambda n: PageFragCache().alloc(64, align=n)),
        ("budget", lambda n: pagefrag.NapiCache().poll(budget=n)),
    ],
)
def test_a_refused_number_is_named(name: str, call: Callable[[int], object]) -> None:
    with pytest.raises(ValueError, match=f"^{name} must not be negative") as refused:
        call(-1)
    assert str(refused.value) == f"{name} must not be negative"


@pytest.mark.parametrize("granule", [64, 1])
def test_held_bytes_are_those_of_the_statistics(granule: Literal[64, 1]) -> None:
    dice = random.Random(granule)
    cache = PageFragCache(PagePool(4096), granule=granule)
    alive = []
    for step in range(4_000):
        alive.append(cache.alloc(dice.randrange(1, 3_000)))
        if dice.random() < 0.6:
            del alive[dice.randrange(len(alive))]
        if step % 500 == 499:
            cache.drain()
        assert cache.held_bytes == cache.stats().held_bytes
    alive.clear()
    cache.drain()
    assert cache.held_bytes == 0


def test_a_copy_of_more_than_a_default_page_has_a_page_of_its_own() -> None:
    size = 1 << 20
    frag = PageFragCache(PagePool(size)).alloc(size)
    memoryview(frag)[-5:] = b"hello"
    for copy in (frag.copy(), frag.copy()):
        assert copy.nbytes == size
        assert copy[-5:] == b"hello"
        assert copy.page != frag.page
