//! The napi context: buffers inside a poll, on the thread that polls, and nowhere else.
//!
//! In Rust the type of the poll's token says so. Python has no such types, so each call asks the
//! core whether it may, and gets a `ContextError` if not.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagefrag::net::ContextError;
use pagefrag::{Error, net};
use pyo3::prelude::*;

use crate::args::{self, Given};
use crate::error::{from_core, out_of_context};
use crate::made::{Number, Text};
use crate::pool::{PagePool, or_default};
use crate::skb::SkBuff;
use crate::{object, skb_made, stats, thread_end, tracking};

/// A cache for polling: fragments and skbs without waiting, failures as None.
///
/// >>> napi = NapiCache()
/// >>> with napi.poll(budget=64) as ctx:
/// ...     skb = ctx.alloc_skb(1500)
/// ...     ctx.consume_skb(skb)
/// >>> napi.stats().rx_alloc_fail
/// 0
#[pyclass(frozen, weakref, module = "pagefrag")]
pub(crate) struct NapiCache {
    /// Locked for the length of one core call; no Python code runs under it.
    core: Mutex<net::NapiCache>,
    pool: Py<PagePool>,
}

impl NapiCache {
    fn core(&self) -> MutexGuard<'_, net::NapiCache> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call inside a poll: what failed for want of memory is None, and counted.
    fn call<R>(
        &self,
        how: impl FnOnce(&mut net::NapiContext<'_>) -> Result<R, Error>,
    ) -> PyResult<Option<R>> {
        // Out of the lock before an exception is made, which can run Python code.
        let called = self.core().context().map(|mut context| how(&mut context));
        match called.map_err(out_of_context)? {
            Ok(made) => Ok(Some(made)),
            Err(Error::Exhausted | Error::OutOfMemory) => Ok(None),
            Err(mistake) => Err(from_core(mistake)),
        }
    }
}

#[pymethods]
impl NapiCache {
    #[new]
    #[pyo3(signature = (pool=None))]
    fn new(py: Python<'_>, pool: Option<Py<PagePool>>) -> PyResult<Self> {
        let pool = or_default(py, pool)?;
        Ok(Self {
            core: Mutex::new(net::NapiCache::new(&pool.get().core)),
            pool,
        })
    }

    /// A poll, to be entered with `with`, in which `budget` packets may be handled.
    ///
    /// >>> with NapiCache().poll(budget=16) as ctx:
    /// ...     ctx.budget
    /// 16
    #[pyo3(signature = (budget=Given::default(64)), text_signature = "($self, budget=64)")]
    fn poll(
        slf: Bound<'_, Self>,
        #[pyo3(from_py_with = args::budget)] budget: Given<usize>,
    ) -> PyResult<NapiPoll> {
        Ok(NapiPoll {
            cache: slf.unbind(),
            budget: budget.read()?,
            state: AtomicU8::new(AHEAD),
        })
    }

    /// `NapiPoll.alloc_frag` of the poll that this thread is in.
    ///
    /// >>> napi = NapiCache()
    /// >>> with napi.poll():
    /// ...     napi.alloc_frag(64).nbytes
    /// 64
    #[pyo3(signature = (size, *, align=Given::default(1)), text_signature = "($self, size, *, align=1)")]
    fn alloc_frag<'py>(
        &self,
        py: Python<'py>,
        size: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::align)] align: Given<usize>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (size, align) = (args::whole(size, "size")?, align.read()?);
        let frag = self.call(|context| context.try_alloc_frag(size, align))?;
        let sampler = self.pool.get().sampler.as_deref();
        frag.map(|frag| {
            Ok(tracking::made(
                object::make(py, frag.into_raw(), false)?,
                sampler,
            ))
        })
        .transpose()
    }

    /// `NapiPoll.alloc_skb` of the poll that this thread is in.
    ///
    /// >>> napi = NapiCache()
    /// >>> with napi.poll():
    /// ...     napi.alloc_skb(1500).truesize
    /// 2176
    fn alloc_skb<'py>(&self, length: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, SkBuff>>> {
        let py = length.py();
        let length = args::whole(length, "length")?;
        let skb = self.call(|context| context.try_alloc_skb(length))?;
        let sampler = self.pool.get().sampler.as_deref();
        skb.map(|core| skb_made::made(py, core, length, sampler))
            .transpose()
    }

    /// `NapiPoll.consume_skb` of the poll that this thread is in.
    ///
    /// >>> napi = NapiCache()
    /// >>> with napi.poll():
    /// ...     napi.consume_skb(napi.alloc_skb(1500))
    fn consume_skb(&self, skb: &Bound<'_, SkBuff>) -> PyResult<()> {
        // Asked first, so that a refused call leaves the skb alone.
        self.call(|_| Ok(()))?;
        let skb = skb.get().take()?;
        self.call(|context| {
            context.consume_skb(skb);
            Ok(())
        })?;
        Ok(())
    }

    /// A `QueueStats`: `rx_alloc_fail` counts what came back as None.
    ///
    /// >>> NapiCache().stats().rx_alloc_fail
    /// 0
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.core().stats();
        stats::queue(py, &stats)
    }

    /// The pool that the pages come from.
    ///
    /// >>> NapiCache().pool is default_pool()
    /// True
    #[getter]
    fn pool(&self, py: Python<'_>) -> Py<PagePool> {
        self.pool.clone_ref(py)
    }

    fn __repr__(&self) -> Text {
        let polling = if self.core().is_polling() {
            " polling"
        } else {
            ""
        };
        let page_size = self.pool.get().core.page_size();
        Text(format!("<NapiCache page_size={page_size}{polling}>"))
    }
}

/// Not entered yet.
const AHEAD: u8 = 0;
/// Between `__enter__` and `__exit__`.
const RUNNING: u8 = 1;
/// Left; a poll is entered once.
const OVER: u8 = 2;

/// One poll of a `NapiCache`: what `with cache.poll() as ctx` gives.
///
/// >>> with NapiCache().poll() as ctx:
/// ...     ctx.alloc_frag(1500).capacity
/// 1536
#[pyclass(frozen, module = "pagefrag")]
pub(crate) struct NapiPoll {
    cache: Py<NapiCache>,
    budget: usize,
    state: AtomicU8,
}

impl NapiPoll {
    fn cache(&self) -> PyResult<&NapiCache> {
        // Relaxed: the core checks thread and poll by itself; this tells polls apart that one
        // thread enters one after the other.
        match self.state.load(Ordering::Relaxed) {
            RUNNING => Ok(self.cache.get()),
            state => Err(out_of_context(refusal(state))),
        }
    }

    /// From one state into the next, with the core or not at all. All states of all polls of a
    /// cache change under its one lock, so nobody sees a poll that runs and that the core does not
    /// know, and of two threads that enter or leave at once one is refused.
    fn turn(
        &self,
        from: u8,
        to: u8,
        how: impl FnOnce(&mut net::NapiCache) -> Result<(), ContextError>,
    ) -> PyResult<()> {
        let mut core = self.cache.get().core();
        // Relaxed, both: the lock orders them.
        let state = self.state.load(Ordering::Relaxed);
        let turned = if state == from {
            how(&mut core).map_err(|error| error.to_string())
        } else if from == AHEAD {
            Err("a poll is entered once".to_owned())
        } else {
            Err(refusal(state).to_owned())
        };
        if turned.is_ok() {
            self.state.store(to, Ordering::Relaxed);
        }
        // Before an exception is made, which can run Python code.
        drop(core);
        turned.map_err(out_of_context)
    }
}

/// What is said of a poll that is not `RUNNING`.
fn refusal(state: u8) -> &'static str {
    if state == AHEAD {
        "this poll has not begun: use `with cache.poll() as ctx`"
    } else {
        "this poll is over"
    }
}

#[pymethods]
impl NapiPoll {
    /// A fragment of `size` bytes, or None when there is no memory.
    ///
    /// >>> with NapiCache().poll() as ctx:
    /// ...     ctx.alloc_frag(100, align=256).offset % 256
    /// 0
    #[pyo3(signature = (size, *, align=Given::default(1)), text_signature = "($self, size, *, align=1)")]
    fn alloc_frag<'py>(
        &self,
        py: Python<'py>,
        size: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::align)] align: Given<usize>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.cache()?.alloc_frag(py, size, align)
    }

    /// An empty `SkBuff` with room for `length` bytes, or None when there is no memory.
    ///
    /// >>> with NapiCache().poll() as ctx:
    /// ...     ctx.alloc_skb(1500).truesize
    /// 2176
    fn alloc_skb<'py>(&self, length: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, SkBuff>>> {
        self.cache()?.alloc_skb(length)
    }

    /// Frees an skb whose packet was handled; its struct is kept for the next `alloc_skb`.
    ///
    /// `skb` cannot be used afterwards. `BufferError` while views of it exist.
    ///
    /// >>> with NapiCache().poll() as ctx:
    /// ...     ctx.consume_skb(ctx.alloc_skb(1500))
    fn consume_skb(&self, skb: &Bound<'_, SkBuff>) -> PyResult<()> {
        self.cache()?.consume_skb(skb)
    }

    /// How many packets this poll may handle.
    ///
    /// >>> NapiCache().poll(budget=8).budget
    /// 8
    #[getter]
    fn budget(&self) -> Number {
        Number(self.budget)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let this = slf.get();
        thread_end::watch(slf.py())?;
        this.turn(AHEAD, RUNNING, |core| core.enter(this.budget))?;
        Ok(slf)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyAny>) -> PyResult<()> {
        self.turn(RUNNING, OVER, net::NapiCache::leave)
    }

    fn __repr__(&self) -> Text {
        let state = match self.state.load(Ordering::Relaxed) {
            AHEAD => "not begun",
            RUNNING => "running",
            _ => "over",
        };
        Text(format!("<NapiPoll budget={} {state}>", self.budget))
    }
}

impl Drop for NapiPoll {
    /// A poll whose generator was thrown away ends here, on whatever thread that is.
    fn drop(&mut self) {
        if *self.state.get_mut() == RUNNING {
            self.cache.get().core().abandon();
        }
    }
}
