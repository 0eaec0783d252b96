"""The races: packets per second from a sender that does not stop, and the price of a full socket.

Arms take turns, so that a busy moment of the machine meets all of them; a figure is the median of
its turns. A rate counts as the receiver's own only where the sender had to wait for nobody and the
kernel had to drop something: then the receiver was the slower end. The other measure fills the
socket, stops the sender, and times the receiver until the socket is empty; nobody else runs then.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rings.arms import Arm, Receiver, Tally
from rings.road import Packets, Sender, drops

__all__ = ["Drained", "Saturated", "drain", "saturate"]

FILL = 24_000
"""Packets that fill any socket: more than its buffer holds, also when they are joined."""

WARM_UP = 0.05
UNDISTURBED = 0.9
"""Share of its processor that a receiver gets who is alone on it and never waits."""

TRIAL = 300
"""Packets whose every byte is looked at before an arm takes part."""


class WrongPacketsError(AssertionError):
    """An arm did not receive what was sent."""


@dataclass
class Saturated:
    """What an arm received from a sender that did not stop."""

    arm: Arm
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def disturbed(self) -> bool:
        """Tell whether the receiver had to do without its processor although packets waited."""
        share, dropped = statistics.median(self.shares), statistics.median(self.dropped)
        return share < UNDISTURBED and dropped > 0

    @property
    def rate(self) -> float:
        """Packets per second."""
        return statistics.median(self.rates)

    @property
    def cost(self) -> float:
        """Nanoseconds of the receiving thread's processor for a packet."""
        return statistics.median(self.costs)

    @property
    def figures(self) -> dict[str, float]:
        """What goes into the record."""
        return {
            "packets_per_second": round(self.rate),
            "packets_per_second_least": round(min(self.rates)),
            "packets_per_second_most": round(max(self.rates)),
            "processor_ns": round(self.cost, 1),
            "sent_per_second": round(statistics.median(self.sent)),
            "drops": round(statistics.median(self.dropped)),
            "processor_share": round(statistics.median(self.shares), 3),
        }


@dataclass
class Drained:
    """What it cost an arm to empty full sockets."""

    arm: Arm
    costs: list[float] = field(default_factory=list)
    packets: int = 0

    @property
    def cost(self) -> float:
        """Nanoseconds for a packet."""
        return statistics.median(self.costs)

    @property
    def figures(self) -> dict[str, float]:
        """What goes into the record."""
        return {
            "ns": round(self.cost, 1),
            "ns_least": round(min(self.costs), 1),
            "packets_in_a_full_socket": self.packets,
        }


@contextmanager
def _started(
    arms: Sequence[Arm], sender: Sender, packets: Packets
) -> Iterator[list[tuple[Arm, Receiver]]]:
    """Make the receivers, and see that each receives what is sent."""
    made: list[tuple[Arm, Receiver]] = []
    try:
        for arm in arms:
            made.append((arm, arm.make(packets.size)))
            _try(arm, made[-1][1], sender, packets)
        yield made
    finally:
        for _, receiver in made:
            receiver.close()


def _try(arm: Arm, receiver: Receiver, sender: Sender, packets: Packets) -> None:
    sent = sender.burst(receiver.sock, packets, TRIAL)
    came, wrong = receiver.check(sent)
    if (came, wrong) != (sent, 0):
        raise WrongPacketsError(f"{arm.name}: {came} of {sent} packets came, {wrong} of them wrong")


def _agree(arm: Arm, tally: Tally, packets: Packets) -> None:
    if not tally.packets or tally.bytes != tally.packets * packets.size:
        raise WrongPacketsError(f"{arm.name}: {tally.packets} packets have {tally.bytes} bytes")


def saturate(
    arms: Sequence[Arm], sender: Sender, packets: Packets, seconds: float, rounds: int
) -> list[Saturated]:
    """Race *arms* against a sender that does not stop."""
    found = [Saturated(arm) for arm in arms]
    with _started(arms, sender, packets) as made:
        for _ in range(rounds):
            for result, (arm, receiver) in zip(found, made, strict=True):
                with sender.flood(receiver.sock, packets) as flood:
                    receiver.run(WARM_UP)
                    before = drops(receiver.sock)
                    tally = receiver.run(seconds)
                    dropped = drops(receiver.sock) - before
                _agree(arm, tally, packets)
                result.rates.append(tally.packets / tally.seconds)
                result.costs.append(tally.busy / tally.packets * 1e9)
                result.sent.append(flood.rate)
                result.dropped.append(dropped)
                result.shares.append(tally.busy / tally.seconds)
    return found


def drain(arms: Sequence[Arm], sender: Sender, packets: Packets, rounds: int) -> list[Drained]:
    """Fill the socket of each of *arms* and time how it is emptied."""
    found = [Drained(arm) for arm in arms]
    with _started(arms, sender, packets) as made:
        for _ in range(rounds):
            for result, (arm, receiver) in zip(found, made, strict=True):
                before = drops(receiver.sock)
                sent = sender.burst(receiver.sock, packets, FILL)
                there = sent - (drops(receiver.sock) - before)
                tally = receiver.drain(there)
                _agree(arm, tally, packets)
                result.packets = tally.packets
                result.costs.append(tally.seconds / tally.packets * 1e9)
    return found
