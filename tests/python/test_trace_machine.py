"""A machine whose steps are those of traces: the package beside the model, looked at after each.

What fails is left as a trace in ``finds``, cut down, for the corpus that all generators share.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from traces import engine
from traces.decode import OPS, PACKET, decode
from traces.model import world

FINDS = Path(__file__).resolve().parents[2] / "finds"

MAKE = ("alloc", "alloc_bytes", "alloc_many", "netdev_frag", "netdev_skb", "prepare")
POLL = ("poll", "napi_frag", "napi_skb", "consume")
SHARE = ("slice", "readonly", "view", "unview", "add_frag", "clone")
CHANGE = ("commit", "write", "read", "trim", "put", "push", "pull", "reserve")
ALL = ("exit", "drain", "trim_pool", "audit", "cycle")

# Mostly one thread, and numbers whose bits all differ, of which a format makes sizes of all kinds.
THREAD, HANDLE = st.sampled_from((0, 0, 0, 0, 0, 0, 1, 2)), st.integers(0, 40)
ARG = st.integers(0, 2**20).map(lambda number: number * 2_654_435_761 % 2**32)


class Traced(RuleBasedStateMachine):
    """Does a step in both, and writes it down."""

    @initialize(head=st.tuples(st.sampled_from((0, 0, 0, 1, 2, 3)), *[st.integers(0, 3)] * 2))
    def begin(self, head: tuple[int, int, int]) -> None:
        self.trace = bytes((*head, 0))
        config, _ = decode(self.trace)
        self.package, self.model = engine.World(config), world.World(config)

    def _same(self, package: list[str], model: list[str]) -> None:
        if package != model:
            FINDS.mkdir(exist_ok=True)
            (FINDS / "hypothesis.trace").write_bytes(self.trace)
        assert package == model

    def _do(self, op: str, thread: int, handle: int, arg: int) -> None:
        if op in PACKET:
            arg = arg % 2**31 // 3 * 3 + PACKET.index(op)
            op = PACKET[0]
        step = struct.pack("<BBHI", OPS.index(op), thread, handle, arg)
        self.trace += step
        (read,) = decode(self.trace[:4] + step)[1]
        self._same([self.package.step(read)], [self.model.step(read)])

    @rule(op=st.sampled_from(MAKE), thread=THREAD, args=st.lists(ARG, min_size=1, max_size=12))
    def make(self, op: str, thread: int, args: list[int]) -> None:
        for arg in args:
            self._do(op, thread, 0, arg)

    @rule(op=st.sampled_from(POLL), thread=THREAD, handle=HANDLE, arg=ARG)
    def poll(self, op: str, thread: int, handle: int, arg: int) -> None:
        self._do(op, thread, handle, arg)

    @rule(op=st.sampled_from(SHARE), thread=THREAD, handle=HANDLE, arg=ARG)
    def share(self, op: str, thread: int, handle: int, arg: int) -> None:
        self._do(op, thread, handle, arg)

    @rule(op=st.sampled_from(PACKET), thread=THREAD, handle=HANDLE, arg=ARG)
    def packet(self, op: str, thread: int, handle: int, arg: int) -> None:
        self._do(op, thread, handle, arg)

    @rule(op=st.sampled_from(CHANGE), thread=THREAD, handle=HANDLE, arg=ARG)
    def change(self, op: str, thread: int, handle: int, arg: int) -> None:
        self._do(op, thread, handle, arg)

    @rule(thread=THREAD, handles=st.lists(HANDLE, min_size=1, max_size=12))
    def release(self, thread: int, handles: list[int]) -> None:
        for handle in handles:
            self._do("release", thread, handle, 0)

    @rule(op=st.sampled_from(ALL), thread=THREAD, arg=ARG)
    def all_at_once(self, op: str, thread: int, arg: int) -> None:
        self._do(op, thread, 0, arg)

    def teardown(self) -> None:
        if hasattr(self, "package"):
            self._same(list(self.package.end()), list(self.model.end()))


Traced.TestCase.settings = settings(max_examples=40, stateful_step_count=80)
TestTraced = Traced.TestCase


def test_every_operation_has_its_rule() -> None:
    assert {*MAKE, *POLL, *SHARE, *CHANGE, *ALL, *PACKET, "release"} == {*OPS, *PACKET}
