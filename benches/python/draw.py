"""Draw docs/benchmarks.md, its plots and the README's table from the newest records.

``make bench-docs`` runs it. What stands between ``<!-- drawn: NAME -->`` and ``<!-- end -->`` is
replaced by the drawing of that name, and nothing else is touched; ``--check`` only tells whether
anything would change. No figure is typed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.figure import Figure

import pinned
import ratios
import record
from tables import cells, figures, number, table, told

PAGE = record.ROOT / "docs" / "benchmarks.md"
README = record.ROOT / "README.md"
PLOTS = record.ROOT / "docs" / "plots"
MARKED = re.compile(r"(<!-- drawn: (?P<name>[^>]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def promised() -> str:
    """Return every promise with the ratio of each run."""
    rows = []
    for promise in ratios.promises():
        found = promise.ratios()
        if found:
            shown = " / ".join(number(ratio) for ratio in found)
            kept = sum(map(promise.is_kept, found))
            verdict = "yes" if kept == len(found) else f"**{kept} of {len(found)}**"
            rows.append([promise.name, promise.what, shown, promise.told(), verdict])
    return table(["", "what", "each run", "promised", "kept"], rows, 2)


def readme() -> str:
    """Return the README's part: the pair bench, and what the promises came to."""
    kept: dict[str, list[bool]] = {}
    for promise in ratios.promises():
        found = promise.ratios()
        if found:
            kept.setdefault(promise.name, []).append(all(map(promise.is_kept, found)))
    score = ", ".join(f"{name} {sum(all_of)} of {len(all_of)}" for name, all_of in kept.items())
    return (
        "Take and give back on one thread, ns by bytes, nothing written:\n\n"
        + figures("pair", "pair", "bytes")
        + f"\n{told('pair')}\nRows of promises kept in every run: {score}.\n"
    )


def memory() -> str:
    """Return what each arm of the window bench holds, and its calls to a heap."""
    resident = cells("fifo", "fifo, IMIX", "resident_bytes")
    live = cells("fifo", "fifo, IMIX", "live_bytes")
    calls = cells("fifo", "fifo, IMIX", "heap_calls")
    huge = cells("fifo", "fifo, IMIX", "anon_huge_bytes")
    rows = [
        [
            arm,
            f"{resident[key] / 2**20:.2f}",
            f"{resident[key] / live[key]:.2f}",
            f"{calls[key]:.3f}",
            f"{huge[key] / 2**20:.0f}",
        ]
        for key in resident
        for arm, window in [key]
        if window == "4096"
    ]
    head = ["window of 4096", "resident MiB", "resident / live", "heap calls each", "huge MiB"]
    return table(head, rows) if rows else "Not measured yet.\n"


DRAWINGS: dict[str, Callable[[], str]] = {
    "promises": promised,
    "readme": readme,
    "pair": lambda: figures("pair", "pair", "bytes"),
    "pair, first 64 bytes": lambda: figures("pair", "pair, first 64 bytes", "bytes"),
    "pair, all bytes": lambda: figures("pair", "pair, all bytes", "bytes"),
    "fifo": lambda: figures("fifo", "fifo, IMIX", "window"),
    "fifo, all bytes": lambda: figures("fifo", "fifo, IMIX, all bytes", "window"),
    "memory": memory,
    "batch": lambda: figures("batch", "poll of 64", "ns each"),
    "handoff": lambda: figures("handoff", "handoff", "bytes"),
    "handoff, aligned": lambda: figures("handoff", "handoff, aligned", "bytes"),
    "drain": lambda: figures("drain", "drain elsewhere", "ns each"),
    "drain, locked": lambda: figures("drain", "drain elsewhere, counted", "locked", "locked"),
    "reserve": lambda: figures("reserve", "reserve", "bytes"),
    "share": lambda: figures("share", "share", "ns by bytes"),
    "exhaustion": lambda: (
        figures("exhaustion", "fill to the limit and empty", "ns each")
        + "\n"
        + figures("exhaustion", "a refusal at the limit", "ns")
    ),
    "growth": lambda: figures("growth", "growth", "live pages"),
    "instructions": lambda: figures("instructions", "instructions", "", "instructions"),
    "python": lambda: figures("fragment", "take and drop", "bytes"),
    "python, use": lambda: "\n".join(
        figures("fragment", group, group)
        for group in ("slice [4:20]", "memoryview of it", "copy to bytes", "release")
    ),
}
DRAWINGS |= pinned.DRAWINGS
DRAWINGS |= {f"taken: {bench}": lambda bench=bench: told(bench) for bench in (  # type: ignore[misc]
    "pair", "fifo", "batch", "handoff", "drain", "reserve", "share", "exhaustion", "growth",
    "instructions", "fragment", "pinning", "survivors", "segments", "adversary", "burst",
)}  # fmt: skip


TITLES = {
    "pair": "take and give back on one thread, by bytes",
    "fifo": "first in, first out, by window",
    "handoff": "to another core, by bytes",
    "growth": "1500 B in a window of 256, by live pages",
    "pinning": "held / live over time, by buffers taken",
}


def plot(name: str) -> str:
    """Return the line that shows the picture *name*, if it is drawn."""
    return f"![{TITLES[name]}](plots/{name}.svg)\n" if record.newest(name) else ""


DRAWINGS |= {f"plot, {name}": lambda name=name: plot(name) for name in TITLES}  # type: ignore[misc]


def redrawn(text: str) -> str:
    """Return *text* with what is between the marks drawn again."""

    def draw(found: re.Match[str]) -> str:
        return f"{found[1]}{DRAWINGS[found['name']]()}{found[3]}"

    return MARKED.sub(draw, text)


def bars(bench: str, group: str, title: str) -> Figure:
    """Return *group* as bars, a cluster for each parameter; ours stand out."""
    found = cells(bench, group)
    arms = list(dict.fromkeys(arm for arm, _ in found))
    parameters = list(dict.fromkeys(parameter for _, parameter in found))
    figure = Figure(figsize=(7.5, 0.22 * len(arms) * len(parameters) + 1), layout="tight")
    axes = figure.subplots()
    for row, parameter in enumerate(parameters):
        for place, arm in enumerate(arms):
            value = found.get((arm, parameter))
            if value is not None:
                at = -(row * (len(arms) + 1) + place)
                color = "#1b6ca8" if arm.startswith(ratios.OURS) else "#b8b8b8"
                axes.barh(at, value, color=color)
                axes.text(value, at, f" {arm}, {number(value)}", va="center", fontsize=7)
    middle = [-(row * (len(arms) + 1) + len(arms) / 2) for row in range(len(parameters))]
    axes.set_yticks(middle, parameters)
    axes.margins(x=0.35, y=0.01)
    axes.set_xlabel("ns, median")
    axes.set_title(title, fontsize=10)
    return figure


def lines(bench: str, group: str, title: str) -> Figure:
    """Return *group* as lines over its parameter, which is a number."""
    found = cells(bench, group)
    figure = Figure(figsize=(7.5, 4), layout="tight")
    axes = figure.subplots()
    for arm in dict.fromkeys(arm for arm, _ in found):
        points = [(int(each), value) for (one, each), value in found.items() if one == arm]
        width = 2.5 if arm.startswith(ratios.OURS) else 1
        axes.plot(*zip(*points, strict=True), label=arm, marker="o", linewidth=width)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("ns, median")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "pair": lambda: bars("pair", "pair", TITLES["pair"]),
    "fifo": lambda: bars("fifo", "fifo, IMIX", TITLES["fifo"]),
    "handoff": lambda: bars("handoff", "handoff", TITLES["handoff"]),
    "growth": lambda: lines("growth", "growth", TITLES["growth"]),
    "pinning": pinned.over_time,
}


def main() -> int:
    """Draw everything, or with ``--check`` tell what is out of date."""
    stale = []
    for path in (PAGE, README):
        text = path.read_text(encoding="utf-8")
        if redrawn(text) != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(redrawn(text), encoding="utf-8")
    if "--check" in sys.argv:
        print("out of date: " + ", ".join(stale) if stale else "as the records say")
        return 1 if stale else 0
    # The same picture is the same file: no date, no random names, text as text.
    mpl.rcParams |= {"svg.hashsalt": "pagefrag", "svg.fonttype": "none"}
    PLOTS.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        if record.newest(name):
            picture().savefig(PLOTS / f"{name}.svg", metadata={"Date": None, "Creator": None})
    print("drawn: " + ", ".join(stale or ["nothing new"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
