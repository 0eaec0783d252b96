"""A ring without a socket: the real allocator, driven by the sizes and times of a capture.

It does what `RxRing` does for each packet, in the same order: arm buffers up to ``slots``, take the
first of the newest run of neighbours, and either give its tail back or, up to ``copybreak`` bytes,
allocate a fragment of the packet's size and arm the buffer again. No byte is written; the pages,
holes and counters are those of a real `PageFragCache`. The ring is read as each packet comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

import pagefrag

if TYPE_CHECKING:
    from pagefrag.progress import Advance
    from pagefrag.replay.traffic import Traffic

__all__ = ["Level", "Look", "Result", "Settings", "look_at_peak", "replay"]

_SAMPLES = 1_000
_MOST_SAMPLES = 4_096
_GRO_PAGE = 65_536
_SMALL = 8
"""Part of a page up to which the core opens a hole as a whole."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may choose of a ring and its pool."""

    page_size: int = 32_768
    buf_size: int = 2_048
    copybreak: int = 1024
    slots: int = 64

    @property
    def needs_gro_off(self) -> bool:
        """Whether `RxRing` would make its buffers larger than asked for, to receive with GRO."""
        return self.page_size >= _GRO_PAGE

    def __str__(self) -> str:
        """Write them as keywords."""
        return (
            f"page_size={self.page_size:,} buf_size={self.buf_size:,} copybreak={self.copybreak:,}"
        )


@dataclass(slots=True)
class Level:
    """Bytes that rise and fall: the most there were, their mean over time, what is left."""

    peak: int = 0
    end: int = 0
    area: int = 0
    time: int = 0

    def stay(self, until: int) -> None:
        """Say that the level did not change up to the moment *until*."""
        self.area += self.end * (until - self.time)
        self.time = until

    def move(self, to: int) -> None:
        """Change the level now."""
        self.end = to
        self.peak = max(self.peak, to)

    @property
    def mean(self) -> float:
        """The mean over the time that has passed; where none has, what is left."""
        return self.area / self.time if self.time else float(self.end)


@dataclass(slots=True)
class Result:
    """What a replay with one setting found."""

    settings: Settings
    packets: int = 0
    held: Level = field(default_factory=Level)
    live: Level = field(default_factory=Level)
    pinned_peak: int = 0
    kept_peak: int = 0
    copied: int = 0
    copied_bytes: int = 0
    truncated: int = 0
    refills: int = 0
    reuses: int = 0
    pages_taken: int = 0
    regions_peak: int = 0
    regions_after_trim: int = 0
    peak_packet: int = 0
    samples: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def pinned_end(self) -> int:
        """Bytes held and not live after the last packet."""
        return self.held.end - self.live.end

    @property
    def pinned_mean(self) -> float:
        """Mean bytes held and not live."""
        return self.held.mean - self.live.mean


Look = Callable[[Iterable[pagefrag.Fragment], Iterable[pagefrag.Fragment]], None]
"""Told the fragments that are kept, and the armed ones."""


class _Ring:
    """One replay on its way."""

    def __init__(self, settings: Settings, hold: int, period: int) -> None:
        self.result = Result(settings)
        self._settings, self._hold, self._period = settings, hold, period
        self._pool = pagefrag.PagePool(settings.page_size)
        self._cache = pagefrag.PageFragCache(self._pool)
        self._armed: list[list[pagefrag.Fragment]] = []
        """Runs of neighbours, each from its end to its start."""
        self._waiting = 0
        self._kept: deque[pagefrag.Fragment] = deque()
        self._due: deque[int] = deque()
        self._now = self._page = self._next_sample = 0

    def receive(self, packets: Iterable[tuple[int, int]]) -> None:
        """Let *packets* come: the hot loop, so names are local and little is called."""
        result, live, kept, due = self.result, self.result.live, self._kept, self._due
        settings, armed, alloc, hold = self._settings, self._armed, self._cache.alloc, self._hold
        buf_size, copybreak = settings.buf_size, settings.copybreak
        for step, size in packets:
            if step:
                self._now += step
                self._release()
            if self._waiting < settings.slots:
                self._arm()
            stored = min(size, buf_size)
            if stored <= copybreak:
                frag = alloc(stored or 1)
                live.end += frag.capacity
                result.copied += 1
                result.copied_bytes += stored
                if frag.page != self._page:
                    self._turn_page(frag)
            else:
                frag = armed[-1].pop()
                self._waiting -= 1
                if not armed[-1]:
                    armed.pop()
                live.end -= frag.capacity
                live.end += frag.trim(stored).capacity
            result.truncated += size > stored
            result.packets += 1
            live.peak = max(live.peak, live.end)
            if hold:
                kept.append(frag)
                due.append(self._now + hold)
            else:
                live.end -= frag.capacity
            del frag  # else it would live until the next packet
            if not hold:
                self._look()

    def _arm(self) -> None:
        """Take the buffers that are missing.

        Neighbours are a run, unless they are so large that a hole is opened for each.
        """
        run: list[pagefrag.Fragment] = []
        end = (0, 0)
        while self._waiting < self._settings.slots:
            frag = self._cache.alloc(self._settings.buf_size)
            self._waiting += 1
            self.result.live.end += frag.capacity
            if frag.page != self._page:
                self._turn_page(frag)
            large = frag.capacity * _SMALL > self._settings.page_size
            if run and (large or (frag.page, frag.offset) != end):
                self._armed.append(run[::-1])
                run = []
            run.append(frag)
            end = frag.page, frag.offset + frag.capacity
        self._armed.append(run[::-1])

    def _turn_page(self, frag: pagefrag.Fragment) -> None:
        """Note that *frag* is on another page than the one before it, perhaps a new one."""
        self._page = frag.page
        before = self.result.held.peak
        self._look()
        if self.result.held.peak > before:
            self.result.peak_packet = self.result.packets

    def _release(self) -> None:
        """Drop each packet at its moment, up to now."""
        live, kept, due, now = self.result.live, self._kept, self._due, self._now
        if due and due[0] <= now:
            self.result.kept_peak = max(self.result.kept_peak, len(due))
            while due and due[0] <= now:
                moment = due.popleft()
                live.stay(moment)
                self.result.held.stay(moment)
                live.end -= kept.popleft().capacity
                self._look()
        live.stay(now)
        self.result.held.stay(now)

    def _look(self) -> None:
        """Ask the cache what it holds; no time passes."""
        result, held = self.result, self.result.held
        held.move(self._cache.held_bytes)
        result.pinned_peak = max(result.pinned_peak, held.end - result.live.end)
        if held.time >= self._next_sample:
            self._sample()

    def _sample(self) -> None:
        """Take down what is held and live now."""
        result, samples = self.result, self.result.samples
        samples.append((result.held.time, result.held.end, result.live.end))
        if len(samples) > _MOST_SAMPLES:
            del samples[1::2]
        self._next_sample = result.held.time + self._period

    def show(self, look: Look) -> None:
        """Let *look* see what is alive now."""
        look(self._kept, chain.from_iterable(self._armed))

    def finish(self) -> Result:
        """Look a last time, give everything back, and return what was found."""
        result = self.result
        result.kept_peak = max(result.kept_peak, len(self._due))
        self._look()
        self._sample()
        stats = self._cache.stats()
        result.refills, result.reuses = stats.refills, stats.reuses
        result.pages_taken = stats.pages_taken
        self._kept.clear()
        self._armed.clear()
        self._cache.drain()
        self._pool.trim()
        pool = self._pool.audit()
        result.regions_peak, result.regions_after_trim = pool.regions_peak, pool.regions_mapped
        return result


def replay(
    traffic: Traffic,
    settings: Settings,
    hold: int,
    advance: Advance = lambda _done: None,
) -> Result:
    """Replay all of *traffic*, keeping each packet for *hold* nanoseconds of its time.

    *advance* is told the packets that are done.
    """
    ring = _Ring(settings, hold, traffic.duration // _SAMPLES)
    for packets in traffic.chunks():
        ring.receive(packets)
        advance(ring.result.packets)
    return ring.finish()


def look_at_peak(traffic: Traffic, result: Result, hold: int, look: Look) -> None:
    """Replay *traffic* again up to where *result* held most, and let *look* see it."""
    ring = _Ring(result.settings, hold, traffic.duration // _SAMPLES)
    left = result.peak_packet + 1
    for packets in traffic.chunks():
        ring.receive(islice(packets, left))
        left = result.peak_packet + 1 - ring.result.packets
        if left <= 0:
            break
    ring.show(look)
    ring.finish()
