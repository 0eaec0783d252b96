//! Does it matter how large the short-lived buffers are, and who frees them?
//!
//! 64 bytes in a hundred live long among buffers of one size, which are freed
//! here, elsewhere, or both. The most that was ever held stands beside, because
//! where many are freed elsewhere at once there are moments at which hardly
//! anything is alive and nobody has found that out yet.

use pagefrag_benches::arms::{Arm, Counted, Lines, Mimalloc};
use pagefrag_benches::course;
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::machine;
use pagefrag_benches::mixes;
use pagefrag_benches::record::{self, Row};
use pagefrag_benches::script::Script;
use pagefrag_benches::stand;
use pagefrag_benches::workload::{Freed, SURVIVED, Spread, survivors_among};

/// Buffers taken in a run.
const TAKES: usize = 500_000;

/// The same where a first impression is enough.
const TAKES_QUICK: usize = 200_000;

const FREED: [Freed; 4] = [
    Freed::Here,
    Freed::Both,
    Freed::There(64),
    Freed::There(512),
];

fn main() {
    println!("{}", machine::describe());
    machine::pin_to(0);
    println!("1 in 100 is 64 B and lives for 100,000 more; 64 others in flight");
    println!("held / live of the second half: mean, most, and most held / most live\n");
    let takes = if stand::quick() { TAKES_QUICK } else { TAKES };
    let mut rows = Vec::new();
    for freed in FREED {
        for size in SURVIVED {
            let mut script = mixes::of_mix(&survivors_among(size), Spread::Even, freed, takes);
            script.name = size.to_string();
            println!("{size} B, {}", freed.name());
            rows.push(compare::<Lines>(&script, freed));
            rows.push(compare::<KernelCache>(&script, freed));
            rows.push(compare::<Counted<Mimalloc>>(&script, freed));
        }
    }
    record::keep("survivors", rows);
}

fn compare<A: Arm>(script: &Script, freed: Freed) -> Row {
    let course = course::run::<A>(script).expect("at most a page");
    let summary = course.summary();
    println!(
        "  {:<26} {:>7.2} {:>7.2} {:>7.2} {:>7.1} ns",
        A::NAME,
        summary.mean,
        summary.most,
        summary.peaks,
        summary.nanoseconds
    );
    course.row(&freed.name(), A::NAME, script)
}
