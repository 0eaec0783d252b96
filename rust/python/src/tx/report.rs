//! What one call on a transmit ring has brought about, and how it is told.

use std::io;

use pagefrag::net::Completion;
use pyo3::prelude::*;

use crate::error::{after, unsent};
use crate::held::Held;

#[derive(Default)]
pub(super) struct Report {
    /// The number of the first datagram of this call; `None` before the ring was asked.
    pub(super) first: Option<u64>,
    /// Datagrams of this call that the ring has taken.
    pub(super) accepted: usize,
    /// Buffers to be dropped when the call is over.
    pub(super) gone: Vec<Held>,
    failed: Vec<(u64, io::Error)>,
    /// An error of the socket, or one about datagrams that were sent earlier.
    pub(super) error: Option<io::Error>,
    /// Datagrams that wait for the kernel.
    pub(super) queued: usize,
}

impl Report {
    /// For a call with so many buffers.
    pub(super) fn of(buffers: usize) -> Self {
        Self {
            gone: Vec::with_capacity(buffers),
            ..Self::default()
        }
    }

    pub(super) fn note(&mut self, done: Completion<Held>) {
        self.gone.push(done.buffer);
        if let Err(error) = done.result {
            self.failed.push((done.number, error));
        }
    }

    /// A number that grows when something happens.
    pub(super) fn progress(&self) -> usize {
        self.accepted + self.gone.len()
    }

    fn told(&self, py: Python<'_>) -> PyErr {
        // Numbers count up slowly from 0; those of earlier calls become negative.
        let first = self.first.unwrap_or(0);
        let index = |number: u64| number.wrapping_sub(first).cast_signed();
        let failed = self.failed.iter();
        let failed: Vec<_> = failed
            .map(|(number, error)| (index(*number), error))
            .collect();
        unsent(py, self.accepted, &failed, self.error.as_ref())
    }

    /// Raises what has to be told.
    pub(super) fn finish(&self, py: Python<'_>) -> PyResult<()> {
        if self.failed.is_empty() && self.error.is_none() {
            return Ok(());
        }
        Err(self.told(py))
    }

    /// The error that ended the call before its time, and behind it what the call had come to.
    #[cold]
    pub(super) fn interrupted(&self, py: Python<'_>, by: PyErr) -> PyErr {
        if self.first.is_none() {
            return by;
        }
        after(py, by, self.told(py))
    }
}
