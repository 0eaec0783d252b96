//! Other objects' bytes, as Python's buffer protocol lends them.
//!
//! Borrowing runs code of the exporter's, which may do anything; so it comes before we look at
//! anything of ours, and whatever of ours must stay meanwhile is entered first.

use std::ffi::{CStr, c_int};

#[cfg(not(Py_3_12))]
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
#[cfg(not(Py_3_12))]
use pyo3::types::PyMemoryView;

use crate::error::value;

/// Consecutive bytes lent by an object: what `bytes`, `bytearray`, `array('B')`, `memoryview` of
/// these, `ctypes` arrays and structures, and fragments are.
pub(crate) struct Lent {
    /// Filled by the exporter. In a box, as it may point into itself.
    view: Box<ffi::Py_buffer>,
}

// SAFETY: what a view points to is the exporter's, who allows any thread that is attached.
unsafe impl Send for Lent {}
// SAFETY: as for `Send`; nothing changes the view until it is given back.
unsafe impl Sync for Lent {}

impl Lent {
    fn any(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached, as `object` shows, with a view to fill.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, ffi::PyBUF_FULL_RO) }
            != 0
        {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self { view })
    }

    /// A buffer of no bytes that nobody lends.
    pub(crate) fn nothing() -> Self {
        // Releasing an empty view does nothing.
        Self {
            view: Box::new(ffi::Py_buffer::new()),
        }
    }

    /// Whether who lends it wants nobody to write.
    pub(crate) fn is_readonly(&self) -> bool {
        self.view.readonly != 0
    }

    fn is_single_bytes(&self) -> bool {
        self.view.ndim == 1 && self.view.itemsize == 1
    }

    /// Whether the memory is all there is to know: single bytes in one dimension one after the
    /// other, or the bytes of an exporter that tells no strides though it was asked for them.
    fn is_plain(&self) -> bool {
        (self.is_single_bytes() || self.view.strides.is_null()) && self.is_consecutive()
    }

    fn is_consecutive(&self) -> bool {
        // SAFETY: a filled view. Without strides it is consecutive, unless it has suboffsets.
        unsafe { ffi::PyBuffer_IsContiguous(&raw const *self.view, b'C'.cast_signed()) != 0 }
    }

    /// Borrows the bytes of `object`. `TypeError` (or what the exporter raises) without buffers,
    /// `None` when they are not consecutive.
    pub(crate) fn by(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let lent = Self::any(object)?;
        Ok(lent.is_plain().then_some(lent))
    }

    /// Borrows consecutive bytes of items of any kind and shape; `None` when they are not.
    pub(crate) fn consecutive(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let lent = Self::any(object)?;
        Ok(lent.is_consecutive().then_some(lent))
    }

    /// Where the bytes are, as long as `self` lives.
    pub(crate) fn memory(&self) -> *const [u8] {
        std::ptr::slice_from_raw_parts(self.view.buf.cast::<u8>(), self.len())
    }

    /// [`by`](Self::by), copying what is not consecutive; `ValueError` for what is not single bytes.
    pub(crate) fn or_copied(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let lent = Self::any(object)?;
        if lent.is_plain() {
            return Ok(lent);
        }
        if !lent.is_single_bytes() {
            return Err(value("only single bytes in one dimension can be assigned"));
        }
        drop(lent);
        // What comes back may be a subclass of `bytes` that lends whatever it likes.
        let copy = object.py().get_type::<PyBytes>().call1((object,))?;
        Self::by(&copy)?.ok_or_else(|| value("bytes() gave no consecutive bytes"))
    }

    pub(crate) fn len(&self) -> usize {
        self.view.len.unsigned_abs()
    }

    /// Whether the items are unsigned bytes in one dimension, so that equal memory means equal
    /// items.
    pub(crate) fn is_unsigned(&self) -> bool {
        if self.view.format.is_null() {
            return self.is_single_bytes();
        }
        // SAFETY: a string of the exporter's that stays as long as the view.
        let format = unsafe { CStr::from_ptr(self.view.format) };
        // A sign for the order of bytes says nothing about single ones.
        self.is_single_bytes()
            && matches!(
                format.to_bytes(),
                [b'B'] | [b'@' | b'=' | b'<' | b'>' | b'!', b'B']
            )
    }

    /// Whether memory of ours holds the same bytes.
    ///
    /// # Safety
    /// - `len()` bytes can be read at `ours`.
    pub(crate) unsafe fn equals(&self, ours: *const u8) -> bool {
        let len = self.len();
        if len == 0 {
            return true;
        }
        // SAFETY: the contract. A thread that writes meanwhile without the interpreter makes the
        // answer worthless, as it does for memoryview.
        let ours = unsafe { std::slice::from_raw_parts(ours, len) };
        // SAFETY: the exporter promised these bytes for as long as `self` holds the buffer.
        let theirs = unsafe { &*self.memory() };
        ours == theirs
    }

    /// Copies the bytes into memory of ours, which may overlap theirs.
    ///
    /// # Safety
    /// - `len()` bytes can be written at `ours`.
    pub(crate) unsafe fn copy_to(&self, ours: *mut u8) {
        // SAFETY: the contract, and the exporter's promise for the source.
        unsafe { self.memory().cast::<u8>().copy_to(ours, self.len()) };
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // On any thread: who shares our memory lets go of it anywhere. Without an interpreter there
        // is no exporter either.
        let _ = Python::try_attach(|_| {
            // SAFETY: filled by `any`, given back once, attached.
            unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
        });
    }
}

/// Whether an object has the buffer protocol.
pub(crate) fn lends(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached, with an object that lives.
    unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) != 0 }
}

/// Fills a view of memory of ours, with a reference to its owner.
///
/// # Safety
/// - `view` is the interpreter's, to be filled.
/// - The memory stays until the view is released.
pub(crate) unsafe fn lend<T>(
    owner: &Bound<'_, T>,
    view: *mut ffi::Py_buffer,
    flags: c_int,
    (memory, len): (*mut u8, usize),
    readonly: bool,
) -> PyResult<()> {
    let readonly = c_int::from(readonly);
    // SAFETY: both points of the contract. Refuses a writable view of what is read-only by itself.
    let done = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            memory.cast(),
            len.cast_signed(),
            readonly,
            flags,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}

/// Fills a view of read-only items of ours in one dimension, with a reference to their owner:
/// how many, the bytes of one, and its format.
///
/// # Safety
/// - `view` is the interpreter's, to be filled.
/// - The items and the place that tells how many stay as they are until the view is released.
pub(crate) unsafe fn lend_items<T>(
    owner: &Bound<'_, T>,
    view: *mut ffi::Py_buffer,
    flags: c_int,
    memory: *const u8,
    (count, size, format): (*const ffi::Py_ssize_t, usize, &'static CStr),
) -> PyResult<()> {
    // SAFETY: the contract.
    let bytes = unsafe { *count }.unsigned_abs() * size;
    // SAFETY: the contract, of which the items are part.
    unsafe { lend(owner, view, flags, (memory.cast_mut(), bytes), true) }?;
    // SAFETY: filled, and still ours alone. Strides, if any, point to the item's size in it.
    let view = unsafe { &mut *view };
    view.itemsize = size.cast_signed();
    if !view.shape.is_null() {
        // Nobody writes through a view's shape.
        view.shape = count.cast_mut();
    }
    if !view.format.is_null() {
        view.format = format.as_ptr().cast_mut();
    }
    Ok(())
}

/// What `__buffer__` returns where the interpreter does not define it: a memoryview, writable if
/// that was asked for.
#[cfg(not(Py_3_12))]
pub(crate) fn view<'py>(
    object: &Bound<'py, PyAny>,
    flags: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let flags: c_int = flags.extract()?;
    let view = PyMemoryView::from(object)?;
    let readonly: bool = view.getattr("readonly")?.extract()?;
    if readonly && flags & ffi::PyBUF_WRITABLE != 0 {
        return Err(PyBufferError::new_err("Object is not writable."));
    }
    Ok(view.into_any())
}
