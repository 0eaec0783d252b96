//! Pages, the pieces carved out of them, and the shelves they stand on.

use std::ops::Range;

use super::contents::Contents;
use super::lines::{Line, Lines};

/// Bytes of a line.
pub(super) const LINE: usize = 64;
/// Bytes of a region.
pub(super) const REGION: usize = 2 << 20;
/// Dead pages that a shelf keeps.
pub(super) const SPARES: usize = 8;
/// A page is ready when this part of it is free.
pub(super) const WORTH: usize = 8;
/// Holes are filled when more than this part of what is held is free in the lists.
const SLACK: u64 = 8;

/// Lines that `size` bytes take.
pub(super) fn lines_for(size: usize) -> usize {
    size.div_ceil(LINE)
}

/// The class of a hole: four for each power of two.
pub(super) fn class_of(lines: usize) -> usize {
    let octave = lines.ilog2() as usize;
    if octave < 2 {
        return lines - 1;
    }
    (octave - 2) * 4 + (lines >> (octave - 2)) - 1
}

/// What a page is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Free,
    Current,
    /// In a list of its shelf.
    Waiting,
    Spare,
    Orphan,
}

/// The number of a region, and of a page in it.
pub(super) type Name = (usize, usize);

#[derive(Debug)]
pub(super) struct Page {
    pub(super) role: Role,
    /// Whose it is; nobody's if free or orphan.
    pub(super) shelf: Option<usize>,
    pub(super) bytewise: bool,
    pub(super) lines: Lines,
    /// The hole being carved, in bytes of the page.
    pub(super) hole: Option<Range<usize>>,
    /// Bytes that its handles account for, if it is packed to the byte.
    pub(super) alive: usize,
    /// Lines that came home here since the page was opened as a whole, if it was.
    pub(super) back: Option<usize>,
    /// Lines that may come home here before the shelf looks at the page again.
    pub(super) countdown: Option<usize>,
    /// Lines that were free when it came to wait; none of a page packed to the byte.
    pub(super) listed: u64,
    pub(super) contents: Contents,
}

impl Page {
    pub(super) fn new(size: usize) -> Self {
        Self {
            role: Role::Free,
            shelf: None,
            bytewise: false,
            lines: Lines::free(size / LINE),
            hole: None,
            alive: 0,
            back: None,
            countdown: None,
            listed: 0,
            contents: Contents::zero(size),
        }
    }

    /// Makes a free page the shelf's, all of it free.
    pub(super) fn open(&mut self, shelf: usize, bytewise: bool) {
        self.role = Role::Current;
        self.shelf = Some(shelf);
        self.bytewise = bytewise;
        self.lines.set(0..self.lines.len(), Line::Free);
        self.hole = None;
        self.alive = 0;
        self.expect_nothing();
    }

    /// Makes it free again.
    pub(super) fn close(&mut self) {
        self.role = Role::Free;
        self.shelf = None;
        self.hole = None;
    }

    /// Nothing is counted that comes home.
    pub(super) fn expect_nothing(&mut self) {
        self.back = None;
        self.countdown = None;
    }

    /// Sets the lines of `size` bytes from `start`, a line's first.
    pub(super) fn mark(&mut self, start: usize, size: usize, state: Line) {
        let first = start / LINE;
        self.lines.set(first..first + lines_for(size), state);
    }

    pub(super) fn wipe(&mut self, start: usize, size: usize) {
        self.contents.wipe(start..start + size);
    }

    pub(super) fn wipe_all(&mut self) {
        self.wipe(0, self.contents.len());
    }

    /// Bytes of the hole that were not carved yet.
    pub(super) fn uncarved(&self) -> usize {
        self.hole.as_ref().map_or(0, ExactSizeIterator::len)
    }

    /// Is nothing in it alive? Lines that others freed count as dead.
    pub(super) fn is_dead(&self) -> bool {
        if self.bytewise {
            self.alive == 0
        } else {
            self.lines.count(Line::Taken) == 0
        }
    }

    /// Does its owner know every line to be free?
    pub(super) fn is_whole(&self) -> bool {
        self.lines.count(Line::Free) == self.lines.len()
    }

    /// Bytes of its live fragments. At granule 1 each sharer counts.
    pub(super) fn live_bytes(&self) -> usize {
        if self.bytewise {
            self.alive.min(self.contents.len())
        } else {
            self.lines.count(Line::Taken) * LINE - self.uncarved()
        }
    }

    /// Has something come home from other threads?
    pub(super) fn has_news(&self) -> bool {
        if self.bytewise {
            self.is_dead()
        } else {
            self.lines.count(Line::Away) != 0
        }
    }

    /// The owner takes note of what others freed.
    pub(super) fn sweep(&mut self) {
        self.lines.turn(Line::Away, Line::Free);
    }

    /// The holes with `need` lines from a multiple of `step` on.
    pub(super) fn holes_for(
        &self,
        need: usize,
        step: usize,
        from: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        self.lines
            .holes(from)
            .filter(move |&(first, count)| first.next_multiple_of(step) - first + need <= count)
    }

    pub(super) fn fits(&self, need: usize, step: usize) -> bool {
        self.holes_for(need, step, 0).next().is_some()
    }
}

/// What was carved at once: it comes home when its last handle goes.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) page: Name,
    pub(super) start: usize,
    /// Whole lines; at granule 1 bytes.
    pub(super) size: usize,
    pub(super) handles: usize,
    /// Has ever had a second handle.
    pub(super) shared: bool,
}

/// A handle: which bytes of a piece it shows.
#[derive(Debug)]
pub(super) struct Frag {
    /// The piece's number in the pool.
    pub(super) piece: usize,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) readonly: bool,
}

impl Frag {
    /// Shows less. An empty handle stays where it was.
    pub(super) fn narrow(&mut self, start: usize, len: usize) {
        if len != 0 {
            self.start += start;
        }
        self.len = len;
    }
}

/// What a cache counts: refills, reuses, pages taken, adopted, given, orphaned,
/// and refusals.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Refills,
    Reuses,
    Taken,
    Adopted,
    Given,
    Orphaned,
    Fail,
}

/// The pages of one cache, by name.
#[derive(Debug)]
pub(super) struct Shelf {
    /// Whose cache it is.
    pub(super) thread: usize,
    pub(super) current: Option<Name>,
    /// Where the search for the next hole goes on, in lines; at granule 1 the
    /// next byte.
    pub(super) offset: usize,
    /// Was the hole opened for a small request?
    pub(super) small: bool,
    /// Where small requests go on.
    pub(super) nest: Option<Name>,
    /// Lines carved for which the round has not gone on yet.
    pub(super) debt: usize,
    /// Quarter steps for a page's worth of lines.
    pub(super) pace: usize,
    /// The pages that wait, each behind the number of its list: in list 0 the retired ones, in
    /// the others those that are ready, by the class of their longest hole. Newest first in each.
    pub(super) waiting: Vec<(usize, Name)>,
    /// Lines that were free in the pages that wait when each came there.
    pub(super) waste: u64,
    pub(super) spare: Vec<Name>,
    pub(super) round_in: usize,
    pub(super) round_at: Option<Name>,
    pub(super) counts: [u64; 7],
}

impl Shelf {
    pub(super) fn new(thread: usize) -> Self {
        Self {
            thread,
            current: None,
            offset: 0,
            small: false,
            nest: None,
            debt: 0,
            pace: 1,
            waiting: Vec::new(),
            waste: 0,
            spare: Vec::new(),
            round_in: 0,
            round_at: None,
            counts: [0; 7],
        }
    }

    pub(super) fn bump(&mut self, count: Count) {
        self.counts[count as usize] += 1;
    }

    /// The pages that wait in `list` and in those behind it.
    pub(super) fn waiting_from(&self, list: usize) -> &[(usize, Name)] {
        let first = self.waiting.iter().position(|&(of, _)| of >= list);
        first.map_or(&[], |first| &self.waiting[first..])
    }

    pub(super) fn has_ready(&self, need: usize) -> bool {
        !self.waiting_from(1 + class_of(need)).is_empty()
    }

    /// The page that waits behind `page` in its list.
    pub(super) fn behind(&self, page: Name) -> Option<Name> {
        let at = self.waiting.iter().position(|&(_, other)| other == page)?;
        let (list, next) = *self.waiting.get(at + 1)?;
        (list == self.waiting[at].0).then_some(next)
    }

    /// The next page of the walk along all lists, which never ends.
    pub(super) fn next_on_round(&mut self) -> Option<Name> {
        if self.round_at.is_none() {
            // The next list with a page in it; behind the last comes the first.
            let next = self.waiting_from(self.round_in + 1).first();
            let (list, first) = *next.or(self.waiting.first())?;
            self.round_in = list;
            self.round_at = Some(first);
        }
        let page = self.round_at?;
        self.round_at = self.behind(page);
        Some(page)
    }

    /// Is more than an eighth of what is held free in the lists, as far as was seen?
    pub(super) fn is_wasteful(&self, page_lines: usize) -> bool {
        let count = |what: Count| self.counts[what as usize];
        let held = count(Count::Taken) + count(Count::Adopted)
            - count(Count::Given)
            - count(Count::Orphaned);
        self.waste * SLACK > held * page_lines as u64
    }

    pub(super) fn forget_nest(&mut self, page: Name) {
        self.nest = self.nest.filter(|&nest| nest != page);
    }

    pub(super) fn take_spare(&mut self) -> Option<Name> {
        (!self.spare.is_empty()).then(|| self.spare.remove(0))
    }
}
