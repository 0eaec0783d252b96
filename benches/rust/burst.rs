//! What is left of a burst?
//!
//! One GiB of packets is taken, and all are given back, or all but one of 64
//! bytes in each 4 MiB. What is resident then, after a `trim` where there is one
//! (R13: of ours nothing), and what the next burst costs.
//!
//! A region with one survivor cannot be unmapped. Its other pages could be given
//! back one by one, which splits its huge page: the last two rows do that from
//! outside, with `MADV_DONTNEED`, to tell what it gains and what it costs.

use std::time::Instant;

use pagefrag_benches::apart::{apart, resident};
use pagefrag_benches::arms::{self, Arm, Lines, Small, Visit, tell_who_is_missing};
use pagefrag_benches::machine;
use pagefrag_benches::record::{self, Row};
use pagefrag_benches::stand;
use pagefrag_benches::workload::PAGE;
use serde::{Deserialize, Serialize};

/// Bytes of a burst, and of one where a first impression is enough.
const BURST: usize = 1 << 30;
const BURST_QUICK: usize = 1 << 27;

/// Bytes of a packet, and of a survivor.
const PACKET: usize = 1500;
const SURVIVOR: usize = 64;

/// Packets for each survivor: about 4 MiB of them.
const APART: usize = (4 << 20) / PACKET;

fn main() {
    println!("{}", machine::describe());
    tell_who_is_missing();
    if available() < 2 * bytes() as u64 {
        println!("left out: a burst needs twice its size of free memory");
        return;
    }
    machine::pin_to(0);
    let mut table = Table::default();
    for survivors in [false, true] {
        table.told = if survivors {
            "64 B survive in each 4 MiB"
        } else {
            "all given back"
        };
        table.survivors = survivors;
        println!(
            "\n{} MiB, {}: MiB resident\n  {:<28} {:>6} {:>6} {:>6} {:>8} {:>9} {:>10}",
            bytes() >> 20,
            table.told,
            "",
            "full",
            "freed",
            "trim",
            "of huge",
            "fill ns",
            "again ns"
        );
        arms::keepers(&mut table);
        if survivors {
            table.arm_as::<Lines>("pagefrag, huge pages split", true);
            table.arm_as::<Small>("pagefrag, no huge pages, given back", true);
        }
    }
    record::keep("burst", table.rows);
}

/// Bytes of this run's bursts.
fn bytes() -> usize {
    if stand::quick() { BURST_QUICK } else { BURST }
}

/// Bytes of memory that the machine could give.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

#[derive(Default)]
struct Table {
    told: &'static str,
    survivors: bool,
    rows: Vec<Row>,
}

impl Visit for Table {
    fn arm<A: Arm>(&mut self) {
        self.arm_as::<A>(A::NAME, false);
    }
}

impl Table {
    fn arm_as<A: Arm>(&mut self, name: &str, gives_pages: bool) {
        let survivors = self.survivors;
        let found = apart(|| run::<A>(survivors, gives_pages));
        println!(
            "  {name:<28} {:>6} {:>6} {:>6} {:>8} {:>9.1} {:>10.1}",
            found.full >> 20,
            found.freed >> 20,
            found.trimmed >> 20,
            found.huge >> 20,
            found.fill,
            found.again
        );
        let row = Row::new(self.told, name, "1 GiB")
            .with("full_bytes", found.full)
            .with("freed_bytes", found.freed)
            .with("trimmed_bytes", found.trimmed)
            .with("trimmed_huge_bytes", found.huge)
            .with("fill_ns", found.fill)
            .with("fill_again_ns", found.again)
            .with("trim_ms", found.trim_ms);
        self.rows.push(match found.regions {
            Some(regions) => row.with(record::REGIONS, regions),
            None => row,
        });
    }
}

/// Resident bytes at four moments, and nanoseconds for each packet of a burst.
#[derive(Serialize, Deserialize)]
struct Found {
    full: u64,
    freed: u64,
    trimmed: u64,
    huge: u64,
    regions: Option<u64>,
    fill: f64,
    again: f64,
    trim_ms: f64,
}

fn run<A: Arm>(survivors: bool, gives_pages: bool) -> Found {
    let mut places: Vec<Option<A::Buffer>> = (0..bytes() / PACKET).map(|_| None).collect();
    let mut kept = Vec::with_capacity(bytes() / PACKET / APART + 1);
    // As many as pages come into use, and more; written, so that they are there.
    let mut touched = vec![std::ptr::without_provenance_mut(1); 2 * bytes() / PACKET];
    touched.clear();
    let before = resident();
    let since = |now: (u64, u64)| {
        (
            now.0.saturating_sub(before.0),
            now.1.saturating_sub(before.1),
        )
    };
    let mut arm = A::start();
    let fill = burst(&mut arm, &mut places, survivors.then_some(&mut kept));
    let full = since(resident()).0;
    if gives_pages {
        touched.extend(
            places
                .iter_mut()
                .flatten()
                .map(|buffer| page_of::<A>(buffer)),
        );
        touched.dedup();
    }
    for place in &mut places {
        *place = None;
    }
    let freed = since(resident()).0;
    let start = Instant::now();
    arm.trim();
    if gives_pages {
        let alive: Vec<_> = kept.iter_mut().map(|buffer| page_of::<A>(buffer)).collect();
        touched.retain(|page| !alive.contains(page));
        touched.drain(..).for_each(give_back);
    }
    let trim_ms = start.elapsed().as_secs_f64() * 1e3;
    let (trimmed, huge) = since(resident());
    let regions = arm.holding().map(|holding| holding.regions);
    let again = burst(&mut arm, &mut places, None);
    Found {
        full,
        freed,
        trimmed,
        huge,
        regions,
        fill,
        again,
        trim_ms,
    }
}

/// Takes a burst and writes every byte of it; nanoseconds for each packet.
fn burst<A: Arm>(
    arm: &mut A,
    places: &mut [Option<A::Buffer>],
    mut kept: Option<&mut Vec<A::Buffer>>,
) -> f64 {
    let start = Instant::now();
    for (turn, place) in places.iter_mut().enumerate() {
        if let Some(kept) = kept.as_mut().filter(|_| turn % APART == 0) {
            kept.push(filled(arm, SURVIVOR));
        }
        *place = Some(filled(arm, PACKET));
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = start.elapsed().as_secs_f64() * 1e9 / places.len() as f64;
    each
}

fn filled<A: Arm>(arm: &mut A, size: usize) -> A::Buffer {
    let mut buffer = arm.alloc(size);
    // SAFETY: `size` bytes are there, as an arm promises.
    unsafe { A::bytes(&mut buffer).write_bytes(1, size) };
    buffer
}

/// The page of ours that a buffer lies in.
fn page_of<A: Arm>(buffer: &mut A::Buffer) -> *mut u8 {
    let start = A::bytes(buffer).as_ptr();
    start.map_addr(|address| address & !(PAGE - 1))
}

/// Gives the memory behind a free page of a pool back. Unmapped ones are told so
/// by the OS, which is of no harm.
fn give_back(page: *mut u8) {
    // SAFETY: the page has no live fragment, and a free page's bytes are of no
    // use to the pool; one of a region that was unmapped has no bytes, and
    // nothing was mapped since.
    unsafe { libc::madvise(page.cast(), PAGE, libc::MADV_DONTNEED) };
}
