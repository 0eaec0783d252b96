"""Counters as frozen dataclasses: snapshots to read, compare and hand to ``asdict``.

The compiled module makes them. They live here, and are imported when first asked for, because
importing ``dataclasses`` takes longer than loading the compiled module.
"""

from dataclasses import dataclass

__all__ = ["CacheStats", "PoolStats", "QueueStats", "TxStats"]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The calling thread's share of a cache at one moment.

    >>> PageFragCache().stats().pages
    0
    """

    # Pages the cache owns.
    pages: int

    # Bytes of those pages.
    held_bytes: int

    # Bytes of live fragments in those pages, in whole lines.
    live_bytes: int

    # ``held_bytes - live_bytes``.
    pinned_bytes: int

    # Times the cache ran out of room in its hole.
    refills: int

    # Refills that carved on in a page the cache already had.
    reuses: int

    # Pages taken from the pool.
    pages_taken: int

    # Orphans adopted.
    adopted: int

    # Pages given back to the pool.
    pages_given: int

    # Pages let go with live fragments in them.
    orphaned: int

    # Allocations refused for lack of memory.
    alloc_fail: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment: exact when no other thread is using it.

    While others do, what they leave alone is as it is, and each page counts once at most: one on
    its way from one to another may be left out, and so may a region that is just being trimmed. Of
    the former its fragments may still count, so for that moment ``live_bytes`` may pass
    ``held_bytes``; ``pinned_bytes`` is 0 then.

    ``pages_obtained`` is the sum of ``pages_current``, ``pages_retired``, ``pages_orphaned``,
    ``pages_free`` and ``pages_returned``, which ``PagePool.audit`` checks.

    >>> PagePool().stats().held_bytes
    0
    """

    # Bytes of a page.
    page_size: int

    # Bytes of pages in use: owned by a cache, or orphaned.
    held_bytes: int

    # Bytes of live fragments, in whole lines (in bytes at granule 1).
    live_bytes: int

    # ``held_bytes - live_bytes``.
    pinned_bytes: int

    # Pages ever mapped.
    pages_obtained: int

    # Pages in use: ``pages_current + pages_retired + pages_orphaned``.
    pages_in_use: int

    # Pages that caches are carving.
    pages_current: int

    # Pages that caches own and do not carve now.
    pages_retired: int

    # Pages without an owner whose fragments live on.
    pages_orphaned: int

    # Pages mapped and not in use.
    pages_free: int

    # Pages ever unmapped.
    pages_returned: int

    # Regions of 2 MiB mapped now.
    regions_mapped: int

    # Most regions that were mapped at once.
    regions_peak: int

    # Bytes backed by huge pages now, as the OS tells.
    huge_bytes: int

    # Regions for which the OS took no advice to use huge pages.
    huge_failed: int

    # Times an allocation was refused because of ``max_bytes``.
    exhausted: int

    # Times an allocation was refused because the OS gave no memory.
    out_of_memory: int


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a queue has received, in the words of the kernel's queue statistics.

    >>> NapiCache().stats().rx_alloc_fail
    0
    """

    # Wire packets received and passed on; segments of a super-buffer count one each.
    rx_packets: int

    # Payload bytes of ``rx_packets`` as stored.
    rx_bytes: int

    # Times an skb or buffer allocation failed on the receive path. On a ring: packets that were
    # read and thrown away because the pool was at its limit.
    rx_alloc_fail: int

    # Packets that reached the queue and never left it, for whatever reason;
    # ``rx_hw_drop_overruns`` is part of it.
    rx_hw_drops: int

    # Packets dropped for a transient lack of room: on a ring, what the kernel dropped because the
    # socket's receive buffer was full (``SO_RXQ_OVFL``). The kernel counts datagrams that it has
    # joined once, however many they are.
    rx_hw_drop_overruns: int

    # Super-buffers that the kernel coalesced from several packets (``UDP_GRO``).
    rx_hw_gro_packets: int

    # Bytes of ``rx_hw_gro_packets``.
    rx_hw_gro_bytes: int

    # Wire packets that went into ``rx_hw_gro_packets``.
    rx_hw_gro_wire_packets: int

    # Bytes of ``rx_hw_gro_wire_packets``, payload only: the same bytes.
    rx_hw_gro_wire_bytes: int

    # Packets of ``rx_packets`` that were longer than their buffer.
    truncated: int

    # Receive calls that handed out at least one packet.
    batches: int

    # The most packets one receive call handed out.
    largest_batch: int

    # Times the ring was waited for.
    waits: int


@dataclass(frozen=True, slots=True)
class TxStats:
    """What a queue has sent, in the words of the kernel's queue statistics.

    >>> import socket
    >>> with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, TxRing(sock) as ring:
    ...     ring.stats().tx_packets
    0
    """

    # Wire packets that the kernel has taken; those of one message count one each.
    tx_packets: int

    # Payload bytes of ``tx_packets``.
    tx_bytes: int

    # Datagrams that left the queue unsent, for whatever reason: given up by ``close``, and those
    # of ``tx_hw_drop_errors``.
    tx_hw_drops: int

    # Datagrams that the kernel refuses, such as too long ones.
    tx_hw_drop_errors: int

    # Messages that the kernel was given to cut into datagrams (``UDP_SEGMENT``).
    tx_hw_gso_packets: int

    # Bytes of ``tx_hw_gso_packets``.
    tx_hw_gso_bytes: int

    # Wire packets that ``tx_hw_gso_packets`` were cut into.
    tx_hw_gso_wire_packets: int

    # Bytes of ``tx_hw_gso_wire_packets``, payload only: the same bytes.
    tx_hw_gso_wire_bytes: int

    # Times the queue stopped because the socket had no room.
    tx_stop: int

    # Times it went on after that.
    tx_wake: int

    # Messages to be cut that the kernel refused; their datagrams were tried one by one.
    gso_refused: int

    # System calls that took at least one packet.
    batches: int

    # The most packets one system call took.
    largest_batch: int

    # Times the ring was waited for.
    waits: int
