//! Threads that are real and take turns.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

struct Worker {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start() -> Self {
        let (jobs, todo) = channel::<Job>();
        let thread = thread::spawn(move || todo.into_iter().for_each(|job| job()));
        Self { jobs, thread }
    }

    fn end(self) {
        drop(self.jobs);
        self.thread.join().expect("the thread came through");
    }
}

/// Thread 0 is the caller's own; the others start when they are first needed.
#[derive(Default)]
pub(crate) struct Threads {
    others: [Option<Worker>; super::THREADS - 1],
}

impl Threads {
    /// Runs `f` on thread `at` and waits for it.
    pub(crate) fn run<R: Send + 'static>(
        &mut self,
        at: usize,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let Some(other) = at.checked_sub(1) else {
            return f();
        };
        let (send, receive) = channel();
        let worker = self.others[other].get_or_insert_with(Worker::start);
        let job = move || drop(send.send(f()));
        worker.jobs.send(Box::new(job)).expect("the thread lives");
        receive.recv().expect("the thread came through")
    }

    /// Ends thread `at`; the next `run` there starts another. Thread 0 stays:
    /// false.
    pub(crate) fn end(&mut self, at: usize) -> bool {
        let Some(other) = at.checked_sub(1) else {
            return false;
        };
        self.others[other].take().into_iter().for_each(Worker::end);
        true
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for at in 1..super::THREADS {
            self.end(at);
        }
    }
}
