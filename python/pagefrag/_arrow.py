"""Batches as pyarrow's record batches. Imported when first asked for, and pyarrow with it."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import pyarrow as pa  # type: ignore[import-untyped]
except ImportError as _error:
    raise ImportError("pyarrow is not installed: pip install 'pagefrag[arrow]'") from _error

if TYPE_CHECKING:
    from ._pagefrag import Batch

__all__ = ["record_batch"]


def record_batch(batch: Batch) -> pa.RecordBatch:
    """Return *batch* as a record batch over the same memory."""
    return pa.record_batch(batch)
