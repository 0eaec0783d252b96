"""Who holds what, as ``PagePool.tracked`` tells it. The compiled module makes these."""

from __future__ import annotations

from dataclasses import dataclass
from traceback import StackSummary
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["Holder", "TrackedFragment", "tracked"]

# A frame: its code, and the offset of the instruction it was at.
Frame = tuple["CodeType", int]


@dataclass(frozen=True, slots=True)
class Holder:
    """An object that holds the memory of a tracked allocation.

    >>> pool = PagePool(track=1)
    >>> frag = PageFragCache(pool).alloc(100)
    >>> view = memoryview(frag)
    >>> holder = pool.tracked()[0].last_holder
    >>> holder.kind, holder.how, holder.views
    ('Fragment', 'view', 1)
    """

    # The class of the object.
    kind: str

    # What made it hold the memory, or was done with it last: "alloc", "packet", "commit", "slice",
    # "copy", "toreadonly", "view" (also by whoever takes buffers), "tobytes", "send"; of an
    # `SkBuff` also "build_skb", "add_frag", "clone", "coalesce", and of its fragments "frags".
    how: str

    # Where that was: a `traceback.StackSummary`, the innermost frame last.
    stack: StackSummary

    # Views of it that exist now.
    views: int


@dataclass(frozen=True, slots=True)
class TrackedFragment:
    """A tracked allocation that somebody holds; ``str`` of it is a paragraph for people.

    >>> pool = PagePool(track=1)
    >>> frag = PageFragCache(pool).alloc(100)
    >>> [record] = pool.tracked()
    >>> record.size, record.age < 60, len(record.holders)
    (100, True, 1)
    """

    # Bytes that were asked for, or received.
    size: int

    # Seconds since then.
    age: float

    # Where that was: a `traceback.StackSummary`, the innermost frame last.
    stack: StackSummary

    # Who holds it now; the one that was heard of last stands last.
    holders: tuple[Holder, ...]

    @property
    def last_holder(self) -> Holder:
        """The holder that was heard of last."""
        return self.holders[-1]

    def __str__(self) -> str:
        """Tell size and age, where it was allocated, and where it was held last."""
        last = self.last_holder
        views = f", {last.views} views" if last.views else ""
        others = f", {len(self.holders) - 1} more hold it" if len(self.holders) > 1 else ""
        origin, place = ("".join(stack.format()).rstrip() for stack in (self.stack, last.stack))
        return (
            f"{self.size:,} bytes for {self.age:,.1f} s, allocated\n{origin}\n"
            f"last held by a {last.kind} ({last.how}{views}{others})\n{place}"
        )


def _line(code: CodeType, at: int) -> int:
    """Return the line of the instruction at the offset *at*."""
    for start, end, line in code.co_lines():
        if start <= at < end and line is not None:
            return line
    return code.co_firstlineno


def _summary(frames: list[Frame]) -> StackSummary:
    """Return *frames*, innermost first, as a traceback would show them."""
    return StackSummary.from_list(
        [(code.co_filename, _line(code, at), code.co_name, None) for code, at in reversed(frames)]
    )


def tracked(
    size: int,
    age: float,
    stack: list[Frame],
    holders: list[tuple[str, str, list[Frame], int]],
) -> TrackedFragment:
    """Return what the compiled module has noted."""
    return TrackedFragment(
        size,
        age,
        _summary(stack),
        tuple(Holder(kind, how, _summary(frames), views) for kind, how, frames, views in holders),
    )
