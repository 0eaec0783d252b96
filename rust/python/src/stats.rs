//! Counters as Python sees them: frozen dataclasses that live in `pagefrag/_stats.py`.
//!
//! The dataclasses are fetched when first needed, because importing `dataclasses` takes longer
//! than loading this module. Each field is named once here and once there, and a test compares.

use pagefrag::net::{QueueStats, TxStats};
use pagefrag::{CacheStats, PoolStats};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyModule, PyString};

use crate::made;

static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// `pagefrag._stats.<class>(**fields)`.
fn snapshot<'py>(
    py: Python<'py>,
    class: &str,
    fields: &[(&str, u64)],
) -> PyResult<Bound<'py, PyAny>> {
    let module = MODULE.get_or_try_init(py, || {
        made::guarded(py, || py.import("pagefrag._stats").map(Bound::unbind))
    })?;
    let named = made::dict(py)?;
    for (name, value) in fields {
        let value = usize::try_from(*value).unwrap_or(usize::MAX);
        named.set_item(made::text(py, name)?, made::number(py, value)?)?;
    }
    let class = made::text(py, class)?;
    module
        .bind(py)
        .getattr(class.cast::<PyString>()?)?
        .call((), Some(&named))
}

/// The named fields of a struct of counters, as pairs.
macro_rules! fields {
    ($stats:expr; $($name:ident),* $(,)?) => {
        &[$((stringify!($name), $stats.$name)),*]
    };
}

pub(crate) fn pool<'py>(py: Python<'py>, stats: &PoolStats) -> PyResult<Bound<'py, PyAny>> {
    snapshot(
        py,
        "PoolStats",
        fields!(stats;
        page_size, held_bytes, live_bytes, pinned_bytes, pages_obtained, pages_in_use, pages_current,
        pages_retired, pages_orphaned, pages_free, pages_returned, regions_mapped, regions_peak,
        huge_bytes, huge_failed, exhausted, out_of_memory),
    )
}

pub(crate) fn cache<'py>(py: Python<'py>, stats: &CacheStats) -> PyResult<Bound<'py, PyAny>> {
    snapshot(
        py,
        "CacheStats",
        fields!(stats;
        pages, held_bytes, live_bytes, pinned_bytes, refills, reuses, pages_taken, adopted,
        pages_given, orphaned, alloc_fail),
    )
}

pub(crate) fn queue<'py>(py: Python<'py>, stats: &QueueStats) -> PyResult<Bound<'py, PyAny>> {
    snapshot(
        py,
        "QueueStats",
        fields!(stats;
        rx_packets, rx_bytes, rx_alloc_fail, rx_hw_drops, rx_hw_drop_overruns, rx_hw_gro_packets, rx_hw_gro_bytes,
        rx_hw_gro_wire_packets, rx_hw_gro_wire_bytes, truncated, batches, largest_batch, waits),
    )
}

pub(crate) fn transmit<'py>(py: Python<'py>, stats: &TxStats) -> PyResult<Bound<'py, PyAny>> {
    snapshot(
        py,
        "TxStats",
        fields!(stats;
        tx_packets, tx_bytes, tx_hw_drops, tx_hw_drop_errors, tx_hw_gso_packets, tx_hw_gso_bytes,
        tx_hw_gso_wire_packets, tx_hw_gso_wire_bytes, tx_stop, tx_wake, gso_refused, batches,
        largest_batch, waits),
    )
}
