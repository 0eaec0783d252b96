//! Other objects' bytes, as Python's buffer protocol lends them.
//!
//! Borrowing runs code of the exporter's, which may do anything; so it comes before we look at
//! anything of ours, and whatever of ours must stay meanwhile is entered first.

use std::ffi::c_int;

use pyo3::buffer::PyUntypedBuffer;
#[cfg(not(Py_3_12))]
use pyo3::exceptions::PyBufferError;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
#[cfg(not(Py_3_12))]
use pyo3::types::PyMemoryView;

/// Consecutive bytes lent by an object: what `bytes`, `bytearray`, `array('B')`, `memoryview` of
/// these and fragments are.
pub(crate) struct Lent(PyUntypedBuffer);

impl Lent {
    /// Borrows the bytes of `object`. `TypeError` (or what the exporter raises) without buffers,
    /// `None` when they are not consecutive single bytes in one dimension.
    pub(crate) fn by(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let lent = PyUntypedBuffer::get(object)?;
        let plain = lent.dimensions() == 1 && lent.item_size() == 1 && lent.is_c_contiguous();
        Ok(plain.then_some(Self(lent)))
    }

    /// Borrows consecutive bytes of items of any kind and shape; `None` when they are not.
    pub(crate) fn consecutive(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let lent = PyUntypedBuffer::get(object)?;
        Ok(lent.is_c_contiguous().then_some(Self(lent)))
    }

    /// Where the bytes are, as long as `self` lives.
    pub(crate) fn memory(&self) -> *const [u8] {
        std::ptr::slice_from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.len())
    }

    /// [`by`](Self::by), copying what is not consecutive; `ValueError` for what is not single bytes.
    pub(crate) fn or_copied(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if let Some(lent) = Self::by(object)? {
            return Ok(lent);
        }
        let view = PyUntypedBuffer::get(object)?;
        if view.dimensions() != 1 || view.item_size() != 1 {
            return Err(PyValueError::new_err(
                "only single bytes in one dimension can be assigned",
            ));
        }
        // What comes back may be a subclass of `bytes` that lends whatever it likes.
        let copy = py.get_type::<PyBytes>().call1((object,))?;
        Self::by(&copy)?.ok_or_else(|| PyValueError::new_err("bytes() gave no consecutive bytes"))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len_bytes()
    }

    /// Whether the items are unsigned bytes, so that equal memory means equal items.
    pub(crate) fn is_unsigned(&self) -> bool {
        self.0.format() == c"B"
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
        let theirs = unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), len) };
        ours == theirs
    }

    /// Copies the bytes into memory of ours, which may overlap theirs.
    ///
    /// # Safety
    /// - `len()` bytes can be written at `ours`.
    pub(crate) unsafe fn copy_to(&self, ours: *mut u8) {
        // SAFETY: the contract, and the exporter's promise for the source.
        unsafe { self.0.buf_ptr().cast::<u8>().copy_to(ours, self.len()) };
    }
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
