//! The pool: regions, free pages, orphans, and how bytes come home.

use std::ops::{Index, IndexMut};

use pagefrag::Error;

use super::lines::Line;
use super::pages::{
    Count, Frag, LINE, Name, Page, Piece, REGION, Role, SPARES, Shelf, WORTH, class_of, lines_for,
};
use crate::traces::{Config, Fault, STEPS};

/// A region: its pages, of which those that nobody ever had are not written down. They are the
/// last ones, since a page is taken from the front.
#[derive(Debug)]
struct Region {
    pages: Vec<Page>,
    count: usize,
}

/// Regions, their pages, and all that was carved.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) config: Config,
    regions: Vec<Option<Region>>,
    pub(super) shelves: Vec<Shelf>,
    pub(super) pieces: Vec<Piece>,
    pub(super) mapped: usize,
    pub(super) peak: usize,
    pub(super) pages_obtained: u64,
    pub(super) pages_returned: u64,
    pub(super) exhausted: u64,
    pub(super) no_memory: u64,
    pub(super) huge_failed: u64,
    /// Calls so far of the kind that shall fail; nothing fails any more without.
    calls: Option<usize>,
}

impl Index<Name> for Pool {
    type Output = Page;

    fn index(&self, (region, page): Name) -> &Page {
        &self.regions[region]
            .as_ref()
            .expect("a mapped region")
            .pages[page]
    }
}

impl IndexMut<Name> for Pool {
    fn index_mut(&mut self, (region, page): Name) -> &mut Page {
        &mut self.regions[region]
            .as_mut()
            .expect("a mapped region")
            .pages[page]
    }
}

impl Pool {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            regions: Vec::new(),
            shelves: Vec::with_capacity(4),
            pieces: Vec::with_capacity(STEPS),
            mapped: 0,
            peak: 0,
            pages_obtained: 0,
            pages_returned: 0,
            exhausted: 0,
            no_memory: 0,
            huge_failed: 0,
            calls: Some(0),
        }
    }

    /// Every page that somebody has or had, lowest region first.
    pub(super) fn pages(&self) -> impl Iterator<Item = (Name, &Page)> + Clone {
        let regions = self.regions.iter().enumerate();
        regions.flat_map(|(number, region)| {
            let pages = region.iter().flat_map(|region| &region.pages).enumerate();
            pages.map(move |(index, page)| ((number, index), page))
        })
    }

    /// How many pages there are.
    pub(super) fn pages_mapped(&self) -> usize {
        self.regions
            .iter()
            .flatten()
            .map(|region| region.count)
            .sum()
    }

    /// A free page: the first of the lowest region, or of a new one.
    pub(super) fn take(&mut self) -> Result<Name, Error> {
        let size = self.config.page;
        let mut regions = self.regions.iter_mut().enumerate();
        let found = regions.find_map(|(number, region)| {
            let Region { pages, count } = region.as_mut()?;
            let free = pages.iter().position(|page| page.role == Role::Free);
            let fresh = free.is_none() && pages.len() < *count;
            if fresh {
                pages.push(Page::new(size));
            }
            let page = if fresh { Some(pages.len() - 1) } else { free };
            page.map(|page| (number, page))
        });
        match found {
            Some(page) => Ok(page),
            None => self.map(),
        }
    }

    /// The system does as it is told from now on.
    pub(super) fn end_faults(&mut self) {
        self.calls = None;
    }

    /// Does the system refuse this call?
    fn fails(&mut self, what: Fault) -> bool {
        let faults = self.config.faults;
        let Some(calls) = self.calls.as_mut().filter(|_| faults.what() == what) else {
            return false;
        };
        *calls += 1;
        faults.hits(*calls - 1)
    }

    fn map(&mut self) -> Result<Name, Error> {
        if self.config.regions != 0 && self.mapped == self.config.regions {
            return Err(Error::Exhausted);
        }
        if self.fails(Fault::Map) {
            return Err(Error::OutOfMemory);
        }
        // Without huge pages it goes on, and counts.
        self.huge_failed += u64::from(self.fails(Fault::Advise));
        let vacant = self.regions.iter().position(Option::is_none);
        let number = vacant.unwrap_or_else(|| {
            self.regions.push(None);
            self.regions.len() - 1
        });
        let size = self.config.page;
        let count = REGION / size;
        self.pages_obtained += count as u64;
        let pages = vec![Page::new(size)];
        self.regions[number] = Some(Region { pages, count });
        self.mapped += 1;
        self.peak = self.peak.max(self.mapped);
        Ok((number, 0))
    }

    /// Makes the lowest orphan the shelf's. Nobody adopts an orphan of bytes.
    pub(super) fn adopt(&mut self, shelf: usize) -> Option<Name> {
        let is_ours = |page: &Page| page.role == Role::Orphan && !page.bytewise;
        let name = self.pages().find(|(_, page)| is_ours(page))?.0;
        let page = &mut self[name];
        page.role = Role::Current;
        page.shelf = Some(shelf);
        page.expect_nothing();
        Some(name)
    }

    /// Returns every region whose pages are all free to the system; says how
    /// many.
    pub(super) fn unmap(&mut self) -> usize {
        let mut gone = 0;
        for number in 0..self.regions.len() {
            let region = self.regions[number].as_ref();
            let is_dead =
                |region: &&Region| region.pages.iter().all(|page| page.role == Role::Free);
            let count = region.filter(is_dead).map_or(0, |region| region.count);
            // A region that the system does not take stays, with its pages.
            if count != 0 && !self.fails(Fault::Unmap) {
                self.regions[number] = None;
                self.mapped -= 1;
                self.pages_returned += count as u64;
                gone += 1;
            }
        }
        gone
    }

    // How handles are made and go.

    pub(super) fn page_of(&self, frag: &Frag) -> Name {
        self.pieces[frag.piece].page
    }

    pub(super) fn bytes(&self, frag: &Frag) -> &[u8] {
        let page = &self[self.page_of(frag)];
        page.contents.read(frag.start..frag.start + frag.len)
    }

    pub(super) fn bytes_mut(&mut self, frag: &Frag) -> &mut [u8] {
        let page = self.page_of(frag);
        self[page].contents.write(frag.start..frag.start + frag.len)
    }

    /// Is there one handle? At granule 1 that can be told only if there never
    /// was another.
    pub(super) fn is_unique(&self, frag: &Frag) -> bool {
        let piece = &self.pieces[frag.piece];
        if self[piece.page].bytewise {
            !piece.shared
        } else {
            piece.handles == 1
        }
    }

    /// Another handle of the same bytes.
    pub(super) fn share(&mut self, frag: &Frag) -> Frag {
        let piece = &mut self.pieces[frag.piece];
        piece.shared = true;
        let (page, size) = (piece.page, piece.size);
        if self[page].bytewise {
            // The count is the page's, in bytes, as in the kernel.
            self[page].alive += size;
        } else {
            self.pieces[frag.piece].handles += 1;
        }
        Frag { ..*frag }
    }

    /// A handle goes, on `thread`; with the last one the piece comes home.
    #[allow(clippy::needless_pass_by_value)] // it goes
    pub(super) fn free(&mut self, frag: Frag, thread: usize) {
        let piece = &mut self.pieces[frag.piece];
        let (page, start, size) = (piece.page, piece.start, piece.size);
        piece.handles = piece.handles.saturating_sub(1);
        let last = piece.handles == 0;
        if self[page].bytewise {
            self.free_bytes(page, size, thread);
        } else if last {
            self.free_lines(page, start, size, thread);
        }
    }

    /// Shows the first `len` bytes; what is behind comes home if nobody shares
    /// it.
    pub(super) fn shrink(&mut self, frag: &mut Frag, len: usize, thread: usize) {
        frag.narrow(0, len);
        if !self.is_unique(frag) {
            return;
        }
        let piece = &mut self.pieces[frag.piece];
        let (page, start, size) = (piece.page, piece.start, piece.size);
        let bytewise = self[page].bytewise;
        let keep = if bytewise {
            len.max(1)
        } else {
            lines_for(frag.start - start + len).max(1) * LINE
        };
        if keep >= size {
            return;
        }
        self.pieces[frag.piece].size = keep;
        if bytewise {
            self.free_bytes(page, size - keep, thread);
        } else {
            self.free_lines(page, start + keep, size - keep, thread);
        }
    }

    fn is_mine(&self, page: Name, thread: usize) -> bool {
        let shelf = self[page].shelf;
        shelf.is_some_and(|shelf| self.shelves[shelf].thread == thread)
    }

    fn free_bytes(&mut self, name: Name, size: usize, thread: usize) {
        let page = &mut self[name];
        page.alive -= size;
        if page.alive != 0 {
            return;
        }
        if page.shelf.is_none() {
            page.close();
        } else if self.is_mine(name, thread) {
            self.wake(name);
        }
    }

    fn free_lines(&mut self, name: Name, start: usize, size: usize, thread: usize) {
        let config = self.config;
        let mine = self.is_mine(name, thread);
        let page = &mut self[name];
        if config.init_on_free {
            page.wipe(start, size);
        }
        if page.shelf.is_none() {
            // An orphan: its last free gives it back.
            page.mark(start, size, Line::Away);
            if page.is_dead() {
                page.close();
            }
        } else if !mine {
            page.mark(start, size, Line::Away);
        } else if let Some(hole) = page.hole.as_mut().filter(|hole| hole.start == start + size) {
            // The way back: what ends where the next byte would be carved is
            // room again.
            hole.start = start;
            if config.init_on_alloc {
                page.wipe(start, size);
            }
        } else {
            page.mark(start, size, Line::Free);
            self.count(name, lines_for(size));
        }
    }

    fn count(&mut self, name: Name, lines: usize) {
        let page = &mut self[name];
        if let Some(back) = &mut page.back {
            *back += lines;
        } else if let Some(countdown) = &mut page.countdown {
            *countdown = countdown.saturating_sub(lines);
            if *countdown == 0 {
                self.wake(name);
            }
        }
    }

    /// Enough came home: the page may belong in another list.
    fn wake(&mut self, name: Name) {
        let page = &mut self[name];
        page.expect_nothing();
        if page.role == Role::Waiting
            && let Some(shelf) = page.shelf
        {
            self.take_out(shelf, name);
            self.put_away(shelf, name);
        }
    }

    // What a shelf does with its pages.

    /// Finds the list for a page; one that is dead goes home if there are spares
    /// enough.
    pub(super) fn put_away(&mut self, shelf: usize, name: Name) {
        let page = &mut self[name];
        let (lines, free) = (page.lines.len(), page.lines.count(Line::Free));
        let dead = if page.bytewise {
            page.is_dead()
        } else {
            free == lines
        };
        if dead {
            return self.put_spare(shelf, name);
        }
        page.role = Role::Waiting;
        page.back = None;
        let worth = (lines / WORTH).max(1);
        let (list, countdown);
        if page.bytewise || free < worth {
            list = 0;
            countdown = worth.saturating_sub(free);
        } else {
            let longest = page
                .lines
                .holes(0)
                .map(|(_, count)| count)
                .max()
                .unwrap_or(0);
            list = 1 + class_of(longest);
            countdown = (lines / 4).min(lines - free);
        }
        page.countdown = Some(countdown.max(1));
        page.listed = if page.bytewise { 0 } else { free as u64 };
        let listed = page.listed;
        let row = &mut self.shelves[shelf];
        let at = row.waiting.len() - row.waiting_from(list).len();
        row.waiting.insert(at, (list, name));
        row.waste += listed;
    }

    fn put_spare(&mut self, shelf: usize, name: Name) {
        let row = &mut self.shelves[shelf];
        row.forget_nest(name);
        let enough = row.spare.len() >= SPARES;
        if enough {
            row.bump(Count::Given);
        } else {
            row.spare.insert(0, name);
        }
        let page = &mut self[name];
        page.expect_nothing();
        if enough {
            page.close();
        } else {
            page.role = Role::Spare;
        }
    }

    /// Takes a page out of its list; the round does not stop at it.
    pub(super) fn take_out(&mut self, shelf: usize, name: Name) {
        let listed = self[name].listed;
        let row = &mut self.shelves[shelf];
        if row.round_at == Some(name) {
            row.round_at = row.behind(name);
        }
        row.waiting.retain(|&(_, page)| page != name);
        row.waste -= listed;
    }
}
