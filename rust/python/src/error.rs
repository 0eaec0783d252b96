//! How errors cross into Python: each case of the core's error as the built-in that Python users
//! expect for it, and four classes of our own on top.

use std::fmt::Display;
use std::io;

use pagefrag::Error;
use pyo3::PyTypeInfo;
use pyo3::exceptions::{
    PyBufferError, PyException, PyIndexError, PyMemoryError, PyOSError, PyRuntimeError,
    PyTypeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::attached::attached;
use crate::gate::Refusal;
use crate::made;

/// `EINTR`, which is the same everywhere.
const INTERRUPTED: i32 = 4;

/// The four exception classes, made once when the module is loaded.
struct Classes {
    base: Py<PyType>,
    exhausted: Py<PyType>,
    context: Py<PyType>,
    send: Py<PyType>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

const BASE: &str = "What every error of pagefrag's own is an instance of.

>>> issubclass(PoolExhausted, PagefragError)
True
";
const EXHAUSTED: &str =
    "The pool is at its `max_bytes`, or the system has no memory left. Also a `MemoryError`.

>>> cache = PageFragCache(PagePool(max_bytes=2 << 20))
>>> kept = []
>>> try:
...     while True:
...         kept.append(cache.alloc(32768))
... except PoolExhausted:
...     len(kept)
64
";
const CONTEXT: &str =
    "A call that belongs to another context: outside a poll, on another thread, or into a ring
that another thread receives on. Also a `RuntimeError`.

>>> with NapiCache().poll() as ctx:
...     pass
>>> ctx.alloc_frag(64)
Traceback (most recent call last):
    ...
pagefrag.ContextError: this poll is over
";

const SEND: &str =
    "What `TxRing` could not send, or was told about what it has sent. Also an `OSError`.

`failed` holds a pair for each datagram that was not sent: its index in the call (negative if it
was queued by an earlier one) and the `OSError`. Everything that is not in it was sent or waits in
the ring. `accepted` is how many datagrams of the call the ring has taken. An empty `failed` says
that the error is the socket's, or that the network has answered an earlier datagram with it.

>>> error = SendError(90, 'Message too long')
>>> error.errno, error.failed, error.accepted
(90, (), 0)
";

/// A class `pagefrag.<name>` with these bases. Made by calling `type`, because a native
/// exception type can have one base only.
fn class<'py>(name: &str, doc: &str, bases: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyType>> {
    let py = bases.py();
    let body = PyDict::new(py);
    body.set_item("__module__", "pagefrag")?;
    body.set_item("__doc__", doc)?;
    Ok(py
        .get_type::<PyType>()
        .call1((name, bases, body))?
        .cast_into()?)
}

fn classes(py: Python<'_>) -> PyResult<&Classes> {
    CLASSES.get_or_try_init(py, || {
        let base = class(
            "PagefragError",
            BASE,
            &PyTuple::new(py, [py.get_type::<PyException>()])?,
        )?;
        let both = |other| PyTuple::new(py, [base.clone(), other]);
        let exhausted = class(
            "PoolExhausted",
            EXHAUSTED,
            &both(py.get_type::<PyMemoryError>())?,
        )?;
        let context = class(
            "ContextError",
            CONTEXT,
            &both(py.get_type::<PyRuntimeError>())?,
        )?;
        let send = class("SendError", SEND, &both(py.get_type::<PyOSError>())?)?;
        send.setattr("failed", PyTuple::empty(py))?;
        send.setattr("accepted", 0)?;
        Ok(Classes {
            send: send.unbind(),
            exhausted: exhausted.unbind(),
            context: context.unbind(),
            base: base.unbind(),
        })
    })
}

/// Adds the exception classes to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = classes(py)?;
    for class in [
        &classes.base,
        &classes.exhausted,
        &classes.context,
        &classes.send,
    ] {
        let class = class.bind(py);
        module.add(class.name()?, class)?;
    }
    Ok(())
}

/// An error that is complete: one whose text is made when it is raised panics when there is no
/// memory for it.
fn complete(kind: &Bound<'_, PyType>, why: &str) -> PyErr {
    let py = kind.py();
    match made::text(py, why) {
        Ok(why) => {
            // SAFETY: attached, with a class of exceptions and what to call it with.
            unsafe { ffi::PyErr_SetObject(kind.as_ptr(), why.as_ptr()) };
            PyErr::fetch(py)
        }
        Err(error) => error,
    }
}

fn raise(pick: impl FnOnce(&Classes) -> &Py<PyType>, why: impl Display) -> PyErr {
    attached(|py| match classes(py) {
        Ok(classes) => complete(pick(classes).bind(py), &why.to_string()),
        Err(error) => error,
    })
}

#[cold]
fn built_in<E: PyTypeInfo>(why: &str) -> PyErr {
    attached(|py| complete(&py.get_type::<E>(), why))
}

/// `ValueError`.
pub(crate) fn value(why: &str) -> PyErr {
    built_in::<PyValueError>(why)
}

/// `BufferError`.
pub(crate) fn in_use(why: &str) -> PyErr {
    built_in::<PyBufferError>(why)
}

/// `IndexError`.
pub(crate) fn index(why: &str) -> PyErr {
    built_in::<PyIndexError>(why)
}

/// `TypeError`.
pub(crate) fn kind(why: &str) -> PyErr {
    built_in::<PyTypeError>(why)
}

/// `OSError` with its number, or the class that it makes of the number.
#[cold]
pub(crate) fn os(number: i32, why: &str) -> PyErr {
    attached(|py| {
        made::guarded(py, || {
            let kind = py.get_type::<PyOSError>();
            Ok(PyErr::from_value(kind.call1((number, why))?.cast_into()?))
        })
        .unwrap_or_else(|error| error)
    })
}

/// `PagefragError`: something of ours is broken or was refused without a better word for it.
pub(crate) fn broken(why: impl Display) -> PyErr {
    raise(|classes| &classes.base, why)
}

/// `PoolExhausted`.
pub(crate) fn exhausted(why: impl Display) -> PyErr {
    raise(|classes| &classes.exhausted, why)
}

/// `ContextError`.
pub(crate) fn out_of_context(why: impl Display) -> PyErr {
    raise(|classes| &classes.context, why)
}

/// Raises an error from a slot that `pyo3` does not know of.
#[cold]
pub(crate) fn set(error: PyErr) {
    attached(|py| {
        // One whose text is made only now.
        if let Err(error) = made::guarded(py, || {
            error.restore(py);
            Ok(())
        }) {
            error.restore(py);
        }
    });
}

/// Drops an error in such a slot.
#[cold]
pub(crate) fn forget(error: PyErr) {
    attached(|_| drop(error));
}

/// Number and text of an error of the system.
pub(crate) fn errno(error: &io::Error) -> (Option<i32>, String) {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    (error.raw_os_error(), text.to_owned())
}

/// An error of the system, or what the core refuses before it asks: an argument (`ValueError`), or
/// for want of memory (`PoolExhausted`).
#[cold]
pub(crate) fn from_io(error: &io::Error) -> PyErr {
    match errno(error) {
        (Some(number), text) => os(number, &text),
        (None, text) => match error.kind() {
            io::ErrorKind::InvalidInput => value(&text),
            io::ErrorKind::OutOfMemory => exhausted(text),
            _ => built_in::<PyOSError>(&text),
        },
    }
}

/// `SendError`: datagrams that were not sent, with their indices, or an error of the socket.
#[cold]
pub(crate) fn unsent(
    py: Python<'_>,
    accepted: usize,
    failed: &[(i64, &io::Error)],
    error: Option<&io::Error>,
) -> PyErr {
    let first = failed.first().map(|(_, error)| *error).or(error);
    let interrupted = || (Some(INTERRUPTED), "the call was interrupted".to_owned());
    let (number, mut text) = first.map_or_else(interrupted, errno);
    if !failed.is_empty() {
        text = format!("{text} ({} not sent)", failed.len());
    }
    let made = || {
        let made = classes(py)?.send.bind(py).call1((number, text))?;
        let failed = failed
            .iter()
            .map(|(index, error)| (*index, PyOSError::new_err(errno(error)).into_value(py)));
        made.setattr("failed", PyTuple::new(py, failed.collect::<Vec<_>>())?)?;
        made.setattr("accepted", accepted)?;
        Ok(PyErr::from_value(made))
    };
    made::guarded(py, made).unwrap_or_else(|error| error)
}

/// Makes `told` the last in the chain of what `interruption` came after.
#[cold]
pub(crate) fn after(py: Python<'_>, interruption: PyErr, told: PyErr) -> PyErr {
    let chained = made::guarded(py, || {
        let mut last = interruption.value(py).clone().into_any();
        loop {
            let earlier = last.getattr("__context__")?;
            if earlier.is_none() {
                return last.setattr("__context__", told.into_value(py));
            }
            last = earlier;
        }
    });
    chained.map_or_else(|error| error, |()| interruption)
}

/// The core's error as an exception.
#[cold]
pub(crate) fn from_core(error: Error) -> PyErr {
    match error {
        Error::Exhausted | Error::OutOfMemory => exhausted(error),
        Error::Cloned => built_in::<PyBufferError>(&error.to_string()),
        // All others are values out of their range.
        _ => value(&error.to_string()),
    }
}

/// A refused gate as an exception; `what` is the noun of the class.
#[cold]
pub(crate) fn from_gate(refusal: Refusal, what: &str) -> PyErr {
    match refusal {
        Refusal::Shut => released(what),
        // A call that runs on another thread is inside as a view is.
        Refusal::Occupied(1) => in_use(&format!(
            "1 view of this {what} still exists, or a call runs"
        )),
        Refusal::Occupied(inside) => in_use(&format!(
            "{inside} views of this {what} still exist, or calls run"
        )),
    }
}

/// `ValueError` for any use after release.
#[cold]
pub(crate) fn released(what: &str) -> PyErr {
    value(&format!("operation forbidden on released {what}"))
}

/// `BufferError` for what would move or free memory that is being looked at.
#[cold]
pub(crate) fn viewed(what: &str, views: usize) -> PyErr {
    let (noun, verb) = if views == 1 {
        ("view", "exists")
    } else {
        ("views", "exist")
    };
    in_use(&format!("{views} {noun} of this {what} still {verb}"))
}
