"""What does a received packet cost, against everybody else who receives UDP in Python? (R9 - R11)

``make bench-rings`` takes under four minutes, ``make bench-rings ARGS=--quick`` one. All
receivers of a table get the same packets in the same run, in turns, and look at every packet; what
each of them receives is compared with what was sent before it takes part. The sender is a program
without Python on another processor (``benches/traffic``).

GSO, sendfile: the kernel cuts the packets out of pages that it is lent, so that the sender stays
faster than every receiver; "drops" says that it was, and ">" before a rate that it was not. GSO,
sendmmsg: the sender copies, and is no faster than a receiver that does. One by one: a system call
carries many, the network none.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pagefrag
import record
from rings import heap
from rings.arms import (
    READ_AS,
    Arm,
    asyncio_arm,
    loop_arm,
    ring_arm,
    socket_arm,
    uvloop_arm,
)
from rings.memory import alone, idle_ring, kept_packets, kept_small
from rings.race import Drained, Saturated, drain, saturate
from rings.road import Packets, Place, Sender, build

SIZES = (64, 512, 1200, 1472)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
JOINING_SLOTS, SLOTS = 4, 64
"""Messages of one call of the loop without Python: what was fastest of 1 to 256."""


@dataclass(frozen=True)
class Effort:
    """How long and how often."""

    seconds: float = 0.8
    rounds: int = 5
    drains: int = 11
    rings: int = 200
    keep: int = 10_000


QUICK = Effort(seconds=0.1, rounds=3, drains=5, rings=50, keep=2_000)
TINY = Effort(seconds=0.02, rounds=1, drains=1, rings=4, keep=500)


class Bench:
    """Asks the questions, prints the answers and keeps them."""

    def __init__(self, program: str, effort: Effort) -> None:
        """Look at the machine."""
        self.place = Place.here()
        self.effort = effort
        self.rows: list[record.Row] = []
        self.sender = Sender(program, self.place)
        self._program = program

    def cut(self, size: int, lent: bool = True) -> Packets:
        """Return packets that the kernel cuts, as far as it can here."""
        return Packets(size, cut=self.place.gso, lent=lent and self.place.lends)

    def ring(self, read_as: str, gro: bool, most: int = 256) -> Arm:
        """Return an arm of ours."""
        return ring_arm(read_as, gro, most)

    def loop(self, gro: bool) -> Arm:
        """Return the arm without Python."""
        slots = JOINING_SLOTS if gro else SLOTS
        return loop_arm(self._program, self.place, slots, gro)

    def everybody(self) -> list[Arm]:
        """Return all arms."""
        arms = [socket_arm(name) for name in ("recv", "recv_into", "recvfrom")]
        arms += [asyncio_arm(from_heap) for from_heap in (False, True)]
        if (fast := uvloop_arm()) is not None:
            arms.append(fast)
        for gro in (False, True):
            arms += [self.ring(read_as, gro) for read_as in READ_AS]
            arms.append(self.loop(gro))
        return arms

    def few(self) -> list[Arm]:
        """Return the arms that a size is asked with."""
        ours = [self.ring("arrays", gro) for gro in (False, True)]
        return [socket_arm("recv"), *ours, self.loop(False), self.loop(True)]

    # --- the questions -------------------------------------------------------

    def rates(self) -> None:
        """R9 and R10, and the same with other senders."""
        for lent in (True, False):
            packets = self.cut(1200, lent)
            self._race(self.everybody() if lent else self.few(), packets)
            self._drain(self.everybody() if lent else self.few(), packets)
        for size in SIZES:
            if size != 1200:
                self._race(self.few(), self.cut(size), shorter=2)
                self._drain(self.few(), self.cut(size))
        for size in SIZES:
            alone_ = [socket_arm("recv"), self.ring("arrays", False), self.loop(False)]
            self._drain(alone_, Packets(size, cut=False))

    def batches(self) -> None:
        """What a packet costs in batches of different size."""
        for gro in (False, True):
            packets = self.cut(1200)
            arms = [self.ring("arrays", gro, most) for most in BATCHES]
            found = drain(arms, self.sender, packets, self.effort.drains)
            title(f"batches of at most so many, {arms[0].name}, {packets}")
            for most, result in zip(BATCHES, found, strict=True):
                self._row("batch size", result.arm.name, f"max={most}", result.figures)
                print(f"  max={most:<4} {result.cost:9,.0f} ns a packet")

    def one_by_one(self) -> None:
        """Where plain `bytes` wins: small packets, received or kept alone."""
        packets = Packets(64, cut=False)
        arms = [
            socket_arm("recv"),
            socket_arm("recv_into"),
            self.ring("fragments", False, 1),
            self.ring("fragments", False, 64),
        ]
        names = ["socket.recv", "socket.recv_into", "RxRing, max=1", "RxRing, max=64"]
        found = drain(arms, self.sender, packets, self.effort.drains)
        title(f"received one at a time as objects, {packets}")
        for name, result in zip(names, found, strict=True):
            self._row("one at a time", name, str(packets), result.figures)
            print(f"  {name:<28} {result.cost:9,.0f} ns a packet")
        title("kept one by one, 64 B: resident bytes for each packet")
        keep = self.effort.keep * 20
        for name, as_bytes in (("bytes", True), ("Fragment", False)):
            kept = alone(kept_small, as_bytes, 64, keep)
            self._row("kept small packets", name, "64 B", kept)
            print(f"  {name:<28} {kept['resident_bytes']:9,.0f}")

    def objects(self) -> None:
        """R11."""
        title("objects and heap calls, batches read as arrays (R11)")
        per_batch: dict[int, float] = {}
        for most in (16, 64, 256):
            figures = {"objects_per_batch": heap.objects(most)}
            figures["objects_per_packet"] = figures["objects_per_batch"] / most
            if heap.has_valgrind():
                figures["heap_calls"] = per_batch[most] = heap.calls(most)
            self._row("heap", "RxRing as arrays", f"max={most}", figures)
            print(f"  max={most:<4} " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        if per_batch:
            each = (per_batch[256] - per_batch[16]) / (256 - 16)
            self._row("heap", "RxRing as arrays", "one packet more", {"heap_calls": each})
            print(f"  heap calls for one packet more: {each:.3f}")
        else:
            print("  no valgrind here: heap calls are not counted")

    def memory(self) -> None:
        """What rings hold."""
        title("an idle ring after traffic, KiB")
        for gro in (False, True):
            held = alone(idle_ring, gro and self.place.gro and self.place.gso, self.effort.rings)
            name = "RxRing, GRO" if gro else "RxRing"
            self._row("idle ring", name, f"of {self.effort.rings}", held)
            print(f"  {name:<14} " + ", ".join(f"{k} {v / 1024:.1f}" for k, v in held.items()))
        title(f"{self.effort.keep:,} packets kept: held / live bytes of the pool, held / payload")
        small, large = Packets(100, cut=False), self.cut(1200)
        asked = [
            ("100 B in buffers of 2048, copybreak=256", small, False, 256, 1),
            ("100 B in buffers of 2048, copybreak=0", small, False, 0, 1),
            ("1 in 20 of 1200 B", large, False, 256, 20),
            ("1 in 20 of 1200 B, GRO", large, True, 256, 20),
        ]
        for name, packets, gro, copybreak, one_in in asked:
            kept = alone(kept_packets, packets, gro, copybreak, self.effort.keep, one_in)
            self._row("kept packets", "RxRing", name, kept)
            print(f"  {name:<42} {kept['held_to_live']:6.2f} {kept['held_to_payload']:6.2f}")

    # --- how they are asked --------------------------------------------------

    def _race(self, arms: Sequence[Arm], packets: Packets, shorter: int = 1) -> None:
        if not self.place.has_two:
            return
        seconds = self.effort.seconds / shorter
        found = saturate(arms, self.sender, packets, seconds, self.effort.rounds)
        title(f"a sender that does not stop, {packets}")
        print(f"  {'':<28} packets/s   of recv   processor ns   sent/s  drops")
        base = found[0].rate
        for result in found:
            self._row("saturated", result.arm.name, str(packets), result.figures)
            print(_saturated_line(result, base))
        if any(result.disturbed for result in found):
            print("  (disturbed: others ran on the receiver's processor)")
        _promises({result.arm.name: result.rate for result in found}, packets)

    def _drain(self, arms: Sequence[Arm], packets: Packets) -> None:
        found = drain(arms, self.sender, packets, self.effort.drains)
        title(f"a full socket, {packets}")
        base = found[0].cost
        for result in found:
            self._row("full socket", result.arm.name, str(packets), result.figures)
            print(_drained_line(result, base))

    def _row(self, group: str, arm: str, parameter: str, figures: dict[str, float]) -> None:
        self.rows.append(record.row(group, arm, parameter, **figures))


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}")


def _saturated_line(result: Saturated, base: float) -> str:
    figures = result.figures
    at_least = ">" if not figures["drops"] else " "
    return (
        f"  {result.arm.name:<28}{at_least}{result.rate:>9,.0f} {result.rate / base:>8.2f}x"
        f" {result.cost:>13,.0f} {figures['sent_per_second']:>10,.0f} {figures['drops']:>8,.0f}"
    )


def _drained_line(result: Drained, base: float) -> str:
    times = base / result.cost
    return f"  {result.arm.name:<28} {result.cost:9,.0f} ns a packet  {times:6.2f}x"


def _promises(rates: dict[str, float], packets: Packets) -> None:
    """Print the ratios that the project has set itself, where all arms are there."""
    ours = rates.get("RxRing as arrays, GRO")
    asked = [
        ("R9 ", ours, "socket.recv", 8),
        ("R9 ", ours, "asyncio", 100),
        ("R9 ", ours, "C-speed loop, GRO", 0.8),
        ("R10", rates.get("RxRing as arrays"), "socket.recv", 1.3),
    ]
    for name, rate, rival, wanted in asked:
        if rate and rival in rates and packets.size == 1200:
            print(f"  {name} RxRing / {rival:<18} {rate / rates[rival]:7.2f}   wanted {wanted}")


QUESTIONS = ("rates", "batches", "one_by_one", "objects", "memory")


def run(program: str, effort: Effort, questions: Sequence[str] = QUESTIONS) -> Bench:
    """Ask *questions*; return what was found."""
    bench = Bench(program, effort)
    with bench.sender:
        os.sched_setaffinity(0, {bench.place.receiver})
        print(
            f"Python {platform.python_version()}, {platform.machine()},"
            f" pagefrag {pagefrag.__version__}"
        )
        for text in bench.place.missing():
            print(f"missing here: {text}")
        if uvloop_arm() is None:
            print("missing here: uvloop")
        for name in questions:
            getattr(bench, name)()
    return bench


def main(arguments: Sequence[str]) -> int:
    """Build the sender, ask everything, write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a minute, less exact")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=QUESTIONS)
    given = parser.parse_args(arguments)
    program = build("--release")
    start = time.monotonic()
    here, everywhere = record.of("bench_rings", []), os.sched_getaffinity(0)
    try:
        bench = run(program, QUICK if given.quick else Effort(), given.only)
    finally:
        os.sched_setaffinity(0, everywhere)
    print(f"\n{time.monotonic() - start:,.0f} seconds")
    record.keep("bench_rings", bench.rows, here)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
