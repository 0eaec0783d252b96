//! A bounded queue between one producer and one consumer, as short as it can
//! be: what the hand-off bench passes its buffers through.

use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns of a waiting loop before the thread lets others run.
const PATIENCE: u32 = 10_000;

#[repr(align(128))]
struct Apart<T>(T);

struct Ring<T> {
    /// Written by the producer before `head` says so, read by the consumer
    /// before `tail` says so.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    head: Apart<AtomicUsize>,
    tail: Apart<AtomicUsize>,
}

// SAFETY: a slot is reached by one side at a time, as `head` and `tail` say.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above; the values themselves may move between threads.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        for index in *self.tail.0.get_mut()..*self.head.0.get_mut() {
            let slot = index % self.slots.len();
            // SAFETY: from `tail` to `head` the slots hold values.
            unsafe { self.slots[slot].get_mut().assume_init_drop() };
        }
    }
}

/// The side that puts in.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    seen_tail: usize,
}

/// The side that takes out.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    seen_head: usize,
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

/// A queue of `slots` slots.
///
/// # Panics
///
/// When `slots` is not a power of two.
#[must_use]
pub fn queue<T: Send>(slots: usize) -> (Producer<T>, Consumer<T>) {
    assert!(slots.is_power_of_two());
    let ring = Arc::new(Ring {
        slots: (0..slots)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        head: Apart(AtomicUsize::new(0)),
        tail: Apart(AtomicUsize::new(0)),
    });
    let other = Arc::clone(&ring);
    (
        Producer {
            ring,
            head: 0,
            seen_tail: 0,
        },
        Consumer {
            ring: other,
            tail: 0,
            seen_head: 0,
        },
    )
}

impl<T: Send> Producer<T> {
    /// Puts `value` in, waiting for room.
    #[inline]
    pub fn put(&mut self, value: T) {
        let slots = self.ring.slots.len();
        if self.head - self.seen_tail == slots {
            // Acquire: pairs with the release in `take`; the slot is empty.
            self.seen_tail = wait(|| {
                let tail = self.ring.tail.0.load(Ordering::Acquire);
                (self.head - tail < slots).then_some(tail)
            });
        }
        let slot = self.ring.slots[self.head & (slots - 1)].get();
        // SAFETY: the consumer has left this slot and does not come before
        // `head` says so.
        unsafe { (*slot).write(value) };
        self.head += 1;
        // Release: the value is in the slot before the consumer sees `head`.
        self.ring.head.0.store(self.head, Ordering::Release);
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest value out, waiting for one.
    #[inline]
    pub fn take(&mut self) -> T {
        if self.tail == self.seen_head {
            // Acquire: pairs with the release in `put`; the value is there.
            self.seen_head = wait(|| {
                let head = self.ring.head.0.load(Ordering::Acquire);
                (head != self.tail).then_some(head)
            });
        }
        let slot = self.ring.slots[self.tail & (self.ring.slots.len() - 1)].get();
        // SAFETY: the producer wrote this slot and does not come again before
        // `tail` says so; it is read once.
        let held = unsafe { slot.read() };
        // SAFETY: as above: the producer wrote it.
        let value = unsafe { held.assume_init() };
        self.tail += 1;
        // Release: the slot is read before the producer sees it empty.
        self.ring.tail.0.store(self.tail, Ordering::Release);
        value
    }
}

#[inline]
fn wait<R>(mut ready: impl FnMut() -> Option<R>) -> R {
    loop {
        for _ in 0..PATIENCE {
            if let Some(found) = ready() {
                return found;
            }
            spin_loop();
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::queue;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let (mut producer, mut consumer) = queue(8);
        std::thread::scope(|scope| {
            scope.spawn(move || (0..10_000_u64).for_each(|n| producer.put(Box::new(n))));
            (0..10_000_u64).for_each(|n| assert_eq!(*consumer.take(), n));
        });
    }

    #[test]
    fn what_is_left_is_dropped() {
        let kept = std::sync::Arc::new(());
        let (mut producer, consumer) = queue(4);
        producer.put(kept.clone());
        drop((producer, consumer));
        assert_eq!(std::sync::Arc::strong_count(&kept), 1);
    }
}
