//! Socket buffers: a head with room at both ends, and fragments behind it.

use pagefrag::Error;

use super::pages::Frag;
use super::pool::Pool;
use crate::traces::said::{self, Said, VIEWED};
use crate::traces::write;

/// `NET_SKB_PAD`; `NET_IP_ALIGN` is 0 on the machines we know.
const HEADROOM: usize = 64;
/// What the kernel keeps behind the data; asked for and not written.
const SHARED_INFO: usize = 320;
/// What the struct is charged with.
const SK_BUFF: usize = 256;
const MAX_FRAGS: usize = 17;

/// Bytes of the head fragment for `len` bytes of data.
pub(super) fn head_bytes(len: usize) -> Result<usize, Error> {
    match len {
        0 => Err(Error::ZeroSize),
        len => Ok((HEADROOM + len).next_multiple_of(64) + SHARED_INFO),
    }
}

/// A packet. Its data begins at byte `data` of the head and goes on in the
/// fragments.
#[derive(Debug)]
pub(super) struct Skb {
    head: Frag,
    data: usize,
    linear: usize,
    nonlinear: usize,
    frags: Vec<Frag>,
}

impl Skb {
    pub(super) fn new(head: Frag) -> Self {
        Self {
            data: HEADROOM,
            ..Self::around(head)
        }
    }

    /// The whole of a fragment becomes the head, if nobody else has it.
    pub(super) fn build(pool: &Pool, frag: &Frag, viewed: bool) -> Result<Self, Said> {
        if frag.len <= SHARED_INFO {
            return Err(Error::HeadTooSmall.into());
        }
        if frag.readonly {
            return Err(Said::Not("the fragment is read-only"));
        }
        if viewed {
            return Err(VIEWED);
        }
        if !pool.is_unique(frag) {
            return Err(Said::Not("the fragment shares its memory with another one"));
        }
        Ok(Self::around(Frag { ..*frag }))
    }

    fn around(head: Frag) -> Self {
        Self {
            head,
            data: 0,
            linear: 0,
            nonlinear: 0,
            frags: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.linear + self.nonlinear
    }

    fn room_behind(&self) -> usize {
        self.head.len - SHARED_INFO - self.data - self.linear
    }

    fn tailroom(&self) -> usize {
        match self.nonlinear {
            0 => self.room_behind(),
            _ => 0,
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Frag> {
        std::iter::once(&self.head).chain(&self.frags)
    }

    /// What there is to say of it.
    pub(super) fn facts(&self, pool: &Pool) -> said::Skb {
        let held: usize = { self.pieces() }
            .map(|frag| pool.pieces[frag.piece].size)
            .sum();
        said::Skb {
            len: self.len(),
            data: self.nonlinear,
            head: self.data,
            tail: self.tailroom(),
            truesize: SK_BUFF + held,
            frags: self.frags.len(),
        }
    }

    pub(super) fn bytes(&self, pool: &Pool) -> Vec<u8> {
        let linear = self.data..self.data + self.linear;
        let mut bytes = pool.bytes(&self.head)[linear].to_vec();
        for frag in &self.frags {
            bytes.extend(pool.bytes(frag));
        }
        bytes
    }

    fn own_head(&self, pool: &Pool) -> Result<(), Error> {
        if pool.is_unique(&self.head) {
            Ok(())
        } else {
            Err(Error::Cloned)
        }
    }

    /// Makes room in front of data that is yet to come.
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), Error> {
        if self.len() != 0 {
            return Err(Error::NotEmpty);
        }
        if count > self.room_behind() {
            return Err(Error::NoTailroom);
        }
        self.data += count;
        Ok(())
    }

    /// Appends `count` bytes of a pattern.
    pub(super) fn put(&mut self, pool: &mut Pool, count: usize, seed: usize) -> Result<(), Error> {
        if self.nonlinear != 0 {
            return Err(Error::NotLinear);
        }
        if count > self.room_behind() {
            return Err(Error::NoTailroom);
        }
        self.own_head(pool)?;
        let end = self.data + self.linear;
        write(&mut pool.bytes_mut(&self.head)[end..end + count], seed);
        self.linear += count;
        Ok(())
    }

    /// Puts `count` bytes of a pattern in front.
    pub(super) fn push(&mut self, pool: &mut Pool, count: usize, seed: usize) -> Result<(), Error> {
        if count > self.data {
            return Err(Error::NoHeadroom);
        }
        self.own_head(pool)?;
        self.data -= count;
        self.linear += count;
        let front = self.data..self.data + count;
        write(&mut pool.bytes_mut(&self.head)[front], seed);
        Ok(())
    }

    /// Takes bytes off the front.
    pub(super) fn pull(&mut self, count: usize) -> Result<(), Error> {
        if count > self.linear {
            return Err(Error::AboveLength);
        }
        self.data += count;
        self.linear -= count;
        Ok(())
    }

    /// Keeps the first `len` bytes; fragments behind them go.
    pub(super) fn trim(&mut self, pool: &mut Pool, len: usize, thread: usize) -> Result<(), Error> {
        if len > self.len() {
            return Err(Error::AboveLength);
        }
        let mut left = len.saturating_sub(self.linear);
        self.linear = self.linear.min(len);
        self.nonlinear = left;
        let mut kept = 0;
        while left != 0 {
            let frag = &mut self.frags[kept];
            frag.narrow(0, frag.len.min(left));
            left -= frag.len;
            kept += 1;
        }
        for frag in self.frags.drain(kept..) {
            pool.free(frag, thread);
        }
        Ok(())
    }

    /// Hangs another handle of `frag` behind the data.
    pub(super) fn add_frag(&mut self, pool: &mut Pool, frag: &Frag) -> Result<(), Error> {
        if self.frags.len() == MAX_FRAGS {
            return Err(Error::TooManyFrags);
        }
        self.nonlinear += frag.len;
        self.frags.push(pool.share(frag));
        Ok(())
    }

    /// Another skb of the same data.
    pub(super) fn clone(&self, pool: &mut Pool) -> Skb {
        Skb {
            head: pool.share(&self.head),
            frags: self.frags.iter().map(|frag| pool.share(frag)).collect(),
            ..*self
        }
    }

    /// Bytes of the head that all of the data takes in one piece: none where the head has the
    /// room, and may be written.
    pub(super) fn head_for_all(&self, pool: &Pool) -> Option<usize> {
        let stays = self.room_behind() >= self.nonlinear && self.own_head(pool).is_ok();
        (self.nonlinear != 0 && !stays)
            .then(|| (self.data + self.len()).next_multiple_of(64) + SHARED_INFO)
    }

    /// Copies what is in fragments behind the linear data, in a new head if there is one: the
    /// headroom stays as it was. The old head goes, then the fragments.
    pub(super) fn linearize(&mut self, pool: &mut Pool, head: Option<Frag>, thread: usize) {
        let bytes = self.bytes(pool);
        if let Some(head) = head {
            pool.free(std::mem::replace(&mut self.head, head), thread);
        }
        self.linear = bytes.len();
        if std::mem::take(&mut self.nonlinear) != 0 {
            let all = self.data..self.data + self.linear;
            pool.bytes_mut(&self.head)[all].copy_from_slice(&bytes);
        }
        for frag in self.frags.drain(..) {
            pool.free(frag, thread);
        }
    }

    /// Appends the data of `other`, of which nothing is left then: a copy, if that fits; else its
    /// head, as far as there is data in it, and its fragments move.
    pub(super) fn coalesce(
        &mut self,
        pool: &mut Pool,
        other: &mut Skb,
        thread: usize,
    ) -> Result<(), Error> {
        self.own_head(pool)?;
        let head = Frag { ..other.head };
        if other.len() <= self.tailroom() {
            let (end, bytes) = (self.data + self.linear, other.bytes(pool));
            self.linear += bytes.len();
            pool.bytes_mut(&self.head)[end..end + bytes.len()].copy_from_slice(&bytes);
            pool.free(head, thread);
            for frag in other.frags.drain(..) {
                pool.free(frag, thread);
            }
            return Ok(());
        }
        let steals = other.linear != 0;
        if self.frags.len() + other.frags.len() + usize::from(steals) > MAX_FRAGS {
            return Err(Error::TooManyFrags);
        }
        if steals {
            other.own_head(pool)?;
            let mut stolen = head;
            stolen.narrow(other.data, other.linear);
            self.frags.push(stolen);
        } else {
            pool.free(head, thread);
        }
        self.nonlinear += other.len();
        self.frags.append(&mut other.frags);
        Ok(())
    }

    /// Gives head and fragments back.
    pub(super) fn free(self, pool: &mut Pool, thread: usize) {
        pool.free(self.head, thread);
        for frag in self.frags {
            pool.free(frag, thread);
        }
    }
}
