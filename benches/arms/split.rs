//! `bytes`: a large `BytesMut`, from which the front is split off.

use std::ptr::NonNull;

use bytes::BytesMut;

use super::Arm;
use crate::workload::PAGE;

/// One `BytesMut` that buffers are split from; a new 32 KiB when it is used up.
#[derive(Debug)]
pub struct Split(BytesMut);

// SAFETY: what is split off is as many bytes as were asked for, and this
// handle is the only one.
unsafe impl Arm for Split {
    type Buffer = BytesMut;
    type Counting = Self;
    const NAME: &'static str = "bytes, split";

    fn start() -> Self {
        Self(BytesMut::with_capacity(PAGE))
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> BytesMut {
        if self.0.capacity() < size {
            self.0.reserve(PAGE);
        }
        // What was in the buffer may stay there: the other arms do not clear.
        // SAFETY: the capacity was just checked, and no byte is read before
        // it is written.
        unsafe { self.0.set_len(size) };
        self.0.split_to(size)
    }

    #[inline]
    fn bytes(buffer: &mut BytesMut) -> NonNull<u8> {
        NonNull::from(&mut **buffer).cast()
    }
}
