"""The promises that are ratios, read out of the records: one ratio for each run.

A promise names its rivals here, once; the tables and the tests take them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import record

Run = list[record.Row]

OURS = "pagefrag"
RIVALS = frozenset(
    {
        "bytes, split",
        "glibc malloc",
        "jemalloc",
        "mimalloc",
        "multitude, Box",
        "snmalloc",
    }
)
"""Those that R2 to R4 name: whatever else stands in a group is there to be looked at."""


@dataclass(frozen=True)
class Promise:
    """A ratio that is promised to be at least, or at most, *bound*."""

    name: str
    what: str
    bench: str
    ratio: Callable[[Run], float | None]
    bound: float
    at_least: bool = False

    def is_kept(self, ratio: float) -> bool:
        """Tell whether *ratio* is what was promised."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def told(self) -> str:
        """Return the bound as the tables print it."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    def ratios(self) -> list[float]:
        """Return the ratio of each run of the newest record; none if there is no record."""
        found = record.newest(self.bench)
        runs = found.runs if found else []
        return [ratio for run in runs if (ratio := self.ratio(run)) is not None]


def figure(run: Run, group: str, arm: str, parameter: object, name: str = "ns") -> float | None:
    """Return one figure of *run*."""
    for row in run:
        if (row["group"], row["arm"], row["parameter"]) == (group, arm, str(parameter)):
            return row["figures"].get(name)
    return None


def over(group: str, ours: str, theirs: str, parameter: object) -> Callable[[Run], float | None]:
    """Return what tells *ours* in units of *theirs*."""

    def ratio(run: Run) -> float | None:
        mine, other = figure(run, group, ours, parameter), figure(run, group, theirs, parameter)
        return mine / other if mine and other else None

    return ratio


def best_rival(group: str, parameter: object) -> Callable[[Run], float | None]:
    """Return what tells how many times the best rival takes as long as we do."""

    def ratio(run: Run) -> float | None:
        mine = figure(run, group, OURS, parameter)
        others = [figure(run, group, rival, parameter) for rival in RIVALS]
        found = [other for other in others if other]
        return min(found) / mine if mine and found else None

    return ratio


def counted(parameter: str) -> Callable[[Run], float | None]:
    """Return what reads a count of the drain bench."""
    return lambda run: figure(run, "drain elsewhere, counted", "pagefrag, drop_many", 64, parameter)


def told(
    bench_group: str, parameter: str, name: str = "held_live_mean"
) -> Callable[[Run], float | None]:
    """Return what reads a figure of ours."""
    return lambda run: figure(run, bench_group, OURS, parameter, name)


def worst(group: str, arm: str, name: str = "held_live_mean") -> Callable[[Run], float | None]:
    """Return what reads the largest figure of *arm* in *group*, whatever the parameter."""

    def ratio(run: Run) -> float | None:
        rows = [row for row in run if (row["group"], row["arm"]) == (group, arm)]
        return max((row["figures"][name] for row in rows), default=None)

    return ratio


def with_over_without(group: str) -> Callable[[Run], float | None]:
    """Return what tells the instructions of a take and a give with *group* against without."""

    def ratio(run: Run) -> float | None:
        sums = []
        for arm in ("with", "without"):
            parts = [
                figure(run, group, arm, f"{what}, IMIX window of 256", "instructions")
                for what in ("alloc", "free")
            ]
            if None in parts:
                return None
            sums.append(sum(part for part in parts if part))
        return sums[0] / sums[1]

    return ratio


def promises() -> Iterator[Promise]:
    """Yield every promise that the suite measures, in order."""
    for size in (64, 256, 1500, 2048):
        what = f"take and give back {size} B, in locked adds"
        yield Promise("R1", what, "pair", over("pair", OURS, "one locked add", size), 1.0)
    for size in (64, 256, 1500, 2048):
        what = f"the same, best rival / ours, {size} B"
        yield Promise("R2", what, "pair", best_rival("pair", size), 2.0, at_least=True)
    for window in (32, 256, 4096):
        what = f"IMIX, window of {window}, best rival / ours"
        yield Promise("R3", what, "fifo", best_rival("fifo, IMIX", window), 2.0, at_least=True)
    for group in ("handoff", "handoff, aligned"):
        for size in (12, 75, 1500, 2048):
            what = f"{group} to another core, {size} B, best rival / ours"
            yield Promise("R4", what, "handoff", best_rival(group, size), 2.0, at_least=True)
    for size in (12, 75, 1500, 2048):
        yield Promise(
            "R4",
            f"ns per object, {size} B",
            "handoff",
            lambda run, size=size: figure(run, "handoff", OURS, size),  # type: ignore[misc]
            18.0,
        )
    one, many = OURS, "pagefrag, drop_many"
    ratio = over("drain elsewhere", one, many, 64)
    yield Promise("R5", "64 drops elsewhere / one drain", "drain", ratio, 8.0, at_least=True)
    yield Promise("R5", "locked instructions of that drain", "drain", counted("locked"), 8.0)
    for mix, bound in (
        ("64 B, evenly", 2.5),
        ("64 B, by chance", 2.5),
        ("2 KiB, evenly", 1.5),
        ("2 KiB, by chance", 1.5),
        ("six decades", 4.0),
        ("six decades, elsewhere", 4.0),
        ("a router's hour", 4.0),
        ("kept on another thread", 4.0),
        ("eight caches", 4.0),
    ):
        ratio = told("pinning", mix)
        yield Promise("R6", f"held / live, {mix}", "pinning", ratio, bound)
    for freed in (
        "freed here",
        "half freed elsewhere",
        "freed elsewhere, 64 at a time",
        "freed elsewhere, 512 at a time",
    ):
        what = f"held / live, 64 B survive among 256 B to 32 KiB, {freed}: the worst size"
        yield Promise("R6", what, "survivors", worst(freed, OURS), 4.0)
    what = "held / live, one segment of a joined packet kept, as rings do"
    ratio = worst("one segment kept", "pagefrag, copied out")
    yield Promise("R6", what, "segments", ratio, 4.0)
    for size in (64, 256, 1500, 2048):
        ratio = over("reserve", "prepare and commit", "alloc", size)
        yield Promise("R7", f"prepare + commit / alloc, {size} B", "reserve", ratio, 1.3)
    ratio = with_over_without("reserve elsewhere in the program")
    what = "instructions of alloc + free with / without reservations in the build"
    yield Promise("R7", what, "instructions", ratio, 1.01)
    for rival, bound in (("object()", 1.0), ("bytearray", 0.25)):
        ratio = over("take and drop", "cache.alloc", rival, 2048)
        yield Promise("R8", f"Python: alloc(2048) / {rival}", "fragment", ratio, bound)
    what = "instructions of alloc + free with / without counters"
    yield Promise("R12", what, "instructions", with_over_without("counters"), 1.02)
    what = "regions mapped after 1 GiB was given back and trimmed"
    yield Promise("R13", what, "burst", told("all given back", "1 GiB", "regions"), 0.0)
