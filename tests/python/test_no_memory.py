"""When memory runs out there is a `MemoryError`, and the process lives."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import pagefrag

needs_testcapi = pytest.mark.skipif(
    importlib.util.find_spec("_testcapi") is None, reason="this Python has no _testcapi"
)
# Without a global lock CPython's own PyList_New, when there is no memory for the list's array,
# drops a list whose array was never set.
WILD_LISTS = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
needs_lists = pytest.mark.skipif(WILD_LISTS, reason="PyList_New of this Python dies without memory")


LADDER = """
import resource, sys
import pagefrag
pool = pagefrag.PagePool(1 << 20, huge_pages="never")
frag = pagefrag.PageFragCache(pool).alloc(1 << 20)
fixed = frag.toreadonly()
skb = pagefrag.netdev_alloc_skb(100)
for _ in range(17):
    skb.add_frag(frag)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
before = pool.audit()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000, -1))
hoard = []
try:
    # What the interpreter has set aside for itself.
    while True:
        hoard.append(bytes(1 << 20))
except MemoryError:
    pass
try:
    eval(sys.argv[1])
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    assert pool.audit() == before
    print("refused")
"""


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("act", ["frag.tobytes()", "hash(fixed)", "frag.hex()", "skb.tobytes()"])
def test_copies_that_do_not_fit_are_refused(act: str) -> None:
    done = run(LADDER, act)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


DOORS = {
    "fragment": """
f.nbytes; f.page; f.offset; f.capacity; f.pinned_bytes; repr(f); f.tobytes(); f.hex(); hash(ro)
f[300]; f[1:500]; f == b"x"; f == b"x" * 2000; f[0:3] = b"abc"; f.toreadonly(); f.copy()
f.__buffer__(0); memoryview(f); list(f[:9]); f.trim(5000); f["a"]; hash(f); gone.nbytes; repr(gone)
""",
    "cache": """
c.alloc(3000); c.alloc(20000); c.try_alloc(200); c.alloc_many(70, 2000); c.alloc(0); c.alloc(1.5)
c.alloc(size=100, align=256); exhausted.alloc(32768); c.prepare(1000); c.prepare(500).commit(300)
c.stats(); repr(c); p.netdev_alloc_frag(1000); repr(p.NetdevCache(pool))
""",
    "pool": """
pool.stats(); pool.audit(); pool.page_size; pool.max_bytes; pool.trim(); repr(pool)
p.PagePool(4096); p.PageFragCache(pool); p.default_pool()
""",
    "skb": """
p.netdev_alloc_skb(1000); skb.put(b"hello" * 60); skb.push(5); skb.pull(1); skb.tobytes()
skb.buffers(); skb.frags; skb.linearize(); repr(skb); skb.truesize; skb.headroom; skb.len
skb.clone(); skb.coalesce(skb); memoryview(skb); skb.put(10**6); skb.put(-1); skb.add_frag(5)
skb.add_frag(gone); p.build_skb(f); p.build_skb(ro); p.build_skb(gone); p.build_skb(5)
""",
    "batch": """
b.lengths; b.pages; b.addresses; b[0]; b[:]; list(b); repr(b); b[99]
b.wire_lengths; b.offsets; b.timestamps; b.interfaces; b.truncated; b.segments; b.discarded
b.release(); b["a"]
""",
    "ring": """
ring.recv(3, 0); ring.stats(); repr(ring); ring.fileno(); ring.pending; ring.gro; ring.cache
ring.drain(); p.RxRing(sock); ring.recv(3, "a"); ring.recv("a"); p.RxRing(sock, slots=2**70)
p.RxRing(sock, gro="a"); p.TxRing(sock, slots="a"); p.PagePool("a"); p.PageFragCache(granule=1.5)
napi.poll("a"); p.netdev_alloc_frag(5, align="a"); tx.flush("a")
ring.recv(0); ring.recv(3, -1); p.RxRing(3); p.RxRing(sock, slots=0)
""",
    "tx": """
tx.send([b"x", f, skb]); tx.send(b, to=b); tx.send(b, to=here); tx.send(b"x", to=here); tx.flush()
tx.queued; tx.stats(); repr(tx); tx.fileno(); tx.gso; tx.close(); p.TxRing(sock); shut.send(b"x")
tx.send([b"x", b"x" * 70000], to=here); tx.send(5); tx.send(b"x", to=9); tx.send(b"x")
tx.send(b"x", to=[here] * 2); tx.send(b"x", to=("localhost", here[1])); tx.send(b"x", timeout=-1)
tx.send([gone])
""",
    "objects": """
c.alloc(100); t.alloc(100); t.alloc_many(3, -1); b[0]
kept(b); f[1:5]; skb.frags; b.__arrow_c_array__(); b.__arrow_c_schema__(); t.prepare(9).commit(5)
""",
    "lists": """
c.alloc_many(3, 100); t.alloc_many(3, 100)
""",
    "modules": """
b.to_numpy(); b.to_arrow(); b.runs(); b.__reduce_ex__(5); b.__reduce_ex__(2); f.__reduce_ex__(5)
pool.tracked(); tracked.tracked(); aiter(ring); pool._repr_html_(); ring._repr_html_()
p.build_features()
""",
    "napi": """
over.alloc_frag(5); polled(); repr(napi); repr(over)
""",
}

PROGRAM = """
import socket, sys
import _testcapi
import pagefrag as p

def kept(batch):
    # One packet has no memory for its object, and the batch goes on with its bytes.
    try:
        batch[0]
    except MemoryError:
        pass
    for use in (sys.getsizeof, list, p.Batch.__arrow_c_array__, repr, p.Batch.to_numpy):
        try:
            use(batch)
        except usual:
            pass
    batch.release()

def polled():
    with napi.poll() as context:
        context.alloc_frag(1000)
        context.consume_skb(context.alloc_skb(1000))

def prepared():
    global pool, c, t, f, ro, gone, skb, b, napi, over, tx, shut
    pool = p.PagePool(huge_pages="never")
    c, t = p.PageFragCache(pool), p.PageFragCache(tracked)
    f, ro, gone = c.alloc(2000), c.alloc(1000).toreadonly(), c.alloc(1000)
    gone.release()
    skb = p.netdev_alloc_skb(1000)
    skb.put(b"abc").release()
    skb.push(1).release()
    for _ in range(3):
        sock.sendto(b"x" * 500, sock.getsockname())
    b = ring.recv(3)
    tx, shut = p.TxRing(sock), p.TxRing(sock)
    shut.close()
    napi = p.NapiCache(pool)
    with napi.poll() as over:
        pass
    pool.stats()
    if sys.argv[2] in ("objects", "lists"):
        # Those that are dead are used again: have none.
        objects.append(c.alloc_many(600, 64))

tracked = p.PagePool(track=1)
objects = []
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
ring = p.RxRing(sock)
here = sock.getsockname()
exhausted = p.PageFragCache(p.PagePool(max_bytes=2 << 20))
full = [exhausted.alloc(32768) for _ in range(64)]
usual = (MemoryError, ValueError, TypeError, IndexError, BufferError, OSError, OverflowError,
         p.ContextError)
for act in sys.argv[1].replace("\\n", ";").split(";"):
    act = compile(act.strip(), act, "exec")
    nth = calm = 0
    # Until the call has asked for all that it asks for, which three in a row tell.
    while nth < 8 or calm < 3 and nth < 99:
        calm += 1
        for stop in (nth + 1, 0):
            prepared()
            caught = None
            try:
                _testcapi.set_nomemory(nth, stop)
                try:
                    exec(act)
                finally:
                    _testcapi.remove_mem_hooks()
            except usual as error:
                calm = 0 if type(error) is MemoryError else calm
            except BaseException as error:
                caught = f"{type(error).__name__}: {error}"
            if caught:
                print(act.co_filename, nth, stop, caught)
            pool.audit()
        nth += 1
print("lived")
"""


@needs_testcapi
@pytest.mark.parametrize(
    "door", [pytest.param(door, marks=needs_lists if door == "lists" else ()) for door in DOORS]
)
def test_any_allocation_may_fail(door: str) -> None:
    done = run(PROGRAM, DOORS[door], door)
    assert (done.returncode, done.stdout) == (0, "lived\n"), done.stderr[-3000:]


COMMIT = """
import _testcapi
import pagefrag

cache = pagefrag.PageFragCache(pagefrag.PagePool(huge_pages="never"))
kept, refused = [], 0
# More than the dead objects that are kept for new ones.
for number in range(2000):
    room = cache.prepare(16)
    with memoryview(room) as view:
        view[:16] = number.to_bytes(16, "little")
    place = room.page, room.offset
    commit = room.commit
    try:
        _testcapi.set_nomemory(0, 1)
        try:
            frag = commit(16)
        finally:
            _testcapi.remove_mem_hooks()
    except MemoryError:
        refused += 1
        assert (room.page, room.offset) == place
        frag = room.commit(16)
    assert int.from_bytes(frag.tobytes(), "little") == number
    assert (frag.page, frag.offset) == place
    kept.append(frag)
assert refused, "an object was made without memory"
del frag, room, commit
kept.clear()
cache.drain()
cache.pool.trim()
assert cache.pool.audit().regions_mapped == 0
print("lived")
"""

BUILD = """
import _testcapi
import pagefrag

cache = pagefrag.PageFragCache(pagefrag.PagePool(huge_pages="never"))
frag, refused = cache.alloc(1000), 0
frag[:4] = b"data"
while True:
    try:
        _testcapi.set_nomemory(refused, refused + 1)
        try:
            skb = pagefrag.build_skb(frag)
        finally:
            _testcapi.remove_mem_hooks()
        break
    except MemoryError:
        refused += 1
        assert frag[:4].tobytes() == b"data", "the fragment is gone"
assert refused, "an object was made without memory"
skb.put(4).release()
assert skb.tobytes() == b"data"
print("lived")
"""

SHARED = """
import copy, socket
import _testcapi
import pagefrag

cache = pagefrag.PageFragCache(pagefrag.PagePool(huge_pages="never"), granule=1)
objects = cache.alloc_many(600, 64)  # those that are dead are used again: have none
places = [None] * 5

def refused(nth_act, act):
    # Calls it with memory for ever more objects, until there is enough.
    nth = 0
    while True:
        try:
            _testcapi.set_nomemory(nth, 0)
            try:
                places[nth_act] = act()
            finally:
                _testcapi.remove_mem_hooks()
            return nth
        except MemoryError:
            nth += 1
            yield

acts = (lambda: frag[1:5], lambda: frag.toreadonly(), lambda: copy.copy(frag))
for nth_act, act in enumerate(acts):
    frag = cache.alloc(1000)
    places.append(frag)
    for _ in refused(nth_act, act):
        # Only of a fragment that was never shared.
        pagefrag.build_skb(frag)
        frag = cache.alloc(1000)
        places.append(frag)
        print("fragment")

skb = pagefrag.build_skb(cache.alloc(1000))
for _ in refused(3, skb.clone):
    skb.put(1).release()
    print("packet")

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
for number in range(3):
    sock.sendto(bytes([number]) * 500, sock.getsockname())
batch = pagefrag.RxRing(sock).recv(3)
places += cache.alloc_many(600, 64)
for _ in refused(4, lambda: batch[1]):
    print("batch")
assert [frag.tobytes() for frag in batch] == [bytes([number]) * 500 for number in range(3)]
"""

FIRST = """
import sys, threading, time
import _testcapi
import pagefrag

pool = pagefrag.PagePool(huge_pages="never")
cache = pagefrag.PageFragCache(pool)
netdev = pagefrag.NetdevCache(pool)
doors = [
    lambda: cache.alloc(100),
    lambda: cache.prepare(100),
    lambda: netdev.alloc_frag(100),
    lambda: netdev.alloc_skb(100),
]
if "lists" in sys.argv:
    doors.append(lambda: cache.alloc_many(3, 100))
pool.audit()
pool.stats()
raised = []
over = threading.Lock()
over.acquire()

def work(door, nth, stop):
    # Memory is refused to all threads: the other one waits by now, and asks for none.
    time.sleep(0.001)
    try:
        _testcapi.set_nomemory(nth, stop)
        try:
            door()
        finally:
            _testcapi.remove_mem_hooks()
    except (MemoryError, SystemError):
        # Of the second kind are those of 3.11 itself, which cannot make a traceback.
        pass
    except BaseException as error:
        raised.append(f"{type(error).__name__}: {error}")
    over.release()
    door()

for door in doors:
    for nth in range(25):
        for stop in (nth + 1, 0):
            thread = threading.Thread(target=work, args=(door, nth, stop))
            thread.start()
            over.acquire()
            thread.join()
            assert pool.audit().pages_in_use == 0, (nth, stop)
print(raised or "lived")
"""


@needs_testcapi
def test_a_commit_without_memory_for_its_fragment_leaves_the_room_as_it_is() -> None:
    done = run(COMMIT)
    assert (done.returncode, done.stdout) == (0, "lived\n"), done.stderr[-3000:]


@needs_testcapi
def test_a_packet_without_memory_for_its_object_leaves_the_fragment_as_it_is() -> None:
    done = run(BUILD)
    assert (done.returncode, done.stdout) == (0, "lived\n"), done.stderr[-3000:]


@needs_testcapi
def test_what_is_shared_without_memory_for_the_object_is_as_it_was() -> None:
    done = run(SHARED)
    assert done.returncode == 0, done.stderr[-3000:]
    refused = {kind: done.stdout.count(kind) for kind in ("fragment", "packet", "batch")}
    assert refused["fragment"] >= 3, "an object was made without memory"
    assert refused["packet"]
    assert refused["batch"]


@needs_testcapi
def test_a_thread_s_first_allocation_may_fail_and_its_end_is_still_seen() -> None:
    done = run(FIRST, *["lists"] * (not WILD_LISTS))
    assert (done.returncode, done.stdout) == (0, "lived\n"), done.stderr[-3000:]


MAP_ENTRIES = """
import mmap
import pagefrag

MIB = 1 << 20
pool = pagefrag.PagePool(MIB, huge_pages="never")
cache = pagefrag.PageFragCache(pool)
frags = [cache.alloc(MIB) for _ in range(16)]
junk = []
pool.audit()  # what it imports is there now

def fill():
    # Neighbours that may not become one: of each two only one can be written.
    try:
        while True:
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if len(junk) % 2 else 0)
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            junk.append(mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=prot))
    except (OSError, MemoryError):
        pass

fill()
try:
    cache.alloc(MIB)
except MemoryError as error:
    print(error)
assert pool.audit().out_of_memory == 1
# Regions that are neighbours are one entry: to give one back from the middle takes another.
for frag in frags[4:12]:
    frag.release()
cache.drain()
fill()
gone = pool.trim()
stats = pool.audit()
assert stats.regions_mapped == 8 - gone
assert stats.pages_free == 8 - 2 * gone
if stats.pages_free:
    cache.alloc(MIB).release()
for entry in junk:
    entry.close()
frags += [cache.alloc(MIB) for _ in range(20)]
for frag in frags:
    frag.release()
cache.drain()
pool.trim()
assert pool.audit().regions_mapped == 0
print("lived")
"""


def test_a_process_without_map_entries_is_refused_memory_and_lives_on() -> None:
    most = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    if most > 300_000:
        pytest.skip(f"to use up {most} map entries takes too much memory")
    done = run(MAP_ENTRIES)
    said = "the operating system gave no memory for a region\nlived\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr[-3000:]


ADDRESSES = """
import resource
import sys
import pagefrag

MIB = 1 << 20
pool = pagefrag.PagePool(MIB, huge_pages="never")
cache = pagefrag.PageFragCache(pool)
pool.audit()  # what it imports is there now
kept = []
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * MIB, -1))
try:
    while True:
        kept.append(cache.alloc(MIB))
except MemoryError as error:
    said = str(error)
before = len(kept)
stats = pool.audit()
assert stats.live_bytes == before * MIB and stats.out_of_memory == 1
if kept:
    # What comes back is used again, without asking the system.
    kept.pop().release()
    kept.append(cache.alloc(MIB))
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
kept += [cache.alloc(MIB) for _ in range(9)]
for frag in kept:
    frag.release()
cache.drain()
pool.trim()
assert pool.audit().regions_mapped == 0
print(before, said)
"""


@pytest.mark.parametrize("mib", [1, 4, 6, 9, 14])
def test_a_process_without_addresses_is_refused_memory_and_lives_on(mib: int) -> None:
    done = run(ADDRESSES, str(mib))
    assert done.returncode == 0, done.stderr[-3000:]
    pages, said = done.stdout.split(maxsplit=1)
    assert int(pages) <= mib
    assert int(pages) % 2 == 0, "regions are used up before the system is asked"
    assert said == "the operating system gave no memory for a region\n"


def test_a_panic_further_down_is_not_taken_for_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="page size"):
        pagefrag.PagePool(3)  # with the first error PyO3 makes its class of panics
    panic = next(c for c in BaseException.__subclasses__() if c.__name__ == "PanicException")

    def fails(pool: pagefrag.PagePool) -> str:
        raise panic(f"an invariant of {pool} broke")

    monkeypatch.setattr("pagefrag._html.pool", fails)
    with pytest.raises(panic, match="an invariant of"):
        pagefrag.PagePool()._repr_html_()
