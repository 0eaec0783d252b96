//! What does it cost to give 64 references of one page back at once, on a
//! thread that did not carve it?
//!
//! R5: one call against 64 drops at least 8 times cheaper, and at most eight
//! locked instructions, one for each word of the page's map.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use pagefrag_benches::arms::{self, Arm, Visit};
use pagefrag_benches::machine;
use pagefrag_benches::record::Row;
use pagefrag_benches::stand::{self, Group, Work};
use pagefrag_benches::touch::{Head, Touch, value};
use pagefrag_benches::workload::PAGE;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(dead_code)] // it counts here, and stops threads elsewhere
#[path = "../../tests/rust/common/step.rs"]
mod step;

/// References of a drain, and the bytes of each: all of a page, 8 map words.
const REFERENCES: usize = 64;
const SIZE: usize = PAGE / REFERENCES;

/// Drains of a round: carved before any of them is measured, and no more than
/// a pool with a limit can carve.
const AHEAD: usize = 64;

type Batch<A> = Vec<<A as Arm>::Buffer>;

fn main() {
    let mut members = Members {
        group: Group::new("drain elsewhere", &REFERENCES, AHEAD * REFERENCES),
        locked: Vec::new(),
    };
    arms::every(&mut members);
    members.arm::<arms::Together>();
    members.arm::<arms::KernelDrain>();
    stand::run_with("drain", vec![members.group], members.locked);
}

struct Members {
    group: Group,
    locked: Vec<Row>,
}

impl Visit for Members {
    fn arm<A: Arm>(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        self.locked.push(locked::<A>());
        self.group
            .arm(A::NAME, Drain::<A>::new, Drain::<A::Counting>::new);
    }
}

/// Lends `use_it` a function that gets batches from a thread that carved them
/// and waits.
fn with_owner<A: Arm, R>(use_it: impl FnOnce(&mut dyn FnMut(u64) -> Vec<Batch<A>>) -> R) -> R {
    let (ask, asked): (SyncSender<u64>, Receiver<u64>) = mpsc::sync_channel(1);
    let (send, sent) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(move || {
            machine::pin_to(0);
            let mut arm = A::start();
            while let Ok(count) = asked.recv() {
                let batches: Vec<Batch<A>> =
                    (0..count).map(|round| carve(&mut arm, round)).collect();
                send.send(batches).expect("somebody asked");
            }
        });
        machine::pin_to(1);
        let result = use_it(&mut |count| {
            ask.send(count).expect("the owner waits");
            sent.recv().expect("the owner answers")
        });
        drop(ask);
        result
    })
}

fn carve<A: Arm>(arm: &mut A, round: u64) -> Batch<A> {
    let one = |_| {
        let mut buffer = arm.alloc(SIZE);
        Head::write::<A>(&mut buffer, SIZE, value(round));
        buffer
    };
    (0..REFERENCES).map(one).collect()
}

struct Drain<A>(std::marker::PhantomData<A>);

impl<A> Drain<A> {
    fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<A: Arm> Work for Drain<A> {
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64) {
        with_owner::<A, _>(|batches_of| {
            let (mut elapsed, mut sum) = (Duration::ZERO, 0);
            // The pages are in place, and this thread has whatever it needs.
            batches_of(AHEAD as u64)
                .iter_mut()
                .for_each(A::give_elsewhere);
            for round in 0..rounds {
                let mut batches = batches_of(AHEAD as u64);
                if round + 1 == rounds {
                    held();
                }
                let read = |buffer| Head::read::<A>(buffer);
                sum += batches.iter_mut().flatten().map(read).sum::<u64>();
                let start = Instant::now();
                batches.iter_mut().for_each(A::give_elsewhere);
                elapsed += start.elapsed();
            }
            (elapsed, sum)
        })
    }

    fn live_bytes(&self) -> u64 {
        (AHEAD * PAGE) as u64
    }
}

/// Locked instructions of one drain, counted one instruction at a time.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn locked<A: Arm>() -> Row {
    // In a child, because it starts a thread.
    let seen = pagefrag_benches::look::look(|eye| {
        let executed = with_owner::<A, _>(|batches_of| {
            batches_of(2).iter_mut().for_each(A::give_elsewhere);
            let mut batches = batches_of(1);
            step::count(|| batches.iter_mut().for_each(A::give_elsewhere))
        });
        eye.end(executed.locked, executed.instructions);
    });
    let row = Row::new("drain elsewhere, counted", A::NAME, &REFERENCES.to_string());
    row.with("locked", seen.checksum)
        .with("instructions", seen.live)
}
