//! `Reservation`: room that was shown and not yet taken.

use std::ffi::c_int;
use std::sync::Arc;

use pagefrag::{Error, FragMut, LocalCache};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::buffer::lend;
use crate::error::{from_core, released};
use crate::locked::{Known, Locked, Refused};
use crate::made::{Number, Text};
use crate::tracking::Sampler;
use crate::views::Views;
use crate::{args, object};

/// Room in a page, from `PageFragCache.prepare`: a writable buffer until it is committed.
///
/// As a context manager it gives the room back at the end of the block, unless `commit` came
/// before. While a view of the room exists, `commit` and the end of the block raise
/// `BufferError`.
///
/// >>> room = PageFragCache().prepare(1000)
/// >>> len(room) >= 1000
/// True
/// >>> room.commit(10).nbytes
/// 10
#[pyclass(frozen, module = "pagefrag")]
pub(crate) struct Reservation {
    cache: LocalCache,
    room: Locked<FragMut>,
    /// Views of the room.
    views: Views,
    /// What tracks the fragments of it, if anybody does.
    sampler: Option<Arc<Sampler>>,
}

impl Known for FragMut {
    const NOUN: &'static str = "reservation";
}

impl Reservation {
    pub(crate) fn new(cache: LocalCache, room: FragMut, sampler: Option<Arc<Sampler>>) -> Self {
        Self {
            sampler,
            cache,
            room: Locked::new(room),
            views: Views::none(),
        }
    }

    fn look<R>(&self, how: impl FnOnce(&mut FragMut) -> R) -> PyResult<R> {
        self.room.with(|room| Ok(how(room)))
    }

    /// Takes the room out if `may` agrees; `None` when it is gone already.
    fn take(&self, may: impl FnOnce(&FragMut) -> Result<(), Error>) -> PyResult<Option<FragMut>> {
        self.room.take_if(|room| {
            self.views.over(room).map_err(Refused::Viewed)?;
            may(room).map_err(Refused::Core)
        })
    }

    /// The first `used` bytes of the room, which is taken.
    fn settled(&self, used: usize) -> PyResult<FragMut> {
        let room = self.take(|room| match used {
            0 => Err(Error::ZeroSize),
            used if used > room.len() => Err(Error::CommitAboveRoom),
            _ => Ok(()),
        })?;
        let room = room.ok_or_else(|| released("reservation"))?;
        self.cache.settle(room, used).map_err(from_core)
    }
}

#[pymethods]
impl Reservation {
    /// Makes a fragment of the first `used` bytes; the rest is free again.
    ///
    /// The fragment lies where the room lay. `ValueError` for 0 or more than there is, with the
    /// room still reserved.
    ///
    /// >>> room = PageFragCache().prepare(64)
    /// >>> offset = room.offset
    /// >>> room.commit(64).offset == offset
    /// True
    fn commit<'py>(
        &self,
        py: Python<'py>,
        used: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let used = args::whole(used, "used")?;
        // First: without memory for the object the room stays reserved, with what was written.
        // SAFETY: attached, as `py` shows; filled or scrapped below.
        let blank = unsafe { object::blank() }.ok_or_else(|| PyErr::fetch(py))?;
        let frag = match self.settled(used) {
            Ok(frag) => frag,
            Err(error) => {
                blank.scrap();
                return Err(error);
            }
        };
        let made = blank.fill(frag.into_raw(), false);
        // SAFETY: a new reference.
        let made = unsafe { Bound::from_owned_ptr(py, made) };
        if let Some(sampler) = &self.sampler {
            sampler.made(&made, "commit");
        }
        Ok(made)
    }

    /// Gives the room back; again, or after `commit`, does nothing.
    ///
    /// >>> PageFragCache().prepare(64).release()
    fn release(&self) -> PyResult<()> {
        // Dropped here, with the lock given back.
        self.take(|_| Ok(())).map(drop)
    }

    /// Bytes that can be committed.
    ///
    /// >>> PageFragCache().prepare(64).nbytes >= 64
    /// True
    #[getter]
    fn nbytes(&self) -> PyResult<Number> {
        self.look(|room| Number(room.len()))
    }

    /// The page that the room is in, as `Fragment.page`.
    ///
    /// >>> room = PageFragCache().prepare(64)
    /// >>> page = room.page
    /// >>> room.commit(64).page == page
    /// True
    #[getter]
    fn page(&self) -> PyResult<Number> {
        self.look(|room| Number(room.page()))
    }

    /// Where in its page the room starts.
    ///
    /// >>> PageFragCache(PagePool()).prepare(64).offset
    /// 0
    #[getter]
    fn offset(&self) -> PyResult<Number> {
        self.look(|room| Number(room.offset()))
    }

    fn __len__(&self) -> PyResult<usize> {
        self.look(|room| room.len())
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().nbytes()?;
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release()
    }

    fn __repr__(&self) -> Text {
        Text(
            match self.look(|room| (room.len(), room.page(), room.offset())) {
                Ok((len, page, offset)) => {
                    format!("<Reservation len={len} page={page:#x}+{offset}>")
                }
                Err(_) => "<Reservation released>".to_owned(),
            },
        )
    }

    /// A memoryview of the bytes, as from Python 3.12 on.
    ///
    /// >>> PageFragCache().prepare(64).__buffer__(0).readonly
    /// False
    #[cfg(not(Py_3_12))]
    fn __buffer__<'py>(
        slf: &Bound<'py, Self>,
        flags: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        crate::buffer::view(slf.as_any(), flags)
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
        // Counted under the lock: from then on the room stays.
        let memory = this.look(|room| {
            this.views.begin(room);
            (room.as_mut_ptr(), room.len())
        })?;
        // SAFETY: the room stays as long as `views` counts this view, which is the interpreter's.
        let lent = unsafe { lend(&slf, view, flags, memory, false) };
        if lent.is_err() {
            this.views.end();
        }
        lent
    }

    /// # Safety
    /// Called by the interpreter once for each view that was filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.views.end();
    }
}
