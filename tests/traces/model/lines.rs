//! The lines of a page: a row of states, and how many lines are in each.

use std::ops::Range;

/// A line of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Free, and the owner knows.
    Free,
    /// In a live fragment, or in the hole that is being carved.
    Taken,
    /// Freed by another thread than the owner's, who has not looked yet.
    Away,
}

const STATES: [Line; 3] = [Line::Free, Line::Taken, Line::Away];

#[derive(Debug)]
pub(super) struct Lines {
    row: Vec<Line>,
    /// By state: how many lines of the row are in it.
    counts: [usize; STATES.len()],
}

impl Lines {
    /// A row of `len` free lines.
    pub(super) fn free(len: usize) -> Self {
        Self {
            row: vec![Line::Free; len],
            counts: [len, 0, 0],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.row.len()
    }

    pub(super) fn count(&self, state: Line) -> usize {
        self.counts[state as usize]
    }

    pub(super) fn set(&mut self, which: Range<usize>, state: Line) {
        let part = &mut self.row[which];
        for before in STATES {
            let of_it: u32 = part.iter().map(|&line| u32::from(line == before)).sum();
            self.counts[before as usize] -= of_it as usize;
        }
        part.fill(state);
        self.counts[state as usize] += part.len();
    }

    /// Makes every line of one state one of another.
    pub(super) fn turn(&mut self, from: Line, into: Line) {
        if self.count(from) == 0 {
            return;
        }
        for line in &mut self.row {
            if *line == from {
                *line = into;
            }
        }
        self.counts[into as usize] += std::mem::take(&mut self.counts[from as usize]);
    }

    /// The runs of free lines from line `from` on: first line, lines.
    pub(super) fn holes(&self, from: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut at = from;
        std::iter::from_fn(move || {
            at += self.row[at..].iter().position(|&l| l == Line::Free)?;
            let rest = &self.row[at..];
            let count = rest.iter().take_while(|&&l| l == Line::Free).count();
            at += count;
            Some((at - count, count))
        })
    }
}
