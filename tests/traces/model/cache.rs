//! The cache: where the next fragment lies, and where the next hole comes from.

use pagefrag::Error;

use super::lines::Line;
use super::pages::{Count, Frag, LINE, Name, Piece, Role, Shelf, class_of, lines_for};
use super::pool::Pool;

/// A request of up to this part of a page is small.
const SMALL: usize = 16;
/// Ready pages of one class that a refill looks at.
const LOOKS: usize = 4;
/// Steps of the round before a page is taken from the pool.
const TOLL: usize = 32;
/// Steps of the round at each refill of bytes.
const BYTE_STEPS: usize = 4;
/// Quarter steps for a page's worth of lines.
const SLOWEST: usize = 4;
const FASTEST: usize = 64;

/// A cache of one thread: the number of its shelf, and how it packs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache {
    pub(super) shelf: usize,
    bytewise: bool,
}

/// A cache at work.
struct Carver<'a> {
    pool: &'a mut Pool,
    at: usize,
    bytewise: bool,
}

impl Cache {
    pub(super) fn new(pool: &mut Pool, thread: usize, bytewise: bool) -> Self {
        pool.shelves.push(Shelf::new(thread));
        let shelf = pool.shelves.len() - 1;
        Self { shelf, bytewise }
    }

    fn carver(self, pool: &mut Pool) -> Carver<'_> {
        Carver {
            pool,
            at: self.shelf,
            bytewise: self.bytewise,
        }
    }

    /// Carves `size` bytes at a multiple of `align`.
    pub(super) fn alloc(self, pool: &mut Pool, size: usize, align: usize) -> Result<Frag, Error> {
        if align > pool.config.page {
            return Err(Error::BadAlignment);
        }
        check(pool, size)?;
        let mut carver = self.carver(pool);
        if self.bytewise {
            let (page, offset) = carver.make_room_of_bytes(size, align)?;
            return Ok(carver.carve_bytes(page, offset, size));
        }
        let page = carver.make_room(size, align)?;
        let next = carver.next_byte(page);
        let start = next.next_multiple_of(align);
        // What is skipped is free at once.
        carver.pool[page].mark(next, start - next, Line::Free);
        Ok(carver.carve(page, start, size))
    }

    /// Carves all the room there is, at least `size` bytes.
    pub(super) fn take_room(self, pool: &mut Pool, size: usize) -> Result<Frag, Error> {
        check(pool, size)?;
        let mut carver = self.carver(pool);
        if self.bytewise {
            let (page, offset) = carver.make_room_of_bytes(size, 1)?;
            let room = carver.pool.config.page - offset;
            return Ok(carver.carve_bytes(page, offset, room));
        }
        let page = carver.make_room(size, 1)?;
        let (start, room) = (carver.next_byte(page), carver.pool[page].uncarved());
        Ok(carver.carve(page, start, room))
    }

    /// Keeps the first `used` bytes of `room`; the others are free again.
    pub(super) fn settle(self, pool: &mut Pool, room: &mut Frag, used: usize) {
        let (page, shelf) = (pool.page_of(room), &pool.shelves[self.shelf]);
        let given = room.len - used;
        let end = room.start + room.len;
        let last = self.bytewise && shelf.current == Some(page) && shelf.offset == end;
        let thread = shelf.thread;
        pool.shrink(room, used, thread);
        if last && given != 0 {
            // Of bytes only the room carved last can be carved again at once.
            pool.shelves[self.shelf].offset -= given;
            if pool.config.init_on_alloc || pool.config.init_on_free {
                pool[page].wipe(end - given, given);
            }
        }
    }

    /// Gives every page up: dead ones to the pool, the others to their
    /// fragments.
    pub(super) fn drain(self, pool: &mut Pool) {
        self.carver(pool).empty(false);
    }

    /// Gives dead pages up; says how many.
    pub(super) fn trim(self, pool: &mut Pool) -> u64 {
        let given = |pool: &Pool| pool.shelves[self.shelf].counts[Count::Given as usize];
        let before = given(pool);
        self.carver(pool).empty(true);
        given(pool) - before
    }
}

fn check(pool: &Pool, size: usize) -> Result<(), Error> {
    match size {
        0 => Err(Error::ZeroSize),
        size if size > pool.config.page => Err(Error::SizeAbovePage),
        _ => Ok(()),
    }
}

impl Carver<'_> {
    fn shelf(&mut self) -> &mut Shelf {
        &mut self.pool.shelves[self.at]
    }

    fn bump(&mut self, count: Count) {
        self.shelf().bump(count);
    }

    fn put_away(&mut self, page: Name) {
        self.pool.put_away(self.at, page);
    }

    fn take_out(&mut self, page: Name) {
        self.pool.take_out(self.at, page);
    }

    fn next_byte(&self, page: Name) -> usize {
        self.pool[page].hole.as_ref().map_or(0, |hole| hole.start)
    }

    fn new_frag(&mut self, page: Name, start: usize, len: usize, size: usize) -> Frag {
        self.pool.pieces.push(Piece {
            page,
            start,
            size,
            handles: 1,
            shared: false,
        });
        Frag {
            piece: self.pool.pieces.len() - 1,
            start,
            len,
            readonly: false,
        }
    }

    fn carve(&mut self, page: Name, start: usize, len: usize) -> Frag {
        let size = len.next_multiple_of(LINE);
        if let Some(hole) = &mut self.pool[page].hole {
            hole.start = start + size;
        }
        self.new_frag(page, start, len, size)
    }

    fn carve_bytes(&mut self, page: Name, offset: usize, size: usize) -> Frag {
        self.pool[page].alive += size;
        self.shelf().offset = offset + size;
        self.new_frag(page, offset, size, size)
    }

    /// Sees to it that `size` bytes at a multiple of `align` fit in the hole.
    ///
    /// Nearest first: the page being carved, the pages of the shelf, an orphan,
    /// the pool, the system. At the limit everything is looked at before the
    /// answer is no.
    fn make_room(&mut self, size: usize, align: usize) -> Result<Name, Error> {
        if let Some(page) = self.shelf().current
            && let Some(hole) = &self.pool[page].hole
            && hole.start.next_multiple_of(align) + size <= hole.end
        {
            return Ok(page);
        }
        self.bump(Count::Refills);
        self.pay();
        self.refill(lines_for(size), lines_for(align))?;
        Ok(self.shelf().current.expect("a refill finds a page"))
    }

    fn refill(&mut self, need: usize, step: usize) -> Result<(), Error> {
        let mut left = None;
        if let Some(page) = self.shelf().current {
            if self.carve_on(page, need, step) {
                self.bump(Count::Reuses);
                return Ok(());
            }
            let changes = self.is_small(need) != self.shelf().small;
            if changes && self.shelf().small {
                self.shelf().nest = Some(page);
            }
            left = (changes && !self.pool[page].is_whole()).then_some(page);
            self.shelf().current = None;
            self.put_away(page);
        }
        if self.search_shelf(need, step)
            || left.is_some_and(|page| self.go_back(page, need, step))
            || self.carve_spare(need)
            || self.search_round(need, step)
        {
            self.bump(Count::Reuses);
            return Ok(());
        }
        if self.adopt_one(need, step) {
            return Ok(());
        }
        let refusal = match self.take_page() {
            Ok(page) => {
                self.carve_whole(page, need);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        if self.search_all(need, step) {
            self.bump(Count::Reuses);
            return Ok(());
        }
        if self.adopt_any(need, step) {
            return Ok(());
        }
        Err(self.refuse(refusal))
    }

    /// Goes on in the page being carved, if that will do.
    fn carve_on(&mut self, page: Name, need: usize, step: usize) -> bool {
        // A small request rather fills a hole elsewhere than starts a page that
        // is whole.
        let rather_hole = self.is_small(need) && self.shelf().has_ready(need) && self.is_wasteful();
        let here = &self.pool[page];
        let all_back = here
            .back
            .is_some_and(|back| back + here.uncarved() / LINE == here.lines.len());
        if !rather_hole && all_back {
            self.carve_whole(page, need);
            return true;
        }
        self.close_hole();
        // Forward only; and small and large requests do not share a page of
        // their own accord.
        let changes = self.is_small(need) != self.shelf().small;
        let from = self.shelf().offset;
        if !changes && self.carve_hole(page, from, need, step) {
            return true;
        }
        self.pool[page].sweep();
        let whole = !rather_hole && self.pool[page].is_whole();
        if whole {
            self.carve_whole(page, need);
        }
        whole
    }

    fn is_small(&self, need: usize) -> bool {
        need <= (self.pool.config.page / LINE / SMALL).max(1)
    }

    /// What is left of the hole is free.
    fn close_hole(&mut self) {
        let Some(page) = self.shelf().current else {
            return;
        };
        if let Some(hole) = self.pool[page].hole.take() {
            self.pool[page].mark(hole.start, hole.len(), Line::Free);
            let debt = &mut self.shelf().debt;
            *debt = debt.saturating_sub(hole.len() / LINE);
        }
    }

    /// Carves a page without live fragments from its start.
    fn carve_whole(&mut self, page: Name, need: usize) {
        if self.is_small(need) {
            let lines = self.pool[page].lines.len();
            self.carve_run(page, 0, lines);
            self.pool[page].back = Some(0);
        } else {
            self.close_hole();
            self.carve_run(page, 0, need);
        }
        self.shelf().small = self.is_small(need);
    }

    /// Opens the first hole from line `from` on that fits.
    fn carve_hole(&mut self, page: Name, from: usize, need: usize, step: usize) -> bool {
        let hole = self.pool[page].holes_for(need, step, from).next();
        self.open(hole, page, need, step)
    }

    /// Opens a hole: all of it, or, so that nothing small comes behind, what is
    /// needed.
    fn open(&mut self, hole: Option<(usize, usize)>, page: Name, need: usize, step: usize) -> bool {
        let Some((first, count)) = hole else {
            return false;
        };
        let small = self.is_small(need);
        self.shelf().small = small;
        let part = first.next_multiple_of(step) - first + need;
        self.carve_run(page, first, if small { count } else { part });
        true
    }

    fn carve_run(&mut self, name: Name, first: usize, count: usize) {
        let shelf = self.shelf();
        shelf.current = Some(name);
        shelf.offset = first + count;
        shelf.debt += count;
        let wipes = self.pool.config.init_on_alloc;
        let page = &mut self.pool[name];
        page.role = Role::Current;
        page.expect_nothing();
        page.hole = Some(first * LINE..(first + count) * LINE);
        page.mark(first * LINE, count * LINE, Line::Taken);
        if wipes {
            page.wipe(first * LINE, count * LINE);
        }
    }

    /// Rather one page of small and large than one more page.
    fn go_back(&mut self, page: Name, need: usize, step: usize) -> bool {
        self.take_out(page);
        self.try_page(page, need, step)
    }

    /// Carves a page of no list if it has a hole, else puts it away.
    fn try_page(&mut self, page: Name, need: usize, step: usize) -> bool {
        let found = self.carve_hole(page, 0, need, step);
        if !found {
            self.put_away(page);
        }
        found
    }

    fn carve_spare(&mut self, need: usize) -> bool {
        let spare = self.shelf().take_spare();
        if let Some(page) = spare {
            self.carve_whole(page, need);
        }
        spare.is_some()
    }

    /// Carves the shortest hole that fits of the best of the ready pages.
    fn search_shelf(&mut self, need: usize, step: usize) -> bool {
        let nest = self.is_small(need).then(|| self.find_nest(need, step));
        let Some(page) = nest.flatten().or_else(|| self.find_ready(need, step)) else {
            return false;
        };
        self.take_out(page);
        self.pool[page].sweep();
        let holes = self.pool[page].holes_for(need, step, 0);
        let shortest = holes.min_by_key(|&(_, count)| count);
        self.open(shortest, page, need, step)
    }

    /// The page where small requests go on, if they can.
    fn find_nest(&mut self, need: usize, step: usize) -> Option<Name> {
        let nest = self.shelf().nest?;
        if self.pool[nest].role != Role::Waiting {
            return None;
        }
        let fits = self.pool[nest].fits(need, step);
        if !fits {
            self.shelf().nest = None;
        }
        fits.then_some(nest)
    }

    /// Is so much free in the lists that looking for holes is worth it?
    fn is_wasteful(&self) -> bool {
        self.pool.shelves[self.at].is_wasteful(self.pool.config.page / LINE)
    }

    /// The page whose longest hole is about the shortest that will do.
    fn find_ready(&mut self, need: usize, step: usize) -> Option<Name> {
        if !self.is_wasteful() {
            return None;
        }
        let pool = &*self.pool;
        let ready = pool.shelves[self.at].waiting_from(1 + class_of(need));
        let mut lists = ready.chunk_by(|(list, _), (next, _)| list == next);
        lists.find_map(|list| {
            let mut looks = list.iter().map(|&(_, page)| page).take(LOOKS);
            looks.find(|&page| pool[page].fits(need, step))
        })
    }

    /// Carves what some steps of the round bring to light.
    fn search_round(&mut self, need: usize, step: usize) -> bool {
        // Where nothing waits there is nothing to come to light.
        !self.shelf().waiting.is_empty()
            && (0..TOLL).any(|_| {
                self.go_round(1);
                self.shelf().has_ready(need) && self.search_shelf(need, step)
                    || self.carve_spare(need)
            })
    }

    /// Looks at every page of the shelf.
    fn search_all(&mut self, need: usize, step: usize) -> bool {
        self.go_all_round();
        if self.carve_spare(need) {
            return true;
        }
        let mut waiting = self.pool.shelves[self.at].waiting.iter();
        let Some(&(_, page)) = waiting.find(|&&(_, page)| self.pool[page].fits(need, step)) else {
            return false;
        };
        self.take_out(page);
        self.carve_hole(page, 0, need, step)
    }

    fn adopt_one(&mut self, need: usize, step: usize) -> bool {
        let Some(page) = self.pool.adopt(self.at) else {
            return false;
        };
        self.bump(Count::Adopted);
        self.pool[page].sweep();
        self.try_page(page, need, step)
    }

    fn adopt_any(&mut self, need: usize, step: usize) -> bool {
        loop {
            let before = self.shelf().counts[Count::Adopted as usize];
            if self.adopt_one(need, step) {
                return true;
            }
            if self.shelf().counts[Count::Adopted as usize] == before {
                return false;
            }
        }
    }

    fn take_page(&mut self) -> Result<Name, Error> {
        let name = self.pool.take()?;
        self.bump(Count::Taken);
        let wipes = self.pool.config.init_on_free;
        let page = &mut self.pool[name];
        if wipes && page.bytewise {
            // Pages of bytes are wiped when they are started, not when they die.
            page.wipe_all();
        }
        page.open(self.at, self.bytewise);
        Ok(name)
    }

    fn refuse(&mut self, refusal: Error) -> Error {
        self.bump(Count::Fail);
        match refusal {
            Error::OutOfMemory => self.pool.no_memory += 1,
            _ => self.pool.exhausted += 1,
        }
        refusal
    }

    /// Carving pays for steps of the round.
    fn pay(&mut self) {
        let page = self.pool.config.page;
        let shelf = self.shelf();
        let steps = shelf.debt * shelf.pace / (page / LINE * 4);
        if steps != 0 {
            shelf.debt = 0;
            self.go_round(steps);
        }
    }

    /// Walks on; what has news is put away anew, and makes the walk faster.
    fn go_round(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(page) = self.shelf().next_on_round() else {
                return;
            };
            if self.pool[page].has_news() {
                self.shelf().pace = FASTEST;
                self.take_out(page);
                self.pool[page].sweep();
                self.put_away(page);
            } else {
                let pace = &mut self.shelf().pace;
                *pace = SLOWEST.max(*pace - 1);
            }
        }
    }

    fn go_all_round(&mut self) {
        let steps = 2 * self.shelf().waiting.len();
        self.go_round(steps);
    }

    fn empty(&mut self, keep_alive: bool) {
        self.close_hole();
        if let Some(page) = self.shelf().current.take() {
            self.let_go(page, keep_alive);
        }
        if keep_alive {
            self.go_all_round();
        }
        while let Some(page) = self.shelf().take_spare() {
            self.bump(Count::Given);
            self.pool[page].close();
        }
        if keep_alive {
            return;
        }
        while let Some(&(_, page)) = self.shelf().waiting.first() {
            self.take_out(page);
            self.let_go(page, false);
        }
    }

    fn let_go(&mut self, page: Name, keep_alive: bool) {
        self.shelf().forget_nest(page);
        self.pool[page].sweep();
        if self.pool[page].is_dead() {
            self.bump(Count::Given);
            self.pool[page].close();
        } else if keep_alive {
            self.put_away(page);
        } else {
            self.bump(Count::Orphaned);
            self.pool[page].role = Role::Orphan;
            self.pool[page].shelf = None;
        }
    }

    /// Granule 1, the kernel's algorithm: bump; when the page is used up, start it
    /// anew if it is dead, else take another.
    fn make_room_of_bytes(&mut self, size: usize, align: usize) -> Result<(Name, usize), Error> {
        let current = self.shelf().current;
        if let Some(page) = current {
            let offset = self.shelf().offset.next_multiple_of(align);
            if offset + size <= self.pool.config.page {
                return Ok((page, offset));
            }
        }
        self.bump(Count::Refills);
        if let Some(page) = current {
            if self.pool[page].is_dead() {
                self.bump(Count::Reuses);
                return Ok(self.begin(page));
            }
            self.shelf().current = None;
            self.put_away(page);
        }
        self.go_round(BYTE_STEPS);
        if let Some(page) = self.shelf().take_spare() {
            self.bump(Count::Reuses);
            return Ok(self.begin(page));
        }
        let page = self.take_page().or_else(|refusal| {
            self.go_all_round();
            let spare = self.shelf().take_spare();
            spare.ok_or_else(|| self.refuse(refusal))
        })?;
        Ok(self.begin(page))
    }

    fn begin(&mut self, page: Name) -> (Name, usize) {
        self.shelf().current = Some(page);
        self.shelf().offset = 0;
        self.pool[page].role = Role::Current;
        if self.pool.config.init_on_alloc || self.pool.config.init_on_free {
            self.pool[page].wipe_all();
        }
        (page, 0)
    }
}
