//! When the data of two skbs, or of many pieces, may become one.
//!
//! Coalescing appends one packet to another: by copying when the bytes fit into
//! the tailroom, otherwise by moving fragments, where the head of the second
//! becomes a fragment of the first ("stolen"). Linearizing goes the other way
//! and copies everything into one head. Both follow `skb_try_coalesce` and
//! `__pskb_pull_tail` (`net/core/skbuff.c`, 6.18).

use crate::error::Error;
use crate::mem::{Frag, FragMut, PageFragCache};
use crate::net::headroom::{MAX_SKB_FRAGS, skb_head_align, skb_with_overhead};
use crate::net::shell::{Head, Shell};
use crate::net::skb::SkBuff;

impl SkBuff {
    /// Appends the data of `other` and returns by how much
    /// [`truesize`](Self::truesize) grew (`skb_try_coalesce`).
    ///
    /// What fits into the tailroom is copied, and `other` is given back whole:
    /// the answer is 0. Otherwise fragments move without a copy or an atomic
    /// instruction; a head with data becomes a fragment in front of them, and
    /// brings all its lines along, headroom included.
    ///
    /// # Errors
    /// [`Error::Cloned`] when this skb is cloned, or when the head of `other` is and
    /// would have to be stolen; [`Error::TooManyFrags`] when the sum is above
    /// 17. Both skbs are as they were, and `other` comes back.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::net::netdev_alloc_skb;
    ///
    /// let mut skb = netdev_alloc_skb(1000)?;
    /// skb.put(2)?.copy_from_slice(b"ab");
    /// let mut next = netdev_alloc_skb(1000)?;
    /// next.put(2)?.copy_from_slice(b"cd");
    /// assert_eq!(skb.coalesce(next).map_err(|(error, _)| error)?, 0);
    /// assert_eq!(skb.data(), b"abcd");
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn coalesce(&mut self, other: Self) -> Result<usize, (Error, Self)> {
        self.coalesce_shell(other).map(|(delta, _)| delta)
    }

    /// [`coalesce`](Self::coalesce) that also hands back the struct of `other`,
    /// still holding what was copied.
    pub(super) fn coalesce_shell(
        &mut self,
        other: Self,
    ) -> Result<(usize, Box<Shell>), (Error, Self)> {
        if self.own_head().is_err() {
            return Err((Error::Cloned, other));
        }
        if other.len() <= self.tailroom() {
            self.append_copy(&other);
            return Ok((0, other.shell));
        }
        self.append_frags(other)
    }

    /// Copies all of `other` into the tailroom, which is large enough.
    fn append_copy(&mut self, other: &Self) {
        for piece in other.pieces() {
            if let Ok(room) = self.put(piece.len()) {
                room.copy_from_slice(piece);
            }
        }
    }

    /// Moves the fragments of `other`, and its head if there is data in it.
    fn append_frags(&mut self, mut other: Self) -> Result<(usize, Box<Shell>), (Error, Self)> {
        let steals = other.head_len() != 0;
        if self.nr_frags() + other.nr_frags() + usize::from(steals) > MAX_SKB_FRAGS {
            return Err((Error::TooManyFrags, other));
        }
        if steals && other.own_head().is_err() {
            return Err((Error::Cloned, other));
        }
        let before = self.truesize();
        let mut donor = other.shell;
        self.shell.open_slots();
        self.shell.nonlinear += donor.linear + donor.nonlinear;
        self.shell.frags.extend(steal_head(&mut donor));
        self.shell.frags.append(&mut donor.frags);
        Ok((self.truesize() - before, donor))
    }

    /// Copies all fragments behind the data of the head, so that everything is
    /// in one piece (`skb_linearize`). Without data in fragments nothing
    /// happens; when the head has the room and is not cloned it stays, otherwise
    /// `cache` gives a new one with the same headroom.
    ///
    /// # Errors
    /// What [`PageFragCache::alloc`] answers, above all
    /// [`Error::SizeAbovePage`] when the sum does not fit one page.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::net::{netdev_alloc_frag, netdev_alloc_skb};
    /// use pagefrag::{PageFragCache, PagePool};
    ///
    /// let mut cache = PageFragCache::new(PagePool::global());
    /// let mut skb = netdev_alloc_skb(64)?;
    /// let mut tail = netdev_alloc_frag(4096, 1)?;
    /// tail.fill(7);
    /// skb.add_frag(tail.freeze()).map_err(|(error, _)| error)?;
    /// skb.linearize(&mut cache)?;
    /// assert_eq!(skb.data(), [7; 4096]);
    /// assert_eq!(skb.nr_frags(), 0);
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn linearize(&mut self, cache: &mut PageFragCache) -> Result<(), Error> {
        self.linearize_with(|size| cache.alloc(size))
    }

    /// [`linearize`](Self::linearize) whose new head, if it takes one, comes from
    /// wherever `alloc` finds so many bytes: a [`LocalCache`](crate::LocalCache),
    /// say, over the packet's own [`pool`](Self::pool).
    ///
    /// # Errors
    /// What `alloc` answers; [`Error::HeadTooSmall`] when it gave fewer bytes than
    /// it was asked for. The skb is as it was.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::net::{netdev_alloc_frag, netdev_alloc_skb};
    /// use pagefrag::{Granule, LocalCache};
    ///
    /// let mut skb = netdev_alloc_skb(64)?;
    /// let tail = netdev_alloc_frag(4096, 1)?;
    /// skb.add_frag(tail.freeze()).map_err(|(error, _)| error)?;
    /// let cache = LocalCache::new(&skb.pool(), Granule::Line);
    /// skb.linearize_with(|size| cache.alloc(size))?;
    /// assert_eq!(skb.head_len(), 4096);
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn linearize_with(
        &mut self,
        alloc: impl FnOnce(usize) -> Result<FragMut, Error>,
    ) -> Result<(), Error> {
        if !self.is_nonlinear() {
            self.shell.frags.clear();
            return Ok(());
        }
        if self.room_behind() < self.data_len() || self.own_head().is_err() {
            self.move_head(alloc)?;
        }
        let mut at = self.shell.data + self.shell.linear;
        let shell = &mut *self.shell;
        if let Head::Own(head) = &mut shell.head {
            for frag in &shell.frags {
                head[at..at + frag.len()].copy_from_slice(frag);
                at += frag.len();
            }
        }
        shell.linear += shell.nonlinear;
        shell.nonlinear = 0;
        shell.frags.clear();
        Ok(())
    }

    /// Copies the linear data into a new head with room for the fragments.
    fn move_head(
        &mut self,
        alloc: impl FnOnce(usize) -> Result<FragMut, Error>,
    ) -> Result<(), Error> {
        let wanted = skb_head_align(self.headroom() + self.len());
        let mut head = alloc(wanted)?;
        if head.len() < wanted {
            return Err(Error::HeadTooSmall);
        }
        let start = self.shell.data;
        head[start..start + self.shell.linear].copy_from_slice(self.data());
        self.shell.end = skb_with_overhead(head.len());
        self.shell.head = Head::Own(head);
        Ok(())
    }
}

/// The data of the head as a fragment; `None` when there is none, and then the
/// head is given back. Lines before and behind the data stay with the fragment.
fn steal_head(donor: &mut Shell) -> Option<Frag> {
    match std::mem::take(&mut donor.head) {
        Head::Own(head) if donor.linear > 0 => {
            let mut frag = head.freeze();
            frag.advance(donor.data);
            frag.truncate(donor.linear);
            Some(frag)
        }
        _ => None,
    }
}
