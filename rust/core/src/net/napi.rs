//! The context of a poll: on one thread, for a budget of packets, without asking twice.
//!
//! A driver's poll runs with the promise that nothing else uses its caches. The
//! kernel keeps that promise by convention and warns when it is broken. Here it
//! is a fact of the types: allocation needs a [`NapiContext`], which exists
//! inside a poll only, cannot leave it, and cannot cross to another thread.
//! Nothing waits and nothing is printed; a failure is a `None` and one more
//! `rx_alloc_fail`.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use crate::error::Error;
use crate::mem::{FragMut, Granule, LocalCache, PagePool};
use crate::net::headroom::{NET_IP_ALIGN, NET_SKB_PAD, head_bytes};
use crate::net::netdev::alloc_frag;
use crate::net::queue::QueueStats;
use crate::net::shell::{Shell, ShellArray};
use crate::net::skb::SkBuff;
use crate::sync::thread_token;

/// Why a napi call was refused: it was made outside the poll it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContextError {
    /// No poll is open.
    OutsidePoll,
    /// The poll was opened by another thread.
    OtherThread,
    /// A poll is open already.
    AlreadyPolling,
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutsidePoll => "a napi call needs an open poll",
            Self::OtherThread => "the poll is open on another thread",
            Self::AlreadyPolling => "a poll is open already",
        })
    }
}

impl std::error::Error for ContextError {}

/// An open poll.
#[derive(Debug)]
struct Poll {
    budget: usize,
    /// The thread that opened it. Should it end with the poll open, a later
    /// thread may carry its token: no harm, as each call allocates from the
    /// cache of the thread that makes it.
    thread: usize,
    /// Idle skb structs, the thread's while the poll is open.
    shells: ShellArray,
}

/// What a driver polls with (`struct napi_struct` and `napi_alloc_cache`).
///
/// May move between threads while no poll is open, is used by one at a time,
/// and takes its fragments from the cache of the thread that polls.
///
/// # Examples
/// ```
/// use pagefrag::PagePool;
/// use pagefrag::net::NapiCache;
///
/// let mut napi = NapiCache::new(&PagePool::new(32 * 1024)?);
/// let work = napi.poll(64, |ctx| {
///     let mut work = 0;
///     while work < ctx.budget() {
///         let Some(mut skb) = ctx.alloc_skb(1500) else { break };
///         skb.put(3).unwrap().copy_from_slice(b"udp");
///         ctx.consume_skb(skb);
///         work += 1;
///     }
///     work
/// });
/// assert_eq!((work, napi.stats().rx_alloc_fail), (64, 0));
/// # Ok::<(), pagefrag::Error>(())
/// ```
///
/// The context cannot leave the poll:
/// ```compile_fail,E0521
/// # let mut napi = pagefrag::net::NapiCache::new(pagefrag::PagePool::global());
/// let mut escaped = None;
/// napi.poll(64, |ctx| escaped = Some(ctx));
/// ```
/// nor be its result:
/// ```compile_fail
/// # let mut napi = pagefrag::net::NapiCache::new(pagefrag::PagePool::global());
/// let escaped = napi.poll(64, |ctx| ctx);
/// ```
/// nor be used by another thread, not even inside the poll:
/// ```compile_fail,E0277
/// # let mut napi = pagefrag::net::NapiCache::new(pagefrag::PagePool::global());
/// napi.poll(64, |ctx| {
///     std::thread::scope(|scope| {
///         scope.spawn(|| ctx.alloc_frag(64, 1));
///     });
/// });
/// ```
/// and the cache itself is not shared:
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<pagefrag::net::NapiCache>();
/// ```
#[derive(Debug)]
pub struct NapiCache {
    local: LocalCache,
    poll: Option<Poll>,
    stats: QueueStats,
    /// Send, but not Sync.
    one_at_a_time: PhantomData<Cell<()>>,
}

impl NapiCache {
    /// A napi context over `pool`. No memory is taken yet.
    pub fn new(pool: &PagePool) -> Self {
        Self {
            local: LocalCache::new(pool, Granule::Line),
            poll: None,
            stats: QueueStats::default(),
            one_at_a_time: PhantomData,
        }
    }

    /// The pool the pages come from.
    pub fn pool(&self) -> &PagePool {
        self.local.pool()
    }

    /// What was counted: `rx_alloc_fail`.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Is a poll open?
    pub fn is_polling(&self) -> bool {
        self.poll.is_some()
    }

    /// Runs `work` as a poll for up to `budget` packets and returns what it
    /// returns. Also when `work` panics the poll is closed.
    ///
    /// Budget 0 is the kernel's netpoll: allocate as ever, but
    /// [`consume_skb`](NapiContext::consume_skb) keeps nothing.
    pub fn poll<R>(&mut self, budget: usize, work: impl FnOnce(&mut NapiContext<'_>) -> R) -> R {
        // A poll that a binding left open waits until this one is closed.
        let outer = self.poll.replace(Poll::open(budget));
        let mut closing = Closing { napi: self, outer };
        work(&mut NapiContext::of(closing.napi_mut()))
    }

    /// Opens a poll where it cannot be a closure, as in a binding. Each call
    /// inside then asks for its [`context`](Self::context), which checks what
    /// the types cannot.
    ///
    /// # Errors
    /// [`ContextError::AlreadyPolling`].
    ///
    /// # Examples
    /// ```
    /// use pagefrag::net::{ContextError, NapiCache};
    ///
    /// let mut napi = NapiCache::new(pagefrag::PagePool::global());
    /// assert_eq!(napi.context().err(), Some(ContextError::OutsidePoll));
    /// napi.enter(64)?;
    /// assert!(napi.context()?.alloc_frag(2048, 1).is_some());
    /// napi.leave()?;
    /// # Ok::<(), ContextError>(())
    /// ```
    pub fn enter(&mut self, budget: usize) -> Result<(), ContextError> {
        if self.is_polling() {
            return Err(ContextError::AlreadyPolling);
        }
        self.poll = Some(Poll::open(budget));
        Ok(())
    }

    /// The context of the open poll.
    ///
    /// # Errors
    /// [`ContextError::OutsidePoll`], [`ContextError::OtherThread`].
    pub fn context(&mut self) -> Result<NapiContext<'_>, ContextError> {
        self.check()?;
        Ok(NapiContext::of(self))
    }

    /// Closes the open poll.
    ///
    /// # Errors
    /// [`ContextError::OutsidePoll`], [`ContextError::OtherThread`]: the poll
    /// stays as it was.
    pub fn leave(&mut self) -> Result<(), ContextError> {
        self.check()?;
        self.close(None);
        Ok(())
    }

    /// Closes the open poll, if there is one, on whatever thread this is: for a
    /// binding whose poll was thrown away instead of left. On another thread
    /// than the poll's the idle structs go to the heap.
    ///
    /// # Examples
    /// ```
    /// let mut napi = pagefrag::net::NapiCache::new(pagefrag::PagePool::global());
    /// napi.enter(64)?;
    /// std::thread::scope(|scope| scope.spawn(|| napi.abandon()).join()).unwrap();
    /// assert!(!napi.is_polling());
    /// # Ok::<(), pagefrag::net::ContextError>(())
    /// ```
    pub fn abandon(&mut self) {
        if self.check() == Err(ContextError::OtherThread) {
            self.poll = None;
        } else {
            self.close(None);
        }
    }

    fn check(&self) -> Result<(), ContextError> {
        match &self.poll {
            None => Err(ContextError::OutsidePoll),
            Some(poll) if poll.thread != thread_token() => Err(ContextError::OtherThread),
            Some(_) => Ok(()),
        }
    }

    /// Ends the open poll and goes back to `outer`.
    fn close(&mut self, outer: Option<Poll>) {
        if let Some(poll) = std::mem::replace(&mut self.poll, outer) {
            poll.shells.park();
        }
    }
}

impl Poll {
    fn open(budget: usize) -> Self {
        Self {
            budget,
            thread: thread_token(),
            shells: ShellArray::of_thread(),
        }
    }
}

/// Closes a poll when its closure returns or panics.
struct Closing<'a> {
    napi: &'a mut NapiCache,
    outer: Option<Poll>,
}

impl Closing<'_> {
    fn napi_mut(&mut self) -> &mut NapiCache {
        self.napi
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.napi.close(self.outer.take());
    }
}

/// What may be done inside a poll, and nowhere else.
///
/// Bound to its poll by the lifetime and to its thread by being neither `Send`
/// nor `Sync`. No call waits; none takes flags.
#[derive(Debug)]
pub struct NapiContext<'a> {
    napi: &'a mut NapiCache,
    this_thread: PhantomData<*mut ()>,
}

impl<'a> NapiContext<'a> {
    fn of(napi: &'a mut NapiCache) -> Self {
        Self {
            napi,
            this_thread: PhantomData,
        }
    }

    /// Packets that this poll may work on.
    pub fn budget(&self) -> usize {
        self.napi.poll.as_ref().map_or(0, |poll| poll.budget)
    }

    /// A fragment of `size` bytes whose offset is a multiple of `align`
    /// (`napi_alloc_frag_align`). It takes whole cache lines. `None` is one
    /// more `rx_alloc_fail`, whatever the reason. No atomic instruction.
    pub fn alloc_frag(&mut self, size: usize, align: usize) -> Option<FragMut> {
        let frag = alloc_frag(&self.napi.local, size, align).ok();
        self.count_failure(frag.is_none());
        frag
    }

    /// [`alloc_frag`](Self::alloc_frag) that says why not.
    ///
    /// # Errors
    /// [`Error::Exhausted`] and [`Error::OutOfMemory`] are one more
    /// `rx_alloc_fail`. The caller's mistakes are not: [`Error::ZeroSize`],
    /// [`Error::SizeAbovePage`], [`Error::BadAlignment`].
    pub fn try_alloc_frag(&mut self, size: usize, align: usize) -> Result<FragMut, Error> {
        let frag = alloc_frag(&self.napi.local, size, align);
        self.count_failure(is_shortage(frag.as_ref().err()));
        frag
    }

    /// An skb with room for `len` bytes of data behind `NET_SKB_PAD +
    /// NET_IP_ALIGN` bytes of headroom (`napi_alloc_skb`). Its struct comes from
    /// the thread's array: no heap call in steady state. `None` is one more
    /// `rx_alloc_fail`, whatever the reason.
    pub fn alloc_skb(&mut self, len: usize) -> Option<SkBuff> {
        let skb = self.skb(len).ok();
        self.count_failure(skb.is_none());
        skb
    }

    /// [`alloc_skb`](Self::alloc_skb) that says why not.
    ///
    /// # Errors
    /// As [`try_alloc_frag`](Self::try_alloc_frag), and counted as there.
    pub fn try_alloc_skb(&mut self, len: usize) -> Result<SkBuff, Error> {
        let skb = self.skb(len);
        self.count_failure(is_shortage(skb.as_ref().err()));
        skb
    }

    fn skb(&mut self, len: usize) -> Result<SkBuff, Error> {
        const HEADROOM: usize = NET_SKB_PAD + NET_IP_ALIGN;
        let head = self.napi.local.alloc(head_bytes(HEADROOM, len)?)?;
        SkBuff::with_headroom(head, HEADROOM, || shell_for(&mut self.napi.poll))
    }

    /// [`SkBuff::build`] with a struct from the thread's array
    /// (`napi_build_skb`).
    ///
    /// # Errors
    /// As there.
    pub fn build_skb(&mut self, head: FragMut) -> Result<SkBuff, (Error, FragMut)> {
        SkBuff::build_in(head, || shell_for(&mut self.napi.poll))
    }

    /// [`SkBuff::coalesce`] that keeps the struct of `from` in the thread's
    /// array, as the kernel's GRO does.
    ///
    /// # Errors
    /// As there.
    pub fn coalesce(&mut self, to: &mut SkBuff, from: SkBuff) -> Result<usize, (Error, SkBuff)> {
        let (delta, shell) = to.coalesce_shell(from)?;
        self.consume_skb(SkBuff { shell });
        Ok(delta)
    }

    /// Gives an skb back (`napi_consume_skb`): its memory at once, its struct to
    /// the thread's array for the next packet. With budget 0 the same as
    /// dropping it.
    pub fn consume_skb(&mut self, skb: SkBuff) {
        if let Some(poll) = &mut self.napi.poll
            && poll.budget > 0
        {
            poll.shells.put(skb.shell);
        }
    }

    fn count_failure(&mut self, failed: bool) {
        self.napi.stats.rx_alloc_fail += u64::from(failed);
    }
}

/// Is this the pool's or the system's fault and not the caller's?
fn is_shortage(error: Option<&Error>) -> bool {
    matches!(error, Some(Error::Exhausted | Error::OutOfMemory))
}

/// A struct from the array of the open poll.
#[allow(clippy::unnecessary_box_returns, reason = "the box is what is kept")]
fn shell_for(poll: &mut Option<Poll>) -> Box<Shell> {
    match poll {
        Some(poll) => poll.shells.get(),
        None => Box::default(),
    }
}
