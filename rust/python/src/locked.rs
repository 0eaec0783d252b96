//! A value behind a lock, and what is refused while it is locked.
//!
//! Making an exception can run Python code: 3.11 collects garbage inside an allocation, and a
//! free-threaded interpreter may stop a thread in one. That code may want the same lock. So what is
//! refused under the lock is a [`Refused`], and becomes an exception when the lock is given back.

use std::sync::{Mutex, PoisonError};

use pagefrag::Error;
use pyo3::prelude::*;

use crate::attached::attached;
use crate::error::{from_core, from_gate, released, viewed};
use crate::gate;

/// Why a value behind a lock was left as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// It was taken before.
    Released,
    /// So many look at it.
    Viewed(usize),
    /// The gate of one of its fragments.
    Fragment(gate::Refusal),
    /// The core's word.
    Core(Error),
    /// The interpreter has set the exception: there is no memory.
    Raised,
}

impl Refused {
    /// The exception, to be made with no lock held; `noun` is what was refused.
    #[cold]
    fn told(self, noun: &str) -> PyErr {
        match self {
            Self::Released => released(noun),
            Self::Viewed(views) => viewed(noun, views),
            Self::Fragment(refusal) => from_gate(refusal, "fragment"),
            Self::Core(error) => from_core(error),
            Self::Raised => attached(PyErr::fetch),
        }
    }
}

/// What lies behind a lock, by the noun that its users know.
pub(crate) trait Known {
    const NOUN: &'static str;
}

/// A value that one thread at a time looks at, until it is taken. Locked only while attached, for
/// calls that run no Python code.
pub(crate) struct Locked<T>(Mutex<Option<T>>);

impl<T: Known> Locked<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(Some(value)))
    }

    /// For a value that is to come.
    pub(crate) const fn empty() -> Self {
        Self(Mutex::new(None))
    }

    /// Runs `how` on the value, `None` if it was taken. `how` must not run Python code.
    pub(crate) fn look<R>(&self, how: impl FnOnce(&mut Option<T>) -> R) -> R {
        how(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same where there must be a value: `ValueError` if it was taken.
    pub(crate) fn with<R>(&self, how: impl FnOnce(&mut T) -> Result<R, Refused>) -> PyResult<R> {
        self.look(|value| value.as_mut().map_or(Err(Refused::Released), how))
            .map_err(|refused| refused.told(T::NOUN))
    }

    /// Takes the value out if `may` agrees; `None` when it is gone already.
    pub(crate) fn take_if(
        &self,
        may: impl FnOnce(&T) -> Result<(), Refused>,
    ) -> PyResult<Option<T>> {
        self.look(|value| value.as_ref().map_or(Ok(()), may).map(|()| value.take()))
            .map_err(|refused| refused.told(T::NOUN))
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.look(|value| value.is_none())
    }
}
