"""The job: read, replay every setting, choose, show."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pagefrag.progress import progress
from pagefrag.replay import advice, pagemap, plot, report, rivals
from pagefrag.replay.capture import CaptureError, Damaged, open_capture
from pagefrag.replay.ring import Settings, look_at_peak, replay
from pagefrag.replay.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Generator

    from pagefrag.progress import Advance
    from pagefrag.replay.ring import Result

__all__ = ["Job", "find", "main", "read"]

_LONG_FILE = 4 << 20
_LONG_WORK = 200_000
_NEWS = 1_024


@dataclass(frozen=True, slots=True)
class Job:
    """What to replay and how; *hold* in nanoseconds."""

    file: Path
    hold: int = 1_000_000_000
    length: Literal["wire", "captured"] = "wire"
    fixed: advice.Fixed = field(default_factory=advice.Fixed)
    json: bool = False
    plot: Path | None = None


@contextmanager
def _progress(title: str, total: int, *, long: bool) -> Generator[Advance, None, None]:
    """Show progress of what takes long."""
    if long:
        with progress(title, total) as advance:
            yield advance
    else:
        yield lambda _done: None


def read(path: Path, traffic: Traffic) -> tuple[str, str | None]:
    """Read a capture into *traffic*; return its format, and what is wrong with it."""
    with open_capture(path) as capture:
        with _progress("reading", capture.size, long=capture.size >= _LONG_FILE) as advance:
            try:
                for record in capture:
                    traffic.add(record)
                    if not capture.packets % _NEWS:
                        advance(capture.position)
            except Damaged as damage:
                return capture.form, str(damage)
            advance(capture.size)
        return capture.form, None


def _try_all(job: Job, traffic: Traffic) -> list[Result]:
    grid = advice.Grid(traffic, job.fixed)
    results: list[Result] = []
    first = list(grid.first())
    most = len(first) + len(list(grid.second(first[0])))
    total = most * traffic.packets
    with _progress("replaying", total, long=total >= _LONG_WORK) as advance:

        def run(settings: Settings) -> None:
            before = len(results) * traffic.packets
            results.append(replay(traffic, settings, job.hold, lambda done: advance(before + done)))

        for settings in first:
            run(settings)
        allowed = [result for result in results if grid.allows(result.settings)]
        for settings in grid.second(advice.choose(allowed, grid.defaults).settings):
            run(settings)
        advance(total)
    return results


def find(job: Job, form: str, traffic: Traffic, damage: str | None) -> report.Findings:
    """Replay *traffic* with every setting of the grid, and choose."""
    grid = advice.Grid(traffic, job.fixed)
    results = _try_all(job, traffic)
    allowed = [result for result in results if grid.allows(result.settings)]
    chosen = advice.choose(allowed, grid.defaults)
    pages = pagemap.PageMap(chosen.settings.page_size)
    look_at_peak(traffic, chosen, job.hold, pages.look)
    pages.free_pages = max(0, chosen.held.peak // pages.page_size - len(pages.pages))
    return report.Findings(
        file=job.file.name,
        form=form,
        traffic=traffic,
        hold=job.hold,
        results=results,
        chosen=chosen,
        defaults=next(found for found in results if found.settings == grid.defaults),
        reason=advice.reason(chosen, results, grid.defaults),
        rivals=rivals.run(traffic, chosen.settings, job.hold),
        pages=pages,
        damage=damage,
    )


def _letters() -> str:
    """Return the letters of pictures that the terminal can show."""
    try:
        pagemap.SHADES.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return pagemap.PLAIN
    return pagemap.SHADES


def _complain(what: str) -> None:
    print(f"pagefrag: {' '.join(what.split())}", file=sys.stderr)


def main(job: Job) -> int:
    """Replay, print, and return the exit status."""
    with Traffic(job.length) as traffic:
        try:
            form, damage = read(job.file, traffic)
        except CaptureError as error:
            _complain(f"{job.file}: {error}")
            return 2
        if not traffic.packets:
            _complain(f"{job.file}: {damage or 'the capture has no packets'}")
            return 1 if damage else 2
        findings = find(job, form, traffic, damage)
    if job.json:
        print(report.to_json(findings))
    else:
        print(report.to_text(findings, letters=_letters()))
    sys.stdout.flush()
    return _afterwards(job, findings)


def _afterwards(job: Job, findings: report.Findings) -> int:
    status = 0
    if findings.damage:
        counted = f"the {findings.traffic.packets:,} packets before it count"
        _complain(f"{job.file}: {findings.damage}; {counted}")
        status = 1
    if job.plot:
        try:
            plot.draw(findings, job.plot)
        except OSError as error:
            _complain(f"cannot write {job.plot}: {error.strerror or error}")
            status = 1
    return status
