//! `alloc`, `try_alloc` and `alloc_many`: the calls that are made for every packet, by the shortest
//! way that the interpreter has.
//!
//! A `#[pymethods]` function spends more on its arguments than an allocation costs. So these three
//! are method descriptors around C functions, put into `PageFragCache`'s type after it has been
//! made. What the shortest way does not cover (names, alignments, integers that are not plain `int`)
//! is read in safe Rust further down.
//!
//! Nothing between the carving of memory and its object runs Python code: a finalizer or a signal
//! handler that allocates never finds a cache half done.

use std::ffi::CStr;
use std::ptr::null_mut;

use pagefrag::{Error, FragMut, Granule, LINE, LocalCache};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::cache::{PageFragCache, TRACKED};
use crate::error::{from_core, set};
use crate::made::guarded;
use crate::object::{Blank, blank, make_raw};
use crate::{args, thread_end, tracking};

const ALLOC: &CStr =
    c"alloc($self, /, size, *, align=1)\n--\n\nA fragment of `size` bytes, from 1 to the page size.

`align` is a power of two up to the page size. `PoolExhausted` when the pool is at its limit. The
bytes are whatever was there before, unless the pool was made with `init_on_alloc`.

>>> frag = PageFragCache().alloc(100, align=256)
>>> frag.nbytes, frag.offset % 256
(100, 0)
";

const TRY_ALLOC: &CStr = c"try_alloc($self, /, size, *, align=1)\n--\n\nAs `alloc`, but None when the pool is at its limit.

>>> cache = PageFragCache(PagePool(max_bytes=2 << 20))
>>> kept = [cache.try_alloc(32768) for _ in range(65)]
>>> kept[64] is None
True
";

const ALLOC_MANY: &CStr = c"alloc_many($self, /, count, size, *, align=1)\n--\n\nA list of `count` fragments of `size` bytes each: all of them, or an exception and none.

>>> [frag.nbytes for frag in PageFragCache().alloc_many(3, 100)]
[100, 100, 100]
";

/// Fragments carved in one go before they are wrapped.
const BATCH: usize = 64;

/// What the interpreter passes to a method by `METH_FASTCALL | METH_KEYWORDS`.
struct Call<'a, 'py> {
    py: Python<'py>,
    cache: &'a PageFragCache,
    /// Positional arguments, then the values of the named ones.
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    names: Option<Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Call<'a, 'py> {
    /// # Safety
    /// - The interpreter is attached and passes these to a method of `PageFragCache`.
    #[inline]
    unsafe fn new(
        object: *mut ffi::PyObject,
        values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Self {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the caller holds a reference.
        let cache = unsafe { Borrowed::from_ptr(py, object) };
        // SAFETY: the method descriptor has checked the type.
        let cache = unsafe { cache.cast_unchecked::<PageFragCache>() };
        // SAFETY: a tuple of names that the caller holds, or null.
        let names = unsafe { Borrowed::from_ptr_or_opt(py, names) };
        // SAFETY: the calling convention says a tuple.
        let names = names.map(|names| unsafe { names.cast_unchecked::<PyTuple>() });
        let positional = positional.unsigned_abs();
        let all = positional + names.map_or(0, |names| names.len());
        let values = if all == 0 {
            &[]
        } else {
            // SAFETY: so many values stand there during the call.
            unsafe { std::slice::from_raw_parts(values, all) }
        };
        // SAFETY: the borrowed object outlives the call, and a frozen class lends `&Self` freely.
        let cache = unsafe { &*std::ptr::from_ref(cache.get()) };
        Self {
            py,
            cache,
            values,
            positional,
            names,
        }
    }

    fn value(&self, index: usize) -> Borrowed<'a, 'py, PyAny> {
        // SAFETY: an argument, alive during the call.
        unsafe { Borrowed::from_ptr(self.py, self.values[index]) }
    }

    /// The arguments in the order of `names`, of which all but the last are positional or named
    /// and required, and the last is named only and may be missing.
    fn sorted<const N: usize>(
        &self,
        names: [&str; N],
    ) -> PyResult<[Option<Borrowed<'a, 'py, PyAny>>; N]> {
        if self.positional >= N {
            let (most, found) = (N - 1, self.positional);
            return Err(PyTypeError::new_err(format!(
                "takes at most {most} positional arguments ({found} given)"
            )));
        }
        let mut sorted = [None; N];
        for (index, place) in sorted.iter_mut().enumerate().take(self.positional) {
            *place = Some(self.value(index));
        }
        for (index, name) in self
            .names
            .iter()
            .flat_map(|names| names.iter_borrowed())
            .enumerate()
        {
            let name = name.extract::<&str>()?;
            let Some(place) = names.iter().position(|known| *known == name) else {
                return Err(PyTypeError::new_err(format!(
                    "got an unexpected keyword argument '{name}'"
                )));
            };
            if sorted[place]
                .replace(self.value(self.positional + index))
                .is_some()
            {
                return Err(PyTypeError::new_err(format!(
                    "got multiple values for argument '{name}'"
                )));
            }
        }
        match (0..N - 1).find(|place| sorted[*place].is_none()) {
            Some(missing) => Err(PyTypeError::new_err(format!(
                "missing required argument '{}'",
                names[missing]
            ))),
            None => Ok(sorted),
        }
    }

    /// Size and alignment of an `alloc` or `try_alloc` that did not go the shortest way.
    fn size_and_align(&self) -> PyResult<(usize, usize)> {
        let [size, align] = self.sorted(["size", "align"])?;
        let size = args::whole_or(size.as_deref(), "size", 0)?;
        Ok((size, args::whole_or(align.as_deref(), "align", 1)?))
    }
}

/// A `Fragment` (a new reference, or null with an exception set), or why the core refused.
///
/// The shortest way is for one positional argument that is a plain `int` above 0.
///
/// # Safety
/// - The interpreter is attached and passes these to a method of `PageFragCache`.
#[inline]
unsafe fn one(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Error> {
    if positional == 1 && names.is_null() {
        // SAFETY: there is one argument.
        let value = unsafe { *values };
        // SAFETY: an argument, alive during the call.
        if unsafe { ffi::PyLong_CheckExact(value) } != 0 {
            // SAFETY: an `int`, alive during the call.
            let size = unsafe { ffi::PyLong_AsSsize_t(value) };
            if size > 0 {
                // SAFETY: attached.
                let py = unsafe { Python::assume_attached() };
                // SAFETY: the caller holds a reference.
                let cache = unsafe { Borrowed::from_ptr(py, object) };
                // SAFETY: the method descriptor has checked the type.
                let cache = unsafe { cache.cast_unchecked::<PageFragCache>() };
                // SAFETY: attached.
                return unsafe { carve(&cache.get().core, size.unsigned_abs()) };
            }
            // SAFETY: attached. Of a number that does not fit is told where all are read.
            unsafe { ffi::PyErr_Clear() };
        }
    }
    // SAFETY: the contract.
    unsafe { one_slowly(object, values, positional, names) }
}

/// # Safety
/// - The interpreter is attached.
#[inline]
unsafe fn carve(cache: &LocalCache, size: usize) -> Result<*mut ffi::PyObject, Error> {
    // The object first, empty, so that the fragment is written straight into it.
    // SAFETY: attached; filled or scrapped below.
    let Some(blank) = (unsafe { blank() }) else {
        return Ok(null_mut());
    };
    // Who has room here has been through `refill` on this thread, and is watched.
    match cache.alloc_here(size) {
        Some(frag) => Ok(blank.fill(frag.into_raw(), false)),
        // SAFETY: attached.
        None => unsafe { refill(blank, cache, size) },
    }
}

/// # Safety
/// - The interpreter is attached.
#[inline(never)]
unsafe fn refill(
    blank: Blank,
    cache: &LocalCache,
    size: usize,
) -> Result<*mut ffi::PyObject, Error> {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    if let Err(error) = guarded(py, || thread_end::watch(py)) {
        blank.scrap();
        return Ok(raise(error));
    }
    match cache.alloc(size) {
        Ok(frag) => Ok(blank.fill(frag.into_raw(), false)),
        Err(error) => {
            blank.scrap();
            Err(error)
        }
    }
}

/// [`one`] for every way of calling.
///
/// # Safety
/// - As there.
#[cold]
unsafe fn one_slowly(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Result<*mut ffi::PyObject, Error> {
    // SAFETY: the contract.
    let call = unsafe { Call::new(object, values, positional, names) };
    let asked = guarded(call.py, || {
        let asked = call.size_and_align()?;
        thread_end::watch(call.py).map(|()| asked)
    });
    match asked {
        Err(error) => Ok(raise(error)),
        Ok((size, align)) => {
            let cache = &call.cache.core;
            let by_itself = align <= LINE && align.is_power_of_two();
            let frag = if by_itself && cache.granule() == Granule::Line {
                // Every fragment starts on a line; so this is the shorter way.
                cache.alloc(size)?
            } else {
                cache.alloc_align(size, align)?
            };
            // SAFETY: attached.
            Ok(unsafe { make_raw(frag.into_raw(), false) })
        }
    }
}

/// Sets the exception; null, as the interpreter wants it.
#[cold]
fn raise(error: PyErr) -> *mut ffi::PyObject {
    set(error);
    null_mut()
}

/// What `alloc` is made of, twice: the one that counts has its own, and jumps nowhere.
///
/// # Safety
/// - As [`one`].
#[inline(always)]
#[allow(clippy::inline_always, reason = "a jump for every packet otherwise")]
unsafe fn alloc_now(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the contract.
    match unsafe { one(object, values, positional, names) } {
        Ok(made) => made,
        Err(error) => raise(from_core(error)),
    }
}

#[inline(never)]
unsafe extern "C" fn alloc(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls the method attached, with these.
    unsafe { alloc_now(object, values, positional, names) }
}

#[inline(never)]
unsafe extern "C" fn try_alloc(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls the method attached, with these.
    match unsafe { one(object, values, positional, names) } {
        Ok(made) => made,
        Err(Error::Exhausted | Error::OutOfMemory) => {
            // SAFETY: attached.
            let py = unsafe { Python::assume_attached() };
            py.None().into_ptr()
        }
        Err(error) => raise(from_core(error)),
    }
}

unsafe extern "C" fn alloc_many(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls the method attached, with these.
    let call = unsafe { Call::new(object, values, positional, names) };
    match guarded(call.py, || many(&call)) {
        Ok(list) => list.into_ptr(),
        Err(error) => raise(error),
    }
}

// --- the same of caches that may be tracked ------------------------------------------------------

/// The cache of a method of this file.
///
/// # Safety
/// - The interpreter is attached and passes this to a method of `PageFragCache`.
#[inline]
unsafe fn cache_of<'a>(object: *mut ffi::PyObject) -> &'a PageFragCache {
    // SAFETY: an object. Said because what follows would look.
    unsafe { std::hint::assert_unchecked(!object.is_null()) };
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller holds a reference.
    let cache = unsafe { Borrowed::from_ptr(py, object) };
    // SAFETY: the method descriptor has checked the type.
    let cache = unsafe { cache.cast_unchecked::<PageFragCache>() };
    // SAFETY: the object outlives the call, and a frozen class lends `&Self` freely.
    unsafe { &*std::ptr::from_ref(cache.get()) }
}

/// Calls `method` at the end of a countdown: notes what it made, if it is a fragment, and hands it
/// on.
///
/// # Safety
/// - The interpreter is attached and passes these to `method`, which is one of this file.
///
/// With the calling convention of its callers, so that they jump here and have nothing to tidy up.
#[cold]
unsafe extern "C" fn noted(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    method: ffi::PyCFunctionFastWithKeywords,
) -> *mut ffi::PyObject {
    // SAFETY: the contract.
    let cache = unsafe { cache_of(object) };
    // SAFETY: attached.
    let is_it = unsafe { cache.ticks.is_it() };
    // SAFETY: the contract.
    let made = unsafe { method(object, values, positional, names) };
    if !is_it {
        return made;
    }
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: a living object, or null.
    if let Some(made) = unsafe { Bound::from_borrowed_ptr_or_opt(py, made) } {
        tracking::born(&made, cache.core.pool().id(), "alloc");
    }
    made
}

/// `$tracked` is `$method` for caches that may be tracked: it counts down before. `$now` does what
/// the method does.
macro_rules! counted {
    ($tracked:ident, $method:path, $now:path) => {
        unsafe extern "C" fn $tracked(
            object: *mut ffi::PyObject,
            values: *const *mut ffi::PyObject,
            positional: ffi::Py_ssize_t,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: the interpreter calls the method attached, with these.
            let cache = unsafe { cache_of(object) };
            // SAFETY: attached.
            if unsafe { cache.ticks.is_over() } {
                // SAFETY: as above.
                return unsafe { noted(object, values, positional, names, $method) };
            }
            // SAFETY: as above.
            unsafe { $now(object, values, positional, names) }
        }
    };
}

counted!(tracked_alloc, alloc, alloc_now);
counted!(tracked_try_alloc, try_alloc, try_alloc);

unsafe extern "C" fn tracked_alloc_many(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls the method attached, with these.
    let call = unsafe { Call::new(object, values, positional, names) };
    match guarded(call.py, || many(&call)) {
        Ok(list) => {
            for made in list.iter().filter(|_| call.cache.ticks.tick(call.py)) {
                tracking::born(&made, call.cache.core.pool().id(), "alloc");
            }
            list.into_ptr()
        }
        Err(error) => raise(error),
    }
}

/// Carves up to `BATCH` fragments into `carved`. All stay there when one fails.
fn carve_batch(
    cache: &LocalCache,
    count: usize,
    size: usize,
    align: usize,
    carved: &mut Vec<FragMut>,
) -> Result<(), Error> {
    for _ in 0..count.min(BATCH) {
        // One by one, so that a pool at its limit first gets the idle pages of
        // this thread's other caches, as for a single fragment.
        carved.push(cache.alloc_align(size, align)?);
    }
    Ok(())
}

fn many<'py>(call: &Call<'_, 'py>) -> PyResult<Bound<'py, PyList>> {
    let [count, size, align] = call.sorted(["count", "size", "align"])?;
    let count = args::whole_or(count.as_deref(), "count", 0)?;
    let size = args::whole_or(size.as_deref(), "size", 0)?;
    let align = args::whole_or(align.as_deref(), "align", 1)?;
    let cache = &call.cache.core;
    args::fits(size, align, cache.pool().page_size())?;
    thread_end::watch(call.py)?;
    // The list first: an absurd count fails before anything is carved.
    // SAFETY: attached.
    let list = unsafe { ffi::PyList_New(count.cast_signed()) };
    // SAFETY: a new reference, or null with the error set.
    let list = unsafe { Bound::from_owned_ptr_or_err(call.py, list) }?.cast_into::<PyList>()?;
    let mut carved = Vec::with_capacity(count.min(BATCH));
    let mut filled: ffi::Py_ssize_t = 0;
    let mut left = count;
    while left > 0 {
        carve_batch(cache, left, size, align, &mut carved).map_err(from_core)?;
        left -= carved.len();
        for frag in carved.drain(..) {
            // SAFETY: attached.
            let object = unsafe { make_raw(frag.into_raw(), false) };
            if object.is_null() {
                return Err(PyErr::fetch(call.py));
            }
            // SAFETY: a place of a new list, within its length; takes the reference.
            if unsafe { ffi::PyList_SetItem(list.as_ptr(), filled, object) } != 0 {
                return Err(PyErr::fetch(call.py));
            }
            filled += 1;
        }
    }
    Ok(list)
}

/// Puts a method into the type of `PageFragCache`.
fn add(
    class: &Bound<'_, PyAny>,
    prefix: &str,
    name: &'static CStr,
    call: ffi::PyCFunctionFastWithKeywords,
    doc: &'static CStr,
) -> PyResult<()> {
    // Once per process, and the descriptor refers to it for good.
    let method = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: call,
        },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }));
    // SAFETY: a type object and a definition that stays; the function has the signature that the
    // flags tell.
    let descriptor = unsafe { ffi::PyDescr_NewMethod(class.as_ptr().cast(), method) };
    // SAFETY: a new reference, or null with the error set.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(class.py(), descriptor) }?;
    class.setattr(format!("{prefix}{}", name.to_string_lossy()), descriptor)
}

/// Completes `PageFragCache`.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let class = module.py().get_type::<PageFragCache>();
    add(&class, "", c"alloc", alloc, ALLOC)?;
    add(&class, "", c"try_alloc", try_alloc, TRY_ALLOC)?;
    add(&class, "", c"alloc_many", alloc_many, ALLOC_MANY)?;
    add(&class, TRACKED, c"alloc", tracked_alloc, ALLOC)?;
    add(&class, TRACKED, c"try_alloc", tracked_try_alloc, TRY_ALLOC)?;
    add(
        &class,
        TRACKED,
        c"alloc_many",
        tracked_alloc_many,
        ALLOC_MANY,
    )
}
