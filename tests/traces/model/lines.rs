//! The lines of a page: a row of them, written down as runs of lines in the same state.

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

#[derive(Debug)]
pub(super) struct Lines {
    /// How many lines there are in each run, and their state. Neighbours differ, and none is
    /// empty.
    runs: Vec<(usize, Line)>,
    /// The runs before the last change: memory for those after the next.
    before: Vec<(usize, Line)>,
    /// By state: how many lines are in it.
    counts: [usize; 3],
}

impl Lines {
    /// A row of `len` free lines.
    pub(super) fn free(len: usize) -> Self {
        Self {
            runs: vec![(len, Line::Free)],
            before: Vec::new(),
            counts: [len, 0, 0],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    pub(super) fn count(&self, state: Line) -> usize {
        self.counts[state as usize]
    }

    /// Writes `count` lines down behind those that are there.
    fn push(&mut self, count: usize, state: Line) {
        match self.runs.last_mut() {
            Some((last, of)) if *of == state => *last += count,
            _ if count != 0 => self.runs.push((count, state)),
            _ => {}
        }
        self.counts[state as usize] += count;
    }

    /// Writes the row down anew, from what is said of each run and its first line.
    fn rewrite(&mut self, mut say: impl FnMut(&mut Self, usize, usize, Line)) {
        std::mem::swap(&mut self.runs, &mut self.before);
        self.runs.clear();
        self.counts = [0; 3];
        let before = std::mem::take(&mut self.before);
        let mut first = 0;
        for &(count, state) in &before {
            say(self, first, count, state);
            first += count;
        }
        self.before = before;
    }

    pub(super) fn set(&mut self, which: Range<usize>, into: Line) {
        if which.is_empty() {
            return;
        }
        self.rewrite(|row, first, count, state| {
            let end = first + count;
            let (from, to) = (which.start.clamp(first, end), which.end.clamp(first, end));
            row.push(from - first, state);
            row.push(to - from, into);
            row.push(end - to, state);
        });
    }

    /// Makes every line of one state one of another.
    pub(super) fn turn(&mut self, from: Line, into: Line) {
        if self.count(from) != 0 {
            self.rewrite(|row, _, count, state| {
                row.push(count, if state == from { into } else { state });
            });
        }
    }

    /// The runs of free lines from line `from` on: first line, lines.
    pub(super) fn holes(&self, from: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut next = 0;
        self.runs.iter().filter_map(move |&(count, state)| {
            let first = from.max(next);
            next += count;
            (state == Line::Free && first < next).then(|| (first, next - first))
        })
    }
}
