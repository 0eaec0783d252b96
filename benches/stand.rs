//! Where arms are measured against each other.
//!
//! These machines are noisy, so the arms of a group take turns: each pass lets
//! criterion measure all of them for a moment, and the figure that is written
//! down is the median of the samples of all passes. What an arm holds is
//! looked at before, in a process of its own, with a fixed number of rounds,
//! and there all arms of a group must read the same bytes.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};

use crate::arms::tell_who_is_missing;
use crate::look::{Look, look};
use crate::machine;
use crate::record::{self, Row};

/// Any value makes a run short: one pass, for a first impression.
pub const QUICK: &str = "PAGEFRAG_QUICK";

/// Is a run to be short?
#[must_use]
pub fn quick() -> bool {
    std::env::var_os(QUICK).is_some_and(|word| !word.is_empty())
}

/// Times that the arms of a group take turns.
const PASSES: usize = 5;

/// Samples of an arm in a pass, the fewest that criterion takes.
const SAMPLES: usize = 10;

/// Buffers, about, of a look, and before it of warming up.
const LOOK_OBJECTS: u64 = 16 * 1024;

/// A workload with its arm inside.
pub trait Work {
    /// Does it `rounds` times and tells how long that took and the sum of
    /// the bytes that were read. `held` is called at the end, while
    /// everything is still held.
    fn run(&mut self, rounds: u64, held: &mut dyn FnMut()) -> (Duration, u64);

    /// Bytes that are live at that moment.
    fn live_bytes(&self) -> u64;
}

type Start = Box<dyn Fn() -> Box<dyn Work>>;

struct Entry {
    name: String,
    start: Start,
    counting: Option<Start>,
    samples: Vec<f64>,
    look: Option<Look>,
}

/// Arms that do the same.
pub struct Group {
    name: String,
    parameter: String,
    objects: u64,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.parameter)
    }
}

impl Group {
    /// A group called `name`, of work with `parameter` that handles `objects`
    /// buffers in a round.
    #[must_use]
    pub fn new(name: &str, parameter: &(impl ToString + ?Sized), objects: usize) -> Self {
        Self {
            name: name.into(),
            parameter: parameter.to_string(),
            objects: objects as u64,
            entries: Vec::new(),
        }
    }

    /// Adds an arm. `counting` is the same with its heap calls counted.
    pub fn arm<W: Work + 'static, C: Work + 'static>(
        &mut self,
        name: &str,
        start: impl Fn() -> W + 'static,
        counting: impl Fn() -> C + 'static,
    ) {
        self.entry(
            name,
            Box::new(move || Box::new(start())),
            Some(Box::new(move || Box::new(counting()))),
        );
    }

    /// Adds something that holds no buffers: a measure for the others.
    pub fn measure<W: Work + 'static>(&mut self, name: &str, start: impl Fn() -> W + 'static) {
        self.entry(name, Box::new(move || Box::new(start())), None);
    }

    fn entry(&mut self, name: &str, start: Start, counting: Option<Start>) {
        self.entries.push(Entry {
            name: name.into(),
            start,
            counting,
            samples: Vec::new(),
            look: None,
        });
    }

    /// Looks at every arm.
    ///
    /// # Panics
    ///
    /// When two arms read different bytes.
    fn look(&mut self) {
        let rounds = self.look_rounds();
        for entry in &mut self.entries {
            let Some(counting) = &entry.counting else {
                continue;
            };
            entry.look = Some(look(|eye| {
                let mut work = counting();
                work.run(rounds, &mut || ());
                eye.count();
                let (_, checksum) = work.run(rounds, &mut || eye.look());
                eye.end(checksum, work.live_bytes());
            }));
        }
        let sums: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| Some((&entry.name, entry.look?.checksum)))
            .collect();
        assert!(
            sums.windows(2).all(|pair| pair[0].1 == pair[1].1),
            "{self:?}: the arms read different bytes: {sums:?}"
        );
    }

    fn look_rounds(&self) -> u64 {
        (LOOK_OBJECTS / self.objects).max(1)
    }

    fn time(&mut self, quick: bool) {
        let mut works: Vec<_> = self.entries.iter().map(|entry| (entry.start)()).collect();
        for _ in 0..if quick { 1 } else { PASSES } {
            let mut criterion = criterion(quick);
            let mut group = criterion.benchmark_group(format!("{}/{}", self.name, self.parameter));
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::Elements(self.objects));
            for (entry, work) in self.entries.iter_mut().zip(&mut works) {
                let mut taken = Vec::new();
                group.bench_function(&entry.name, |bencher| {
                    bencher.iter_custom(|rounds| {
                        let (elapsed, sum) = work.run(rounds, &mut || ());
                        std::hint::black_box(sum);
                        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                        let objects = (rounds * self.objects) as f64;
                        taken.push(elapsed.as_secs_f64() * 1e9 / objects);
                        elapsed
                    });
                });
                // What came before the samples warmed up.
                entry.samples.extend(taken.iter().rev().take(SAMPLES));
            }
            group.finish();
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let measured = self
            .entries
            .iter()
            .filter(|entry| !entry.samples.is_empty());
        measured.map(|entry| {
            let row = Row::new(&self.name, &entry.name, &self.parameter)
                .with(record::NANOSECONDS, median(&entry.samples));
            let Some(look) = entry.look else { return row };
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let calls = look.heap_calls as f64 / (self.look_rounds() * self.objects) as f64;
            row.with(record::RESIDENT, look.resident)
                .with(record::LIVE, look.live)
                .with(record::HEAP_CALLS, calls)
                .with(record::HUGE, look.huge)
                .with(record::CHECKSUM, look.checksum)
        })
    }
}

/// Looks at the arms of all groups, measures them, prints a table, and keeps
/// the figures of `bench` if asked to.
pub fn run(bench: &str, groups: Vec<Group>) {
    run_with(bench, groups, Vec::new());
}

/// The same with `rows` that the bench found in its own way.
pub fn run_with(bench: &str, mut groups: Vec<Group>, mut rows: Vec<Row>) {
    println!("{}", machine::describe());
    tell_who_is_missing();
    // Before anything here starts a thread.
    groups.iter_mut().for_each(Group::look);
    let quick = quick();
    let counted = rows.len();
    for group in &mut groups {
        group.time(quick);
        rows.extend(group.rows());
    }
    print(&rows);
    if rows.len() == counted {
        // A filter let no arm through.
        return;
    }
    record::keep(bench, rows);
}

fn criterion(quick: bool) -> Criterion {
    let (warm_up, measurement) = if quick { (2, 10) } else { (10, 40) };
    Criterion::default()
        .sample_size(SAMPLES)
        .nresamples(1000)
        .warm_up_time(Duration::from_millis(warm_up))
        .measurement_time(Duration::from_millis(measurement))
        .configure_from_args()
}

/// The middle one, or the mean of the middle two.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Prints `rows` as a table.
pub fn print(rows: &[Row]) {
    let mut last = String::new();
    for row in rows {
        let title = format!("{}/{}", row.group, row.parameter);
        if title != last {
            println!("\n{title}");
            last = title;
        }
        let figures: Vec<_> = row
            .figures
            .iter()
            .map(|(name, figure)| format!("{name} {figure}"))
            .collect();
        println!("  {:<26} {}", row.arm, figures.join("  "));
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
