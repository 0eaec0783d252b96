//! A workload written down step by step before anybody runs it: which buffer is
//! taken when, from which cache, and who gives it back when. So every arm does
//! the same, in the same order, and pays for nothing but its own work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One step: a buffer is taken into a slot, or given back out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the buffer is while it lives.
    pub slot: u32,
    /// Its bytes.
    pub size: u16,
    what: u8,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Takes a buffer from this cache.
    Take(usize),
    /// Gives it back on the thread that took it.
    Here,
    /// Gives it to another thread, which gives it back.
    Away,
}

const HERE: u8 = u8::MAX;
const AWAY: u8 = HERE - 1;

impl Step {
    /// What it does.
    #[inline]
    #[must_use]
    pub fn what(self) -> What {
        match self.what {
            HERE => What::Here,
            AWAY => What::Away,
            cache => What::Take(usize::from(cache)),
        }
    }
}

/// A workload.
#[derive(Debug)]
pub struct Script {
    /// What tables call it: a few words.
    pub name: String,
    /// What it is, in a sentence.
    pub told: String,
    /// What is done.
    pub steps: Vec<Step>,
    /// Slots that it needs.
    pub slots: usize,
    /// Caches that it takes from.
    pub caches: usize,
    /// The largest size.
    pub most: usize,
    /// Buffers that another thread gives back at a time.
    pub batch: usize,
}

/// Writes a script. Time is counted in buffers taken.
#[derive(Debug)]
pub struct Writer {
    script: Script,
    now: usize,
    due: BinaryHeap<Reverse<(usize, u32, bool)>>,
    sizes: Vec<u16>,
    vacant: Vec<u32>,
}

impl Writer {
    /// An empty script.
    #[must_use]
    pub fn new(name: impl Into<String>, told: impl Into<String>) -> Self {
        Self {
            script: Script {
                name: name.into(),
                told: told.into(),
                steps: Vec::new(),
                slots: 0,
                caches: 1,
                most: 0,
                batch: 64,
            },
            now: 0,
            due: BinaryHeap::new(),
            sizes: Vec::new(),
            vacant: Vec::new(),
        }
    }

    /// Buffers that another thread gives back at a time; 64 unless told.
    #[must_use]
    pub fn batch(mut self, batch: usize) -> Self {
        self.script.batch = batch;
        self
    }

    /// Buffers taken so far.
    #[must_use]
    pub fn now(&self) -> usize {
        self.now
    }

    /// Takes a buffer that lives until `life` more were taken.
    pub fn take(&mut self, cache: usize, size: usize, life: usize, away: bool) {
        let slot = self.keep(cache, size);
        self.due.push(Reverse((self.now + life, slot, away)));
    }

    /// Takes a buffer that lives until it is given back; tells its slot.
    ///
    /// # Panics
    ///
    /// When a size does not fit a page, or there are too many caches or slots.
    pub fn keep(&mut self, cache: usize, size: usize) -> u32 {
        while let Some(&Reverse((until, slot, away))) = self.due.peek()
            && until <= self.now
        {
            self.due.pop();
            self.give(slot, away);
        }
        let size = u16::try_from(size).expect("at most a page");
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.sizes.push(0);
            u32::try_from(self.sizes.len() - 1).expect("fewer slots than that")
        });
        self.sizes[slot as usize] = size;
        let what = u8::try_from(cache).expect("a few caches");
        assert!(what < AWAY, "a few caches");
        self.script.steps.push(Step { slot, size, what });
        self.script.caches = self.script.caches.max(cache + 1);
        self.script.most = self.script.most.max(usize::from(size));
        self.now += 1;
        slot
    }

    /// Gives a buffer back, here or on another thread.
    pub fn give(&mut self, slot: u32, away: bool) {
        let size = self.sizes[slot as usize];
        let what = if away { AWAY } else { HERE };
        self.script.steps.push(Step { slot, size, what });
        self.vacant.push(slot);
    }

    /// The script; what is alive at its end stays so.
    #[must_use]
    pub fn done(mut self) -> Script {
        self.script.slots = self.sizes.len();
        self.script
    }
}

#[cfg(test)]
mod tests {
    use super::{What, Writer};

    #[test]
    fn a_buffer_lives_as_long_as_it_was_told_and_its_slot_is_used_again() {
        let mut writer = Writer::new("", "");
        writer.take(0, 100, 2, false);
        writer.take(1, 200, 100, true);
        writer.take(0, 300, 100, false);
        writer.take(0, 400, 100, false);
        let script = writer.done();
        let told: Vec<_> = script
            .steps
            .iter()
            .map(|step| (step.slot, step.size, step.what()))
            .collect();
        assert_eq!(
            told,
            [
                (0, 100, What::Take(0)),
                (1, 200, What::Take(1)),
                (2, 300, What::Take(0)),
                (0, 100, What::Here),
                (0, 400, What::Take(0)),
            ]
        );
        assert_eq!((script.slots, script.caches, script.most), (3, 2, 400));
    }
}
