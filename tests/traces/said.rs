//! What a step comes to, as a value: executors are compared without a word of text, and the
//! log is written from it when somebody wants to read.

use std::fmt;

use pagefrag::Error;
use pagefrag::net::ContextError;

/// A step's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// There was nothing to do it to.
    Nothing,
    Done(&'static str),
    Refused(Error),
    OutOfPoll(ContextError),
    /// Two packets stay two: why is told in Rust only.
    Apart(Error),
    /// Refused for a reason that is not the core's.
    Not(&'static str),
    /// The books do not balance.
    Broken(String),
    Frag(Frag),
    Many(Vec<Frag>),
    Room(Place, usize),
    Skb(Skb),
    Views(usize),
    Digest(u32),
    /// So many regions went back.
    Regions(usize),
    Places([Place; 2]),
    Books(Box<Books>),
}

/// A step's end; `Err` if it was refused.
pub(crate) type Told = Result<Said, Said>;

/// Something looks at it.
pub(crate) const VIEWED: Said = Said::Not("viewed");

/// A packet and itself.
pub(crate) const ITSELF: Said = Said::Not("an skb cannot be coalesced with itself");

/// A page, by the number under which it was first seen, and a byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) page: usize,
    pub(crate) offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frag {
    pub(crate) place: Place,
    pub(crate) len: usize,
    pub(crate) capacity: usize,
    pub(crate) readonly: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skb {
    pub(crate) len: usize,
    pub(crate) data: usize,
    pub(crate) head: usize,
    pub(crate) tail: usize,
    pub(crate) truesize: usize,
    pub(crate) frags: usize,
}

/// The pool's books, and what a thread's caches of lines and of bytes have counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) held: u64,
    pub(crate) live: u64,
    pub(crate) obtained: u64,
    pub(crate) current: u64,
    pub(crate) retired: u64,
    pub(crate) orphaned: u64,
    pub(crate) free: u64,
    pub(crate) returned: u64,
    pub(crate) regions: u64,
    pub(crate) peak: u64,
    pub(crate) exhausted: u64,
    pub(crate) no_memory: u64,
    pub(crate) huge_failed: u64,
    pub(crate) lines: Counts,
    pub(crate) bytes: Counts,
}

/// Refills, reuses, pages taken, adopted, given, orphaned, and refusals.
pub(crate) type Counts = [u64; 7];

impl Said {
    /// Was something done?
    pub(crate) fn is_done(&self) -> bool {
        !matches!(
            self,
            Said::Nothing | Said::Refused(_) | Said::OutOfPoll(_) | Said::Apart(_) | Said::Not(_)
        )
    }
}

impl From<Error> for Said {
    fn from(error: Error) -> Self {
        Said::Refused(error)
    }
}

impl From<ContextError> for Said {
    fn from(error: ContextError) -> Self {
        Said::OutOfPoll(error)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Nothing => write!(f, "-"),
            Said::Done(word) => write!(f, "{word}"),
            Said::Refused(error) => write!(f, "refused: {error}"),
            Said::OutOfPoll(error) => write!(f, "refused: {error}"),
            Said::Apart(_) => write!(f, "refused: they stay apart"),
            Said::Not(reason) => write!(f, "refused: {reason}"),
            Said::Broken(findings) => write!(f, "broken: {findings}"),
            Said::Frag(frag) => write!(f, "{frag}"),
            Said::Many(frags) => frags.iter().try_for_each(|frag| write!(f, "{frag}; ")),
            Said::Room(place, len) => write!(f, "{place} room={len}"),
            Said::Skb(skb) => write!(f, "{skb}"),
            Said::Views(count) => write!(f, "views={count}"),
            Said::Digest(digest) => write!(f, "{digest:08x}"),
            Said::Regions(count) => write!(f, "regions={count}"),
            Said::Places([first, second]) => write!(f, "{first} {second}"),
            Said::Books(books) => write!(f, "{books}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}+{}", self.page, self.offset)
    }
}

impl fmt::Display for Frag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = u8::from(self.readonly);
        let Frag {
            place,
            len,
            capacity,
            ..
        } = self;
        write!(f, "{place} len={len} cap={capacity} ro={mark}")
    }
}

impl fmt::Display for Skb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "skb len={} data={} head={} tail={} true={} frags={}",
            self.len, self.data, self.head, self.tail, self.truesize, self.frags
        )
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "held={} live={} obtained={} current={} retired={} orphaned={} free={} returned={} \
             regions={} peak={} exhausted={} no_memory={} huge_failed={}",
            self.held,
            self.live,
            self.obtained,
            self.current,
            self.retired,
            self.orphaned,
            self.free,
            self.returned,
            self.regions,
            self.peak,
            self.exhausted,
            self.no_memory,
            self.huge_failed
        )?;
        for (name, counts) in [("lines", self.lines), ("bytes", self.bytes)] {
            let counts = counts.map(|count| count.to_string()).join("/");
            write!(f, " {name}={counts}")?;
        }
        Ok(())
    }
}
