//! Many frees at once: neighbours of one page share a locked instruction.
//!
//! ```text
//!   page   ██ a ██ b ██ c ██░░░░ d ██ e ██      a, b, c: one run; d, e: another
//! ```
//!
//! *Runs.* Fragments that lie one behind the other become a run, with a few
//! comparisons each, and a run is freed as if it had been one fragment: on its own
//! thread at once; elsewhere its lines join those of the word of the map in which it
//! begins, and the lines beyond that word are left beside it.
//!
//! *Words.* What was gathered in a word is posted when the word changes, so that
//! a page's worth costs as many locked instructions as it has map words at most,
//! however many fragments it was and whatever lies between them, and one if nothing
//! does. Of an orphan all are counted in one.

use std::ptr::NonNull;

use crate::geometry::{LINE, LINE_SHIFT, WORD_LINES, align_up};
use crate::mem::depot;
use crate::mem::header::line_of;
use crate::mem::lines::{head_mask, next_run};
use crate::mem::page::Page;
use crate::mem::poison;
use crate::mem::raw::{self, RawFrag};

/// Drops all fragments of `frags`.
///
/// Costs no locked instruction for pages of the calling thread; for others, at
/// most one per map word (4 KiB of a page) that a run of neighbours touches,
/// and one for what belongs to an orphan. For this it helps if fragments come
/// in the order in which they were carved.
///
/// # Examples
/// ```
/// use pagefrag::{PageFragCache, PagePool, drop_many};
///
/// let pool = PagePool::new(32 * 1024)?;
/// let mut cache = PageFragCache::new(&pool);
/// let frags: Result<Vec<_>, _> = (0..64).map(|_| cache.alloc(512)).collect();
/// let frags = frags?;
/// // One locked instruction instead of sixty-four:
/// std::thread::spawn(move || drop_many(frags)).join().unwrap();
/// assert_eq!(pool.stats().live_bytes, 0);
/// # Ok::<(), pagefrag::Error>(())
/// ```
pub fn drop_many<I>(frags: I)
where
    I: IntoIterator,
    I::Item: Into<RawFrag>,
{
    let mut batch = Batch::default();
    for frag in frags {
        batch.push(frag.into());
    }
}

/// Neighbours, not freed yet.
///
/// Invariant: the lines from `start` to the batch's `end` lie in `page` and are those
/// of fragments whose handles are gone: ours to free, which keeps the page mapped.
struct Run {
    page: Page,
    start: NonNull<u8>,
}

/// What has been gathered and not yet said, beside the run: all of it of one page.
#[derive(Default)]
struct Batch {
    run: Option<Run>,
    /// Where the run ends, and where its page does; 0 without one.
    end: usize,
    limit: usize,
    /// The page, while something of it is pending; that keeps it mapped.
    page: Option<Page>,
    /// The map word that is being gathered.
    word: usize,
    /// Lines in `word`.
    mask: u64,
    /// Lines behind `word` that the last run in it covers.
    beyond: usize,
    /// Did the page look like an orphan when it was opened?
    orphan: bool,
    /// Units for the count road, their notes already left.
    counted: usize,
}

impl Batch {
    #[inline]
    fn push(&mut self, frag: RawFrag) {
        let start = frag.as_ptr().addr();
        match frag.plain_len() {
            // What begins where the page ends is another page's.
            Some(len) if start == self.end && start != self.limit => {
                poison::hide(frag.first_byte(), align_up(len, LINE));
                frag.forget();
                self.end = start + align_up(len, LINE);
            }
            _ => self.push_apart(frag),
        }
    }

    /// A fragment that does not lie behind the run: before it, or apart.
    #[inline(never)]
    fn push_apart(&mut self, frag: RawFrag) {
        let Some(len) = frag.plain_len() else {
            return self.push_alone(frag);
        };
        let (start, page) = (frag.first_byte(), frag.home());
        poison::hide(start, align_up(len, LINE));
        frag.forget();
        let end = start.addr().get() + align_up(len, LINE);
        match &mut self.run {
            Some(run) if end == run.start.addr().get() && page == run.page => run.start = start,
            _ => {
                self.settle();
                self.limit = page.base().addr().get() + page.size();
                self.run = Some(Run { page, start });
                self.end = end;
            }
        }
    }

    /// A fragment whose handle says more than what it shows.
    fn push_alone(&mut self, frag: RawFrag) {
        match frag.foreign_lines() {
            Some((page, (first, count))) => {
                raw::hide(page, first, count);
                frag.forget();
                self.gather(page, first, count);
            }
            // Special cases go the usual way.
            None => drop(frag),
        }
    }

    /// Frees the run, or gathers it.
    fn settle(&mut self) {
        let Some(run) = self.run.take() else {
            return;
        };
        let bytes = self.end - run.start.addr().get();
        (self.end, self.limit) = (0, 0);
        // Asked only now: whoever brings the fragments may have drained the cache since.
        if run.page.is_mine() {
            RawFrag::free_run(run.start, bytes);
        } else {
            self.gather(run.page, line_of(run.start), bytes >> LINE_SHIFT);
        }
    }

    /// Lines of another thread's page, which are ours to free.
    fn gather(&mut self, page: Page, first: usize, count: usize) {
        if self.page != Some(page) {
            self.flush();
            self.page = Some(page);
            self.orphan = page.is_orphan();
        }
        if self.orphan {
            page.note(first, count);
            self.counted += count;
            return;
        }
        let (word, mask, beyond) = head_mask(first, count);
        if word != self.word {
            self.post(page);
            self.word = word;
        }
        self.mask |= mask;
        self.beyond += beyond;
    }

    /// Says what was gathered in `word`.
    fn post(&mut self, page: Page) {
        let (word, mask, beyond) = (self.word, self.mask, self.beyond);
        self.mask = 0;
        self.beyond = 0;
        if mask == 0 || page.post(word, mask, beyond) {
            return;
        }
        // Closed: the page became an orphan. Runs of dead lines are noted as
        // if each had been one fragment; the slots are all ours.
        let mut from = 0;
        while let Some((first, count)) = next_run(|_| mask, 1, from) {
            from = first + count;
            let behind = if from == WORD_LINES { beyond } else { 0 };
            page.note(word * WORD_LINES + first, count + behind);
        }
        self.counted += mask.count_ones() as usize + beyond;
    }

    fn flush(&mut self) {
        if let Some(page) = self.page.take() {
            self.post(page);
            if self.counted != 0 {
                let last = page.count(self.counted);
                self.counted = 0;
                if let Some(last) = last {
                    depot::deliver(last);
                }
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.settle();
        self.flush();
    }
}
