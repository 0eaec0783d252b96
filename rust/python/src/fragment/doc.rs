//! What `help(Fragment)` says. Every example runs as a test.

use std::ffi::CStr;

pub(crate) const CLASS: &CStr =
    c"Consecutive bytes in a page, counted on their own; a writable buffer.

Made by caches and rings. Everything that takes a buffer takes a fragment: `socket.recv_into`,
`numpy.frombuffer`, `struct.unpack_from`. It behaves as a `memoryview` of its bytes does, except
that slicing gives a fragment that shares the memory. It adds no object to the garbage collector.

>>> frag = PageFragCache().alloc(4)
>>> frag[:] = b'ping'
>>> frag == b'ping', frag[0], len(frag)
(True, 112, 4)
";

pub(crate) const TOBYTES: &CStr = c"tobytes($self, /)\n--\n\nThe bytes, copied.

>>> frag = PageFragCache().alloc(2)
>>> frag[:] = b'hi'
>>> frag.tobytes()
b'hi'
";

pub(crate) const HEX: &CStr = c"hex($self, /, *args, **kwargs)\n--\n\nThe bytes in hexadecimal digits; arguments as for `bytes.hex`.

>>> frag = PageFragCache().alloc(4)
>>> frag[:] = b'\\x01\\x02\\xfe\\xff'
>>> frag.hex('-', 2)
'0102-feff'
";

pub(crate) const TRIM: &CStr =
    c"trim($self, n, /)\n--\n\nKeeps the first `n` bytes and returns the fragment.

What is behind them is free again at once, unless another fragment shares the memory.
`BufferError` while views exist, `ValueError` when there are fewer bytes than `n`.

>>> frag = PageFragCache().alloc(2048)
>>> frag.trim(100).capacity
128
";

pub(crate) const TOREADONLY: &CStr =
    c"toreadonly($self, /)\n--\n\nA read-only fragment that shares the memory.

It can be hashed, by its bytes as they are now. Whoever still writes through another fragment of
the same memory changes them, and with them the hash: keep no such fragment in a set or a dict.

>>> frag = PageFragCache().alloc(1).toreadonly()
>>> frag.readonly
True
";

pub(crate) const COPY: &CStr =
    c"copy($self, /, *, cache=None)\n--\n\nThe same bytes in memory of their own, writable.

The memory is carved from `cache`; without one, from the newest cache over the fragment's own pool.
If none is left, or the fragment came out of a pickle, it comes from the default pool, or, above its
page size, from a pool of 1 MiB pages that is kept for such copies, has no limit and is in nobody's
`stats`.

>>> frag = PageFragCache().alloc(2)
>>> frag[:] = b'hi'
>>> other = frag.copy()
>>> other[0] = 0x48
>>> frag.tobytes(), other.tobytes()
(b'hi', b'Hi')
";

pub(crate) const RELEASE: &CStr =
    c"release($self, /)\n--\n\nGives the memory back now instead of with the last reference.

Doing it again does nothing. `BufferError` while views exist; any other use afterwards is a
`ValueError`. Mind consumers that keep a pointer without keeping a view, such as
`zmq.Frame(fragment, copy=False)`: give them `memoryview(fragment)`.

>>> frag = PageFragCache().alloc(64)
>>> view = memoryview(frag)
>>> frag.release()
Traceback (most recent call last):
    ...
BufferError: 1 view of this fragment still exists, or a call runs
>>> view.release()
>>> frag.release()
>>> frag
<Fragment released>
";

pub(crate) const REDUCE: &CStr =
    c"__reduce_ex__($self, protocol, /)\n--\n\nWhat a pickle has of it.

From protocol 5 on the bytes are a `PickleBuffer`: no copy out of band, one in band. The fragment
that comes out is over the object that the unpickler got the bytes in, without a copy, and read-only
if that is; it can do all that others can, but not become part of an `SkBuff`. Pickles carry the
number of their layout; a newer one than this version knows is a `PagefragError`.

>>> import pickle
>>> frag = PageFragCache().alloc(4)
>>> frag[:] = b'ping'
>>> frames = []
>>> data = pickle.dumps(frag, 5, buffer_callback=frames.append)
>>> pickle.loads(data, buffers=frames).tobytes()
b'ping'
";

pub(crate) const SHALLOW: &CStr =
    c"__copy__($self, /)\n--\n\nAnother fragment of the same memory, as `fragment[:]`.

>>> import copy
>>> frag = PageFragCache().alloc(4)
>>> copy.copy(frag)[:] = b'ping'
>>> frag.tobytes()
b'ping'
";

pub(crate) const DEEP: &CStr =
    c"__deepcopy__($self, memo, /)\n--\n\nThe same bytes in memory of their own, read-only if these are.

>>> import copy
>>> frag = PageFragCache().alloc(4)
>>> copy.deepcopy(frag)[:] = b'ping'
>>> frag == b'ping'
False
";

pub(crate) const ENTER: &CStr =
    c"__enter__($self, /)\n--\n\nThe fragment itself; leaving the block releases it.

>>> with PageFragCache().alloc(64) as frag:
...     len(frag)
64
";

pub(crate) const EXIT: &CStr = c"__exit__($self, /, *args)\n--\n\nReleases the fragment.

>>> with PageFragCache().alloc(64) as frag:
...     pass
>>> frag
<Fragment released>
";

#[cfg(not(Py_3_12))]
pub(crate) const BUFFER: &CStr =
    c"__buffer__($self, flags, /)\n--\n\nA memoryview of the bytes, as from Python 3.12 on.

>>> PageFragCache().alloc(64).__buffer__(0).nbytes
64
";

pub(crate) const NBYTES: &CStr = c"Bytes in the fragment; the same as `len()`.

>>> PageFragCache().alloc(1500).nbytes
1500
";

pub(crate) const CAPACITY: &CStr =
    c"Bytes that come home when the last fragment of the allocation goes: whole lines.

>>> PageFragCache().alloc(1500).capacity
1536
";

pub(crate) const PAGE: &CStr =
    c"A number that is equal for fragments of one page and different for different live pages.

>>> cache = PageFragCache()
>>> cache.alloc(64).page == cache.alloc(64).page
True
";

pub(crate) const OFFSET: &CStr = c"Where in its page the fragment starts.

>>> cache = PageFragCache(PagePool())
>>> first, second = cache.alloc(1500), cache.alloc(1500)
>>> second.offset - first.offset
1536
";

pub(crate) const READONLY: &CStr = c"Whether writing is refused.

>>> frag = PageFragCache().alloc(1)
>>> frag.readonly, frag[:].readonly, frag.toreadonly().readonly
(False, False, True)
";

pub(crate) const PINNED: &CStr = c"Bytes of the fragment's page that are held and not alive.

What the page's living fragments together keep from others at this moment.

>>> frag = PageFragCache(PagePool()).alloc(2048)
>>> frag.pinned_bytes
30720
";
