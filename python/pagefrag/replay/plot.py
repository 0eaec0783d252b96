"""A replay as a figure: what was held over time, and the pages when most was held."""

# matplotlib leaves part of its types open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pagefrag.replay.pagemap import ARMED, DEAD, PACKET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pagefrag.replay.report import Findings

__all__ = ["FORMS", "MissingPlotter", "check", "draw"]

FORMS = (".svg", ".png")
"""The forms that a plot comes in, by the end of its name."""

_SECOND = 1_000_000_000
_MIB = 1 << 20
_ROWS = 128
_COLOURS = {DEAD: "#d9d9d9", ARMED: "#9ecae1", PACKET: "#08519c"}
_NAMES = {PACKET: "packet", ARMED: "armed buffer", DEAD: "pinned (dead)"}


class MissingPlotter(Exception):  # noqa: N818 - a state of the installation
    """The library that plots is not installed."""


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and optional
    except ImportError:
        raise MissingPlotter("plots need an extra: pip install 'pagefrag[plot]'") from None
    return Figure(figsize=(10, 8), layout="constrained")


def check(path: Path) -> None:
    """Raise `ValueError` or `MissingPlotter` when *path* cannot become a plot."""
    if path.suffix not in FORMS:
        raise ValueError(f"expected a name that ends in {' or '.join(FORMS)}, not {path.name!r}")
    _figure()


def draw(findings: Findings, path: Path) -> None:
    """Write the figure to *path*; `OSError` when that cannot be done."""
    figure = _figure()
    above, below = figure.subplots(2, 1)
    _over_time(above, findings)
    _page_map(below, findings)
    figure.savefig(path)


def _over_time(axes: Axes, findings: Findings) -> None:
    chosen = findings.chosen
    times = [moment / _SECOND for moment, _, _ in chosen.samples]
    for name, index in (("held", 1), ("live", 2)):
        values = [sample[index] / _MIB for sample in chosen.samples]
        axes.step(times, values, where="post", label=name)
    peak = findings.rivals.whole_pages.peak / _MIB
    axes.axhline(peak, linestyle="--", color="grey", label="whole-page reuse (model), peak")
    axes.set(xlabel="seconds of capture time", ylabel="MiB", ylim=(0, None), title=findings.file)
    axes.legend()


def _page_map(axes: Axes, findings: Findings) -> None:
    from matplotlib.colors import ListedColormap  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    pages = list(findings.pages.pages.values())
    step = max(1.0, len(pages) / _ROWS)
    rows = [list(pages[int(index * step)]) for index in range(min(_ROWS, len(pages)))]
    colours = [_COLOURS[state] for state in (DEAD, ARMED, PACKET)]
    axes.imshow(
        rows,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=DEAD,
        vmax=PACKET,
    )
    settings = findings.chosen.settings
    axes.set(
        xlabel="line of 64 bytes",
        ylabel="page",
        title=f"{len(rows):,} of {len(pages):,} pages when most was held: {settings}",
    )
    handles = [Patch(color=_COLOURS[state], label=name) for state, name in _NAMES.items()]
    axes.legend(handles=handles, loc="upper right")
