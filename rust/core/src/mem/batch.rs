//! Many frees at once: neighbours of one page share a locked instruction.
//!
//! Fragments of other threads' pages are gathered word by word and posted when
//! the word changes, so that a page's worth costs as many locked instructions
//! as it has map words, however many fragments it was. Of an orphan all are
//! counted in one.

use crate::geometry::WORD_LINES;
use crate::mem::depot;
use crate::mem::lines::{head_mask, next_run};
use crate::mem::page::Page;
use crate::mem::raw::RawFrag;

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
/// // Eight locked instructions instead of sixty-four:
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

/// What has been gathered and not yet said: all of it of one page.
#[derive(Default)]
struct Batch {
    /// The page, while something of it is pending; that keeps it mapped.
    page: Option<Page>,
    /// The map word that is being gathered.
    word: usize,
    /// Lines in `word`.
    mask: u64,
    /// Lines behind `word` that the last fragment in it covers.
    beyond: usize,
    /// Did the page look like an orphan when it was opened?
    orphan: bool,
    /// Units for the count road, their notes already left.
    counted: usize,
}

impl Batch {
    fn push(&mut self, frag: RawFrag) {
        let Some(page) = frag.foreign_lines() else {
            // Own pages and special cases go the usual way.
            return drop(frag);
        };
        let (first, count) = page.1;
        let page = page.0;
        frag.forget();
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
        self.flush();
    }
}
