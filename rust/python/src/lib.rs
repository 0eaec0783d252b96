//! The Python module `pagefrag._pagefrag`: the crate `pagefrag` as Python classes.
//!
//! One file for each class: `pool`, `cache` (with `fastcall` and `reservation`), `fragment` (with
//! `object` below it and `fragment_type` above), `netdev`, `napi`, `skb` (with `skb_made`), `ring`, `batch` (with
//! `numbers`, `place`, `sender`, `batch_arrow`, `batch_numpy` and `batch_pickle`), `tx` (with `held` and `destination`). Rules that they
//! share: `args` (what is accepted as a number), `arrow` (Arrow's structures), `error` (how errors
//! cross), `gate` (who is inside a fragment), `locked` (values behind a lock), `memory` (a fragment's bytes), `pickle`, `shares` and `loan`
//! (all of a batch's), `buffer` (bytes lent and borrowed), `deadline` (how long a call waits), `home` (the default cache), `siblings` (a pool's), `made`
//! (numbers, strings and bytes for Python), `pause` (a thread that waits), `sock` (the user's socket), `stack` (where Python is), `stats`, `thread_end`,
//! `ticks` (one in so many), `tracemalloc` (its books), `tracking` (who holds what), `unclosed` (rings that nobody closed), `vessel` (the objects' own memory), `views` (how many look at what is behind a lock). Calls go down; the house test holds that.
//!
//! Classes are frozen; state that changes is atomic or behind a lock of its own, and no lock is
//! held while Python code can run.

mod args;
mod arrow;
mod attached;
mod batch;
mod batch_arrow;
mod batch_numpy;
mod batch_pickle;
mod buffer;
mod cache;
mod deadline;
mod destination;
mod error;
mod fastcall;
mod fragment;
mod fragment_type;
mod gate;
mod held;
mod home;
mod loan;
mod locked;
mod made;
mod memory;
mod napi;
mod netdev;
mod numbers;
mod object;
mod pause;
mod pickle;
mod place;
#[cfg(feature = "plain-fragment")]
mod plain;
mod pool;
mod reservation;
mod ring;
mod sender;
mod shares;
mod siblings;
mod skb;
mod skb_made;
mod sock;
mod stack;
mod stats;
mod thread_end;
mod ticks;
mod tracemalloc;
mod tracking;
mod turn;
mod tx;
mod unclosed;
mod vessel;
mod views;

/// Packet buffers as page fragments. Import `pagefrag` instead.
#[pyo3::pymodule]
mod _pagefrag {
    use pyo3::exceptions::PyImportError;
    use pyo3::ffi;
    use pyo3::prelude::*;
    use pyo3::types::PyList;

    use crate::made;

    #[pymodule_export]
    use crate::batch::{Batch, restore_batch};
    #[pymodule_export]
    use crate::cache::PageFragCache;
    #[pymodule_export]
    use crate::napi::{NapiCache, NapiPoll};
    #[pymodule_export]
    use crate::netdev::{NetdevCache, netdev_alloc_frag, netdev_alloc_skb};
    #[pymodule_export]
    use crate::numbers::Numbers;
    #[pymodule_export]
    use crate::pickle::restore_fragment;
    #[cfg(feature = "plain-fragment")]
    #[pymodule_export]
    use crate::plain::{PlainCache, PlainFragment};
    #[pymodule_export]
    use crate::pool::{PagePool, default_pool};
    #[pymodule_export]
    use crate::reservation::Reservation;
    #[pymodule_export]
    use crate::ring::RxRing;
    #[pymodule_export]
    use crate::skb::SkBuff;
    #[pymodule_export]
    use crate::skb_made::build_skb;
    #[pymodule_export]
    use crate::tx::TxRing;

    /// What this module was built with: the ABI it speaks, and checks and types that are not in
    /// every build.
    ///
    /// >>> build_features()[0]
    /// 'version-specific'
    #[pyfunction]
    fn build_features(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
        let all = [
            ("abi3", cfg!(feature = "abi3")),
            ("version-specific", !cfg!(feature = "abi3")),
            ("debug-assertions", cfg!(debug_assertions)),
            ("plain-fragment", cfg!(feature = "plain-fragment")),
        ];
        let names = all.into_iter().filter(|(_, is_in)| *is_in);
        let names: PyResult<_> = names.map(|(name, _)| made::text(py, name)).collect();
        made::list(py, names?)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Types and dead objects are kept once per process.
        // SAFETY: attached, as `module` shows.
        let interpreter = unsafe { ffi::PyInterpreterState_Get() };
        // SAFETY: the interpreter that we are attached to.
        if unsafe { ffi::PyInterpreterState_GetID(interpreter) } != 0 {
            return Err(PyImportError::new_err(
                "pagefrag can be loaded by the main interpreter only",
            ));
        }
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        crate::error::register(module)?;
        crate::loan::Loan::register(module.py())?;
        crate::thread_end::register(module.py())?;
        crate::fragment_type::register(module)?;
        crate::fastcall::register(module)
    }
}
