//! A thread that frees what others took: many buffers at a time, while the one
//! who gave them waits, so that what is held afterwards is the same each time.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The giving side.
pub struct Elsewhere<T> {
    to: SyncSender<Vec<T>>,
    back: Receiver<Vec<T>>,
    waiting: Vec<T>,
    batch: usize,
    waited: Duration,
}

impl<T> fmt::Debug for Elsewhere<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere")
            .field("waiting", &self.waiting.len())
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Elsewhere<T> {
    /// Starts the thread; it ends with the value.
    #[must_use]
    pub fn new(batch: usize) -> Self {
        let (to, from) = sync_channel::<Vec<T>>(0);
        let (done, back) = sync_channel(0);
        thread::spawn(move || {
            for mut buffers in from {
                buffers.clear();
                if done.send(buffers).is_err() {
                    return;
                }
            }
        });
        Self {
            to,
            back,
            waiting: Vec::with_capacity(batch),
            batch,
            waited: Duration::ZERO,
        }
    }

    /// Gives `buffer` to the thread, with others once there are enough.
    ///
    /// # Panics
    ///
    /// When freeing panicked on that thread.
    pub fn free(&mut self, buffer: T) {
        self.waiting.push(buffer);
        if self.waiting.len() == self.batch {
            let start = Instant::now();
            let batch = std::mem::take(&mut self.waiting);
            self.to.send(batch).expect("the thread lives");
            self.waiting = self.back.recv().expect("the thread lives");
            self.waited += start.elapsed();
        }
    }

    /// How long the giving side has waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Buffers that were given and are not freed yet.
    #[must_use]
    pub fn waiting(&self) -> &[T] {
        &self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::Elsewhere;
    use std::sync::Arc;

    #[test]
    fn a_full_batch_is_freed_before_the_next_line() {
        let kept = Arc::new(());
        let mut elsewhere = Elsewhere::new(3);
        (0..5).for_each(|_| elsewhere.free(Arc::clone(&kept)));
        assert_eq!(Arc::strong_count(&kept), 3);
        assert_eq!(elsewhere.waiting().len(), 2);
    }
}
