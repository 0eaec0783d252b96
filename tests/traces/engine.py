"""The Python package as an executor: what ``engine.rs`` is for the Rust core."""

from __future__ import annotations

import ctypes
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import numpy as np

import pagefrag
from pagefrag import Fragment, NapiPoll, Reservation, SkBuff, build_skb

from .decode import REGION, THREADS, Config, Step, align_of, decode, digest, pattern, size_of

R = TypeVar("R")
NOTHING = "-"
VIEWED = "refused: viewed"
APART = "refused: they stay apart"
# The operations that name no handle.
WITHOUT_HANDLE = {
    *("alloc", "alloc_bytes", "alloc_many", "netdev_frag", "netdev_skb", "poll", "napi_frag"),
    *("napi_skb", "prepare", "exit", "drain", "trim_pool", "audit", "cycle"),
}


# The preloaded library's doors, if it is there (``tests/faults``).
_set_plan = getattr(ctypes.CDLL(None), "pagefrag_faults", None)
_wrote = getattr(ctypes.CDLL(None), "pagefrag_wrote", None)
if _wrote is not None:
    _wrote.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _wrote.restype = None


def follow(plan: int) -> None:
    """Hand the plan of a trace to the preloaded library; 0 is none."""
    if _set_plan is not None:
        _set_plan(plan)
    elif plan:
        raise RuntimeError("a trace with faults is run with LD_PRELOAD=libpagefrag_faults.so")


def wrote(view: memoryview) -> None:
    """Tell the preloaded library of bytes of a pool that were written."""
    if _wrote is not None and view.nbytes:
        _wrote(ctypes.addressof(ctypes.c_char.from_buffer(view)), view.nbytes)


class _Worker:
    """A thread that does what it is handed, one thing at a time."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job

    def run(self, call: Callable[..., R], args: tuple[object, ...]) -> R:
        """Have *call* made on this thread, and return or raise what it does."""
        done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def job() -> None:
            try:
                done.put((True, call(*args)))
            except Exception as error:
                done.put((False, error.with_traceback(None)))

        self._jobs.put(job)
        del job
        fine, found = done.get()
        if not fine:
            raise found
        return found  # type: ignore[no-any-return]

    def end(self) -> None:
        """End the thread and wait for it."""
        self._jobs.put(None)
        self._thread.join()


@dataclass(slots=True, eq=False)
class _Handle:
    """A fragment, a room or an skb, and what looks at it."""

    held: Any
    bytes_room: bool = False
    views: list[memoryview] = field(default_factory=list)


class _Cycle:
    """Rubbish that only the collector finds, with a finalizer that allocates."""

    def __init__(self, world: World, frag: Fragment) -> None:
        self.itself = self
        self.world = world
        self.frag = frag
        self.said = [(self.frag.page, self.frag.offset)]

    def __del__(self) -> None:
        try:
            second = self.world.caches[0].alloc(64)
        except MemoryError as error:
            self.world.finalized = (self.said, str(error))
        else:
            self.said.append((second.page, second.offset))
            self.world.finalized = (self.said, None)
            second.release()
        self.frag.release()


class Refused(Exception):  # noqa: N818 - an outcome
    """What the log says of a step that was refused."""


def _refuse(handle: _Handle, error: BufferError) -> NoReturn:
    """Say in one word that something looks at *handle*."""
    if handle.views:
        raise Refused(VIEWED) from error
    raise error


class World:
    """A pool, its caches and all handles."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.pool = pagefrag.PagePool(
            config.page,
            max_bytes=config.regions * REGION or None,
            huge_pages="auto" if config.fault == "advise" else "never",
            init_on_alloc=config.init_on_alloc,
            init_on_free=config.init_on_free,
        )
        # That of lines is made last, so that the heads of linearized packets come from it.
        packed = pagefrag.PageFragCache(self.pool, granule=1)
        self.caches = (pagefrag.PageFragCache(self.pool), packed)
        self.netdev = pagefrag.NetdevCache(self.pool)
        self.napi = [pagefrag.NapiCache(self.pool) for _ in range(THREADS)]
        self.polls: list[NapiPoll | None] = [None] * THREADS
        self.handles: list[_Handle] = []
        self.pages: dict[int, int] = {}
        self.seen = 0
        self.workers: list[_Worker | None] = [None] * THREADS
        self.finalized: tuple[list[tuple[int, int]], str | None] | None = None

    def run(self, thread: int, call: Callable[..., R], *args: object) -> R:
        """Make *call* on *thread*; thread 0 is this one."""
        if thread == 0:
            return call(*args)
        worker = self.workers[thread]
        if worker is None:
            worker = self.workers[thread] = _Worker()
        return worker.run(call, args)

    def place(self, page: int, offset: int) -> str:
        """Return the name of a place."""
        number = self.pages.get(page)
        if number is None:
            number = self.pages[page] = self.seen
            self.seen += 1
        return f"P{number}+{offset}"

    def facts(self, handle: _Handle) -> str:
        """Return what there is to say of *handle*."""
        held = handle.held
        if isinstance(held, Fragment):
            place = self.place(held.page, held.offset)
            return f"{place} len={held.nbytes} cap={held.capacity} ro={int(held.readonly)}"
        if isinstance(held, Reservation):
            return f"{self.place(held.page, held.offset)} room={held.nbytes}"
        assert isinstance(held, SkBuff)
        return (
            f"skb len={held.len} data={held.data_len} head={held.headroom} tail={held.tailroom} "
            f"true={held.truesize} frags={len(held.frags)}"
        )

    def keep(self, held: object, *, bytes_room: bool = False) -> str:
        """Take *held* into the handles."""
        handle = _Handle(held, bytes_room)
        self.handles.append(handle)
        return self.facts(handle)

    def take(self, at: int) -> _Handle:
        """Take a handle out; the last one takes its place."""
        handle = self.handles[at]
        last = self.handles.pop()
        if last is not handle:
            self.handles[at] = last
        return handle

    # --- what makes handles ---------------------------------------------------

    def size_and_align(self, arg: int) -> tuple[int, int]:
        """Return what *arg* asks for."""
        return size_of(arg, self.config.page), align_of(arg)

    def many(self, arg: int) -> int:
        """Return the size that the upper bits of *arg* ask for."""
        return size_of(arg >> 8 << 8, self.config.page)

    def alloc(self, thread: int, arg: int, granule: int = 0) -> str:
        size, align = self.size_and_align(arg)
        cache = self.caches[granule]
        return self.keep(self.run(thread, lambda: cache.alloc(size, align=align)))

    def alloc_bytes(self, thread: int, arg: int) -> str:
        return self.alloc(thread, arg, granule=1)

    def alloc_many(self, thread: int, arg: int) -> str:
        frags = self.run(thread, self.caches[0].alloc_many, 1 + arg % 8, self.many(arg))
        return "".join([f"{self.keep(frag)}; " for frag in frags])

    def netdev_frag(self, thread: int, arg: int) -> str:
        size, align = self.size_and_align(arg)
        return self.keep(self.run(thread, lambda: self.netdev.alloc_frag(size, align=align)))

    def netdev_skb(self, thread: int, arg: int) -> str:
        size, _ = self.size_and_align(arg)
        return self.keep(self.run(thread, self.netdev.alloc_skb, size))

    def poll(self, thread: int, _arg: int) -> str:
        poll = self.polls[thread]
        if poll is None:
            poll = self.napi[thread].poll(64)
            self.polls[thread] = poll
            self.run(thread, poll.__enter__)
            return "entered"
        self.polls[thread] = None
        self.run(thread, poll.__exit__)
        return "left"

    def napi_frag(self, thread: int, arg: int) -> str:
        size, align = self.size_and_align(arg)
        frag = self.run(thread, lambda: self.napi[thread].alloc_frag(size, align=align))
        return "none" if frag is None else self.keep(frag)

    def napi_skb(self, thread: int, arg: int) -> str:
        size, _ = self.size_and_align(arg)
        skb = self.run(thread, self.napi[thread].alloc_skb, size)
        return "none" if skb is None else self.keep(skb)

    def prepare(self, thread: int, arg: int) -> str:
        bytes_room = bool(arg & 1)
        room = self.run(thread, self.caches[bytes_room].prepare, self.many(arg))
        return self.keep(room, bytes_room=bytes_room)

    # --- what is done to a handle ---------------------------------------------

    def consume(self, thread: int, at: int, _arg: int) -> str:
        skb = self.handles[at].held
        if not isinstance(skb, SkBuff):
            return NOTHING
        self.run(thread, self.napi[thread].consume_skb, skb)
        self.take(at)
        return "consumed"

    def commit(self, thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        room = handle.held
        if not isinstance(room, Reservation):
            return NOTHING
        try:
            frag = self.run(thread, room.commit, arg % (room.nbytes + 2))
        except BufferError as error:
            _refuse(handle, error)
        self.take(at)
        return self.keep(frag)

    def release(self, thread: int, at: int, _arg: int) -> str:
        handle = self.handles[at]
        try:
            self.run(thread, handle.held.release)
        except BufferError as error:
            _refuse(handle, error)
        self.take(at)
        return "released"

    def write(self, _thread: int, at: int, seed: int) -> str:
        held = self.handles[at].held
        if isinstance(held, SkBuff):
            return NOTHING
        if isinstance(held, Fragment) and held.readonly:
            try:
                held[:] = bytes(held.nbytes)
            except TypeError as error:
                raise Refused("refused: read-only") from error
        with memoryview(held) as view:
            view[:] = pattern(seed, view.nbytes)
            wrote(view)
        return "written"

    def read(self, _thread: int, at: int, _arg: int) -> str:
        held = self.handles[at].held
        if isinstance(held, Reservation):
            return NOTHING
        return f"{digest(held.tobytes()):08x}"

    def slice(self, thread: int, at: int, arg: int) -> str:
        frag = self.handles[at].held
        if not isinstance(frag, Fragment):
            return NOTHING
        ends = sorted(part % (frag.nbytes + 1) for part in (arg & 0xFFFF, arg >> 16))
        return self.keep(self.run(thread, frag.__getitem__, slice(*ends)))

    def readonly(self, _thread: int, at: int, _arg: int) -> str:
        frag = self.handles[at].held
        return self.keep(frag.toreadonly()) if isinstance(frag, Fragment) else NOTHING

    def trim(self, thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        if isinstance(handle.held, Reservation):
            return NOTHING
        try:
            self.run(thread, handle.held.trim, arg % (len(handle.held) + 2))
        except BufferError as error:
            _refuse(handle, error)
        return self.facts(handle)

    def put(self, _thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        if not isinstance(handle.held, SkBuff):
            return NOTHING
        with handle.held.put(pattern(arg, arg % 256)) as view:
            wrote(view)
        return self.facts(handle)

    def push(self, _thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        if not isinstance(handle.held, SkBuff):
            return NOTHING
        with handle.held.push(pattern(arg, arg % 128)) as view:
            wrote(view)
        return self.facts(handle)

    def pull(self, _thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        if not isinstance(handle.held, SkBuff):
            return NOTHING
        handle.held.pull(arg % 256).release()
        return self.facts(handle)

    def reserve(self, _thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        if not isinstance(handle.held, SkBuff):
            return NOTHING
        handle.held.reserve(arg % 128)
        return self.facts(handle)

    def add_frag(self, _thread: int, at: int, arg: int) -> str:
        frag = self.handles[arg % len(self.handles)].held
        handle = self.handles[at]
        if not isinstance(frag, Fragment) or not isinstance(handle.held, SkBuff):
            return NOTHING
        handle.held.add_frag(frag)
        return self.facts(handle)

    def nearest(self, at: int, kind: type, but: _Handle | None = None) -> _Handle | None:
        """Return the first handle from *at* on, around the end, that is of a *kind*."""
        # No generator: what its end is refused without memory, nobody hears of.
        for handle in self.handles[at:] + self.handles[:at]:
            if isinstance(handle.held, kind) and handle is not but:
                return handle
        return None

    def written(self, handle: _Handle) -> str:
        """Tell of an skb whose linear data may be new."""
        with memoryview(handle.held) as view:
            if not view.readonly:
                wrote(view)
        return self.facts(handle)

    def build_skb(self, _thread: int, at: int, _arg: int) -> str:
        handle = self.nearest(at, Fragment)
        if handle is None:
            return NOTHING
        try:
            handle.held = build_skb(handle.held)
        except BufferError as error:
            _refuse(handle, error)
        except TypeError as error:
            raise Refused(f"refused: {error}") from error
        return self.facts(handle)

    def linearize(self, thread: int, at: int, _arg: int) -> str:
        handle = self.nearest(at, SkBuff)
        if handle is None:
            return NOTHING
        self.run(thread, handle.held.linearize)
        return self.written(handle)

    def coalesce(self, thread: int, at: int, arg: int) -> str:
        handle = self.nearest(at, SkBuff)
        named = (arg >> 8) % len(self.handles)
        itself = self.handles[named] is handle
        other = handle if itself else self.nearest(named, SkBuff, but=handle)
        if handle is None or other is None:
            return NOTHING
        if not self.run(thread, handle.held.coalesce, other.held):
            raise Refused(APART)
        self.take(self.handles.index(other))
        return self.written(handle)

    def clone(self, _thread: int, at: int, _arg: int) -> str:
        skb = self.handles[at].held
        return self.keep(skb.clone()) if isinstance(skb, SkBuff) else NOTHING

    def view(self, _thread: int, at: int, _arg: int) -> str:
        handle = self.handles[at]
        if isinstance(handle.held, SkBuff):
            return NOTHING
        # A view, a part of a view, an array of NumPy's over a view: all look alike.
        view = memoryview(handle.held)
        match len(handle.views) % 3:
            case 1:
                whole, view = view, view[: view.nbytes // 2]
                whole.release()
            case 2:
                view = memoryview(np.asarray(view))
        handle.views.append(view)
        return f"views={len(handle.views)}"

    def unview(self, _thread: int, at: int, _arg: int) -> str:
        handle = self.handles[at]
        if isinstance(handle.held, SkBuff) or not handle.views:
            return NOTHING
        handle.views.pop().release()
        return f"views={len(handle.views)}"

    # --- what is done to all ----------------------------------------------------

    def exit(self, thread: int, arg: int = 0) -> str:
        if self.polls[thread] is not None:
            self.poll(thread, arg)
        if thread != 0:
            worker, self.workers[thread] = self.workers[thread], None
            if worker is not None:
                worker.end()
            return "ended"
        for cache in self.caches:
            cache.drain()
        self.netdev.drain()
        return "drained"

    def drain(self, thread: int, arg: int) -> str:
        self.run(thread, self.caches[arg & 1].drain)
        return "drained"

    def trim_pool(self, thread: int, _arg: int = 0) -> str:
        gone = self.run(thread, self.pool.trim)
        alive = {h.held.page for h in self.handles if not isinstance(h.held, SkBuff)}
        self.pages = {page: name for page, name in self.pages.items() if page in alive}
        return f"regions={gone}"

    def counted(self, thread: int) -> str:
        """Return what the caches of a thread have counted."""
        said = ""
        for name, cache in zip(("lines", "bytes"), self.caches, strict=True):
            stats = self.run(thread, cache.stats)
            said += (
                f" {name}={stats.refills}/{stats.reuses}/{stats.pages_taken}/{stats.adopted}"
                f"/{stats.pages_given}/{stats.orphaned}/{stats.alloc_fail}"
            )
        return said

    def audit(self, thread: int, _arg: int = 0) -> str:
        stats = self.pool.audit()
        return (
            f"held={stats.held_bytes} live={stats.live_bytes} obtained={stats.pages_obtained} "
            f"current={stats.pages_current} retired={stats.pages_retired} "
            f"orphaned={stats.pages_orphaned} free={stats.pages_free} "
            f"returned={stats.pages_returned} regions={stats.regions_mapped} "
            f"peak={stats.regions_peak} exhausted={stats.exhausted} "
            f"no_memory={stats.out_of_memory} huge_failed={stats.huge_failed}{self.counted(thread)}"
        )

    def cycle(self, thread: int, arg: int) -> str:
        size, _ = self.size_and_align(arg)

        def rubbish() -> None:
            _Cycle(self, self.caches[0].alloc(size))
            gc.collect(0)
            if self.finalized is None:
                # The collector came by itself before it was rubbish, and it is old now.
                gc.collect()

        self.finalized = None
        self.run(thread, rubbish)
        finalized, self.finalized = self.finalized, None
        assert finalized is not None, "the collector did not find the cycle"
        places, refusal = finalized
        if refusal is not None:
            raise Refused(f"refused: {refusal}")
        return " ".join(self.place(*place) for place in places)

    # --- the steps ----------------------------------------------------------------

    def step(self, step: Step) -> str:
        """Do one step and return what there is to say of it."""
        try:
            return self._step(step)
        except Refused as refused:
            return str(refused)
        except (ValueError, MemoryError, pagefrag.ContextError, BufferError) as error:
            return f"refused: {error}"

    def _step(self, step: Step) -> str:
        """Make the call that has the operation's name."""
        op, thread, handle, arg = step
        call: Callable[..., str] = getattr(self, op)
        if op in WITHOUT_HANDLE:
            return call(thread, arg)
        if not self.handles:
            return NOTHING
        return call(thread, handle % len(self.handles), arg)

    def end(self) -> Iterator[str]:
        """Let everything go, thread by thread, and tell what is left."""
        for thread in range(THREADS):
            yield f"end {thread} {self.exit(thread)}"
        for handle in self.handles:
            while handle.views:
                handle.views.pop().release()
            handle.held.release()
        self.handles.clear()
        self.napi.clear()
        yield f"end {self.trim_pool(0)}"
        yield f"end {self.audit(0)}"
        # After the faults everything works again.
        follow(0)
        if self.config.fault:
            yield f"after {self.cycle(0, 0)}"
            self.drain(0, 0)
            yield f"after {self.trim_pool(0)}"


def log(trace: bytes) -> str:
    """Run *trace* and return its log."""
    config, steps = decode(trace)
    follow(config.plan)
    world = World(config)
    lines = [str(config)]
    for number, step in enumerate(steps):
        lines.append(f"{number} {step.op}{step.thread} {world.step(step)}")
    lines.extend(world.end())
    return "\n".join(lines) + "\n"
