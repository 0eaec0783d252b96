"""What a replay found, as text for people and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pagefrag
from pagefrag.replay import pagemap
from pagefrag.table import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagefrag.replay.ring import Level, Result, Settings
    from pagefrag.replay.rivals import Rivals
    from pagefrag.replay.traffic import Traffic
    from pagefrag.table import Row

__all__ = ["SCHEMA", "Findings", "notes", "to_json", "to_text"]

SCHEMA = 1
"""The version of the JSON; it grows when a key changes its meaning or goes."""

_SECOND = 1_000_000_000
_MOST_PAGES = 256
_FIGURES = {"peak": "peak", "mean": "mean over capture time", "end": "end"}


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a replay of one capture found."""

    file: str
    form: str
    traffic: Traffic
    hold: int
    results: Sequence[Result]
    chosen: Result
    defaults: Result
    reason: str
    rivals: Rivals
    pages: pagemap.PageMap
    damage: str | None


def notes(traffic: Traffic) -> list[str]:
    """Return a line for each thing about *traffic* that bears on the figures."""
    counted = "on the wire" if traffic.length == "wire" else "in the file"
    told = (
        (traffic.cut, f"cut by the capture's snap length: their bytes {counted} count"),
        (traffic.disordered, "older than one before: they come at the same time"),
        (traffic.set_back, "so by more than a second: as if the clock had been set back there"),
        (traffic.untimed, "without a time: they come with the one before"),
    )
    return [f"packets {what}: {count:,}" for count, what in told if count]


# --- text -------------------------------------------------------------------


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / _SECOND:,.9f}".rstrip("0").rstrip(".")


def _columns(findings: Findings) -> list[Result]:
    if findings.chosen is findings.defaults:
        return [findings.chosen]
    return [findings.chosen, findings.defaults]


def _row(label: str, figures: Sequence[float | None]) -> Row:
    return (label, *figures)


def _figure(level: Level | None, name: str) -> float | None:
    return None if level is None else getattr(level, name)


def _level_rows(findings: Findings, name: str) -> list[Row]:
    levels: list[Level | None] = [getattr(result, name) for result in _columns(findings)]
    if name == "held":
        levels += [findings.rivals.whole_pages, findings.rivals.bytes_each]
    else:
        levels += [None, None]
    return [
        _row(f"{name} bytes, {label}", [_figure(level, figure) for level in levels])
        for figure, label in _FIGURES.items()
    ]


def _rows(findings: Findings) -> list[Row]:
    columns = _columns(findings)

    def row(label: str, name: str) -> Row:
        return _row(label, [*(getattr(result, name) for result in columns), None, None])

    def setting(label: str, name: str) -> Row:
        figures = [getattr(result.settings, name) for result in columns]
        return _row(label, [*figures, figures[0], None])

    return [
        setting("page size", "page_size"),
        setting("buffer size", "buf_size"),
        setting("copybreak", "copybreak"),
        *_level_rows(findings, "held"),
        *_level_rows(findings, "live"),
        row("pinned bytes, peak", "pinned_peak"),
        row("pinned bytes, mean over capture time", "pinned_mean"),
        row("pinned bytes, end", "pinned_end"),
        row("packets kept, peak", "kept_peak"),
        row("packets cut by the buffer size", "truncated"),
        row("packets copied (copybreak)", "copied"),
        row("bytes copied (copybreak)", "copied_bytes"),
        row("times a hole was used up", "refills"),
        row("of these, a page was used again", "reuses"),
        row("pages taken from the pool", "pages_taken"),
        row("regions, peak", "regions_peak"),
        row("regions after trim()", "regions_after_trim"),
    ]


def to_text(findings: Findings, *, letters: str = pagemap.SHADES) -> str:
    """Write the findings for people."""
    traffic, chosen = findings.traffic, findings.chosen
    sizes = ", ".join(
        f"{label} {traffic.quantile(part):,}"
        for label, part in (("min", 0), ("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1))
    )
    what = (
        f"{traffic.packets:,} packets, {traffic.bytes:,} bytes in {_seconds(traffic.duration)} s "
        f"({findings.form}); each kept for {_seconds(findings.hold)} s\nsizes: {sizes}"
    )
    titles = ["", "recommended"]
    if len(_columns(findings)) > 1:
        titles.append("defaults")
    titles += ["whole pages (model)", "one bytes each"]
    paragraphs = [
        what,
        "\n".join(f"note: {line}" for line in notes(traffic)),
        render(titles, _rows(findings)),
        _pages(findings, letters),
        f"recommended: {constructor(chosen.settings)}\nbecause {findings.reason}",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def constructor(settings: Settings) -> str:
    """Write *settings* as the calls that a user makes."""
    gro = ", gro=False" if settings.needs_gro_off else ""
    return (
        f"PagePool({settings.page_size}), RxRing(buf_size={settings.buf_size}, "
        f"copybreak={settings.copybreak}, slots={settings.slots}{gro})"
    )


def _pages(findings: Findings, letters: str) -> str:
    pages = findings.pages
    return (
        f"pages when most was held: {pages.fragments_per_page:.1f} fragments a page, "
        f"at most {pages.most_fragments:,}\n"
        f"{pagemap.picture(pages, letters=letters)}\n{pagemap.legend(letters)}"
    )


# --- JSON -------------------------------------------------------------------


def _level(level: Level) -> dict[str, float]:
    return {"peak": level.peak, "mean": level.mean, "end": level.end}


def _settings(settings: Settings) -> dict[str, Any]:
    return {
        "page_size": settings.page_size,
        "buf_size": settings.buf_size,
        "copybreak": settings.copybreak,
        "slots": settings.slots,
        "gro": not settings.needs_gro_off,
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "settings": _settings(result.settings),
        "held_bytes": _level(result.held),
        "live_bytes": _level(result.live),
        "pinned_bytes": {
            "peak": result.pinned_peak,
            "mean": result.pinned_mean,
            "end": result.pinned_end,
        },
        "packets_kept_peak": result.kept_peak,
        "packets_truncated": result.truncated,
        "packets_copied": result.copied,
        "bytes_copied": result.copied_bytes,
        "refills": result.refills,
        "page_reuses": result.reuses,
        "pages_taken": result.pages_taken,
        "regions_peak": result.regions_peak,
        "regions_after_trim": result.regions_after_trim,
    }


def to_json(findings: Findings) -> str:
    """Write the findings for programs; ``docs/replay.md`` explains the keys."""
    traffic, pages = findings.traffic, findings.pages
    letters = pagemap.PLAIN
    return json.dumps(
        {
            "schema": SCHEMA,
            "pagefrag": pagefrag.__version__,
            "capture": {
                "file": findings.file,
                "format": findings.form,
                "packets": traffic.packets,
                "bytes": traffic.bytes,
                "duration_ns": traffic.duration,
                "length": traffic.length,
                "smallest": traffic.quantile(0),
                "median": traffic.quantile(0.5),
                "p90": traffic.quantile(0.9),
                "p99": traffic.quantile(0.99),
                "largest": traffic.largest,
                "cut_by_snap_length": traffic.cut,
                "out_of_order": traffic.disordered,
                "clock_set_back": traffic.set_back,
                "without_time": traffic.untimed,
                "damage": findings.damage,
            },
            "hold_ns": findings.hold,
            "recommended": {**_settings(findings.chosen.settings), "reason": findings.reason},
            "results": [_result(result) for result in findings.results],
            "whole_pages": {"held_bytes": _level(findings.rivals.whole_pages)},
            "bytes_each": {"held_bytes": _level(findings.rivals.bytes_each)},
            "page_map": {
                "page_size": pages.page_size,
                "line": pagemap.LINE,
                "legend": {
                    letters[pagemap.PACKET]: "packet",
                    letters[pagemap.ARMED]: "armed",
                    letters[pagemap.DEAD]: "pinned",
                },
                "fragments_per_page": pages.fragments_per_page,
                "most_fragments": pages.most_fragments,
                "pages_with_fragments": len(pages.pages),
                "free_pages": pages.free_pages,
                "pages": [
                    "".join(letters[line] for line in page)
                    for page in list(pages.pages.values())[:_MOST_PAGES]
                ],
            },
        },
        indent=2,
    )
