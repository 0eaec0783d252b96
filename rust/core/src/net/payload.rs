//! What a ring can send: bytes in pieces that stay where they are until it lets go.

use crate::mem::{Frag, FragMut};
use crate::net::skb::SkBuff;

/// A datagram's bytes, in any number of pieces, held by a ring until the kernel
/// has taken them.
///
/// The pieces are raw because a holder of foreign memory (a buffer that an
/// interpreter lends) may know that the bytes stay readable and still not that
/// nobody writes them; the ring itself never looks at them.
///
/// # Safety
/// - Each piece can be read until the value is dropped or changed, by whoever
///   has it; moving the value does not count as a change.
/// - The pieces are the same each time as long as it is not changed.
///
/// # Examples
/// ```
/// use pagefrag::net::Payload;
///
/// assert_eq!(b"hello".to_vec().payload_len(), 5);
/// ```
pub unsafe trait Payload {
    /// The pieces, in order.
    fn pieces(&self) -> impl Iterator<Item = *const [u8]>;

    /// Bytes of all pieces.
    fn payload_len(&self) -> usize {
        self.pieces().map(<*const [u8]>::len).sum()
    }
}

/// What owns or borrows its bytes in one piece, in memory that moving the value
/// does not move.
macro_rules! in_one_piece {
    ($($kind:ty),* $(,)?) => {$(
        // SAFETY: point by point:
        // - the bytes are owned or borrowed by the value and lie outside of it;
        // - the one piece is all of them.
        unsafe impl Payload for $kind {
            fn pieces(&self) -> impl Iterator<Item = *const [u8]> {
                std::iter::once(std::ptr::from_ref::<[u8]>(&self[..]))
            }
        }
    )*};
}

in_one_piece!(Frag, FragMut, Vec<u8>, Box<[u8]>, &[u8]);

// SAFETY: point by point:
// - head and fragments are owned by the skb and lie outside of it;
// - the list is a function of the skb alone.
unsafe impl Payload for SkBuff {
    fn pieces(&self) -> impl Iterator<Item = *const [u8]> {
        self.pieces().map(std::ptr::from_ref)
    }

    fn payload_len(&self) -> usize {
        self.len()
    }
}
