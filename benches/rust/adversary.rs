//! How much can somebody who sees addresses keep from being used again?
//!
//! The adversary takes lines of 64 bytes until 64 MiB are full, and then lets go
//! of all but one in each 32 KiB of addresses. What is held then, and what it
//! takes to be used again: requests that fit between the survivors, and
//! requests that do not.

use std::collections::HashSet;

use pagefrag_benches::apart::{apart, resident};
use pagefrag_benches::arms::{self, Arm, Visit, tell_who_is_missing};
use pagefrag_benches::machine;
use pagefrag_benches::record::{self, Row};
use pagefrag_benches::workload::{LINE, PAGE};
use serde::{Deserialize, Serialize};

/// Bytes that the adversary takes, in lines.
const ALL: usize = 64 << 20;

/// What is taken afterwards: half as many bytes again, in requests of so many.
const AFTERWARDS: [usize; 4] = [64, 1500, 9000, 16 * 1024];

fn main() {
    println!("{}", machine::describe());
    tell_who_is_missing();
    machine::pin_to(0);
    println!("one line of 64 B kept in each 32 KiB of addresses, of 64 MiB that were full:");
    println!("held / live; then MiB held before and after 32 MiB more are taken");
    for size in AFTERWARDS {
        print!("{:>14}", format!("{size} B"));
    }
    println!();
    let mut table = Table::default();
    arms::keepers(&mut table);
    record::keep("adversary", table.0);
}

#[derive(Default)]
struct Table(Vec<Row>);

#[derive(Serialize, Deserialize)]
struct Found {
    survivors: u64,
    full: u64,
    kept: u64,
    after: u64,
}

impl Visit for Table {
    #[expect(clippy::cast_precision_loss, reason = "bytes, far below 2^52")]
    fn arm<A: Arm>(&mut self) {
        println!("  {}", A::NAME);
        for size in AFTERWARDS {
            let Found {
                survivors,
                full,
                kept,
                after,
            } = apart(|| run::<A>(size));
            let live = survivors * LINE as u64;
            let ratio = kept as f64 / live as f64;
            let more = (ALL / 2 / size * size) as u64;
            let together = after as f64 / (live + more) as f64;
            println!(
                "    then {size:>6} B: held / live {ratio:>7.1}, {:>3} MiB full, {:>3} kept, {:>3} \
                 with 32 more: {together:.2}",
                full >> 20,
                kept >> 20,
                after >> 20
            );
            let row = Row::new("one line of each 32 KiB kept", A::NAME, &size.to_string())
                .with("held_live", ratio)
                .with("held_live_after", together)
                .with("full_bytes", full)
                .with("kept_bytes", kept)
                .with("after_bytes", after)
                .with(record::LIVE, live);
            self.0.push(row);
        }
    }
}

/// What `arm` holds, or what is resident where it does not say.
fn held<A: Arm>(arm: &A, before: u64) -> u64 {
    let told = arm.holding().map(|holding| holding.held);
    told.unwrap_or_else(|| resident().0.saturating_sub(before))
}

fn run<A: Arm>(size: usize) -> Found {
    let mut lines: Vec<Option<A::Buffer>> = (0..ALL / LINE).map(|_| None).collect();
    let mut afterwards: Vec<Option<A::Buffer>> = (0..ALL / 2 / size).map(|_| None).collect();
    let mut seen = HashSet::with_capacity(2 * ALL / PAGE);
    let before = resident().0;
    let mut arm = A::start();
    fill(&mut arm, &mut lines, LINE);
    let full = held(&arm, before);
    for line in &mut lines {
        let buffer = line.as_mut().expect("just filled");
        if !seen.insert(A::bytes(buffer).addr().get() / PAGE) {
            *line = None;
        }
    }
    let kept = held(&arm, before);
    fill(&mut arm, &mut afterwards, size);
    Found {
        survivors: seen.len() as u64,
        full,
        kept,
        after: held(&arm, before),
    }
}

/// Takes a buffer of `size` bytes for each place and writes all of it.
fn fill<A: Arm>(arm: &mut A, places: &mut [Option<A::Buffer>], size: usize) {
    for place in places {
        let mut buffer = arm.alloc(size);
        // SAFETY: `size` bytes are there, as an arm promises.
        unsafe { A::bytes(&mut buffer).write_bytes(1, size) };
        *place = Some(buffer);
    }
}
