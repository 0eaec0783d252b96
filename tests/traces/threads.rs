//! Threads that are real and take turns.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

enum Order {
    Do(Box<dyn FnOnce() + Send>),
    End,
}

/// A place for one thing, which one thread leaves there for another, who sleeps until it comes.
struct Desk<T>(Mutex<Option<T>>);

impl<T> Desk<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None)))
    }

    fn leave(&self, thing: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(thing);
    }

    /// Whoever leaves something wakes this thread.
    fn wait(&self) -> T {
        loop {
            if let Some(thing) = { self.0.lock().unwrap_or_else(PoisonError::into_inner) }.take() {
                return thing;
            }
            thread::park();
        }
    }
}

struct Worker {
    orders: Arc<Desk<Order>>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start() -> Self {
        let orders = Desk::new();
        let desk = Arc::clone(&orders);
        let live = move || {
            while let Order::Do(job) = desk.wait() {
                job();
            }
        };
        let thread = thread::spawn(live);
        Self { orders, thread }
    }

    fn order(&self, order: Order) {
        self.orders.leave(order);
        self.thread.thread().unpark();
    }

    fn end(self) {
        self.order(Order::End);
        self.thread.join().expect("the thread came through");
    }
}

/// Thread 0 is the caller's own; the others start when they are first needed.
#[derive(Default)]
pub(crate) struct Threads {
    others: [Option<Worker>; super::THREADS - 1],
}

impl Threads {
    /// Runs `f` on thread `at` and waits for it. A panic goes on here.
    pub(crate) fn run<R: Send + 'static>(
        &mut self,
        at: usize,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let Some(other) = at.checked_sub(1) else {
            return f();
        };
        let answers = Desk::new();
        let (desk, caller) = (Arc::clone(&answers), thread::current());
        let job = move || {
            desk.leave(catch_unwind(AssertUnwindSafe(f)));
            caller.unpark();
        };
        let worker = self.others[other].get_or_insert_with(Worker::start);
        worker.order(Order::Do(Box::new(job)));
        answers.wait().unwrap_or_else(|panic| resume_unwind(panic))
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
