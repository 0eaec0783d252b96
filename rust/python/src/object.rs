//! The Python object `Fragment`, made by hand so that a fragment costs the collector nothing.
//!
//! Every `#[pyclass]` is a type that the garbage collector tracks, one tracked object for each
//! packet. A fragment refers to no Python object that could refer back to it, so it can be a plain
//! heap type: a header, sixteen bytes of memory, a gate, a list of weak references. This file is layout, birth and death; `vessel.rs` is where the
//! object's own memory comes from. What a fragment can do is written in `fragment.rs` and hung into
//! the type in `fragment_type.rs`, which hands the finished type down to `adopt`.
//!
//! ```text
//!   ob_refcnt, ob_type │ weak (8) │ gate (8) │ Memory (16) │ readonly (1)
//! ```

use std::ptr::{NonNull, addr_of_mut, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error::kind;
use crate::gate::Gated;
use crate::memory::Memory;
use crate::vessel;

/// What a `Fragment` is, after the object header.
pub(crate) struct Body {
    pub(crate) gate: Gated<Memory>,
    pub(crate) readonly: bool,
}

#[repr(C)]
struct Object {
    base: ffi::PyObject,
    /// The interpreter's list of weak references; null when there are none.
    weak: *mut ffi::PyObject,
    body: Body,
}

/// Where the interpreter finds `weak`.
pub(crate) const WEAK: usize = std::mem::offset_of!(Object, weak);

/// The type's basic size.
pub(crate) const SIZE: usize = size_of::<Object>();

/// A `Fragment` that somebody else holds a reference to while we look.
#[derive(Clone, Copy)]
pub(crate) struct This<'a, 'py> {
    pub(crate) object: Borrowed<'a, 'py, PyAny>,
    pub(crate) body: &'a Body,
}

impl<'a, 'py> This<'a, 'py> {
    pub(crate) fn py(self) -> Python<'py> {
        self.object.py()
    }

    /// Has it weak references? One load; a fragment that is tracked has one.
    #[inline]
    pub(crate) fn has_weak(self) -> bool {
        let object = self.object.as_ptr().cast::<Object>();
        // SAFETY: an object of that layout; only the address is taken.
        let weak = unsafe { addr_of_mut!((*object).weak) };
        // SAFETY: an aligned pointer in an object that lives. Relaxed: without the interpreter's
        // lock others may be adding one, which counts from then on.
        let weak = unsafe { AtomicPtr::from_ptr(weak) }.load(Ordering::Relaxed);
        !weak.is_null()
    }

    /// The object as a `Fragment`, or `TypeError`.
    pub(crate) fn cast(object: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(this) = Self::of(object) {
            return Ok(this);
        }
        let found = object.get_type().name()?;
        Err(kind(&format!("expected a Fragment, not {found}")))
    }

    /// The object, if it is a `Fragment`. Runs no Python code: to say what else it is may handle a
    /// signal, and what the handler raises would be lost with an error that nobody wants.
    pub(crate) fn of(object: &'a Bound<'py, PyAny>) -> Option<Self> {
        if object.get_type_ptr() != TYPE.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: the type is exactly `Fragment`, which has no subclasses.
        let body = unsafe { body(object.as_ptr()) };
        Some(This {
            object: object.as_borrowed(),
            body,
        })
    }

    /// # Safety
    /// - The interpreter is attached.
    /// - `object` is a `Fragment` that stays alive for `'a`.
    pub(crate) unsafe fn assume(object: *mut ffi::PyObject) -> Self {
        // SAFETY: the first point.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the second point; a living object is not null.
        let borrowed = unsafe { Borrowed::from_ptr(py, object) };
        // SAFETY: the second point.
        let body = unsafe { body(object) };
        This {
            object: borrowed,
            body,
        }
    }
}

/// The type, from `adopt` on. Relaxed everywhere: the module import orders it, and whoever made it
/// keeps it for good.
static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(null_mut());

/// Makes `kind` the type of all objects.
///
/// # Safety
/// - It is the same one every time.
/// - Its basic size is `SIZE`, it is not tracked by the collector and has no subclasses.
/// - Its `tp_dealloc` is `dealloc`.
pub(crate) unsafe fn adopt(kind: &'static Py<PyType>) {
    TYPE.store(kind.as_ptr().cast(), Ordering::Relaxed);
}

/// The one way from an object to its fields.
///
/// # Safety
/// - `object` is a `Fragment` that stays alive for `'a`.
#[inline]
pub(crate) unsafe fn body<'a>(object: *mut ffi::PyObject) -> &'a Body {
    // SAFETY: a `Fragment` has the layout `Object`, and its body was written at birth.
    unsafe { &(*object.cast::<Object>()).body }
}

/// An object without a fragment in it yet: has the type and one reference. `None` with
/// `MemoryError` set when there is no memory. Runs no Python code.
///
/// # Safety
/// - The interpreter is attached.
/// - What comes back goes to `fill` or `scrap`.
#[inline]
pub(crate) unsafe fn blank() -> Option<Blank> {
    let kind = TYPE.load(Ordering::Relaxed);
    // SAFETY: attached; the adopted type, and its basic size.
    let object = unsafe { vessel::take(kind, SIZE) };
    NonNull::new(object.cast()).map(Blank)
}

/// See [`blank`].
pub(crate) struct Blank(NonNull<Object>);

impl Blank {
    /// The finished object, a new reference.
    #[inline]
    pub(crate) fn fill(self, memory: impl Into<Memory>, readonly: bool) -> *mut ffi::PyObject {
        self.hold(Body {
            gate: Gated::new(memory.into()),
            readonly,
        })
    }

    /// Gives up an object that was not filled.
    #[cold]
    pub(crate) fn scrap(self) {
        let object = self.hold(Body {
            gate: Gated::empty(),
            readonly: false,
        });
        // SAFETY: attached since `blank`; the one reference, to a complete object.
        unsafe { ffi::Py_DECREF(object) };
    }

    #[inline]
    fn hold(self, body: Body) -> *mut ffi::PyObject {
        // SAFETY: an object of that layout; only the address is taken.
        let place = unsafe { addr_of_mut!((*self.0.as_ptr()).body) };
        // SAFETY: nobody else has the object, and its body holds nothing.
        unsafe { place.write(body) };
        // SAFETY: an object of that layout; only the address is taken.
        let weak = unsafe { addr_of_mut!((*self.0.as_ptr()).weak) };
        // SAFETY: nobody else has the object, so nobody refers to it weakly.
        unsafe { weak.write(null_mut()) };
        self.0.as_ptr().cast()
    }
}

/// A new `Fragment`; null with `MemoryError` set when there is no memory for the object, and
/// then the fragment is given back. Runs no Python code.
///
/// # Safety
/// - The interpreter is attached.
#[inline]
pub(crate) unsafe fn make_raw(memory: impl Into<Memory>, readonly: bool) -> *mut ffi::PyObject {
    // SAFETY: attached; filled at once.
    match unsafe { blank() } {
        Some(blank) => blank.fill(memory, readonly),
        None => null_mut(),
    }
}

/// A new `Fragment`, whose memory is asked for only when there is an object for it; `None` with
/// `MemoryError` set. Runs no Python code but what `memory` runs.
pub(crate) fn try_make_with(
    py: Python<'_>,
    memory: impl FnOnce() -> Memory,
    readonly: bool,
) -> Option<Bound<'_, PyAny>> {
    // SAFETY: `py` says that we are attached; filled at once.
    let object = unsafe { blank() }?.fill(memory(), readonly);
    // SAFETY: a new reference.
    Some(unsafe { Bound::from_owned_ptr(py, object) })
}

/// The same with the exception.
pub(crate) fn make_with(
    py: Python<'_>,
    memory: impl FnOnce() -> Memory,
    readonly: bool,
) -> PyResult<Bound<'_, PyAny>> {
    try_make_with(py, memory, readonly).ok_or_else(|| PyErr::fetch(py))
}

/// A new `Fragment`.
pub(crate) fn make(
    py: Python<'_>,
    memory: impl Into<Memory>,
    readonly: bool,
) -> PyResult<Bound<'_, PyAny>> {
    make_with(py, || memory.into(), readonly)
}

/// Whether there may be weak references.
///
/// # Safety
/// - The interpreter is attached.
/// - `object` is a `Fragment`.
#[cfg(not(Py_GIL_DISABLED))]
unsafe fn may_be_watched(object: *mut ffi::PyObject) -> bool {
    // SAFETY: an object of that layout, written at birth; the interpreter writes it while attached.
    !unsafe { (*object.cast::<Object>()).weak }.is_null()
}

/// Without a global lock another thread may be taking its weak reference out of the list right now,
/// under a lock of the interpreter's: only that lock can tell.
#[cfg(Py_GIL_DISABLED)]
unsafe fn may_be_watched(_object: *mut ffi::PyObject) -> bool {
    true
}

/// What the type calls for an object that nobody refers to any more.
///
/// # Safety
/// - The interpreter is attached.
/// - `object` is a `Fragment` whose last reference is gone; not used after.
pub(crate) unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: a `Fragment`, by contract.
    if unsafe { may_be_watched(object) } {
        // SAFETY: attached; the last reference is gone and the object is still whole, which is how
        // the callbacks of weak references are to find it.
        unsafe { ffi::PyObject_ClearWeakRefs(object) };
    }
    // SAFETY: an object of that layout; only the address is taken.
    let body = unsafe { addr_of_mut!((*object.cast::<Object>()).body) };
    // SAFETY: the last reference is gone, so nobody is inside and nobody can come; the body was
    // written at birth and is dropped once.
    unsafe { body.drop_in_place() };
    // SAFETY: attached; from `vessel::take`, not used after.
    unsafe { vessel::put(object) };
}
