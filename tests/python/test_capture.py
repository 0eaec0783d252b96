"""Reading captures: every variant tells the same, and what is damaged is told by its number."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from captures import (
    SECOND,
    Interface,
    Packet,
    block,
    classic,
    classic_header,
    classic_record,
    enhanced,
    obsolete,
    pcapng,
    replayed,
    section,
    simple,
    traffic_of,
)
from pagefrag.replay import capture
from pagefrag.replay import traffic as traffic_file
from pagefrag.replay.capture import CaptureError, Damaged, Record, open_capture
from pagefrag.replay.traffic import Traffic

TICK = SECOND // 64  # told exactly in micro- and nanoseconds, and in parts of two
START = 1_700_000_000 * SECOND
SIZES = (60, 1514, 576, 1, 9000, 0)
PACKETS = [
    Packet(START + index * index * TICK, size, min(size, 200)) for index, size in enumerate(SIZES)
]
RECORDS = [Record(packet.time, len(packet.data), packet.wire) for packet in PACKETS]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        file = tmp_path / "file.pcap"
        file.write_bytes(data)
        return file

    return write


def records(path: Path) -> tuple[list[Record], str | None]:
    """Return what can be read of *path*, and what is wrong with the rest."""
    found = []
    with open_capture(path) as capture:
        try:
            found.extend(capture)
        except Damaged as damage:
            # `extend` keeps what it took in before.
            assert len(found) == capture.packets
            return found, str(damage)
        assert capture.position == capture.size
        return found, None


VARIANTS = {
    "pcap <us": classic(PACKETS, "<"),
    "pcap >us": classic(PACKETS, ">"),
    "pcap <ns": classic(PACKETS, "<", nano=True),
    "pcap >ns": classic(PACKETS, ">", nano=True),
    "pcapng <": pcapng(PACKETS, "<"),
    "pcapng >": pcapng(PACKETS, ">"),
    "pcapng <ns": pcapng(PACKETS, "<", [Interface(9)]),
    "pcapng >ns": pcapng(PACKETS, ">", [Interface(9)]),
    "pcapng 1/64 s": pcapng(PACKETS, "<", [Interface(0x80 | 6)]),
    "pcapng offset": pcapng(PACKETS, ">", [Interface(6, offset=1_600_000_000)]),
    "pcapng before 1970": pcapng(PACKETS, "<", [Interface(9, offset=-500)]),
}


@pytest.mark.parametrize("data", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_tells_the_same(data: bytes, written: Callable[[bytes], Path]) -> None:
    assert records(written(data)) == (RECORDS, None)


def test_interfaces_with_clocks_of_their_own_keep_the_order(
    written: Callable[[bytes], Path],
) -> None:
    clocks = [Interface(3), Interface(9), Interface(None), Interface(0x80 | 10)]
    packets = [Packet(START + index * SECOND // 8, 100, None, index % 4) for index in range(40)]
    found, damage = records(written(pcapng(packets, "<", clocks)))
    assert damage is None
    assert [record.time for record in found] == [packet.time for packet in packets]
    with traffic_of(packets) as traffic:
        assert traffic.disordered == 0
        assert traffic.duration == 39 * SECOND // 8


def test_a_new_section_has_interfaces_and_byte_order_of_its_own(
    written: Callable[[bytes], Path],
) -> None:
    first = pcapng(PACKETS[:3], "<", [Interface(9), Interface(3)])
    second = pcapng(PACKETS[3:], ">", [Interface(6)])
    assert records(written(first + second)) == (RECORDS, None)


def test_other_blocks_and_comments_are_passed_over(written: Callable[[bytes], Path]) -> None:
    clock = Interface(9)
    names = block(4, bytes(4))
    unknown = block(0xBAD, b"whatever this is")
    packets = [enhanced(packet, clock, comment=b"\x87 not UTF-8") for packet in PACKETS]
    data = section() + clock.block() + names + unknown + unknown.join(packets) + names
    assert records(written(data)) == (RECORDS, None)


def test_old_and_simple_packet_blocks_count(written: Callable[[bytes], Path]) -> None:
    clock = Interface(9, snap=96)
    data = section() + clock.block() + simple(60, 60) + obsolete(PACKETS[1], clock)
    found, damage = records(written(data + simple(1500, 96)))
    assert damage is None
    assert found == [Record(None, 60, 60), RECORDS[1], Record(None, 96, 1500)]


# --- what is wrong with a file ----------------------------------------------


def whole_records(variant: str) -> tuple[bytes, list[int]]:
    """Return a small capture, and where each of its packets ends."""
    clock = Interface(9)
    if variant == "pcap":
        start = classic_header()
        parts = [classic_record(packet) for packet in PACKETS]
    else:
        start = section() + clock.block()
        parts = [enhanced(packet, clock) for packet in PACKETS]
    ends = [len(start) + sum(map(len, parts[: index + 1])) for index in range(len(parts))]
    return start + b"".join(parts), ends


@pytest.mark.parametrize("variant", ["pcap", "pcapng"])
def test_a_file_that_is_cut_anywhere_tells_what_came_before(
    variant: str, written: Callable[[bytes], Path]
) -> None:
    data, ends = whole_records(variant)
    first = 24 if variant == "pcap" else len(section() + Interface(9).block())
    for length in range(first, len(data) + 1):
        found, damage = records(written(data[:length]))
        count = sum(end <= length for end in ends)
        assert found == RECORDS[:count]
        if length in {first, *ends}:
            assert damage is None
        else:
            assert damage is not None
            assert damage.startswith(f"packet {count + 1} ")
            assert "cut off" in damage


@pytest.mark.parametrize("claim", [262_145, 4_325_376, 0xFFFFFFFF])
def test_a_record_that_claims_too_much_is_not_believed(
    claim: int, written: Callable[[bytes], Path]
) -> None:
    data = classic(PACKETS[:4]) + struct.pack("<IIII", 1, 1, claim, 60) + bytes(60)
    found, damage = records(written(data))
    assert found == RECORDS[:4]
    assert damage is not None
    assert damage.startswith("packet 5 ")
    assert f"{claim:,}" in damage


BAD_BLOCKS = {
    "an unknown interface": enhanced(Packet(START, 60, None, 7), Interface(9)),
    "more bytes than its block": block(6, struct.pack("<IIIII", 0, 0, 0, 5000, 5000) + bytes(8)),
    "a block too small": block(6, bytes(8)),
    "a block of no length": struct.pack("<III", 6, 0, 0),
    "lengths that differ": struct.pack("<III", 6, 32, 0) + bytes(16) + struct.pack("<I", 36),
    "a block longer than the file": struct.pack("<III", 6, 0x7FFFFFFC, 0),
    "a section without an order": struct.pack("<III", 0x0A0D0D0A, 28, 5) + bytes(16),
}


@pytest.mark.parametrize("bad", BAD_BLOCKS.values(), ids=BAD_BLOCKS.keys())
def test_a_block_without_sense_ends_the_capture(
    bad: bytes, written: Callable[[bytes], Path]
) -> None:
    good = pcapng(PACKETS[:4], "<", [Interface(9)])
    found, damage = records(written(good + bad + bytes(64)))
    assert found == RECORDS[:4]
    assert damage is not None
    assert damage.startswith("packet 5 ")


@pytest.mark.parametrize("variant", ["pcap", "pcapng"])
def test_no_damage_is_an_error_of_another_kind(
    variant: str, written: Callable[[bytes], Path]
) -> None:
    data, _ = whole_records(variant)
    dice = random.Random(variant)
    damaged = 0
    for _ in range(400):
        bent = bytearray(data)
        for _ in range(dice.randrange(1, 6)):
            bent[dice.randrange(4, len(bent))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
        try:
            _, damage = records(written(bytes(bent)))
        except CaptureError:
            damage = "no capture"
        damaged += damage is not None
    assert damaged > 20


NO_CAPTURES = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is no capture at all", "not a capture"),
    "three bytes": (b"\xd4\xc3\xb2", "not a capture"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "compressed with gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(30), "compressed with zstd"),
    "xz": (b"\xfd7zXZ\x00" + bytes(30), "compressed with xz"),
    "bzip2": (b"BZh91AY" + bytes(30), "compressed with bzip2"),
    "half a header": (classic_header()[:20], "ends within its header"),
    "another version": (struct.pack("<IHHiIII", 0xA1B2C3D4, 9, 4, 0, 0, 1, 1), "version 9"),
}


@pytest.mark.parametrize(("data", "why"), NO_CAPTURES.values(), ids=NO_CAPTURES.keys())
def test_what_is_no_capture_is_refused(
    data: bytes, why: str, written: Callable[[bytes], Path]
) -> None:
    with pytest.raises(CaptureError, match=why):
        records(written(data))


def test_only_a_file_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, why in ((tmp_path, "regular"), (pipe, "regular"), (tmp_path / "no", "No such file")):
        with pytest.raises(CaptureError, match=why):
            records(path)


# --- what is replayed of it -------------------------------------------------


def test_the_length_on_the_wire_counts_unless_asked_otherwise() -> None:
    with traffic_of(PACKETS) as wire, traffic_of(PACKETS, "captured") as captured:
        assert [size for _, size in replayed(wire)] == list(SIZES)
        assert [size for _, size in replayed(captured)] == [min(size, 200) for size in SIZES]
        assert wire.cut == captured.cut == 3


def test_a_wire_length_below_the_captured_one_is_not_believed() -> None:
    with Traffic() as traffic:
        traffic.add(Record(0, 500, 60))
        assert (replayed(traffic), traffic.cut) == ([(0, 500)], 0)


def test_time_only_goes_forward() -> None:
    moments = [100, 200, 150, 210, 60, 90, 100]  # hundredths of a second; 60 is a clock set back
    with traffic_of([Packet(moment * SECOND // 100, 60) for moment in moments]) as traffic:
        steps = [step * 100 // SECOND for step, _ in replayed(traffic)]
        assert steps == [0, 100, 0, 10, 0, 30, 10]
        assert (traffic.disordered, traffic.set_back) == (2, 1)


def test_a_packet_without_a_time_comes_with_the_one_before() -> None:
    with Traffic() as traffic:
        for time in (None, 5, None, 9):
            traffic.add(Record(time, 60, 60))
        assert [step for step, _ in replayed(traffic)] == [0, 0, 0, 4]
        assert traffic.untimed == 2


def test_a_nonsense_clock_does_no_harm() -> None:
    times = (0, 1 << 90, 5, 6)
    with traffic_of([Packet(time, 60) for time in times]) as traffic:
        assert [step for step, _ in replayed(traffic)] == [0, (1 << 63) - 1, 0, 1]


def test_packets_beyond_memory_are_replayed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    packets = [Packet(index * 7, index % 1500) for index in range(20_000)]
    with traffic_of(packets) as in_memory:
        monkeypatch.setattr(traffic_file, "_IN_MEMORY", 1)
        with traffic_of(packets) as on_disk:
            for _ in range(2):  # as often as one likes
                assert replayed(on_disk) == replayed(in_memory)
            assert len(replayed(on_disk)) == 20_000


def test_quantiles_are_nearest_ranks() -> None:
    with traffic_of([Packet(0, size) for size in (10, 20, 30, 40, 1000)]) as traffic:
        found = [traffic.quantile(part) for part in (0, 0.2, 0.5, 0.8, 0.81, 1)]
        assert found == [10, 10, 30, 40, 1000, 1000]
        assert (traffic.largest, traffic.bytes) == (1000, 1100)


class Worn(io.BytesIO):
    """A disk that cannot be read from some byte on."""

    def __init__(self, data: bytes, bad: int) -> None:
        super().__init__(data)
        self._bad = bad

    def read(self, count: int | None = -1) -> bytes:
        if self.tell() >= self._bad:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(count)


@pytest.mark.parametrize("data", [classic(PACKETS), pcapng(PACKETS)], ids=["pcap", "pcapng"])
def test_a_disk_that_fails_is_told_with_the_packet(data: bytes) -> None:
    opened = capture._capture(Worn(data, len(data) // 2), len(data))
    found = []
    with pytest.raises(Damaged, match="cannot be read: Input/output error") as told:
        found.extend(opened)
    assert 0 < len(found) < len(PACKETS)
    assert str(told.value).startswith(f"packet {len(found) + 1} ")


def test_a_file_that_cannot_be_read_at_all_is_no_capture() -> None:
    with (
        pytest.raises(CaptureError, match="Input/output error"),
        open_capture(Path("/proc/self/mem")),
    ):
        pass
