"""A progress bar where there is a terminal and rich is installed; a line of dots elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Advance", "progress"]

Advance = Callable[[int], None]

_DOTS = 40


@contextmanager
def progress(
    title: str, total: int, stream: TextIO | None = None
) -> Generator[Advance, None, None]:
    """Yield a function that is told how much of *total* is done.

    >>> import io
    >>> text = io.StringIO()
    >>> with progress("receiving", 10, text) as done:
    ...     done(5)
    ...     done(10)
    >>> text.getvalue()
    'receiving ........................................\\n'
    """
    stream = stream or sys.stderr
    if stream is None:  # a process without a terminal may have none
        yield lambda _done: None
        return
    bar = _bar if stream.isatty() and _has_rich() else _dots
    with bar(title, total, stream) as advance:
        yield advance


def _has_rich() -> bool:
    return find_spec("rich") is not None


@contextmanager
def _bar(title: str, total: int, stream: TextIO) -> Generator[Advance, None, None]:
    from rich.console import Console  # noqa: PLC0415 - heavy, and optional
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(file=stream), refresh_per_second=4) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.update(task, completed=done)


@contextmanager
def _dots(title: str, total: int, stream: TextIO) -> Generator[Advance, None, None]:
    shown = 0

    def advance(done: int) -> None:
        nonlocal shown
        wanted = done * _DOTS // total
        stream.write("." * (wanted - shown))
        stream.flush()
        shown = max(shown, wanted)

    stream.write(f"{title} ")
    stream.flush()
    yield advance
    stream.write("\n")
