"""Batches as NumPy arrays. Imported when first asked for, and NumPy with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import numpy as np
except ImportError as _error:
    raise ImportError("NumPy is not installed: pip install 'pagefrag[numpy]'") from _error

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

__all__ = ["PACKET", "records"]

PACKET = np.dtype(
    [
        ("address", np.uintp),
        ("timestamp", "datetime64[ns]"),
        ("length", np.uint32),
        ("wire_length", np.uint32),
        ("run", np.uint32),
        ("start", np.uint32),
        ("interface", np.uint32),
        ("port", np.uint16),
        ("truncated", np.bool_),
        ("segment", np.bool_),
        ("source", np.uint8, (16,)),
    ]
)
"""One packet, as `batch_numpy.rs` writes it."""


def records(lent: memoryview) -> npt.NDArray[Any]:
    """Return the records that *lent* shows as an array over the same memory."""
    if not lent:
        return np.empty(0, PACKET)
    return np.frombuffer(lent, PACKET)
