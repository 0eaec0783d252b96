//! `Numbers`: one for each packet of a batch, as a buffer and as a sequence.
//!
//! A `memoryview` would be three objects: itself, its buffer, and who owns the memory. A batch that
//! is read as arrays shall cost an object for the array and none for its packets.

use std::ffi::{CStr, c_int};

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyList, PyMemoryView};
use pyo3::{IntoPyObjectExt, ffi};

use crate::buffer::lend_items;
#[cfg(not(Py_3_12))]
use crate::buffer::view;
use crate::error::index as out_of_range;
use crate::made::{self, Number, Text, guarded};

/// Each kind as Python's `struct` names it.
pub(crate) enum Kind {
    /// 'I'
    Ints(Vec<u32>),
    /// 'N', a machine word
    Words(Vec<usize>),
    /// 'q'
    Longs(Vec<i64>),
    /// '?'
    Flags(Vec<bool>),
}

impl Kind {
    fn format(&self) -> &'static CStr {
        match self {
            Self::Ints(_) => c"I",
            Self::Words(_) => c"N",
            Self::Longs(_) => c"q",
            Self::Flags(_) => c"?",
        }
    }

    fn memory(&self) -> (*const u8, usize) {
        match self {
            Self::Ints(all) => (all.as_ptr().cast(), all.len()),
            Self::Words(all) => (all.as_ptr().cast(), all.len()),
            Self::Longs(all) => (all.as_ptr().cast(), all.len()),
            Self::Flags(all) => (all.as_ptr().cast(), all.len()),
        }
    }

    fn item_size(&self) -> usize {
        match self {
            Self::Ints(_) => size_of::<u32>(),
            Self::Words(_) => size_of::<usize>(),
            Self::Longs(_) => size_of::<i64>(),
            Self::Flags(_) => size_of::<bool>(),
        }
    }
}

/// Numbers of the packets of a batch: their lengths, their times, whatever was asked for.
///
/// Read-only memory of items of `format`, which `numpy.asarray` and `memoryview` take as it is,
/// without a copy; and a sequence. Equal to whatever a `memoryview` of it is equal to. What becomes
/// of the batch does not change it.
///
/// >>> empty_batch.lengths
/// <Numbers [] of format 'I'>
/// >>> memoryview(empty_batch.lengths).format
/// 'I'
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct Numbers {
    kind: Kind,
    /// How many, where views find it.
    count: ffi::Py_ssize_t,
}

impl Numbers {
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            count: kind.memory().1.cast_signed(),
            kind,
        }
    }

    fn bytes(&self) -> usize {
        self.kind.memory().1 * self.kind.item_size()
    }

    fn at<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyAny>> {
        match &self.kind {
            Kind::Ints(all) => made::number(py, all[index] as usize),
            Kind::Words(all) => made::number(py, all[index]),
            Kind::Longs(all) => guarded(py, || all[index].into_bound_py_any(py)),
            Kind::Flags(all) => Ok(PyBool::new(py, all[index]).to_owned().into_any()),
        }
    }
}

#[pymethods]
impl Numbers {
    /// The kind of item, as the `struct` module names it.
    ///
    /// >>> empty_batch.timestamps.format
    /// 'q'
    #[getter]
    fn format(&self) -> Text {
        Text(self.kind.format().to_string_lossy().into_owned())
    }

    /// Bytes of an item.
    ///
    /// >>> empty_batch.timestamps.itemsize
    /// 8
    #[getter]
    fn itemsize(&self) -> Number {
        Number(self.kind.item_size())
    }

    /// Bytes of all items.
    ///
    /// >>> empty_batch.timestamps.nbytes
    /// 0
    #[getter]
    fn nbytes(&self) -> Number {
        Number(self.bytes())
    }

    /// The numbers as a list.
    ///
    /// >>> empty_batch.lengths.tolist()
    /// []
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let all: PyResult<Vec<_>> = (0..self.kind.memory().1)
            .map(|index| self.at(py, index))
            .collect();
        made::list(py, all?)
    }

    /// The memory as `bytes`.
    ///
    /// >>> empty_batch.lengths.tobytes()
    /// b''
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        // SAFETY: that many bytes, which do not change; no item has padding.
        unsafe { made::bytes(py, self.kind.memory().0, self.bytes()) }
    }

    fn __len__(&self) -> usize {
        self.kind.memory().1
    }

    fn __getitem__<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let Ok(index) = key.extract::<isize>() else {
            // Slices, numbers beyond any sequence, and what is wrong.
            return guarded(py, || PyMemoryView::from(slf)?.get_item(key));
        };
        let this = slf.get();
        let from_start = if index < 0 {
            index.checked_add(this.count)
        } else {
            Some(index)
        };
        let index = from_start
            .and_then(|index| usize::try_from(index).ok())
            .filter(|index| *index < this.kind.memory().1);
        let index = index.ok_or_else(|| out_of_range("index out of range"))?;
        this.at(py, index)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.tolist(py)?.try_iter()?.into_any())
    }

    fn __eq__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        guarded(py, || {
            let view = PyMemoryView::from(slf)?;
            view.rich_compare(other, pyo3::basic::CompareOp::Eq)
        })
    }

    /// PEP 688: called by collections.abc.Buffer; the interpreter has its own from 3.12 on.
    #[cfg(not(Py_3_12))]
    fn __buffer__<'py>(
        slf: &Bound<'py, Self>,
        flags: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        view(slf.as_any(), flags)
    }

    fn __sizeof__(&self) -> Number {
        Number(size_of::<Self>() + self.bytes())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<Text> {
        let py = slf.py();
        let list = slf.get().tolist(py)?;
        let list = list.repr()?;
        let format = slf.get().kind.format().to_string_lossy();
        Ok(Text(format!("<Numbers {list} of format '{format}'>")))
    }

    /// # Safety
    /// Called by the interpreter with a view to fill.
    #[allow(clippy::needless_pass_by_value)] // the protocol's signature
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let kind = &this.kind;
        // SAFETY: the interpreter's view; it refers to this object, which keeps the memory and the
        // number of items and does not change either.
        unsafe {
            lend_items(
                &slf,
                view,
                flags,
                kind.memory().0,
                (&raw const this.count, kind.item_size(), kind.format()),
            )
        }
    }
}
