"""The ring bench in small: every receiver gets what was sent, whatever it costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

import bench_rings
from rings import arms, heap, race, road

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CARGO", "cargo")) is None, reason="no cargo to build the sender"
)


@pytest.fixture(scope="module")
def program() -> str:
    return road.build()


@pytest.fixture(autouse=True)
def processors() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def bench(program: str) -> Iterator[bench_rings.Bench]:
    bench = bench_rings.Bench(program, bench_rings.TINY)
    with bench.sender:
        yield bench


def test_every_arm_receives_what_was_sent(bench: bench_rings.Bench) -> None:
    bench.rates()
    everybody = {arm.name for arm in bench.everybody()}
    assert len(everybody) >= 12
    for group in ["saturated", "full socket"] if bench.place.has_two else ["full socket"]:
        rows = [row for row in bench.rows if row["group"] == group]
        assert {row["arm"] for row in rows} == everybody
        assert all(min(row["figures"].values()) >= 0 for row in rows)


def test_other_questions_are_answered(bench: bench_rings.Bench) -> None:
    bench.batches()
    bench.one_by_one()
    bench.memory()
    groups = {row["group"] for row in bench.rows}
    assert groups == {
        "batch size",
        "one at a time",
        "kept small packets",
        "idle ring",
        "kept packets",
    }


def test_a_wrong_byte_is_seen(bench: bench_rings.Bench) -> None:
    class Flipping(arms.SocketReceiver):
        def sample(self, expected: int) -> list[bytes]:
            found = super().sample(expected)
            found[-1] = found[-1][:-1] + bytes([found[-1][-1] ^ 1])
            return found

    arm = arms.Arm("flipping", Flipping)
    with pytest.raises(race.WrongPacketsError, match=r"flipping: .* 1 of them wrong"):
        race.drain([arm], bench.sender, bench.cut(1200), 1)


def test_a_missing_packet_is_seen(bench: bench_rings.Bench) -> None:
    class Forgetful(arms.SocketReceiver):
        def sample(self, expected: int) -> list[bytes]:
            return super().sample(expected)[1:]

    with pytest.raises(race.WrongPacketsError, match="packets came, 0 of them wrong"):
        race.drain([arms.Arm("forgetful", Forgetful)], bench.sender, bench.cut(1200), 1)


def test_the_loop_without_python_looks_at_every_byte(bench: bench_rings.Bench) -> None:
    receiver = bench.loop(False).make(1200)
    try:
        sent = bench.sender.burst(receiver.sock, bench.cut(600), 300)
        assert receiver.check(sent) == (sent, sent)
        sent = bench.sender.burst(receiver.sock, bench.cut(1200), 300)
        assert receiver.check(sent) == (sent, 0)
    finally:
        receiver.close()


def test_objects_of_a_batch_are_counted() -> None:
    few, many = heap.objects(8), heap.objects(64)
    assert few >= 1
    assert abs(few - many) < 2
