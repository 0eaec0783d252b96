"""The model as an executor: what ``engine.py`` is for the Python package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from traces.decode import PACKET, THREADS, Config, Step, align_of, decode, digest, pattern, size_of

from .cache import SHORTAGE, ZERO_SIZE, Cache, Table, ask, give_up_idle
from .pages import Frag, Page
from .pool import Pool, Refusal
from .skb import ITSELF, VIEWED, Skb, build, head_bytes

NOTHING = "-"


@dataclass(eq=False)
class _Handle:
    """A fragment, a room or an skb, and how many look at it."""

    held: Frag | Skb
    room: str = ""  # of which cache it is the room, if it is one
    views: int = 0


class World:
    """A pool, the caches of all threads, and all handles."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.pool = Pool(
            config.page,
            config.regions,
            on_alloc=config.init_on_alloc,
            on_free=config.init_on_free,
            fails=self.fails,
        )
        self.broken = True
        self.calls = 0  # of the kind that shall fail
        self.tables: list[Table] = [{} for _ in range(THREADS)]
        self.polling = [False] * THREADS
        self.handles: list[_Handle] = []
        self.names: dict[tuple[int, int], int] = {}
        self.seen = 0

    def fails(self, call: str) -> bool:
        """Does the system refuse *call*?"""
        if call != self.config.fault or not self.broken:
            return False
        self.calls += 1
        return self.config.hits(self.calls - 1)

    def cache(self, thread: int, name: str) -> Table:
        """Return a thread's caches, among them the one called *name*."""
        table = self.tables[thread]
        if name not in table:
            table[name] = Cache(self.pool, thread, bytewise=name == "bytes")
        return table

    def ask(self, thread: int, name: str, call: Callable[[Cache], Frag]) -> Frag:
        return ask(self.cache(thread, name), name, call)

    # --- what the log says --------------------------------------------------------

    def place(self, frag: Frag) -> str:
        """Return the name of a place: pages are numbered as they are first seen."""
        name = frag.page.name
        if name not in self.names:
            self.names[name] = self.seen
            self.seen += 1
        return f"P{self.names[name]}+{frag.start}"

    def facts(self, handle: _Handle) -> str:
        """Return what there is to say of *handle*."""
        held = handle.held
        if isinstance(held, Skb):
            return (
                f"skb len={held.length} data={held.nonlinear} head={held.data} "
                f"tail={held.tailroom} true={held.truesize} frags={len(held.frags)}"
            )
        if handle.room:
            return f"{self.place(held)} room={held.length}"
        capacity, readonly = held.piece.size, int(held.readonly)
        return f"{self.place(held)} len={held.length} cap={capacity} ro={readonly}"

    def keep(self, held: Frag | Skb, room: str = "") -> str:
        """Take *held* into the handles."""
        self.handles.append(_Handle(held, room))
        return self.facts(self.handles[-1])

    def take(self, at: int) -> _Handle:
        """Take a handle out; the last one takes its place."""
        handle, last = self.handles[at], self.handles.pop()
        if last is not handle:
            self.handles[at] = last
        return handle

    # --- what makes handles ---------------------------------------------------------

    def alloc(self, thread: int, name: str, size: int, align: int) -> str:
        return self.keep(self.ask(thread, name, lambda cache: cache.alloc(size, align)))

    def alloc_many(self, thread: int, count: int, size: int) -> str:
        """Allocate all or none."""
        made: list[Frag] = []
        try:
            while len(made) < count:
                made += [self.ask(thread, "lines", lambda cache: cache.alloc(size))]
        except Refusal:
            for frag in made:
                self.pool.free(frag, thread)
            raise
        return "".join(f"{self.keep(frag)}; " for frag in made)

    def skb(self, thread: int, name: str, size: int) -> str:
        size = head_bytes(size)
        return self.keep(Skb(self.ask(thread, name, lambda cache: cache.alloc(size))))

    def poll(self, thread: int) -> str:
        self.polling[thread] = not self.polling[thread]
        return "entered" if self.polling[thread] else "left"

    def in_poll(self, thread: int) -> None:
        if not self.polling[thread]:
            raise Refusal("a napi call needs an open poll")

    def napi(self, thread: int, call: Callable[[], str]) -> str:
        """A shortage is an answer in a poll; the caller's mistakes are refused."""
        self.in_poll(thread)
        try:
            return call()
        except Refusal as refusal:
            if str(refusal) in SHORTAGE:
                return "none"
            raise

    def prepare(self, thread: int, name: str, least: int) -> str:
        return self.keep(self.ask(thread, name, lambda cache: cache.take_room(least)), name)

    # --- what is done to a handle -----------------------------------------------------

    def release(self, thread: int, handle: _Handle) -> None:
        if isinstance(handle.held, Skb):
            handle.held.free(self.pool, thread)
        else:
            self.pool.free(handle.held, thread)

    def nearest(self, at: int, kind: type, but: _Handle | None = None) -> _Handle | None:
        """Return the first handle from *at* on, around the end, that is of a *kind*."""
        turned = self.handles[at:] + self.handles[:at]
        found = (one for one in turned if isinstance(one.held, kind) and not one.room)
        return next((one for one in found if one is not but), None)

    def on_packet(self, step: Step) -> str:
        """What becomes of whole packets."""
        kind = Frag if step.op == "build_skb" else Skb
        handle = self.nearest(step.handle % len(self.handles), kind)
        if handle is None:
            return NOTHING
        match handle.held:
            case Frag() as frag:
                handle.held = build(frag, viewed=bool(handle.views))
            case skb if step.op == "linearize":
                size = skb.head_for_all()
                carve = lambda cache: cache.alloc(size)  # noqa: E731 - of one line
                head = self.ask(step.thread, "lines", carve) if size else None
                skb.linearize(head, self.pool, step.thread)
            case skb:
                at = (step.arg >> 8) % len(self.handles)
                if self.handles[at] is handle:
                    raise Refusal(ITSELF)
                other = self.nearest(at, Skb, but=handle)
                if other is None:
                    return NOTHING
                skb.coalesce(other.held, self.pool, step.thread)
                self.take(self.handles.index(other))
        return self.facts(handle)

    def on_handle(self, step: Step) -> str:  # noqa: PLR0911, PLR0912 - a table
        thread, arg = step.thread, step.arg
        at = step.handle % len(self.handles)
        handle = self.handles[at]
        held = handle.held
        is_frag = isinstance(held, Frag) and not handle.room
        match step.op:
            case "consume" if isinstance(held, Skb):
                self.in_poll(thread)
                self.release(thread, self.take(at))
                return "consumed"
            case "commit" if handle.room:
                assert isinstance(held, Frag)
                return self.commit(thread, at, held, arg % (held.length + 2))
            case "release":
                self.not_viewed(handle)
                self.release(thread, self.take(at))
                return "released"
            case "write" if isinstance(held, Frag):
                if held.readonly:
                    raise Refusal("read-only")
                held.write(pattern(arg, held.length))
                return "written"
            case "read" if not handle.room:
                return f"{digest(held.bytes):08x}"
            case "slice" if is_frag:
                ends = sorted(part % (held.length + 1) for part in (arg & 0xFFFF, arg >> 16))
                part = held.share()
                part.narrow(ends[0], ends[1] - ends[0])
                return self.keep(part)
            case "readonly" if is_frag:
                part = held.share()
                part.readonly = True
                return self.keep(part)
            case "trim" if not handle.room:
                return self.trim(thread, handle, arg % (held.length + 2))
            case "add_frag" if isinstance(held, Skb):
                other = self.handles[arg % len(self.handles)]
                if other.room or isinstance(other.held, Skb):
                    return NOTHING
                held.add_frag(other.held)
                return self.facts(handle)
            case "clone" if isinstance(held, Skb):
                return self.keep(held.clone())
            case "view" if isinstance(held, Frag):
                handle.views += 1
                return f"views={handle.views}"
            case "unview" if handle.views:
                handle.views -= 1
                return f"views={handle.views}"
            case "put" if isinstance(held, Skb):
                held.put(pattern(arg, arg % 256))
            case "push" if isinstance(held, Skb):
                held.push(pattern(arg, arg % 128))
            case "pull" if isinstance(held, Skb):
                held.pull(arg % 256)
            case "reserve" if isinstance(held, Skb):
                held.reserve(arg % 128)
            case _:
                return NOTHING
        return self.facts(handle)

    def not_viewed(self, handle: _Handle) -> None:
        if handle.views:
            raise Refusal(VIEWED)

    def commit(self, thread: int, at: int, room: Frag, used: int) -> str:
        self.not_viewed(self.handles[at])
        if used == 0:
            raise Refusal(ZERO_SIZE)
        if used > room.length:
            raise Refusal("more bytes were committed than were prepared")
        name = self.take(at).room
        return self.keep(self.cache(thread, name)[name].settle(room, used))

    def trim(self, thread: int, handle: _Handle, keep: int) -> str:
        if isinstance(handle.held, Skb):
            handle.held.trim(keep, self.pool, thread)
        else:
            self.not_viewed(handle)
            if keep > handle.held.length:
                raise Refusal("the fragment holds fewer bytes than that")
            self.pool.shrink(handle.held, keep, thread)
        return self.facts(handle)

    # --- what is done to all --------------------------------------------------------------

    def exit(self, thread: int) -> str:
        """A thread ends, and its caches with it. Thread 0 stays, and drains instead."""
        self.polling[thread] = False
        if thread == 0:
            for name in ("lines", "bytes", "netdev"):
                self.cache(0, name)[name].drain()
            return "drained"
        for cache in self.tables[thread].values():
            cache.drain()
        self.tables[thread].clear()
        return "ended"

    def trim_pool(self, thread: int) -> str:
        give_up_idle(self.tables[thread])
        gone = self.pool.unmap()
        alive = {handle.held.page.name for handle in self.handles if isinstance(handle.held, Frag)}
        self.names = {name: number for name, number in self.names.items() if name in alive}
        return f"regions={gone}"

    def counted(self, thread: int) -> str:
        """Return what the caches of a thread have counted."""
        tables = ((name, self.cache(thread, name)[name]) for name in ("lines", "bytes"))
        return "".join(
            f" {name}=" + "/".join(map(str, cache.shelf.counters.values()))
            for name, cache in tables
        )

    def audit(self, thread: int) -> str:
        pages = list(self.pool.pages())
        roles = [page.role for page in pages]
        used = [page for page in pages if page.role != "free"]
        return (
            f"held={len(used) * self.config.page} live={sum(map(Page.live_bytes, used))} "
            f"obtained={self.pool.pages_obtained} current={roles.count('current')} "
            f"retired={roles.count('waiting') + roles.count('spare')} "
            f"orphaned={roles.count('orphan')} free={roles.count('free')} "
            f"returned={self.pool.pages_returned} regions={self.pool.mapped} "
            f"peak={self.pool.peak} exhausted={self.pool.exhausted} "
            f"no_memory={self.pool.no_memory} huge_failed={self.pool.huge_failed}"
            f"{self.counted(thread)}"
        )

    def cycle(self, thread: int, size: int) -> str:
        """Rubbish dies in a finalizer that allocates: one comes and goes, then the first goes."""
        first = self.ask(thread, "lines", lambda cache: cache.alloc(size))
        try:
            second = self.ask(thread, "lines", lambda cache: cache.alloc(64))
        except Refusal:
            self.pool.free(first, thread)
            raise
        self.pool.free(second, thread)
        self.pool.free(first, thread)
        return f"{self.place(first)} {self.place(second)}"

    # --- the steps ----------------------------------------------------------------------------

    def step(self, step: Step) -> str:
        """Do one step and return what there is to say of it."""
        try:
            return self._step(step)
        except Refusal as refusal:
            return f"refused: {refusal}"

    def _step(self, step: Step) -> str:  # noqa: PLR0911, PLR0912 - a table
        thread, arg, page = step.thread, step.arg, self.config.page
        size, align, many = size_of(arg, page), align_of(arg), size_of(arg >> 8 << 8, page)
        match step.op:
            case "alloc":
                return self.alloc(thread, "lines", size, align)
            case "alloc_bytes":
                return self.alloc(thread, "bytes", size, align)
            case "alloc_many":
                return self.alloc_many(thread, 1 + arg % 8, many)
            case "netdev_frag":
                return self.alloc(thread, "netdev", size, align)
            case "netdev_skb":
                return self.skb(thread, "netdev", size)
            case "poll":
                return self.poll(thread)
            case "napi_frag":
                return self.napi(thread, lambda: self.alloc(thread, "napi", size, align))
            case "napi_skb":
                return self.napi(thread, lambda: self.skb(thread, "napi", size))
            case "prepare":
                return self.prepare(thread, "bytes" if arg & 1 else "lines", many)
            case "exit":
                return self.exit(thread)
            case "drain":
                name = "bytes" if arg & 1 else "lines"
                self.cache(thread, name)[name].drain()
                return "drained"
            case "trim_pool":
                return self.trim_pool(thread)
            case "audit":
                return self.audit(thread)
            case "cycle":
                return self.cycle(thread, size)
        if not self.handles:
            return NOTHING
        return self.on_packet(step) if step.op in PACKET else self.on_handle(step)

    def end(self) -> Iterator[str]:
        """Let everything go, thread by thread, and tell what is left."""
        for thread in range(THREADS):
            yield f"end {thread} {self.exit(thread)}"
        for handle in self.handles:
            self.release(0, handle)
        self.handles.clear()
        if "napi" in self.tables[0]:
            self.tables[0].pop("napi").drain()
        yield f"end {self.trim_pool(0)}"
        yield f"end {self.audit(0)}"
        self.broken = False
        if self.config.fault:
            yield f"after {self.cycle(0, 1)}"
            self.cache(0, "lines")["lines"].drain()
            yield f"after {self.trim_pool(0)}"


def log(trace: bytes) -> str:
    """Return what every executor says of *trace*."""
    config, steps = decode(trace)
    world = World(config)
    lines = [str(config)]
    for number, step in enumerate(steps):
        lines.append(f"{number} {step.op}{step.thread} {world.step(step)}")
    lines.extend(world.end())
    return "\n".join(lines) + "\n"
