"""Tells Dask what fragments and batches take of memory. Dask imports it, through an entry point."""

from __future__ import annotations

import sys
from typing import Any

from ._pagefrag import Batch, Fragment

__all__ = ["register_sizeof"]


def register_sizeof(sizeof: Any) -> None:  # noqa: ANN401 - Dask's dispatcher, which has no types
    """Register both with *sizeof*; a released fragment counts as what its object takes."""

    @sizeof.register(Fragment)  # type: ignore[untyped-decorator]
    def fragment_size(fragment: Fragment) -> int:
        try:
            return sys.getsizeof(fragment) + fragment.capacity
        except ValueError:
            return sys.getsizeof(fragment)

    @sizeof.register(Batch)  # type: ignore[untyped-decorator]
    def batch_size(batch: Batch) -> int:
        return sys.getsizeof(batch)
