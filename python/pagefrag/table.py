"""A table of figures as text: names at the left, one column for each thing compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Row", "figure", "render"]

Row = tuple[str, *tuple[float | None, ...]]


def figure(value: float | None) -> str:
    """Write a figure for people; what was not measured is a dash.

    >>> figure(1234567), figure(1234.6), figure(None)
    ('1,234,567', '1,235', '-')
    """
    return "-" if value is None else f"{value:,.0f}"


def render(titles: Sequence[str], rows: Sequence[Row]) -> str:
    """Lay out *rows* under *titles*.

    >>> print(render(("", "ours", "theirs"), [("packets", 1200, None)]))
              ours  theirs
    packets  1,200       -
    """
    lines = [tuple(titles), *((row[0], *map(figure, row[1:])) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *figures = cells
    right = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *right]).rstrip()
