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
    from ._tracking import Holder, TrackedFragment
    from .info import show_versions

__all__ = [
    "Batch",
    "CacheStats",
    "ContextError",
    "Fragment",
    "Holder",
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
    "TrackedFragment",
    "TxRing",
    "TxStats",
    "__version__",
    "build_features",
    "build_skb",
    "default_pool",
    "netdev_alloc_frag",
    "netdev_alloc_skb",
    "show_versions",
]

_LATER = {
    "CacheStats": "_stats",
    "Holder": "_tracking",
    "PoolStats": "_stats",
    "QueueStats": "_stats",
    "TrackedFragment": "_tracking",
    "TxStats": "_stats",
    "show_versions": "info",
}


def __getattr__(name: str) -> object:
    """Fetch what is in a module of its own when first asked for: those are slow to import."""
    if name in _LATER:
        from importlib import import_module  # noqa: PLC0415

        found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what the module has, also what is fetched later."""
    return sorted({*globals(), *_LATER} - {"TYPE_CHECKING"})
