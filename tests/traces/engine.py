"""The Python package as an executor: what ``engine.rs`` is for the Rust core."""

from __future__ import annotations

import ctypes
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pagefrag
from pagefrag import Fragment, NapiPoll, Reservation, SkBuff

from .decode import REGION, THREADS, Config, Step, align_of, decode, digest, pattern, size_of

R = TypeVar("R")
NOTHING = "-"
VIEWED = "refused: viewed"


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

    def run(self, call: Callable[[], R]) -> R:
        """Have *call* made on this thread, and return or raise what it does."""
        done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def job() -> None:
            try:
                done.put((True, call()))
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


@dataclass
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


@contextmanager
def _views(handle: _Handle) -> Iterator[None]:
    """Say in one word that something looks at *handle*."""
    try:
        yield
    except BufferError as error:
        if handle.views:
            raise Refused(VIEWED) from error
        raise


class Refused(Exception):  # noqa: N818 - an outcome
    """What the log says of a step that was refused."""


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
        self.caches = tuple(pagefrag.PageFragCache(self.pool, granule=g) for g in (64, 1))
        self.netdev = pagefrag.NetdevCache(self.pool)
        self.napi = [pagefrag.NapiCache(self.pool) for _ in range(THREADS)]
        self.polls: list[NapiPoll | None] = [None] * THREADS
        self.handles: list[_Handle] = []
        self.pages: dict[int, int] = {}
        self.seen = 0
        self.workers: list[_Worker | None] = [None] * THREADS
        self.finalized: tuple[list[tuple[int, int]], str | None] | None = None

    def run(self, thread: int, call: Callable[[], R]) -> R:
        """Make *call* on *thread*; thread 0 is this one."""
        if thread == 0:
            return call()
        worker = self.workers[thread]
        if worker is None:
            worker = self.workers[thread] = _Worker()
        return worker.run(call)

    def place(self, page: int, offset: int) -> str:
        """Return the name of a place."""
        if page not in self.pages:
            self.pages[page] = self.seen
            self.seen += 1
        return f"P{self.pages[page]}+{offset}"

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
        self.handles.append(_Handle(held, bytes_room))
        return self.facts(self.handles[-1])

    def take(self, at: int) -> _Handle:
        """Take a handle out; the last one takes its place."""
        handle = self.handles[at]
        last = self.handles.pop()
        if last is not handle:
            self.handles[at] = last
        return handle

    # --- what makes handles ---------------------------------------------------

    def alloc(self, thread: int, granule: int, size: int, align: int) -> str:
        return self.keep(self.run(thread, lambda: self.caches[granule].alloc(size, align=align)))

    def alloc_many(self, thread: int, count: int, size: int) -> str:
        frags = self.run(thread, lambda: self.caches[0].alloc_many(count, size))
        return "".join(f"{self.keep(frag)}; " for frag in frags)

    def poll(self, thread: int) -> str:
        poll = self.polls[thread]
        if poll is None:
            poll = self.napi[thread].poll(64)
            self.polls[thread] = poll
            self.run(thread, poll.__enter__)
            return "entered"
        self.polls[thread] = None
        self.run(thread, poll.__exit__)
        return "left"

    def napi_frag(self, thread: int, size: int, align: int) -> str:
        frag = self.run(thread, lambda: self.napi[thread].alloc_frag(size, align=align))
        return "none" if frag is None else self.keep(frag)

    def napi_skb(self, thread: int, size: int) -> str:
        skb = self.run(thread, lambda: self.napi[thread].alloc_skb(size))
        return "none" if skb is None else self.keep(skb)

    def prepare(self, thread: int, bytes_room: bool, least: int) -> str:
        room = self.run(thread, lambda: self.caches[bytes_room].prepare(least))
        return self.keep(room, bytes_room=bytes_room)

    # --- what is done to a handle ---------------------------------------------

    def consume(self, thread: int, at: int) -> str:
        skb = self.handles[at].held
        if not isinstance(skb, SkBuff):
            return NOTHING
        self.run(thread, lambda: self.napi[thread].consume_skb(skb))
        self.take(at)
        return "consumed"

    def commit(self, thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        room = handle.held
        if not isinstance(room, Reservation):
            return NOTHING
        used = arg % (room.nbytes + 2)
        with _views(handle):
            frag = self.run(thread, lambda: room.commit(used))
        self.take(at)
        return self.keep(frag)

    def release(self, thread: int, at: int) -> str:
        handle = self.handles[at]
        with _views(handle):
            self.run(thread, handle.held.release)
        self.take(at)
        return "released"

    def write(self, at: int, seed: int) -> str:
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

    def read(self, at: int) -> str:
        held = self.handles[at].held
        if isinstance(held, Reservation):
            return NOTHING
        return f"{digest(held.tobytes()):08x}"

    def slice(self, thread: int, at: int, arg: int) -> str:
        frag = self.handles[at].held
        if not isinstance(frag, Fragment):
            return NOTHING
        ends = sorted(part % (frag.nbytes + 1) for part in (arg & 0xFFFF, arg >> 16))
        return self.keep(self.run(thread, lambda: frag[ends[0] : ends[1]]))

    def readonly(self, at: int) -> str:
        frag = self.handles[at].held
        return self.keep(frag.toreadonly()) if isinstance(frag, Fragment) else NOTHING

    def trim(self, thread: int, at: int, arg: int) -> str:
        handle = self.handles[at]
        if isinstance(handle.held, Reservation):
            return NOTHING
        keep = arg % (len(handle.held) + 2)
        with _views(handle):
            self.run(thread, lambda: handle.held.trim(keep))
        return self.facts(handle)

    def shape(self, op: str, at: int, arg: int) -> str:
        handle = self.handles[at]
        skb = handle.held
        if not isinstance(skb, SkBuff):
            return NOTHING
        match op:
            case "put":
                with skb.put(pattern(arg, arg % 256)) as view:
                    wrote(view)
            case "push":
                with skb.push(pattern(arg, arg % 128)) as view:
                    wrote(view)
            case "pull":
                skb.pull(arg % 256).release()
            case _:
                skb.reserve(arg % 128)
        return self.facts(handle)

    def add_frag(self, at: int, arg: int) -> str:
        frag = self.handles[arg % len(self.handles)].held
        handle = self.handles[at]
        if not isinstance(frag, Fragment) or not isinstance(handle.held, SkBuff):
            return NOTHING
        handle.held.add_frag(frag)
        return self.facts(handle)

    def clone(self, at: int) -> str:
        skb = self.handles[at].held
        return self.keep(skb.clone()) if isinstance(skb, SkBuff) else NOTHING

    def view(self, at: int) -> str:
        handle = self.handles[at]
        if isinstance(handle.held, SkBuff):
            return NOTHING
        # A view, a view of a view, an array of a view: all look alike.
        view = memoryview(handle.held)
        if len(handle.views) % 2:
            whole, view = view, view[: view.nbytes // 2]
            whole.release()
        handle.views.append(view)
        return f"views={len(handle.views)}"

    def unview(self, at: int) -> str:
        handle = self.handles[at]
        if isinstance(handle.held, SkBuff) or not handle.views:
            return NOTHING
        handle.views.pop().release()
        return f"views={len(handle.views)}"

    # --- what is done to all ----------------------------------------------------

    def exit(self, thread: int) -> str:
        if self.polls[thread] is not None:
            self.poll(thread)
        if thread != 0:
            worker, self.workers[thread] = self.workers[thread], None
            if worker is not None:
                worker.end()
            return "ended"
        for cache in self.caches:
            cache.drain()
        self.netdev.drain()
        return "drained"

    def drain(self, thread: int, bytes_room: bool) -> str:
        self.run(thread, self.caches[bytes_room].drain)
        return "drained"

    def trim_pool(self, thread: int) -> str:
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

    def audit(self, thread: int) -> str:
        stats = self.pool.audit()
        return (
            f"held={stats.held_bytes} live={stats.live_bytes} obtained={stats.pages_obtained} "
            f"current={stats.pages_current} retired={stats.pages_retired} "
            f"orphaned={stats.pages_orphaned} free={stats.pages_free} "
            f"returned={stats.pages_returned} regions={stats.regions_mapped} "
            f"peak={stats.regions_peak} exhausted={stats.exhausted} "
            f"no_memory={stats.out_of_memory} huge_failed={stats.huge_failed}{self.counted(thread)}"
        )

    def cycle(self, thread: int, size: int) -> str:
        def rubbish() -> None:
            _Cycle(self, self.caches[0].alloc(size))
            gc.collect(0)

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

    def _step(self, step: Step) -> str:  # noqa: PLR0911, PLR0912 - a table
        thread, arg, page = step.thread, step.arg, self.config.page
        size, align, many = size_of(arg, page), align_of(arg), size_of(arg >> 8 << 8, page)
        match step.op:
            case "alloc":
                return self.alloc(thread, 0, size, align)
            case "alloc_bytes":
                return self.alloc(thread, 1, size, align)
            case "alloc_many":
                return self.alloc_many(thread, 1 + arg % 8, many)
            case "netdev_frag":
                made = self.run(thread, lambda: self.netdev.alloc_frag(size, align=align))
                return self.keep(made)
            case "netdev_skb":
                return self.keep(self.run(thread, lambda: self.netdev.alloc_skb(size)))
            case "poll":
                return self.poll(thread)
            case "napi_frag":
                return self.napi_frag(thread, size, align)
            case "napi_skb":
                return self.napi_skb(thread, size)
            case "prepare":
                return self.prepare(thread, bool(arg & 1), many)
            case "exit":
                return self.exit(thread)
            case "drain":
                return self.drain(thread, bool(arg & 1))
            case "trim_pool":
                return self.trim_pool(thread)
            case "audit":
                return self.audit(thread)
            case "cycle":
                return self.cycle(thread, size)
        if not self.handles:
            return NOTHING
        at = step.handle % len(self.handles)
        match step.op:
            case "consume":
                return self.consume(thread, at)
            case "commit":
                return self.commit(thread, at, arg)
            case "release":
                return self.release(thread, at)
            case "write":
                return self.write(at, arg)
            case "read":
                return self.read(at)
            case "slice":
                return self.slice(thread, at, arg)
            case "readonly":
                return self.readonly(at)
            case "trim":
                return self.trim(thread, at, arg)
            case "add_frag":
                return self.add_frag(at, arg)
            case "clone":
                return self.clone(at)
            case "view":
                return self.view(at)
            case "unview":
                return self.unview(at)
            case op:
                return self.shape(op, at, arg)

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
            yield f"after {self.cycle(0, 1)}"
            self.drain(0, bytes_room=False)
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
