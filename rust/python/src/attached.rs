//! Attached in `PyO3`'s own eyes, also where it did not see how.
//!
//! A slot that the interpreter calls by itself runs attached, but `PyO3` does not know: it would put
//! references that are dropped aside, and give them back who knows when. Its own `Python::attach`
//! tells it, and panics once the interpreter is ending, although finalizers still run then; in such
//! a slot that would be the end of the process.

use pyo3::prelude::*;

/// Runs `what` on a thread that is attached.
pub(crate) fn attached<R>(what: impl FnOnce(Python<'_>) -> R) -> R {
    // SAFETY: our module is loaded, so the interpreter was set up; and as the thread is attached it
    // stays so and need not wait. A thread that is not would wait for its turn or, when the
    // interpreter is ending, for ever, as with every call that attaches.
    unsafe { Python::attach_unchecked(what) }
}
