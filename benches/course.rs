//! What an arm holds while it goes through a script: looked at many times, each
//! arm in a process of its own, since the memory of a general allocator is what
//! its process has.
//!
//! *Live* is what was asked for and not given back yet, to the byte. *Held* is
//! what an arm says: the pages in use of ours and of the kernel's scheme. An arm
//! that does not say is judged by what is *resident*: the private bytes that
//! the process wrote since before the arm started (`Private_Dirty` of
//! `/proc/self/smaps_rollup`), which is told of the others as well.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::apart::{apart, resident};
use crate::arms::Arm;
use crate::elsewhere::Elsewhere;
use crate::record::{self, Row};
use crate::script::{Script, Step, What};
use crate::stand::{median, quick};

/// Looks at a course, of which the second half counts. A prime number, so that
/// they fall before, between and after what is given back elsewhere.
const LOOKS: usize = 127;

/// The same where a first impression is enough.
const LOOKS_QUICK: usize = 31;

/// Looks of a course that are written down.
const KEPT: usize = 32;

/// Every so many bytes of a buffer one is written, as every OS page of a
/// buffer is when a packet lands there.
const STRIDE: usize = 4096;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Buffers taken so far.
    pub taken: u64,
    /// Bytes that were asked for and are alive.
    pub live: u64,
    /// What the arm says that it holds.
    pub held: Option<u64>,
    /// Bytes resident since before the arm started.
    pub resident: u64,
    /// Of all resident bytes, those in huge pages.
    pub huge: u64,
    /// Regions mapped, where an arm has them.
    pub regions: u64,
    /// Nanoseconds for each buffer taken since the look before.
    pub nanoseconds: f64,
}

/// What an arm did in a script.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Course(pub Vec<Look>);

/// Lets `A` go through `script`, in a process of its own; `None` when it cannot
/// hand out what is asked for.
#[must_use]
pub fn run<A: Arm>(script: &Script) -> Option<Course> {
    (script.most <= A::MOST).then(|| apart(|| Runner::<A>::new(script).run(script)))
}

struct Runner<A: Arm> {
    slots: Vec<Option<A::Buffer>>,
    elsewhere: Elsewhere<(A::Buffer, u16)>,
    arms: Vec<A>,
    before: u64,
    live: u64,
    taken: u64,
}

impl<A: Arm> Runner<A> {
    fn new(script: &Script) -> Self {
        let slots = (0..script.slots).map(|_| None).collect();
        let elsewhere = Elsewhere::new(script.batch);
        let before = resident().0;
        let first = A::start();
        let others: Vec<_> = (1..script.caches).map(|_| first.beside()).collect();
        let arms = std::iter::once(first).chain(others).collect();
        Self {
            slots,
            elsewhere,
            arms,
            before,
            live: 0,
            taken: 0,
        }
    }

    fn run(mut self, script: &Script) -> Course {
        let looks = if quick() { LOOKS_QUICK } else { LOOKS };
        let each = script.steps.len().div_ceil(looks);
        let looks = script.steps.chunks(each).map(|steps| {
            let (taken, waited) = (self.taken, self.elsewhere.waited());
            let start = Instant::now();
            for &step in steps {
                self.step(step);
            }
            let waited = self.elsewhere.waited().saturating_sub(waited);
            let busy = start.elapsed().saturating_sub(waited);
            self.look(busy, self.taken - taken)
        });
        Course(looks.collect())
    }

    #[inline]
    fn step(&mut self, step: Step) {
        let slot = step.slot as usize;
        let mark = step.slot.to_le_bytes()[0];
        if let What::Take(cache) = step.what() {
            let mut buffer = self.arms[cache].alloc(usize::from(step.size));
            write::<A>(&mut buffer, usize::from(step.size), mark);
            self.slots[slot] = Some(buffer);
            self.taken += 1;
            self.live += u64::from(step.size);
            return;
        }
        let mut buffer = self.slots[slot].take().expect("taken before");
        check::<A>(&mut buffer, usize::from(step.size), mark);
        self.live -= u64::from(step.size);
        if step.what() == What::Away {
            self.elsewhere.free((buffer, step.size));
        }
    }

    fn look(&self, busy: Duration, taken: u64) -> Look {
        let waiting = self.elsewhere.waiting().iter();
        let waiting: u64 = waiting.map(|&(_, size)| u64::from(size)).sum();
        let holding = self.arms[0].holding();
        let (now, huge) = resident();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let nanoseconds = busy.as_secs_f64() * 1e9 / taken.max(1) as f64;
        Look {
            taken: self.taken,
            live: self.live + waiting,
            held: holding.map(|holding| holding.held),
            resident: now.saturating_sub(self.before),
            huge,
            regions: holding.map_or(0, |holding| holding.regions),
            nanoseconds,
        }
    }
}

/// Marks a buffer: its first byte, one in every OS page, and its last.
#[inline]
pub fn write<A: Arm>(buffer: &mut A::Buffer, size: usize, mark: u8) {
    let start = A::bytes(buffer);
    for at in (0..size).step_by(STRIDE).chain([size - 1]) {
        // SAFETY: `size` bytes are there, as an arm promises.
        let byte = unsafe { start.add(at) };
        // SAFETY: the buffer is borrowed exclusively.
        unsafe { byte.write(mark) };
    }
}

/// Is it as it was marked?
///
/// # Panics
///
/// When somebody else has written to it.
#[inline]
pub fn check<A: Arm>(buffer: &mut A::Buffer, size: usize, mark: u8) {
    let start = A::bytes(buffer);
    for at in [0, size - 1] {
        // SAFETY: `size` bytes are there, as an arm promises.
        let byte = unsafe { start.add(at) };
        // SAFETY: `write` wrote both.
        let found = unsafe { byte.read() };
        assert_eq!(found, mark, "{}: byte {at} of {size}", A::NAME);
    }
}

/// What a course comes to.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// held / live, the mean of all looks: of pages where the arm tells them,
    /// of resident bytes otherwise.
    pub mean: f64,
    /// The most of them.
    pub most: f64,
    /// The most that was held against the most that was alive.
    pub peaks: f64,
    /// resident / live, the mean.
    pub resident: f64,
    /// Nanoseconds for a buffer taken and given back: the median look's.
    pub nanoseconds: f64,
}

#[expect(clippy::cast_precision_loss, reason = "bytes, far below 2^52")]
impl Course {
    /// What the second half comes to.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let looks = &self.0[self.0.len() / 2..];
        let held = |look: &Look| look.held.unwrap_or(look.resident);
        let over = |bytes: u64, look: &Look| bytes as f64 / look.live.max(1) as f64;
        let ratios: Vec<_> = looks.iter().map(|look| over(held(look), look)).collect();
        let resident: f64 = looks.iter().map(|look| over(look.resident, look)).sum();
        let most_held = looks.iter().map(held).max().unwrap_or(0);
        let most_live = looks.iter().map(|look| look.live).max().unwrap_or(1);
        let times: Vec<_> = looks.iter().map(|look| look.nanoseconds).collect();
        Summary {
            mean: ratios.iter().sum::<f64>() / ratios.len() as f64,
            most: ratios.iter().copied().fold(0.0, f64::max),
            peaks: most_held as f64 / most_live as f64,
            resident: resident / looks.len() as f64,
            nanoseconds: median(&times),
        }
    }

    /// The row of `arm` in `script`, with its looks over time.
    #[must_use]
    pub fn row(&self, group: &str, arm: &str, script: &Script) -> Row {
        let summary = self.summary();
        let end = self.0.last().copied().unwrap_or_default();
        let row = Row::new(group, arm, &script.name)
            .with("held_live_mean", summary.mean)
            .with("held_live_most", summary.most)
            .with("held_live_peaks", summary.peaks)
            .with("resident_live_mean", summary.resident)
            .with(record::NANOSECONDS, summary.nanoseconds)
            .with(record::LIVE, end.live)
            .with(record::RESIDENT, end.resident)
            .with(record::HUGE, end.huge);
        match end.held {
            Some(held) => row
                .with(record::HELD, held)
                .with("pinned_bytes", held.saturating_sub(end.live))
                .with(record::REGIONS, end.regions),
            None => row,
        }
    }

    /// The same with some of its looks.
    #[must_use]
    pub fn row_over_time(&self, group: &str, arm: &str, script: &Script) -> Row {
        let every = self.0.len().div_ceil(KEPT);
        let looks: Vec<_> = self.0.iter().skip(every - 1).step_by(every).collect();
        let row = self
            .row(group, arm, script)
            .with_series("taken", looks.iter().map(|look| look.taken))
            .with_series(record::LIVE, looks.iter().map(|look| look.live))
            .with_series(record::RESIDENT, looks.iter().map(|look| look.resident))
            .with_series(
                record::NANOSECONDS,
                looks.iter().map(|look| look.nanoseconds),
            );
        if self.0.iter().any(|look| look.held.is_none()) {
            return row;
        }
        row.with_series(
            record::HELD,
            looks.iter().map(|look| look.held.unwrap_or(0)),
        )
        .with_series(record::REGIONS, looks.iter().map(|look| look.regions))
    }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::arms::{Counted, Lines, Mimalloc};
    use crate::script::Writer;

    #[test]
    fn what_is_alive_is_held_and_arms_without_pages_are_told_by_what_is_resident() {
        let mut writer = Writer::new("", "");
        for turn in 0..20_000 {
            writer.take(turn % 2, 1500, 1000, turn % 3 == 0);
        }
        let script = writer.done();
        let ours = run::<Lines>(&script).expect("any size").summary();
        assert!((1.0..1.5).contains(&ours.mean), "{ours:?}");
        let theirs = run::<Counted<Mimalloc>>(&script).expect("any size");
        assert!(
            theirs
                .0
                .iter()
                .all(|look| look.held.is_none() && look.resident != 0)
        );
        assert!(theirs.summary().mean >= 1.0);
    }
}
