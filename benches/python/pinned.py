"""Draw what the memory benches found: held and resident bytes, over time and at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

import ratios
import record
from tables import cells, number, table

MIB = 2**20
COLORS = {
    "pagefrag": "#1b6ca8",
    "pagefrag, no huge pages": "#6fa8d0",
    "kernel scheme": "#b03a2e",
    "bytes, split": "#d98880",
    "mimalloc": "#1e8449",
    "glibc malloc": "#7d6608",
    "snmalloc": "#7d3c98",
    "jemalloc": "#d68910",
    "multitude, Box": "#555555",
}
ARMS = tuple(COLORS)
MOMENTS = (4, 2, 1)


def _missing(bench: str) -> str:
    return f"Not measured yet: `{bench}`.\n"


def by_mix(name: str, scale: float = 1) -> str:
    """Return one figure of the pinning bench: a line for each mix, a column for each arm."""
    found = cells("pinning", "pinning", name)
    if not found:
        return _missing("pinning")
    arms = [arm for arm in ARMS if any(one == arm for one, _ in found)]
    mixes = list(dict.fromkeys(mix for _, mix in found))
    rows = [
        [mix, *(number(found[arm, mix] / scale if (arm, mix) in found else None) for arm in arms)]
        for mix in mixes
    ]
    return table(["", *arms], rows)


def _courses(arm: str = "") -> list[dict[str, Any]]:
    """Return the rows of the last run that have series, of *arm* if it is told."""
    found = record.newest("pinning")
    rows = found.runs[-1] if found else []
    return [row for row in rows if row.get("series") and arm in ("", row["arm"])]


def moments() -> str:
    """Return what pagefrag held after a quarter, a half and all of each mix."""
    rows = []
    for row in _courses("pagefrag"):
        series = row["series"]
        for part in MOMENTS:
            at = len(series["taken"]) // part - 1
            held, live = series["held_bytes"][at], series["live_bytes"][at]
            mib = (live, held, held - live, series["resident_bytes"][at])
            rows.append(
                [
                    row["parameter"] if part == MOMENTS[0] else "",
                    f"{series['taken'][at]:,}",
                    *(f"{each / MIB:.2f}" for each in mib),
                    f"{series['regions'][at]}",
                    number(series["ns"][at]),
                ]
            )
    head = ["", "taken", "live MiB", "held", "pinned", "resident", "regions", "ns"]
    return table(head, rows) if rows else _missing("pinning")


def survivors() -> str:
    """Return held / live where 64 bytes survive: mean, most, and most held / most live."""
    found = record.newest("survivors")
    if found is None:
        return _missing("survivors")
    groups = list(dict.fromkeys(row["group"] for row in found.runs[-1]))
    rows = []
    for group in groups:
        for arm, names in (
            ("pagefrag", ("held_live_mean", "held_live_most", "held_live_peaks")),
            ("kernel scheme", ("held_live_mean",)),
            ("mimalloc", ("held_live_mean",)),
        ):
            values = [cells("survivors", group, name) for name in names]
            sizes = [size for one, size in values[0] if one == arm]
            shown = [" / ".join(number(each[arm, size]) for each in values) for size in sizes]
            rows.append([group if arm == "pagefrag" else "", arm, *shown])
    return table(["", "", *(f"{size} B" for size in sizes)], rows, 2)


def segments() -> str:
    """Return what one kept segment keeps of a joined packet."""
    held = cells("segments", "one segment kept", "held_live_mean")
    if not held:
        return _missing("segments")
    times = cells("segments", "one segment kept")
    kinds = list(dict.fromkeys(kind for _, kind in held))
    rows = [
        [arm]
        + [number(held.get((arm, kind))) for kind in kinds]
        + [number(times.get((arm, kind))) for kind in kinds]
        for arm in dict.fromkeys(arm for arm, _ in held)
    ]
    return table(["", *kinds, *(f"ns, {kind}" for kind in kinds)], rows)


def adversary() -> str:
    """Return what an adversary keeps, and what is held when more is taken."""
    group = "one line of each 32 KiB kept"
    kept = cells("adversary", group, "kept_bytes")
    if not kept:
        return _missing("adversary")
    full = cells("adversary", group, "full_bytes")
    ratio = cells("adversary", group, "held_live")
    after = cells("adversary", group, "after_bytes")
    sizes = list(dict.fromkeys(size for _, size in kept))
    rows = [
        [
            arm,
            *(f"{each[arm, sizes[0]] / MIB:.0f}" for each in (full, kept)),
            number(ratio[arm, sizes[0]]),
            *(f"{after[arm, size] / MIB:.0f}" for size in sizes),
        ]
        for arm in dict.fromkeys(arm for arm, _ in kept)
    ]
    head = ["MiB", "full", "kept", "kept / live", *(f"then 32 of {size} B" for size in sizes)]
    return table(head, rows)


def burst(group: str) -> str:
    """Return what is resident of a burst of 1 GiB, and what it and the next one cost."""
    names = ("full_bytes", "freed_bytes", "trimmed_bytes", "trimmed_huge_bytes")
    found = [cells("burst", group, name) for name in names]
    if not found[0]:
        return _missing("burst")
    times = [cells("burst", group, name) for name in ("fill_ns", "fill_again_ns")]
    rows = [
        [
            key[0],
            *(f"{each[key] / MIB:,.0f}" for each in found),
            *(number(each[key]) for each in times),
        ]
        for key in found[0]
    ]
    head = ["MiB resident", "full", "given back", "trimmed", "of it huge", "fill, ns", "again, ns"]
    return table(head, rows)


def in_short() -> str:
    """Return the README's part: the two mixes of R6 and the others, whole-page reuse beside."""
    found = cells("pinning", "pinning", "held_live_mean")
    arms = ("kernel scheme", "bytes, split", "glibc malloc", "pagefrag")
    mixes = list(dict.fromkeys(mix for _, mix in found))
    rows = [[mix, *(number(found.get((arm, mix))) for arm in arms)] for mix in mixes]
    return table(["held / live", *arms], rows) if rows else _missing("pinning")


def over_time() -> Figure:
    """Return held / live over the buffers taken: a field for each mix, a line for each arm."""
    courses = _courses()
    mixes = list(dict.fromkeys(row["parameter"] for row in courses))
    columns = 3
    lines = -(-len(mixes) // columns)
    figure = Figure(figsize=(10, 2.6 * lines + 0.6), layout="constrained")
    fields = figure.subplots(lines, columns, squeeze=False).flat
    for field, mix in zip(fields, mixes, strict=False):
        for row in courses:
            # Without huge pages as many pages are held: the line would lie on ours.
            if row["parameter"] != mix or row["arm"] == "pagefrag, no huge pages":
                continue
            series = row["series"]
            held = series.get("held_bytes", series["resident_bytes"])
            over = [
                each / max(live, 1) for each, live in zip(held, series["live_bytes"], strict=True)
            ]
            taken = [each / 1e6 for each in series["taken"]]
            width = 2 if row["arm"].startswith(ratios.OURS) else 1
            color = COLORS.get(row["arm"], "black")
            field.plot(taken, over, label=row["arm"], linewidth=width, color=color)
        field.set_yscale("log")
        field.set_title(mix, fontsize=8)
        field.tick_params(labelsize=7)
        field.set_xlabel("million buffers taken", fontsize=7)
    for field in list(figure.axes)[len(mixes) :]:
        field.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7)
    figure.supylabel("held / live", fontsize=8)
    return figure


DRAWINGS: dict[str, Callable[[], str]] = {
    "pinning": lambda: by_mix("held_live_mean"),
    "pinning, resident": lambda: by_mix("resident_bytes", MIB),
    "pinning, time": lambda: by_mix("ns"),
    "pinning, moments": moments,
    "survivors": survivors,
    "segments": segments,
    "adversary": adversary,
    "burst": lambda: burst("all given back"),
    "burst, survivors": lambda: burst("64 B survive in each 4 MiB"),
    "pinning, in short": in_short,
}
