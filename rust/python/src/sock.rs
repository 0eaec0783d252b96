//! What a ring asks of the user's socket, which is any object with a `fileno`.

use pyo3::intern;
use pyo3::prelude::*;

use crate::error::{forget, kind};
use crate::made::guarded;

/// `EBADF`, which Linux and the BSDs agree on.
pub(crate) const BAD_DESCRIPTOR: i32 = 9;

/// The descriptor number of something like a socket; -1 when it is closed.
pub(crate) fn fileno(sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    let py = sock.py();
    guarded(py, || {
        let Some(method) = sock.getattr_opt(intern!(py, "fileno"))? else {
            let found = sock.get_type().name()?;
            return Err(kind(&format!("expected a socket, not {found}")));
        };
        method.call0()?.extract()
    })
}

/// The name of its address family; `?` if it tells none. Runs Python code.
pub(crate) fn family(sock: &Bound<'_, PyAny>) -> String {
    let py = sock.py();
    guarded(py, || {
        let family = sock.getattr(intern!(py, "family"))?;
        family.getattr(intern!(py, "name"))?.extract()
    })
    .unwrap_or_else(|error: PyErr| {
        forget(error);
        "?".to_owned()
    })
}
