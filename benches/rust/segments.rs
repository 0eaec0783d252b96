//! What does one kept segment keep of a packet that the kernel joined (GRO)?
//!
//! Each joined packet is cut into its segments, of which one, by chance, is kept
//! for 4,000 more and the others go at once. Arms cut as they can: ours gives each
//! part lines of its own where a cut falls between two lines, `bytes` and counted
//! buffers have many holders of one buffer. Beside them ours in the way our
//! rings do it, each segment copied into a fragment of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagefrag_benches::apart::{apart, resident};
#[cfg(feature = "rivals")]
use pagefrag_benches::arms::Shared;
use pagefrag_benches::arms::{Arm, Counted, Lines, Malloc, Mimalloc, Split, tell_who_is_missing};
use pagefrag_benches::course::check;
use pagefrag_benches::kernel::KernelCache;
use pagefrag_benches::machine;
use pagefrag_benches::record::{self, Row};
use pagefrag_benches::workload::Dice;
use serde::{Deserialize, Serialize};

/// Joined packets: segments, and bytes of each. 1472 is 23 lines, 1400 is not a
/// multiple of a line.
const JOINED: [(usize, usize); 3] = [(11, 1472), (22, 1472), (22, 1400)];

/// Joined packets of a run, and for how many of them a segment is kept.
const PACKETS: usize = 12_000;
const KEPT: usize = 4_000;

fn main() {
    println!("{}", machine::describe());
    tell_who_is_missing();
    machine::pin_to(0);
    let mut rows = Vec::new();
    for (segments, size) in JOINED {
        let told = format!("{segments} of {size} B");
        println!(
            "\n{told}, one kept\n  {:<26} held/live resident/live ns",
            ""
        );
        let joined = Joined { segments, size };
        rows.extend(compare::<Lines>(&joined, &told, Lines::NAME));
        rows.extend(compare::<Copied>(&joined, &told, "pagefrag, copied out"));
        rows.extend(compare::<KernelCache>(&joined, &told, KernelCache::NAME));
        rows.extend(compare::<Split>(&joined, &told, Split::NAME));
        rows.extend(compare::<Counted<Mimalloc>>(&joined, &told, "mimalloc"));
        rows.extend(compare::<Counted<std::alloc::System>>(
            &joined,
            &told,
            "glibc malloc",
        ));
        #[cfg(feature = "rivals")]
        rows.extend(compare::<Shared>(&joined, &told, "multitude, Arc"));
    }
    record::keep("segments", rows);
}

struct Joined {
    segments: usize,
    size: usize,
}

/// Takes a joined packet and cuts it.
trait Cut: Arm {
    /// Puts a handle of each segment behind `parts`.
    fn segments(&mut self, joined: &Joined, parts: &mut Vec<Self::Buffer>);
}

impl Cut for Lines {
    fn segments(&mut self, joined: &Joined, parts: &mut Vec<Self::Buffer>) {
        let mut rest = whole(self, joined);
        for _ in 1..joined.segments {
            let behind = rest.split_off(joined.size);
            parts.push(std::mem::replace(&mut rest, behind));
        }
        parts.push(rest);
    }
}

impl Cut for Split {
    fn segments(&mut self, joined: &Joined, parts: &mut Vec<Self::Buffer>) {
        let mut rest = whole(self, joined);
        for _ in 1..joined.segments {
            parts.push(rest.split_to(joined.size));
        }
        parts.push(rest);
    }
}

/// Many holders of one buffer.
macro_rules! shares {
    ($arm:ty $(, $malloc:ident)?) => {
        impl $(<$malloc: Malloc>)? Cut for $arm {
            fn segments(&mut self, joined: &Joined, parts: &mut Vec<Self::Buffer>) {
                let first = whole(self, joined);
                parts.extend((1..joined.segments).map(|_| first.clone()));
                parts.push(first);
            }
        }
    };
}

shares!(KernelCache);
shares!(Counted<A>, A);
#[cfg(feature = "rivals")]
shares!(Shared);

/// Ours as the rings do it: the kernel joins into memory that stays, and each
/// segment is copied out.
struct Copied {
    lines: Lines,
    landing: Vec<u8>,
}

// SAFETY: as for `Lines`, which it is.
unsafe impl Arm for Copied {
    type Buffer = <Lines as Arm>::Buffer;
    type Counting = Self;
    const NAME: &'static str = "pagefrag, copied out";

    fn start() -> Self {
        Self {
            lines: Lines::start(),
            landing: vec![1; 1 << 16],
        }
    }

    fn alloc(&mut self, size: usize) -> Self::Buffer {
        self.lines.alloc(size)
    }

    fn bytes(buffer: &mut Self::Buffer) -> std::ptr::NonNull<u8> {
        Lines::bytes(buffer)
    }

    fn holding(&self) -> Option<pagefrag_benches::arms::Holding> {
        self.lines.holding()
    }
}

impl Cut for Copied {
    fn segments(&mut self, joined: &Joined, parts: &mut Vec<Self::Buffer>) {
        for segment in self.landing.chunks(joined.size).take(joined.segments) {
            let mut part = self.lines.alloc(joined.size);
            part.copy_from_slice(segment);
            parts.push(part);
        }
    }
}

fn whole<A: Arm>(arm: &mut A, joined: &Joined) -> A::Buffer {
    let mut buffer = arm.alloc(joined.segments * joined.size);
    let start = A::bytes(&mut buffer);
    for segment in 0..joined.segments {
        // SAFETY: all segments are there, as an arm promises.
        let first = unsafe { start.add(segment * joined.size) };
        // SAFETY: nobody else reaches them.
        unsafe { first.write(1) };
    }
    buffer
}

#[derive(Serialize, Deserialize)]
struct Found {
    live: u64,
    held: Option<u64>,
    resident: u64,
    nanoseconds: f64,
}

#[expect(clippy::cast_precision_loss, reason = "bytes, far below 2^52")]
fn compare<A: Cut>(joined: &Joined, told: &str, name: &str) -> Option<Row> {
    if joined.segments * joined.size > A::MOST {
        println!("  {name:<26} no buffers of that size");
        return None;
    }
    let Found {
        live,
        held,
        resident,
        nanoseconds,
    } = apart(|| run::<A>(joined));
    let over = |bytes: u64| bytes as f64 / live as f64;
    let told_held = over(held.unwrap_or(resident));
    println!(
        "  {name:<26} {told_held:>9.2} {:>13.2} {nanoseconds:>6.1}",
        over(resident)
    );
    let row = Row::new("one segment kept", name, told)
        .with("held_live_mean", told_held)
        .with("resident_live_mean", over(resident))
        .with(record::NANOSECONDS, nanoseconds)
        .with(record::LIVE, live)
        .with(record::RESIDENT, resident);
    Some(match held {
        Some(held) => row.with(record::HELD, held),
        None => row,
    })
}

/// Takes, cuts and keeps, and looks at the memory at the end.
fn run<A: Cut>(joined: &Joined) -> Found {
    let mut dice = Dice::new(0x6406);
    let mut parts = Vec::with_capacity(joined.segments);
    let mut kept = VecDeque::with_capacity(KEPT + 1);
    let before = resident().0;
    let mut arm = A::start();
    let mut busy = Duration::ZERO;
    for _ in 0..PACKETS {
        let which = dice.below(joined.segments);
        let start = Instant::now();
        arm.segments(joined, &mut parts);
        kept.push_back(parts.swap_remove(which));
        parts.clear();
        if kept.len() > KEPT {
            kept.pop_front();
        }
        busy += start.elapsed();
    }
    let holding = arm.holding();
    let now = resident().0;
    // Each segment begins with what was written there; by now it has one holder.
    let newest = kept.back_mut().expect("kept");
    check::<A>(newest, 1, 1);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let nanoseconds = busy.as_secs_f64() * 1e9 / (PACKETS * joined.segments) as f64;
    Found {
        live: (kept.len() * joined.size) as u64,
        held: holding.map(|holding| holding.held),
        resident: now.saturating_sub(before),
        nanoseconds,
    }
}
