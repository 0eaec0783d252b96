//! Stories that two or three threads can tell about a page, in every order.
//!
//! Each model runs under loom, which tries all interleavings (up to a bound on
//! preemptions) and all values that the memory orderings allow. Geometry is
//! tiny here: a word has two lines, a page two words, a region two pages. Owner
//! cells check the plain-writer rule, and a `Payload` checks that bytes are
//! handed on only to who may see them.
//!
//! Every story ends the same way (`settled`): all fragments are dropped,
//! the books balance, and `trim` unmaps every region, so that a lost page, a
//! page given twice and a page given too early all fail it.

// Of the binding, this, `turn` and `views`, and without a line of Python.
mod exports;
#[allow(dead_code, reason = "the binding uses the rest")]
#[path = "../../python/src/gate.rs"]
mod gate;
mod gates;
mod orphans;
mod processes;
mod roads;
mod sharing;
mod statistics;
mod supply;
#[path = "../../python/src/turn.rs"]
mod turn;
mod turns;
#[allow(dead_code, reason = "the binding uses the rest")]
#[path = "../../python/src/views.rs"]
mod views;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

use crate::sync::{AtomicBool, Ordering};
use crate::{FragMut, HugePages, LINE, PageFragCache, PagePool, REGION};

/// Lines of a page here, and of a map word.
const PAGE: usize = crate::MAX_PAGE;
const WORD: usize = crate::MIN_PAGE;

/// Explores `story`; `LOOM_MAX_PREEMPTIONS` bounds it.
fn model(story: impl Fn() + Sync + Send + 'static) {
    model_with_fewer(0, story);
}

/// Explores `story` with so many preemptions fewer than others, one at least.
fn model_with_fewer(fewer: usize, story: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    let bound = builder.preemption_bound.unwrap_or(2);
    builder.preemption_bound = Some(bound.saturating_sub(fewer).max(1));
    builder.check(story);
}

/// A pool with one page size and, if any, a cap in regions.
fn pool(cap: Option<usize>) -> PagePool {
    let mut builder = PagePool::builder()
        .page_size(PAGE)
        .huge_pages(HugePages::Never);
    if let Some(regions) = cap {
        builder = builder.max_bytes(regions * REGION);
    }
    builder.build().expect("a valid pool")
}

/// A thread that takes a line and gives it back, if there is one for it.
fn takes_a_line(pool: &PagePool) -> JoinHandle<()> {
    let pool = pool.clone();
    thread::spawn(move || {
        let mut cache = PageFragCache::new(&pool);
        drop(cache.alloc(LINE));
    })
}

/// All is dropped: the books balance and nothing stays mapped.
fn settled(pool: &PagePool) {
    let stats = pool.audit().expect("balanced books");
    assert_eq!(stats.live_bytes, 0, "{stats:?}");
    assert_eq!(stats.pages_in_use, 0, "{stats:?}");
    assert!(pool.depot().marks_all_free(), "a free page is hidden");
    pool.trim();
    assert_eq!(pool.stats().regions_mapped, 0, "a page was lost");
}

/// Stands for the bytes of one line: who writes must be alone with it.
#[derive(Clone)]
struct Payload(Arc<UnsafeCell<()>>);

impl Payload {
    fn new() -> Self {
        Self(Arc::new(UnsafeCell::new(())))
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }

    fn read(&self) {
        self.0.with(|_| ());
    }

    /// Another thread writes, and then lets go of what it wrote to.
    fn written_elsewhere(&self, then: impl FnOnce() + 'static) -> JoinHandle<()> {
        let witness = self.clone();
        thread::spawn(move || {
            witness.write();
            then();
        })
    }
}

/// Says that something has come to pass and orders nothing: it only keeps a story of three
/// threads short.
#[derive(Clone)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    fn comes(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Is any byte of `new` where `old` was?
fn overlaps(new: &FragMut, old: (usize, usize)) -> bool {
    let start = new.as_ptr().addr();
    start < old.0 + old.1 && old.0 < start + new.capacity()
}

fn place(frag: &FragMut) -> (usize, usize) {
    (frag.as_ptr().addr(), frag.capacity())
}
