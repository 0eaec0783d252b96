"""Weak references to fragments: they end with the fragment and keep nothing."""

from __future__ import annotations

import gc
import weakref

import pytest

from pagefrag import Fragment, PageFragCache, PagePool


@pytest.fixture
def cache() -> PageFragCache:
    return PageFragCache(PagePool())


def test_weak_references_end_with_it(cache: PageFragCache) -> None:
    frag = cache.alloc(64)
    told: list[object] = []
    watch = weakref.ref(frag, told.append)
    proxy = weakref.proxy(frag)
    assert watch() is frag
    assert len(proxy) == 64
    del frag
    assert watch() is None
    assert told == [watch]
    assert cache.pool.stats().live_bytes == 0
    assert weakref.getweakrefcount(cache.alloc(64)) == 0, "the object was another one before"


def test_the_callback_of_a_weak_reference_may_use_fragments(cache: PageFragCache) -> None:
    taken: list[Fragment] = []
    frags = cache.alloc_many(100, 64)
    watches = [weakref.ref(frag, lambda _: taken.append(cache.alloc(64))) for frag in frags]
    del frags
    assert len(taken) == len(watches) == 100
    assert cache.pool.stats().live_bytes == 100 * 64


def test_a_weak_dictionary_of_readonly_fragments_empties_itself(cache: PageFragCache) -> None:
    known = weakref.WeakSet(cache.alloc_many(3, 10)[0].toreadonly() for _ in range(3))
    gc.collect()
    assert len(known) == 0
