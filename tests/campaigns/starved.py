"""Run traces while memory for Python's objects is refused: each allocation of each step, in turn.

    python tests/campaigns/starved.py [--seconds SECONDS] FILE_OR_FOLDER...

with the library of ``tests/faults`` preloaded. Each call into the package is made again and again:
the first time its first allocation of memory for an object fails, then its second, until one has
all that it needs; then the same with everything refused from there on. A call that has not enough
raises ``MemoryError``, and nothing has changed: as many bytes are alive as before, and the books
balance. What a trace ends with tells whether anything was lost on the way.

With ``--seconds`` random traces follow until the time is over. The last line is what a ledger
keeps.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traces import engine
from traces.decode import Step, decode, random_trace

R = TypeVar("R")

# What is done to one handle is done by the thread that reads the trace.
_SHAPES = ("put", "push", "pull", "reserve")
ON_A_HANDLE = frozenset(
    ("write", "read", "readonly", "add_frag", "build_skb", "clone", "view", "unview", *_SHAPES)
)
MANY = 100_000  # more allocations than any call makes

# What CPython 3.11 says when it cannot make the frame that a traceback names; of a function of ours
# that fails without an exception it says something else.
NO_FRAME = "error return without exception set"

_library = ctypes.CDLL(None)
_starve = getattr(_library, "pagefrag_starve", None)
if _starve is not None:
    _starve.argtypes = [ctypes.c_uint64, ctypes.c_int]
    _fed = _library.pagefrag_fed
    _fed.restype = ctypes.c_uint64


class Lost(Exception):  # noqa: N818 - what a run comes to
    """A call that had no memory has changed something, or said something else."""


def is_lack(error: Exception) -> bool:
    """Tell whether the interpreter had no memory; `PoolExhausted` says more."""
    if isinstance(error, SystemError):
        return str(error) == NO_FRAME
    return not error.args


class Starved(engine.World):
    """An executor whose calls have no memory for objects."""

    def __init__(self, trace: bytes) -> None:
        super().__init__(decode(trace)[0])
        self.first, self.lasts = MANY, False
        self.refused = 0
        self.lacked = False

    def starved(self, call: Callable[[], R]) -> R:
        """Make *call* without the memory of one allocation, or of all from there on."""
        assert _starve is not None
        if _starve(self.first, self.lasts) != 0:
            raise RuntimeError("no allocators of objects were found")
        try:
            return call()
        finally:
            self.refused += _fed()

    def run(self, thread: int, call: Callable[..., R], *args: object) -> R:
        """Make *call*, starved, on *thread*."""
        # Made before there is no memory; what is written in Python is called from there.
        whole = (lambda: call(*args)) if args else call

        def act() -> R | None:
            try:
                return self.starved(whole)
            except (MemoryError, SystemError) as error:
                # The interpreter has a few of these in store, and needs them: none is handed over.
                if not is_lack(error):
                    raise
                self.lacked = True
                return None
            except Exception:
                raise
            except BaseException as error:  # a panic, which would end the thread
                raise Lost(f"a panic: {error}") from None

        self.lacked = False
        made = super().run(thread, act)
        if self.lacked:
            raise MemoryError
        return made  # type: ignore[return-value]

    def poll(self, thread: int, arg: int) -> str:
        """Enter or leave; who could not has not."""
        before = self.polls[thread]
        try:
            return super().poll(thread, arg)
        except MemoryError:
            self.polls[thread] = before
            raise

    def cycle(self, thread: int, arg: int) -> str:
        """Let a cycle die; its finalizer may have no memory either, or have no cycle to end."""
        try:
            return super().cycle(thread, arg)
        except AssertionError:
            if self.refused:
                raise MemoryError from None
            raise

    def is_there(self, handle: Any) -> bool:
        """Tell whether a handle is one still: a call may have ended it and failed afterwards."""
        try:
            return len(handle.held) >= 0
        except ValueError:
            return False

    def once(self, step: Step) -> str:
        """Do *step* as it is asked for now; a refusal is an answer, no memory is an exception."""
        act = lambda: self._step(step)  # noqa: E731 - made before there is no memory
        try:
            return self.starved(act) if step.op in ON_A_HANDLE else act()
        except (MemoryError, SystemError) as error:
            if is_lack(error):
                raise MemoryError from None
            if isinstance(error, SystemError):
                raise
            return f"refused: {error}"
        except (engine.Refused, ValueError, BufferError, engine.pagefrag.ContextError) as error:
            return str(error)

    def in_all_ways(self, step: Step) -> int:
        """Do *step* with each of its allocations refused; return in how many ways."""
        ways = 0
        for self.lasts in (False, True):
            for self.first in itertools.count():
                alive, self.refused = self.pool.stats().live_bytes, 0
                count = len(self.handles)
                try:
                    self.once(step)
                except MemoryError as error:
                    del error
                    if step.op == "cycle":
                        gc.collect()
                    self.handles = [handle for handle in self.handles if self.is_there(handle)]
                    now = self.pool.audit().live_bytes
                    if step.op not in ON_A_HANDLE and now != alive:
                        raise Lost(f"{alive} bytes were alive, now {now}") from None
                    if step.op in ON_A_HANDLE and len(self.handles) < count:
                        raise Lost("a handle is gone") from None
                if not self.refused:
                    break
                ways += 1
        self.first = MANY
        return ways


def ways_of(trace: bytes) -> int:
    """Run *trace* without memory and return in how many ways something was refused."""
    trace = trace[:3].ljust(3, b"\0") + b"\0" + trace[4:]
    world, ways = Starved(trace), 0
    try:
        for number, step in enumerate(decode(trace)[1]):
            try:
                ways += world.in_all_ways(step)
            except Exception as error:
                how = f"call {world.first} fails{' and all after it' if world.lasts else ''}"
                raise Lost(f"step {number}, {step.op}, {how}: {error!r}") from error
    finally:
        world.first = MANY
        gc.collect()
        *_, books = world.end()
    if not books.startswith("end held=0 live=0 ") or " regions=0 " not in books:
        raise Lost(books)
    return ways


def traces(seconds: float, places: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the traces of *places*, all of them, and random ones until *seconds* are over."""
    end = time.monotonic() + seconds
    for place in map(Path, places):
        for file in sorted(place.iterdir()) if place.is_dir() else [place]:
            yield file.name, file.read_bytes()
    for seed in itertools.count(1):
        if time.monotonic() > end:
            return
        yield f"of seed {seed}", random_trace(seed, 60)


def main(words: list[str]) -> int:
    """Do what the *words* say; 1 when something was lost."""
    if _starve is None:
        sys.exit("run it with LD_PRELOAD=libpagefrag_faults.so")
    reader = argparse.ArgumentParser()
    reader.add_argument("--seconds", type=float, default=0)
    reader.add_argument("places", nargs="+")
    asked = reader.parse_args(words)
    # Nobody tells of a write that has no memory to tell of it.
    engine._wrote = None
    # Finalizers fail too, and the interpreter would tell of each.
    sys.unraisablehook = lambda _: None
    begin, ran, ways, wrong = time.monotonic(), 0, 0, 0
    for name, trace in traces(asked.seconds, asked.places):
        ran += 1
        try:
            ways += ways_of(trace)
        except Lost as lost:
            wrong += 1
            print(f"trace {name}: {lost}", flush=True)
    took = time.monotonic() - begin
    print(
        f"{ways} allocations of objects refused in {ran} traces, {wrong} traces in which something "
        f"was lost, {took:.0f} s"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
