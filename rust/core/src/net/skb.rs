//! A packet on its way: a head with room at both ends, and up to 17 more fragments.
//!
//! Headers are pushed in front and pulled off again without moving the payload,
//! large packets hang further fragments behind the head, and the whole is sent
//! as a list of slices. The words are the kernel's (`struct sk_buff`,
//! `include/linux/skbuff.h`); what it answers with a panic or a warning is an
//! error here, and an error changes nothing.
//!
//! ```text
//!   SkBuff -> shell: head, data, linear, end, frags
//!               |                              |
//!               v                              v
//!   +----------+------+----------+------+    +------+   +------+
//!   | headroom | data | tailroom | info |    | frag |   | frag |  ... 17
//!   +----------+------+----------+------+    +------+   +------+
//!              <linear>                      <---- nonlinear --->
//! ```

use std::io::IoSlice;

use crate::error::Error;
use crate::mem::{Frag, FragMut, PagePool};
use crate::net::headroom::{MAX_SKB_FRAGS, SK_BUFF, skb_with_overhead};
use crate::net::shell::{Head, Shell};

/// A socket buffer (`struct sk_buff`): one head fragment and up to 17 more.
///
/// Eight bytes, no reference count of its own: what is counted is the memory.
/// Only [`clone_skb`](Self::clone_skb) and the last drop of shared data execute
/// atomic instructions.
///
/// # Examples
/// ```
/// use pagefrag::net::netdev_alloc_skb;
///
/// let mut skb = netdev_alloc_skb(1500)?;
/// skb.put(5)?.copy_from_slice(b"hello");
/// skb.push(2)?.copy_from_slice(&[0, 5]);
/// assert_eq!(skb.data(), b"\x00\x05hello");
/// assert_eq!(skb.pull(2)?, b"hello");
/// # Ok::<(), pagefrag::Error>(())
/// ```
#[derive(Debug)]
pub struct SkBuff {
    pub(super) shell: Box<Shell>,
}

/// Bytes of page memory that a fragment keeps from being used again: all the
/// lines of its allocation, however little of it is shown. Two fragments that
/// share an allocation both answer all of it, so a sum is never too small.
fn held(frag: &Frag) -> usize {
    frag.capacity()
}

impl SkBuff {
    /// An skb around a buffer the caller has filled or will fill (`build_skb`).
    ///
    /// The whole fragment becomes the head, its last 320 bytes the room of the
    /// shared info: they are counted, not written. Data starts at the
    /// first byte and is empty; [`reserve`](Self::reserve) and
    /// [`put`](Self::put) move it to where the packet is. One heap call for the
    /// struct, no copy, no atomic instruction.
    ///
    /// # Errors
    /// [`Error::HeadTooSmall`] when the fragment has no byte beside the shared
    /// info. The fragment comes back, as in the kernel.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::net::{SkBuff, netdev_alloc_frag};
    ///
    /// let mut buffer = netdev_alloc_frag(2048, 1)?;
    /// buffer[64..68].copy_from_slice(b"ping");
    /// let mut skb = SkBuff::build(buffer).map_err(|(error, _)| error)?;
    /// skb.reserve(64)?;
    /// skb.put(4)?;
    /// assert_eq!(skb.data(), b"ping");
    /// assert_eq!(skb.truesize(), 2048 + 256);
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn build(head: FragMut) -> Result<Self, (Error, FragMut)> {
        Self::build_in(head, Box::default)
    }

    /// [`build`](Self::build) in a shell that the caller finds.
    pub(super) fn build_in(
        head: FragMut,
        shell: impl FnOnce() -> Box<Shell>,
    ) -> Result<Self, (Error, FragMut)> {
        let end = skb_with_overhead(head.len());
        if end == 0 {
            return Err((Error::HeadTooSmall, head));
        }
        let mut shell = shell();
        shell.end = end;
        shell.data = 0;
        shell.linear = 0;
        shell.nonlinear = 0;
        shell.head = Head::Own(head);
        Ok(Self { shell })
    }

    /// A head of [`head_bytes`](crate::net::headroom::head_bytes) with the
    /// headroom reserved: how every front end ends.
    pub(super) fn with_headroom(
        head: FragMut,
        headroom: usize,
        shell: impl FnOnce() -> Box<Shell>,
    ) -> Result<Self, Error> {
        let mut skb = Self::build_in(head, shell).map_err(|(error, _)| error)?;
        skb.reserve(headroom)?;
        Ok(skb)
    }

    /// Bytes of data in the head and all fragments (`skb->len`).
    pub fn len(&self) -> usize {
        self.shell.linear + self.shell.nonlinear
    }

    /// Is there no data at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of data in the fragments (`skb->data_len`).
    pub fn data_len(&self) -> usize {
        self.shell.nonlinear
    }

    /// Bytes of data in the head (`skb_headlen`).
    pub fn head_len(&self) -> usize {
        self.shell.linear
    }

    /// Is there data in fragments (`skb_is_nonlinear`)?
    pub fn is_nonlinear(&self) -> bool {
        self.shell.nonlinear != 0
    }

    /// Fragments besides the head, at most 17.
    pub fn nr_frags(&self) -> usize {
        self.shell.frags.len()
    }

    /// Bytes that can be pushed in front of the data (`skb_headroom`).
    pub fn headroom(&self) -> usize {
        self.shell.data
    }

    /// Bytes that can be put behind the data (`skb_tailroom`); 0 when there is
    /// data in fragments, because it follows the head's.
    pub fn tailroom(&self) -> usize {
        if self.is_nonlinear() {
            0
        } else {
            self.room_behind()
        }
    }

    /// Bytes between the linear data and the shared info.
    pub(super) fn room_behind(&self) -> usize {
        self.shell.end - self.shell.data - self.shell.linear
    }

    /// Bytes that this skb keeps from being used otherwise (`skb->truesize`):
    /// the struct, the whole head fragment, and every line of every fragment.
    ///
    /// Never stored, always counted from what is held now, so it cannot drift:
    /// after a trim, a pull or a steal it is still right. What is shared with
    /// a clone or between fragments is counted by each of them, so the sum over
    /// live skbs is never below the memory they hold. Constant in the length,
    /// linear in the number of fragments.
    pub fn truesize(&self) -> usize {
        SK_BUFF + self.head_held() + self.frags_held()
    }

    /// Bytes that the head keeps: its lines, or with a head that was cut out of
    /// a larger allocation all of that.
    pub(super) fn head_held(&self) -> usize {
        match &self.shell.head {
            Head::Gone => 0,
            Head::Own(head) => head.capacity(),
            Head::Shared(head) => held(head),
        }
    }

    /// Bytes that the fragments keep.
    pub(super) fn frags_held(&self) -> usize {
        self.shell.frags.iter().map(held).sum()
    }

    /// The pool that the head came from. One locked add.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::PagePool;
    /// use pagefrag::net::NetdevCache;
    ///
    /// let pool = PagePool::new(4096)?;
    /// assert_eq!(NetdevCache::new(&pool).alloc_skb(1500)?.pool().page_size(), 4096);
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn pool(&self) -> PagePool {
        match &self.shell.head {
            Head::Own(head) => PagePool::of(head.raw()),
            Head::Shared(head) => PagePool::of(head.raw()),
            Head::Gone => PagePool::global().clone(),
        }
    }

    /// Is the head's data shared with a clone (`skb_cloned`)? It may then be
    /// read, pulled and trimmed, but not written.
    pub fn is_cloned(&self) -> bool {
        matches!(&self.shell.head, Head::Shared(head) if !head.is_unique())
    }

    /// The data in the head.
    pub fn data(&self) -> &[u8] {
        let range = self.shell.data..self.shell.data + self.shell.linear;
        match &self.shell.head {
            Head::Gone => &[],
            Head::Own(head) => &head[range],
            Head::Shared(head) => &head[range],
        }
    }

    /// The data in the head, to be changed in place.
    ///
    /// # Errors
    /// [`Error::Cloned`] when it is shared.
    pub fn data_mut(&mut self) -> Result<&mut [u8], Error> {
        self.window_mut(self.shell.data, self.shell.linear)
    }

    /// The fragments besides the head, in order.
    pub fn frags(&self) -> &[Frag] {
        &self.shell.frags
    }

    /// Moves the start of an empty skb `n` bytes on, as headroom (`skb_reserve`).
    ///
    /// # Errors
    /// [`Error::NotEmpty`] when there is data, [`Error::NoTailroom`] when there
    /// are fewer than `n` bytes of room.
    pub fn reserve(&mut self, n: usize) -> Result<(), Error> {
        if !self.is_empty() {
            return Err(Error::NotEmpty);
        }
        if n > self.room_behind() {
            return Err(Error::NoTailroom);
        }
        self.shell.data += n;
        Ok(())
    }

    /// Grows the data by `n` bytes at the end and lends them (`skb_put`). Their
    /// contents are whatever the memory held.
    ///
    /// # Errors
    /// [`Error::NotLinear`] when data in fragments follows,
    /// [`Error::NoTailroom`], [`Error::Cloned`].
    pub fn put(&mut self, n: usize) -> Result<&mut [u8], Error> {
        if self.is_nonlinear() {
            return Err(Error::NotLinear);
        }
        if n > self.room_behind() {
            return Err(Error::NoTailroom);
        }
        self.own_head()?;
        let at = self.shell.data + self.shell.linear;
        self.shell.linear += n;
        self.window_mut(at, n)
    }

    /// Grows the data by `n` bytes at the front and lends them (`skb_push`).
    ///
    /// # Errors
    /// [`Error::NoHeadroom`], [`Error::Cloned`].
    pub fn push(&mut self, n: usize) -> Result<&mut [u8], Error> {
        if n > self.headroom() {
            return Err(Error::NoHeadroom);
        }
        self.own_head()?;
        self.shell.data -= n;
        self.shell.linear += n;
        self.window_mut(self.shell.data, n)
    }

    /// Takes `n` bytes off the front, which become headroom, and lends what is
    /// left of the linear data (`skb_pull`).
    ///
    /// # Errors
    /// [`Error::AboveLength`] when the head has fewer than `n` bytes of data;
    /// what is in fragments is reached by [`linearize`](Self::linearize).
    pub fn pull(&mut self, n: usize) -> Result<&[u8], Error> {
        if n > self.shell.linear {
            return Err(Error::AboveLength);
        }
        self.shell.data += n;
        self.shell.linear -= n;
        Ok(self.data())
    }

    /// Cuts the data to `len` bytes (`pskb_trim`): fragments beyond are given
    /// back, the one on the border is cut. Nothing is copied.
    ///
    /// # Errors
    /// [`Error::AboveLength`] when there are fewer than `len` bytes.
    pub fn trim(&mut self, len: usize) -> Result<(), Error> {
        if len > self.len() {
            return Err(Error::AboveLength);
        }
        let shell = &mut *self.shell;
        let mut left = len.saturating_sub(shell.linear);
        shell.linear = shell.linear.min(len);
        shell.nonlinear = left;
        let mut kept = 0;
        for frag in &mut shell.frags {
            if left == 0 {
                break;
            }
            frag.truncate(left);
            left -= frag.len();
            kept += 1;
        }
        shell.frags.truncate(kept);
        Ok(())
    }

    /// Hangs a fragment behind the data (`skb_add_rx_frag`). The fragment moves
    /// in: no atomic instruction, no copy; its lines are added to
    /// [`truesize`](Self::truesize).
    ///
    /// # Errors
    /// [`Error::TooManyFrags`] at 17; the fragment comes back.
    ///
    /// # Examples
    /// ```
    /// use pagefrag::net::{netdev_alloc_frag, netdev_alloc_skb};
    ///
    /// let mut skb = netdev_alloc_skb(256)?;
    /// skb.put(2)?.copy_from_slice(b"ab");
    /// let mut tail = netdev_alloc_frag(2, 1)?;
    /// tail.copy_from_slice(b"cd");
    /// skb.add_frag(tail.freeze()).map_err(|(error, _)| error)?;
    /// let pieces: Vec<_> = skb.io_slices().map(|piece| piece.to_vec()).collect();
    /// assert_eq!(pieces, [b"ab", b"cd"]);
    /// # Ok::<(), pagefrag::Error>(())
    /// ```
    pub fn add_frag(&mut self, frag: Frag) -> Result<(), (Error, Frag)> {
        match self.free_slot() {
            Ok(()) => {
                self.hang(frag);
                Ok(())
            }
            Err(error) => Err((error, frag)),
        }
    }

    /// [`add_frag`](Self::add_frag) of a fragment that is asked for only when
    /// there is a slot for it. So a fragment that would be shared for this stays
    /// as it is when there is none: at granule 1 one that was shared once never
    /// [is unique](Frag::is_unique) again.
    ///
    /// # Errors
    /// [`Error::TooManyFrags`] at 17.
    pub fn add_frag_with(&mut self, frag: impl FnOnce() -> Frag) -> Result<(), Error> {
        self.free_slot().map(|()| self.hang(frag()))
    }

    fn free_slot(&self) -> Result<(), Error> {
        if self.nr_frags() < MAX_SKB_FRAGS {
            Ok(())
        } else {
            Err(Error::TooManyFrags)
        }
    }

    fn hang(&mut self, frag: Frag) {
        self.shell.open_slots();
        self.shell.nonlinear += frag.len();
        self.shell.frags.push(frag);
    }

    /// The data as slices for `sendmsg` or `write_vectored`, in order; pieces
    /// without a byte are left out.
    pub fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        self.pieces().map(IoSlice::new)
    }

    /// The data piece by piece: head first, none empty.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.data())
            .chain(self.shell.frags.iter().map(|frag| &frag[..]))
            .filter(|piece| !piece.is_empty())
    }

    /// Appends all data to `out`: one copy.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        for piece in self.pieces() {
            out.extend_from_slice(piece);
        }
    }

    /// Another skb with the same data (`skb_clone`): head and fragments are
    /// shared, nothing is copied. One atomic instruction for the head and one
    /// for each fragment, and a heap call for the struct.
    ///
    /// Until one of the two is dropped the head may not be written by either:
    /// `put`, `push` and `data_mut` answer [`Error::Cloned`].
    #[must_use]
    pub fn clone_skb(&mut self) -> Self {
        let shell = &mut *self.shell;
        let head = match std::mem::take(&mut shell.head) {
            Head::Gone => Head::Gone,
            Head::Own(head) => {
                let head = head.freeze();
                shell.head = Head::Shared(head.clone());
                Head::Shared(head)
            }
            Head::Shared(head) => {
                shell.head = Head::Shared(head.clone());
                Head::Shared(head)
            }
        };
        let mut twin = Box::new(Shell {
            head,
            frags: Vec::new(),
            ..*shell
        });
        if !shell.frags.is_empty() {
            twin.open_slots();
            twin.frags.extend(shell.frags.iter().cloned());
        }
        Self { shell: twin }
    }

    /// Makes the head ours alone.
    pub(super) fn own_head(&mut self) -> Result<&mut FragMut, Error> {
        let head = &mut self.shell.head;
        if matches!(head, Head::Shared(_)) {
            *head = match std::mem::take(head) {
                Head::Shared(shared) => match shared.try_into_mut() {
                    Ok(own) => Head::Own(own),
                    Err(shared) => Head::Shared(shared),
                },
                other => other,
            };
        }
        match head {
            Head::Own(own) => Ok(own),
            _ => Err(Error::Cloned),
        }
    }

    /// `n` bytes of the head from `at` on, to be written.
    pub(super) fn window_mut(&mut self, at: usize, n: usize) -> Result<&mut [u8], Error> {
        Ok(&mut self.own_head()?[at..at + n])
    }
}
