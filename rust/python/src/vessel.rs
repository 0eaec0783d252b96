//! The memory of `Fragment` objects themselves: sixty-four bytes that come and go with each packet.
//!
//! The interpreter's allocator takes about ten nanoseconds to give such a piece and take it back,
//! more than the core needs for the packet's bytes. So the last few hundred dead objects are kept
//! as they are, type and all, and brought to life again. The list belongs to whoever holds the
//! interpreter's lock; a build that has none, or that keeps books of all objects, goes without.

pub(crate) use imp::{put, take};

/// With a list of dead objects.
#[cfg(not(any(
    Py_GIL_DISABLED,
    Py_LIMITED_API,
    py_sys_config = "Py_REF_DEBUG",
    py_sys_config = "Py_TRACE_REFS"
)))]
mod imp {
    use std::cell::UnsafeCell;
    use std::ptr::null_mut;

    use pyo3::ffi;

    /// Dead objects kept: a few batches of packets, 24 KiB.
    const KEPT: usize = 512;

    struct List {
        /// The first `len` are objects with their type, a reference count of 0 and no content.
        dead: [*mut ffi::PyObject; KEPT],
        len: usize,
    }

    struct Shelf(UnsafeCell<List>);

    // SAFETY: used only by `take` and `put`, whose callers are attached to the interpreter. In a
    // build with a global lock one thread at a time is, and neither function gives the lock up
    // while it has the list in its hands. (A second interpreter of the process cannot load the
    // module, its `init` sees to that.)
    unsafe impl Sync for Shelf {}

    static SHELF: Shelf = Shelf(UnsafeCell::new(List {
        dead: [null_mut(); KEPT],
        len: 0,
    }));

    /// An object of this type with one reference and undefined content; null with `MemoryError`
    /// set if there is no memory.
    ///
    /// # Safety
    /// - The interpreter is attached.
    /// - Always the same type, and its basic size.
    #[inline]
    pub(crate) unsafe fn take(kind: *mut ffi::PyTypeObject, size: usize) -> *mut ffi::PyObject {
        // SAFETY: attached, by contract.
        let list = unsafe { &mut *SHELF.0.get() };
        let Some(last) = list.len.checked_sub(1) else {
            // SAFETY: the contract.
            return unsafe { fresh(kind, size) };
        };
        let Some(object) = list.dead.get(last).copied() else {
            return null_mut();
        };
        list.len = last;
        // SAFETY: an object of this type that nobody refers to; from 0 to 1.
        unsafe { ffi::Py_INCREF(object) };
        object
    }

    #[cold]
    unsafe fn fresh(kind: *mut ffi::PyTypeObject, size: usize) -> *mut ffi::PyObject {
        // SAFETY: attached.
        let memory = unsafe { ffi::PyObject_Malloc(size) };
        if memory.is_null() {
            // SAFETY: attached.
            return unsafe { ffi::PyErr_NoMemory() };
        }
        // SAFETY: fresh memory of the type's basic size. Takes a reference to the type, which
        // the object keeps while it lies on the shelf.
        unsafe { ffi::PyObject_Init(memory.cast(), kind) }
    }

    /// Takes an object back whose content is gone.
    ///
    /// # Safety
    /// - The interpreter is attached.
    /// - From `take`, not referred to and not used after.
    #[inline]
    pub(crate) unsafe fn put(object: *mut ffi::PyObject) {
        // SAFETY: attached, by contract.
        let list = unsafe { &mut *SHELF.0.get() };
        match list.dead.get_mut(list.len) {
            Some(place) => {
                *place = object;
                list.len += 1;
            }
            // SAFETY: the contract.
            None => unsafe { free(object) },
        }
    }

    #[cold]
    unsafe fn free(object: *mut ffi::PyObject) {
        // SAFETY: read before the object is gone.
        let kind = unsafe { ffi::Py_TYPE(object) };
        // SAFETY: memory from `PyObject_Malloc`.
        unsafe { ffi::PyObject_Free(object.cast()) };
        // SAFETY: the reference that `PyObject_Init` took.
        unsafe { ffi::Py_DECREF(kind.cast()) };
    }
}

/// Without.
#[cfg(any(
    Py_GIL_DISABLED,
    Py_LIMITED_API,
    py_sys_config = "Py_REF_DEBUG",
    py_sys_config = "Py_TRACE_REFS"
))]
mod imp {
    use pyo3::ffi;

    /// An object of this type with one reference and undefined content; null with `MemoryError`
    /// set if there is no memory.
    ///
    /// # Safety
    /// - The interpreter is attached.
    /// - `size` is the type's basic size.
    #[inline]
    pub(crate) unsafe fn take(kind: *mut ffi::PyTypeObject, size: usize) -> *mut ffi::PyObject {
        // SAFETY: attached.
        let memory = unsafe { ffi::PyObject_Malloc(size) };
        if memory.is_null() {
            // SAFETY: attached.
            return unsafe { ffi::PyErr_NoMemory() };
        }
        // SAFETY: fresh memory of the type's basic size. Takes a reference to the type.
        unsafe { ffi::PyObject_Init(memory.cast(), kind) }
    }

    /// Takes an object back whose content is gone.
    ///
    /// # Safety
    /// - The interpreter is attached.
    /// - From `take`, not referred to and not used after.
    #[inline]
    pub(crate) unsafe fn put(object: *mut ffi::PyObject) {
        // SAFETY: read before the object is gone.
        let kind = unsafe { ffi::Py_TYPE(object) };
        // SAFETY: memory from `PyObject_Malloc`.
        unsafe { ffi::PyObject_Free(object.cast()) };
        // SAFETY: the reference that `PyObject_Init` took.
        unsafe { ffi::Py_DECREF(kind.cast()) };
    }
}
