"""Packet buffers as page fragments: carved from large pages, counted one by one.

>>> cache = PageFragCache()
>>> with cache.alloc(1500) as frag:
...     frag[:4] = b"ping"
...     frag[:4].tobytes()
b'ping'
"""

from ._pagefrag import (
    Batch,
    ContextError,
    Fragment,
    NapiCache,
    NapiPoll,
    NetdevCache,
    Numbers,
    PageFragCache,
    PagefragError,
    PagePool,
    PoolExhausted,
    Reservation,
    RxRing,
    SendError,
    SkBuff,
    TxRing,
    __version__,
    build_features,
    build_skb,
    default_pool,
    netdev_alloc_frag,
    netdev_alloc_skb,
)

TYPE_CHECKING = False  # as type checkers read it: importing `typing` takes longer than all of this
if TYPE_CHECKING:
    from ._stats import CacheStats, PoolStats, QueueStats, TxStats

__all__ = [
    "Batch",
    "CacheStats",
    "ContextError",
    "Fragment",
    "NapiCache",
    "NapiPoll",
    "NetdevCache",
    "Numbers",
    "PageFragCache",
    "PagePool",
    "PagefragError",
    "PoolExhausted",
    "PoolStats",
    "QueueStats",
    "Reservation",
    "RxRing",
    "SendError",
    "SkBuff",
    "TxRing",
    "TxStats",
    "__version__",
    "build_features",
    "build_skb",
    "default_pool",
    "netdev_alloc_frag",
    "netdev_alloc_skb",
]

_STATS = frozenset({"CacheStats", "PoolStats", "QueueStats", "TxStats"})


def __getattr__(name: str) -> object:
    """Fetch the statistics classes when first asked for: `dataclasses` is slow to import."""
    if name in _STATS:
        from . import _stats  # noqa: PLC0415

        found = getattr(_stats, name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what the module has, the statistics classes included."""
    return sorted({*globals(), *_STATS} - {"TYPE_CHECKING"})
