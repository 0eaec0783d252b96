"""Tables in Markdown out of the newest records: what every drawing is made of."""

from __future__ import annotations

import statistics

import record

Cells = dict[tuple[str, str], float]


def cells(bench: str, group: str, name: str = "ns") -> Cells:
    """Return the median over the runs of every (arm, parameter) of *group*."""
    found = record.newest(bench)
    values: dict[tuple[str, str], list[float]] = {}
    for run in found.runs if found else []:
        for row in run:
            if row["group"] == group and name in row["figures"]:
                key = row["arm"], row["parameter"]
                values.setdefault(key, []).append(row["figures"][name])
    return {key: statistics.median(all_of) for key, all_of in values.items()}


def number(value: float | None) -> str:
    """Return *value* with three digits that count, and a dash for none."""
    if value is None:
        return "-"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """Return a table in Markdown: columns of *words* to the left, then numbers to the right."""
    lines = [head, [*["---"] * words, *["---:"] * (len(head) - words)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures(bench: str, group: str, corner: str, name: str = "ns") -> str:
    """Return *group* as a table: a line for each arm, a column for each parameter."""
    found = cells(bench, group, name)
    if not found:
        return f"Not measured yet: `{bench}`.\n"
    arms = list(dict.fromkeys(arm for arm, _ in found))
    parameters = list(dict.fromkeys(parameter for _, parameter in found))
    rows = [[arm, *(number(found.get((arm, each))) for each in parameters)] for arm in arms]
    return table([corner, *parameters], rows)


def told(bench: str) -> str:
    """Return where and when the figures of *bench* were taken, and how to take them again."""
    found = record.newest(bench)
    if found is None:
        return ""
    python = f", CPython {found.cpython}" if found.cpython else ""
    return (
        f"`{found.command}`, {found.date.partition('T')[0]}, commit {found.commit}, "
        f"{len(found.runs)} {'run' if len(found.runs) == 1 else 'runs'}: {found.machine['cpu']}, "
        f"{found.machine['cores']} processors, Linux {found.kernel}, "
        f"{found.rustc.partition(' (')[0]}{python}.\n"
    )
