//! Real threads that take turns, each with caches of its own.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use pagefrag::{Error, FragMut, Granule, LocalCache, PageFragCache, PagePool};

/// Which of a thread's caches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Which {
    pub(crate) bytes: bool,
    pub(crate) local: bool,
}

/// What a worker thread has.
pub(crate) struct Home {
    lines: PageFragCache,
    bytes: PageFragCache,
    local_lines: LocalCache,
    local_bytes: LocalCache,
}

impl Home {
    pub(crate) fn with<R>(&mut self, which: Which, f: impl FnOnce(&mut PageFragCache) -> R) -> R {
        match (which.local, which.bytes) {
            (false, false) => f(&mut self.lines),
            (false, true) => f(&mut self.bytes),
            (true, false) => self.local_lines.with(f),
            (true, true) => self.local_bytes.with(f),
        }
    }

    /// As users call it: a local cache has doors of its own.
    pub(crate) fn alloc(
        &mut self,
        which: Which,
        size: usize,
        align: usize,
    ) -> Result<FragMut, Error> {
        match (which.local, which.bytes) {
            (false, _) if align == 1 => self.with(which, |cache| cache.alloc(size)),
            (false, _) => self.with(which, |cache| cache.alloc_align(size, align)),
            (true, false) if align == 1 => self.local_lines.alloc(size),
            (true, true) if align == 1 => self.local_bytes.alloc(size),
            (true, false) => self.local_lines.alloc_align(size, align),
            (true, true) => self.local_bytes.alloc_align(size, align),
        }
    }
}

pub(crate) type Job = Box<dyn FnOnce(&mut Home) + Send>;

pub(crate) struct Worker {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn start(pool: &PagePool, local: &[LocalCache; 2]) -> Self {
        let (jobs, todo) = channel::<Job>();
        let (pool, [local_lines, local_bytes]) = (pool.clone(), local.clone());
        let thread = thread::spawn(move || {
            let mut home = Home {
                lines: PageFragCache::new(&pool),
                bytes: PageFragCache::with_granule(&pool, Granule::Byte),
                local_lines,
                local_bytes,
            };
            for job in todo {
                job(&mut home);
            }
        });
        Self { jobs, thread }
    }

    pub(crate) fn run<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Home) -> R + Send + 'static,
    ) -> R {
        let (send, receive) = channel();
        let job = move |home: &mut Home| drop(send.send(f(home)));
        self.jobs.send(Box::new(job)).expect("the worker lives");
        receive.recv().expect("the worker came through")
    }

    pub(crate) fn end(self) {
        drop(self.jobs);
        self.thread.join().expect("the worker came through");
    }
}
