//! Who is inside a value, and whether it is still open: one word beside the value.
//!
//! A buffer class must not give its memory back while somebody looks at it, on any number of
//! threads. So everybody who looks goes through the gate: a buffer view stays inside as long as it
//! lives, a method as long as it runs. Giving back needs the gate empty and shuts it for good.
//!
//! | word | meaning |
//! |---|---|
//! | 0 | open, nobody inside |
//! | n | open, n views or readers inside |
//! | `BUSY` | one thread alters the value; others wait for the few instructions that takes |
//! | `SHUT` | the value was taken; stays so |

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ops::Deref;

// The core's models run this file too (`models/gates.rs`).
#[cfg(loom)]
use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::{
    hint::spin_loop,
    sync::atomic::{AtomicUsize, Ordering},
};

const SHUT: usize = 1 << (usize::BITS - 1);
const BUSY: usize = SHUT >> 1;

/// Why the gate stayed closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The value was taken before.
    Shut,
    /// This many are inside, and what was asked needs to be alone.
    Occupied(usize),
}

/// A value behind a gate, and nothing beside the two: the word tells whether there is a value.
pub(crate) struct Gated<T> {
    word: AtomicUsize,
    /// Invariant: a value unless `word` is `SHUT`. Written only by the thread that turned `word`
    /// from 0 to `BUSY`; read only by those who are counted in `word`.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: those inside share `&T` between threads, which `T: Sync` allows; the one thread that
// alters or takes the value has the gate for itself, and the value may change threads by being
// taken on another one, which `T: Send` allows.
unsafe impl<T: Send + Sync> Sync for Gated<T> {}

impl<T> Gated<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            word: AtomicUsize::new(0),
            value: UnsafeCell::new(MaybeUninit::new(value)),
        }
    }

    /// A gate that is shut already.
    pub(crate) fn empty() -> Self {
        Self {
            word: AtomicUsize::new(SHUT),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Goes in to look at the value, for as long as the result lives. Two locked instructions.
    pub(crate) fn enter(&self) -> Result<Inside<'_, T>, Refusal> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & SHUT != 0 {
                return Err(Refusal::Shut);
            }
            if word & BUSY != 0 {
                spin_loop();
                word = self.word.load(Ordering::Relaxed);
                continue;
            }
            // Acquire: partner of the Release in `Alone::drop`; makes visible what `alter` wrote.
            match self.word.compare_exchange_weak(
                word,
                word + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        // SAFETY: this thread is counted in `word`, so nobody writes until it leaves.
        let value = unsafe { &*self.value.get() };
        // SAFETY: the invariant of `value`: the word was not `SHUT`, and cannot become so.
        let value = unsafe { value.assume_init_ref() };
        Ok(Inside { gate: self, value })
    }

    /// Leaves for an [`Inside`] that was kept with [`Inside::stay`].
    ///
    /// # Safety
    /// - Exactly one call for each `stay`.
    pub(crate) unsafe fn leave(&self) {
        self.count_out();
    }

    fn count_out(&self) {
        // Release: partner of the Acquire in `alone`; whoever gives the value back sees that all
        // reads of it are over.
        self.word.fetch_sub(1, Ordering::Release);
    }

    /// How many are inside; 0 when shut.
    pub(crate) fn inside(&self) -> usize {
        // Relaxed: a number to print, nothing is read because of it.
        let word = self.word.load(Ordering::Relaxed);
        if word & (SHUT | BUSY) == 0 { word } else { 0 }
    }

    fn alone(&self) -> Result<Alone<'_, T>, Refusal> {
        loop {
            // Acquire: partner of the Releases in `count_out` and `Alone::drop`.
            match self
                .word
                .compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    return Ok(Alone {
                        gate: self,
                        after: 0,
                    });
                }
                Err(word) if word & SHUT != 0 => return Err(Refusal::Shut),
                Err(word) if word & BUSY != 0 => spin_loop(),
                Err(word) => return Err(Refusal::Occupied(word)),
            }
        }
    }

    /// Alters the value while nobody is inside. `how` must not call into the interpreter: others
    /// may be waiting for it.
    pub(crate) fn alter<R>(&self, how: impl FnOnce(&mut T) -> R) -> Result<R, Refusal> {
        Ok(how(self.alone()?.value()))
    }

    /// Takes the value if `may` agrees, and shuts the gate for good.
    pub(crate) fn take_if(&self, may: impl FnOnce(&T) -> bool) -> Result<Option<T>, Refusal> {
        let mut alone = self.alone()?;
        if !may(alone.value()) {
            return Ok(None);
        }
        alone.after = SHUT;
        // SAFETY: there is a value, and with the gate shut nobody looks at what is left of it.
        Ok(Some(unsafe { std::ptr::from_mut(alone.value()).read() }))
    }

    /// Takes the value and shuts the gate for good.
    pub(crate) fn take(&self) -> Result<T, Refusal> {
        self.take_if(|_| true)?.ok_or(Refusal::Shut)
    }
}

impl<T> Drop for Gated<T> {
    fn drop(&mut self) {
        // Relaxed: nobody else has it any more.
        if self.word.load(Ordering::Relaxed) & SHUT == 0 {
            // SAFETY: the invariant of `value`; dropped once, here.
            unsafe { self.value.get_mut().assume_init_drop() };
        }
    }
}

/// The right to look at a gated value.
pub(crate) struct Inside<'a, T> {
    gate: &'a Gated<T>,
    value: &'a T,
}

impl<T> Inside<'_, T> {
    /// Stays inside beyond this value's life, until [`Gated::leave`].
    pub(crate) fn stay(self) {
        std::mem::forget(self);
    }
}

impl<T> Deref for Inside<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Drop for Inside<'_, T> {
    fn drop(&mut self) {
        self.gate.count_out();
    }
}

/// The gate for itself; opens (or shuts) it again when dropped, also during unwinding.
struct Alone<'a, T> {
    gate: &'a Gated<T>,
    after: usize,
}

impl<T> Alone<'_, T> {
    fn value(&mut self) -> &mut T {
        // SAFETY: this thread turned `word` from 0 to `BUSY` and is the only one in.
        let value = unsafe { &mut *self.gate.value.get() };
        // SAFETY: the invariant of `value`: the word was 0.
        unsafe { value.assume_init_mut() }
    }
}

impl<T> Drop for Alone<'_, T> {
    fn drop(&mut self) {
        // Release: what was written becomes visible to the next `enter` or `alone`.
        self.gate.word.store(self.after, Ordering::Release);
    }
}
