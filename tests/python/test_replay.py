"""A replay: against arithmetic, against a real ring, and as a command."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

import pagefrag
from captures import SECOND, Packet, classic, classic_header, pcapng, steady, traffic_of
from pagefrag.replay import advice, pagemap, rivals
from pagefrag.replay.ring import Level, Result, Settings, look_at_peak, replay
from pagefrag.replay.traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
MS = 1_000_000
PAGE = 32_768
PATIENCE = 60.0


def lines(size: int) -> int:
    return -(-max(size, 1) // 64) * 64


# --- known answers ----------------------------------------------------------


def test_packets_of_one_size_are_exact() -> None:
    """1,000 packets of 1,500 bytes, one a millisecond, each kept for 100: 100 are alive."""
    with traffic_of(steady(1_000, 1_500, MS)) as traffic:
        found = replay(traffic, Settings(), 100 * MS)
    armed = 63 * 2_048  # the 64th has just become the packet
    assert (found.packets, found.kept_peak, found.copied, found.truncated) == (1_000, 100, 0, 0)
    assert found.live.peak == found.live.end == armed + 100 * 1_536
    alive = [min(index + 1, 100) for index in range(999)]  # between packet and packet
    assert found.live.area == MS * (999 * armed + 1_536 * sum(alive))
    assert found.held.peak % PAGE == 0
    assert found.held.peak >= found.live.peak + 2_048
    assert found.regions_peak == 1
    assert found.regions_after_trim == 0


def test_copied_packets_are_exact() -> None:
    with traffic_of(steady(500, 100, MS)) as traffic:
        found = replay(traffic, Settings(), 10 * MS)
    assert (found.copied, found.copied_bytes) == (500, 500 * 100)
    assert found.live.peak == 64 * 2_048 + 10 * 128  # the buffers stay armed
    assert found.held.peak == 5 * PAGE  # 64 buffers on four pages, the packets on a fifth
    assert found.held.mean == 5 * PAGE


def test_what_is_dropped_at_once_leaves_the_armed_buffers() -> None:
    with traffic_of(steady(500, 1_000, MS)) as traffic:
        found = replay(traffic, Settings(copybreak=256), 0)
    assert found.live.peak == 63 * 2_048 + 1_024
    assert found.live.end == 63 * 2_048
    assert found.kept_peak == 0


def test_a_packet_longer_than_its_buffer_is_cut() -> None:
    with traffic_of([Packet(0, 1_500), Packet(1, 1_000), Packet(2, 0)]) as traffic:
        found = replay(traffic, Settings(buf_size=1_024, copybreak=0), SECOND)
    assert (found.truncated, found.copied) == (1, 1)
    assert found.live.end == 64 * 1_024 + 2 * 1_024 + 64


def test_held_is_what_the_pool_says_at_every_setting() -> None:
    """The figures that are kept up to date beside those that the cache counts."""
    dice = random.Random(5)
    packets = [Packet(index * MS, dice.choice((60, 60, 576, 1_500))) for index in range(3_000)]
    seen: list[tuple[int, int]] = []

    def look(kept: Any, armed: Any) -> None:
        alive = [*kept, *armed]
        seen.append((sum(frag.capacity for frag in alive), len({frag.page for frag in alive})))

    with traffic_of(packets) as traffic:
        for settings in (Settings(), Settings(4_096, 1_536, 0), Settings(1 << 20, 2_048, 600, 8)):
            found = replay(traffic, settings, 50 * MS)
            look_at_peak(traffic, found, 50 * MS, look)
            live, pages = seen[-1]
            assert live <= found.live.peak <= found.held.peak
            assert pages * settings.page_size <= found.held.peak
            assert found.pinned_mean == found.held.mean - found.live.mean


# --- beside a real ring -----------------------------------------------------


class Places:
    """Names pages by the order in which they are met, so that two pools can be compared."""

    def __init__(self) -> None:
        self._names: dict[int, int] = {}

    def of(self, frag: pagefrag.Fragment) -> tuple[int, int, int]:
        name = self._names.setdefault(frag.page, len(self._names))
        return name, frag.offset, frag.capacity


@pytest.mark.parametrize("settings", [Settings(slots=8), Settings(4_096, 1_536, 0, 16)])
@pytest.mark.parametrize("window", [1, 40])
def test_fragments_lie_where_a_ring_puts_them(settings: Settings, window: int) -> None:
    """The same sizes through a socket and a ring: page for page, offset for offset."""
    dice = random.Random(window)
    sizes = [dice.choice((1, 64, 200, 700, 1_500, 1_500, 5_000)) for _ in range(1_500)]
    pool = pagefrag.PagePool(settings.page_size)
    cache = pagefrag.PageFragCache(pool)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kept: deque[pagefrag.Fragment] = deque()
    ring = pagefrag.RxRing(
        ours,
        slots=settings.slots,
        buf_size=settings.buf_size,
        copybreak=settings.copybreak,
        cache=cache,
    )
    with ours, theirs, ring:
        for size in sizes:
            while len(kept) >= window:
                kept.popleft()
            theirs.send(bytes(size))
            with ring.recv(timeout=0) as batch:
                kept.append(batch[0])
        real = Places()
        expected = [real.of(frag) for frag in kept]
        held = cache.stats().held_bytes

    got: list[tuple[int, int, int]] = []

    def look(fragments: Any, _armed: Any) -> None:
        places = Places()
        got.extend(places.of(frag) for frag in fragments)

    with traffic_of([Packet(index, size) for index, size in enumerate(sizes)]) as traffic:
        result = replay(traffic, settings, window)
        assert result.held.end == held
        result.peak_packet = len(sizes)
        look_at_peak(traffic, result, window, look)
    assert got == expected


# --- the other schemes ------------------------------------------------------


class Naive:
    """Whole-page reuse once more, with a set of living fragments for each page."""

    def __init__(self, page_size: int) -> None:
        self.page_size, self.offset = page_size, page_size
        self.pages: list[set[int]] = []
        self.count = 0

    def alloc(self, size: int) -> tuple[int, int]:
        if self.offset + lines(size) > self.page_size:
            if not self.pages or self.pages[-1]:
                self.pages.append(set())
            self.offset = 0
        self.offset += lines(size)
        self.count += 1
        self.pages[-1].add(self.count)
        return len(self.pages) - 1, self.count

    @property
    def held(self) -> int:
        used = sum(bool(page) for page in self.pages[:-1]) + bool(self.pages)
        return used * self.page_size


def test_whole_page_reuse_is_as_a_naive_twin_says() -> None:
    dice = random.Random(3)
    pages, twin = rivals.WholePages(4_096), Naive(4_096)
    alive: list[tuple[int, tuple[int, int]]] = []
    for _ in range(5_000):
        if alive and dice.random() < 0.5:
            page, (number, name) = alive.pop(dice.randrange(len(alive)))
            pages.free(page)
            twin.pages[number].discard(name)
        else:
            size = dice.randrange(1, 4_097)
            alive.append((pages.alloc(size), twin.alloc(size)))
        assert pages.held == twin.held


def test_the_other_schemes_are_exact() -> None:
    with traffic_of(steady(1_000, 1_500, MS)) as traffic:
        found = rivals.run(traffic, Settings(), 100 * MS)
        assert found.bytes_each.peak == 100 * sys.getsizeof(bytes(1_500))
        kept_all = rivals.run(traffic, Settings(), 10_000 * MS)
    assert kept_all.whole_pages.peak == -(-(64 + 999) * 2_048 // PAGE) * PAGE


def test_a_level_is_its_mean_over_time() -> None:
    level = Level()
    level.move(10)
    level.stay(3)
    level.move(40)
    level.stay(4)
    level.move(0)
    assert (level.peak, level.mean, level.end) == (40, (3 * 10 + 40) / 4, 0)
    assert Level(end=7).mean == 7


# --- advice -----------------------------------------------------------------


def result(settings: Settings, held: int, **more: Any) -> Result:
    return Result(settings, held=Level(peak=held, end=held), **more)


DEFAULTS, OTHER, THIRD = Settings(), Settings(65_536), Settings(4_096)


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([result(DEFAULTS, 100), result(OTHER, 50)], OTHER),
        ([result(DEFAULTS, 100), result(OTHER, 95)], DEFAULTS),
        ([result(DEFAULTS, 50, truncated=1), result(OTHER, 100)], OTHER),
        ([result(DEFAULTS, 200), result(OTHER, 100, copied_bytes=5), result(THIRD, 105)], THIRD),
        ([result(DEFAULTS, 200), result(OTHER, 100, refills=5), result(THIRD, 105)], THIRD),
        ([result(DEFAULTS, 200), result(OTHER, 100, refills=5), result(THIRD, 115)], OTHER),
    ],
)
def test_the_recommendation_follows_its_rule(results: list[Result], best: Settings) -> None:
    chosen = advice.choose(results, DEFAULTS)
    assert chosen.settings == best
    assert advice.reason(chosen, results, DEFAULTS)


@pytest.mark.parametrize(
    ("chosen", "others", "why"),
    [
        (result(DEFAULTS, 100), [result(OTHER, 95)], "the defaults suit"),
        (result(OTHER, 100), [result(THIRD, 200)], "least at its peak of what was tried"),
        (
            result(OTHER, 100),
            [result(DEFAULTS, 90, truncated=7)],
            "the defaults would cut 7 packets more",
        ),
        (result(OTHER, 100), [result(DEFAULTS, 90)], "of what was allowed it holds least"),
        (result(OTHER, 50), [result(DEFAULTS, 100)], "it holds 50% less than the defaults"),
        (
            result(OTHER, 50, copied_bytes=10),
            [result(DEFAULTS, 100)],
            "at its peak, and copies 10 bytes more",
        ),
        (
            result(OTHER, 50),
            [result(DEFAULTS, 100, copied_bytes=10)],
            "at its peak, and copies 10 bytes less",
        ),
    ],
)
def test_the_reason_says_what_is_better(chosen: Result, others: list[Result], why: str) -> None:
    assert why in advice.reason(chosen, [*others, chosen], DEFAULTS)


def test_packets_that_all_go_at_once_are_sampled_now_and_then() -> None:
    start = steady(1, 64, 0)[0].time
    packets = [*steady(10_000, 64, 0), Packet(start + 2, 64)]
    with traffic_of(packets) as traffic:
        found = replay(traffic, Settings(copybreak=0), 1)
    assert (found.packets, found.kept_peak) == (10_001, 10_000)
    assert 1_000 < len(found.samples) <= 4_096
    times = [time for time, _, _ in found.samples]
    assert times == sorted(times)
    assert times[-1] == 2


@pytest.mark.parametrize(
    ("size", "buffers"),
    [
        (60, {64, 2_048}),
        (1_514, {1_536, 2_048}),
        (2_048, {2_048}),
        (9_000, {9_024, 16_384}),
        (70_000, {70_016}),
        (5_000_000, {1 << 20}),
    ],
)
def test_buffers_follow_from_the_sizes(size: int, buffers: set[int]) -> None:
    with traffic_of(steady(10, 60, MS)) as traffic:
        traffic.sizes[size] += 1
        tried = [one for one in advice.Grid(traffic, advice.Fixed()).first() if one != DEFAULTS]
    assert {one.buf_size for one in tried} | {2_048} == buffers | {2_048}
    assert all(one.page_size >= one.buf_size for one in tried)


def test_what_is_decided_is_not_tried_otherwise() -> None:
    fixed = advice.Fixed(page_size=4_096, copybreak=100)
    with traffic_of([Packet(0, 9_000), Packet(1, 60)]) as traffic:
        grid = advice.Grid(traffic, fixed)
        first, *others = grid.first()
        assert first == grid.defaults
        assert others
        assert all(map(grid.allows, others))
        assert not list(grid.second(others[0]))


# --- the picture ------------------------------------------------------------


def test_the_map_is_the_fragments_that_are_alive() -> None:
    cache = pagefrag.PageFragCache(pagefrag.PagePool(4_096))
    frags = [cache.alloc(64 * count) for count in (1, 2, 3, 4)]
    del frags[1]
    pages = pagemap.PageMap(4_096)
    pages.look(frags[:2], frags[2:])
    (page,) = pages.pages.values()
    dead, armed, packet = pagemap.DEAD, pagemap.ARMED, pagemap.PACKET
    assert list(page) == [packet, dead, dead, *[packet] * 3, *[armed] * 4, *[dead] * 54]
    assert (pages.fragments_per_page, pages.most_fragments) == (3.0, 3)
    drawn = pagemap.picture(pages, letters=pagemap.PLAIN).splitlines()
    assert drawn[0] == "#--###++++" + "-" * 54


def test_a_picture_leaves_out_and_says_so() -> None:
    pages = pagemap.PageMap(4_096, {number: bytearray(64) for number in range(100)}, free_pages=3)
    drawn = pagemap.picture(pages, rows=5).splitlines()
    assert len(drawn) == 7
    assert drawn[5].endswith("3 such")
    assert drawn[6].startswith("5 of 100 pages")


# --- the command ------------------------------------------------------------

COMMAND = [sys.executable, "-m", "pagefrag", "replay"]


def replay_says(
    *words: str | Path, command: list[str] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(command or COMMAND), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    file = tmp_path / "capture.pcap"
    dice = random.Random(1)
    packets = [Packet(index * MS, dice.choice((60, 200, 1_514))) for index in range(2_000)]
    file.write_bytes(classic(packets))
    return file


def test_the_command_recommends_and_shows(capture: Path) -> None:
    done = replay_says(capture, "--hold", "50ms")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2,000 packets" in done.stdout
    assert "each kept for 0.05 s" in done.stdout
    for word in ("held bytes, peak", "regions after trim()", "whole pages (model)", "█", "because"):
        assert word in done.stdout
    settings = re.search(r"^recommended: (.*)$", done.stdout, re.MULTILINE)
    assert settings is not None
    # The recommendation is Python that works.
    for call in settings[1].split(", RxRing(")[:1]:
        assert eval(call, vars(pagefrag).copy()).page_size  # noqa: S307 - our own output


def test_json_has_the_keys_that_are_documented(capture: Path) -> None:
    done = replay_says(capture, "--hold", "50ms", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    assert found["capture"]["packets"] == 2_000
    assert found["hold_ns"] == 50 * MS
    page = (ROOT / "docs/howto/replay.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([\w.\[\]]+)`", page, re.MULTILINE))

    def keys(thing: Any, name: str = "") -> set[str]:
        if isinstance(thing, list):
            thing = thing[0]
            name += "[]"
        if not isinstance(thing, dict) or name.endswith("legend"):
            return {name}
        inner = [keys(value, f"{name}.{key}".lstrip(".")) for key, value in thing.items()]
        return set().union(*inner)

    assert documented == keys(found)


def test_the_figures_of_json_are_those_of_the_replay(tmp_path: Path) -> None:
    file = tmp_path / "steady.pcapng"
    file.write_bytes(pcapng(steady(1_000, 1_500, MS)))
    words = ["--page-size", PAGE, "--buffer", 2_048, "--copybreak", 1_024, "--hold", "100ms"]
    done = replay_says(file, "--json", *map(str, words))
    (only,) = json.loads(done.stdout)["results"]
    assert only["live_bytes"]["peak"] == 63 * 2_048 + 100 * 1_536
    assert only["regions_after_trim"] == 0


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


DAMAGED = {
    "cut": (classic(steady(9, 100, MS)) + bytes(5), "packet 10 is cut off", "9 packets"),
    "corrupt": (classic(steady(3, 100, MS)) + b"\xff" * 40, "packet 4 makes no sense", "3 packets"),
    "pcapng cut": (pcapng(steady(4, 100, MS))[:-9], "packet 4 is cut off", "3 packets"),
}


@pytest.mark.parametrize(("data", "why", "counted"), DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_damaged_capture_counts_up_to_there_and_fails(
    data: bytes, why: str, counted: str, form: str, tmp_path: Path
) -> None:
    file = tmp_path / "damaged.pcap"
    file.write_bytes(data)
    done = replay_says(file, *(["--json"] if form == "json" else []))
    assert done.returncode == 1
    told = one_line(done)
    assert why in told
    assert counted in told
    if form == "json":
        assert f"{json.loads(done.stdout)['capture']['packets']} packets" == counted
    else:
        assert done.stdout.startswith(counted)


REFUSED = {
    "empty": (b"", "empty", 2),
    "no packets": (classic_header(), "no packets", 2),
    "no packets in pcapng": (pcapng([]), "no packets", 2),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "compressed with gzip", 2),
    "text": (b"not a capture, not at all", "not a capture", 2),
    "bad from the start": (classic_header() + bytes(3), "packet 1 is cut off", 1),
}


@pytest.mark.parametrize(("data", "why", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_packets_is_one_line(
    data: bytes, why: str, status: int, tmp_path: Path
) -> None:
    file = tmp_path / "odd\nname.pcap"
    file.write_bytes(data)
    done = replay_says(file)
    assert (done.returncode, done.stdout) == (status, "")
    assert why in one_line(done)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "FILE --hold",
        "FILE --hold 1",
        "FILE --hold -1s",
        "FILE --hold 1h",
        "FILE --hold 1e3s",
        f"FILE --hold {'9' * 5000}s",
        "FILE --length both",
        "FILE --page-size 5000",
        "FILE --buffer 0",
        "FILE --buffer 9000 --page-size 4096",
        "FILE --copybreak -1",
        "FILE --slots 0",
        "FILE --slots 1025",
        "FILE --plot picture.gif",
        "FILE --plot",
        "FILE more",
        "no-such-file",
        ".",
    ],
)
def test_bad_words_are_status_2_and_one_line(words: str, capture: Path) -> None:
    done = replay_says(*(str(capture) if word == "FILE" else word for word in words.split()))
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", "0"), ("2.5ms", "0.0025"), ("20us", "0.00002")]
)
def test_times_are_read(text: str, seconds: str, capture: Path) -> None:
    done = replay_says(capture, "--hold", text)
    assert done.returncode == 0
    assert f"each kept for {seconds} s" in done.stdout


@pytest.mark.parametrize(("form", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_plot_is_drawn(form: str, start: bytes, capture: Path, tmp_path: Path) -> None:
    plot = tmp_path / f"plot.{form}"
    done = replay_says(capture, "--plot", plot)
    assert (done.returncode, done.stderr) == (0, "")
    assert plot.read_bytes().startswith(start)


def test_a_plot_that_cannot_be_written_fails_after_the_result(
    capture: Path, tmp_path: Path
) -> None:
    done = replay_says(capture, "--plot", tmp_path / "no such folder" / "plot.svg")
    assert done.returncode == 1
    assert "recommended:" in done.stdout
    assert "cannot write" in one_line(done)


@pytest.mark.parametrize(
    ("module", "extra", "form"),
    [
        ("dpkt", "replay", "pcap"),
        ("pcapng", "replay", "pcapng"),
        ("matplotlib", "plot", "pcap"),
    ],
)
def test_a_missing_extra_is_named(module: str, extra: str, form: str, tmp_path: Path) -> None:
    file = tmp_path / "capture"
    file.write_bytes((pcapng if form == "pcapng" else classic)(steady(3, 60, MS)))
    without = f"import sys; sys.modules[{module!r}] = None; from pagefrag.cli import run; run()"
    command = [sys.executable, "-c", without, "replay"]
    done = replay_says(file, "--plot", tmp_path / "plot.svg", command=command)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pagefrag[{extra}]" in one_line(done)


def test_defaults_that_are_recommended_are_shown_once(capture: Path) -> None:
    given = ("--page-size", "32768", "--buffer", "2048", "--copybreak", "1024", "--slots", "64")
    done = replay_says(capture, *given)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +recommended  whole pages", done.stdout, re.MULTILINE)
    assert "defaults  " not in done.stdout


def test_a_terminal_without_blocks_gets_letters(capture: Path) -> None:
    done = replay_says(capture, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "# packet" in done.stdout


def test_a_long_capture_shows_how_far_it_is(tmp_path: Path) -> None:
    file = tmp_path / "long.pcap"
    file.write_bytes(classic(steady(60_000, 60, MS)))
    done = replay_says(file, "--page-size", "32768", "--hold", "10ms")
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["reading " + "." * 40, "replaying " + "." * 40]


def test_disorder_is_told(tmp_path: Path) -> None:
    file = tmp_path / "disorder.pcap"
    file.write_bytes(classic([Packet(second * SECOND, 60) for second in (9, 3, 4)]))
    done = replay_says(file)
    assert done.returncode == 0
    assert "note: packets older than one before: they come at the same time: 1" in done.stdout


def snippets() -> list[str]:
    text = (ROOT / "docs/howto/replay.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_shell_of_the_how_to_runs(capture: Path) -> None:
    assert snippets()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for snippet in snippets():
        if "pip install" in snippet:
            continue  # what it installs is here already
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", snippet],
            cwd=capture.parent,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, snippet + done.stderr


def test_nothing_of_it_is_imported_without_need() -> None:
    code = "import pagefrag.cli, sys; print({'dpkt', 'pcapng', 'matplotlib'} & {*sys.modules})"
    done = replay_says(command=[sys.executable, "-c", code])
    assert done.stdout == "set()\n"


def test_a_traffic_of_nothing_has_no_chunks() -> None:
    with Traffic() as traffic:
        assert list(traffic.chunks()) == []
