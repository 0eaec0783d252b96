"""Which settings to try on a capture, and which of them to recommend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pagefrag.replay.ring import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pagefrag.replay.ring import Result
    from pagefrag.replay.traffic import Traffic

__all__ = ["PAGE_SIZES", "Fixed", "Grid", "choose", "reason"]

PAGE_SIZES = (4_096, 16_384, 32_768, 65_536, 262_144, 1_048_576)
"""The page sizes that are tried."""

_LINE = 64
_LARGEST_POWER = 65_536
_NEAR = 1.10


@dataclass(frozen=True, slots=True)
class Fixed:
    """What the user has decided already; None is to be found out."""

    page_size: int | None = None
    buf_size: int | None = None
    copybreak: int | None = None
    slots: int = 64


def _lines(size: int) -> int:
    """Round up to whole lines.

    >>> _lines(1514), _lines(0)
    (1536, 64)
    """
    return -(-max(size, 1) // _LINE) * _LINE


class Grid:
    """The settings to try: page and buffer sizes first, copybreaks for the best of these."""

    def __init__(self, traffic: Traffic, fixed: Fixed) -> None:
        """Derive candidates from the sizes of *traffic* where *fixed* leaves them open."""
        self._traffic, self._fixed = traffic, fixed

    @property
    def defaults(self) -> Settings:
        """What a ring has that is made without a word."""
        return Settings(slots=self._fixed.slots)

    def _buffers(self) -> list[int]:
        if self._fixed.buf_size is not None:
            return [self._fixed.buf_size]
        room = self._fixed.page_size or PAGE_SIZES[-1]
        exact, default = _lines(self._traffic.largest), self.defaults.buf_size
        power = 1 << (exact - 1).bit_length()
        rounder = default if exact <= default else power if power <= _LARGEST_POWER else exact
        return sorted({min(exact, room), min(rounder, room)})

    def _pages(self, buf_size: int) -> list[int]:
        if self._fixed.page_size is not None:
            return [self._fixed.page_size] if self._fixed.page_size >= buf_size else []
        return [size for size in PAGE_SIZES if size >= buf_size]

    def first(self) -> Iterator[Settings]:
        """Yield the pairs of page and buffer size, and the defaults."""
        fixed, defaults = self._fixed, self.defaults
        yield defaults
        copybreak = defaults.copybreak if fixed.copybreak is None else fixed.copybreak
        for buf_size in self._buffers():
            for page_size in self._pages(buf_size):
                found = Settings(page_size, buf_size, copybreak, fixed.slots)
                if found != defaults:
                    yield found

    def second(self, best: Settings) -> Iterator[Settings]:
        """Yield *best* with other copybreaks."""
        if self._fixed.copybreak is not None:
            return
        middle, most = self._traffic.quantile(0.5), self._traffic.quantile(0.9)
        for copybreak in sorted({0, self.defaults.copybreak, _lines(middle), _lines(most)}):
            if copybreak != best.copybreak:
                yield replace(best, copybreak=copybreak)

    def allows(self, settings: Settings) -> bool:
        """Tell whether *settings* are what the user has decided."""
        fixed = self._fixed
        return all(
            wanted is None or wanted == given
            for wanted, given in (
                (fixed.page_size, settings.page_size),
                (fixed.buf_size, settings.buf_size),
                (fixed.copybreak, settings.copybreak),
            )
        )


def choose(results: Sequence[Result], defaults: Settings) -> Result:
    """Return the result to recommend.

    Whoever cuts more packets than need be is out. Of the others the one that holds least at its
    peak wins; what holds up to a tenth more counts as equal. Among equals the defaults win, then
    who holds least on average, with the same tenth, then who copies fewer bytes, then who turns to
    the cache's slow path less often.
    """
    cut = min(result.truncated for result in results)
    whole = [result for result in results if result.truncated == cut]
    least = min(result.held.peak for result in whole)
    near = [result for result in whole if result.held.peak <= least * _NEAR]
    usual = [result for result in near if result.settings == defaults]
    mean = min(result.held.mean for result in near)
    calm = [result for result in near if result.held.mean <= mean * _NEAR]
    return min(usual or calm, key=lambda found: (found.copied_bytes, found.refills))


def reason(chosen: Result, results: Sequence[Result], defaults: Settings) -> str:
    """Say in one sentence why *chosen* is recommended."""
    if chosen.settings == defaults:
        return "the defaults suit: nothing that was tried holds over a tenth less at its peak"
    usual = next((result for result in results if result.settings == defaults), None)
    if usual is None:
        return "it holds least at its peak of what was tried"
    if usual.truncated > chosen.truncated:
        less = f"the defaults would cut {usual.truncated - chosen.truncated:,} packets more"
    else:
        part = 1 - chosen.held.peak / usual.held.peak
        if part <= 0:
            return "of what was allowed it holds least at its peak"
        less = f"it holds {part:.0%} less than the defaults at its peak"
    if chosen.copied_bytes < usual.copied_bytes:
        return f"{less}, and copies {usual.copied_bytes - chosen.copied_bytes:,} bytes less"
    if chosen.copied_bytes > usual.copied_bytes:
        return f"{less}, and copies {chosen.copied_bytes - usual.copied_bytes:,} bytes more"
    return less
