"""`PagePool`: what it may be asked for, and that its books balance."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import pytest

import pagefrag
from pagefrag import CacheStats, PageFragCache, PagePool, PoolStats, QueueStats


@pytest.mark.parametrize("page_size", [1 << bits for bits in range(12, 21)])
def test_page_sizes(page_size: int) -> None:
    pool = PagePool(page_size)
    assert pool.page_size == page_size
    assert PagePool(page_size=page_size).page_size == page_size
    assert PageFragCache(pool).alloc(page_size).offset == 0
    assert pool.audit().pages_obtained == (2 << 20) // page_size


@pytest.mark.parametrize(
    ("page_size", "error"),
    [
        (0, ValueError),
        (2048, ValueError),
        (5000, ValueError),
        (2 << 20, ValueError),
        (-4096, ValueError),
        (2**63, OverflowError),
        (32768.0, TypeError),
        (True, TypeError),
        ("32768", TypeError),
    ],
)
def test_bad_page_sizes(page_size: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        PagePool(page_size)


@pytest.mark.parametrize(
    ("max_bytes", "error"),
    [
        (0, ValueError),
        (1, ValueError),
        ((2 << 20) - 1, ValueError),
        (-1, ValueError),
        (2**64, OverflowError),
        (1e9, TypeError),
        (True, TypeError),
        ("1G", TypeError),
    ],
)
def test_bad_limits(max_bytes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        PagePool(max_bytes=max_bytes)


def test_bad_options() -> None:
    for wrong in ({"huge_pages": 1}, {"init_on_alloc": 1}, {"init_on_free": "yes"}, {"size": 1}):
        with pytest.raises(TypeError):
            PagePool(**wrong)
    with pytest.raises(ValueError, match="huge_pages"):
        PagePool(huge_pages="always")
    with pytest.raises(TypeError):
        PagePool(4096, 1 << 30)


def test_options_can_be_read_back() -> None:
    pool = PagePool(max_bytes=5 << 20, huge_pages="never", init_on_alloc=True, init_on_free=True)
    assert (pool.max_bytes, pool.huge_pages) == (5 << 20, "never")
    assert (pool.init_on_alloc, pool.init_on_free) == (True, True)
    pool = PagePool()
    assert (pool.max_bytes, pool.huge_pages, pool.page_size) == (None, "auto", 32768)
    assert (pool.init_on_alloc, pool.init_on_free) == (False, False)


def test_the_limit_is_never_exceeded() -> None:
    pool = PagePool(max_bytes=5 << 20)
    caches = [PageFragCache(pool) for _ in range(4)]
    kept = []
    while frags := [frag for cache in caches if (frag := cache.try_alloc(20_000))]:
        kept += frags
        assert pool.stats().regions_mapped <= 2
    assert len(kept) == 128
    kept.clear()
    assert pool.audit().live_bytes == 0


def test_nothing_is_mapped_before_it_is_needed() -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    assert pool.stats().regions_mapped == 0
    frag = cache.alloc(1)
    stats = pool.stats()
    assert (stats.regions_mapped, stats.pages_in_use, stats.held_bytes) == (1, 1, 32768)
    assert (stats.live_bytes, stats.pinned_bytes) == (64, 32704)
    assert frag.nbytes == 1


def test_held_is_live_and_pinned() -> None:
    pool = PagePool()
    cache = PageFragCache(pool)
    kept = cache.alloc_many(100, 700)
    del kept[::3]
    stats = pool.audit()
    assert stats.live_bytes == len(kept) * 704
    assert stats.held_bytes == stats.live_bytes + stats.pinned_bytes
    assert stats.pages_obtained == (
        stats.pages_current
        + stats.pages_retired
        + stats.pages_orphaned
        + stats.pages_free
        + stats.pages_returned
    )


def test_after_the_last_drop_and_trim_nothing_is_mapped() -> None:
    pool = PagePool(4096)
    caches = [PageFragCache(pool), PageFragCache(pool, granule=1)]
    kept = [frag for cache in caches for frag in cache.alloc_many(3000, 1000)]
    assert pool.stats().regions_mapped >= 2
    kept.clear()
    assert pool.trim() >= 2
    stats = pool.audit()
    assert (stats.regions_mapped, stats.pages_in_use) == (0, 0)
    assert stats.pages_obtained == stats.pages_returned
    assert pool.trim() == 0


def test_trim_takes_nothing_that_lives() -> None:
    pool = PagePool()
    frag = PageFragCache(pool).alloc(5)
    frag[:] = b"alive"
    assert pool.trim() == 0
    assert frag == b"alive"


@pytest.mark.parametrize(
    "stats",
    [PagePool().stats(), PageFragCache().stats(), pagefrag.NapiCache().stats()],
    ids=lambda stats: type(stats).__name__,
)
def test_statistics_are_frozen_dataclasses_of_integers(stats: Any) -> None:
    fields = dataclasses.asdict(stats)
    assert fields
    assert all(type(value) is int for value in fields.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(stats, next(iter(fields)), 1)


def test_statistics_without_a_question_to_the_system_lack_huge_bytes_alone() -> None:
    pool = PagePool(page_size=1 << 20)
    frag = PageFragCache(pool).alloc(1 << 20)
    frag[:] = bytes(frag.nbytes)
    stats = pool.stats()
    assert pool.stats(huge=False) == dataclasses.replace(stats, huge_bytes=0)
    assert (pool.stats(huge=True), stats.live_bytes) == (stats, 1 << 20)
    for wrong in ((True,), (False,)):
        with pytest.raises(TypeError):
            pool.stats(*wrong)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.stats(huge=1)  # type: ignore[arg-type]


def test_statistics_have_the_names_that_others_rely_on() -> None:
    pool = {field.name for field in dataclasses.fields(PoolStats)}
    assert pool >= {
        "held_bytes",
        "live_bytes",
        "pinned_bytes",
        "pages_in_use",
        "pages_free",
        "pages_orphaned",
        "regions_mapped",
        "huge_bytes",
    }
    queue = {field.name for field in dataclasses.fields(QueueStats)}
    assert queue >= {"rx_packets", "rx_bytes", "rx_alloc_fail", "rx_hw_drop_overruns"}
    assert {field.name for field in dataclasses.fields(CacheStats)} >= {"pages", "refills"}


def test_caches_and_pools_can_be_watched_by_weak_references() -> None:
    pool = PagePool()
    for thing in (PageFragCache(pool), pagefrag.NapiCache(pool), pagefrag.NetdevCache(pool)):
        assert weakref.ref(thing)() is thing
    gone = weakref.ref(PagePool())
    assert gone() is None


def test_the_module_tells_its_version_and_names() -> None:
    assert pagefrag.__version__.count(".") == 2
    assert {name for name in pagefrag.__all__ if not hasattr(pagefrag, name)} == set()
    assert set(pagefrag.__all__) <= set(dir(pagefrag))
    with pytest.raises(AttributeError):
        pagefrag.nothing  # noqa: B018
