//! `multitude`: bump in chunks of up to 64 KiB that are counted, with handles
//! that outlive the arena. Never reset here: a reset ends all lifetimes.
#![cfg(feature = "rivals")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use multitude::{Arc, Arena, Box};

use super::Arm;

/// The largest size that comes out of a shared chunk.
const MOST: usize = 16 * 1024;

/// Its handle with one owner: the cheapest that may outlive the arena.
#[derive(Debug)]
pub struct Boxed(Arena);

// SAFETY: the slice is as long as was asked for and has one owner.
unsafe impl Arm for Boxed {
    type Buffer = Box<[MaybeUninit<u8>]>;
    type Counting = Self;
    const NAME: &'static str = "multitude, Box";
    const MOST: usize = MOST;

    fn start() -> Self {
        Self(Arena::new())
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> Self::Buffer {
        self.0.alloc_uninit_slice_box(size)
    }

    #[inline]
    fn bytes(buffer: &mut Self::Buffer) -> NonNull<u8> {
        NonNull::from(&mut **buffer).cast()
    }
}

/// Its handle that can be cloned.
#[derive(Debug)]
pub struct Shared(Arena);

// SAFETY: the slice is as long as was asked for, and nobody else has a handle
// of it unless it is cloned.
unsafe impl Arm for Shared {
    type Buffer = Arc<[MaybeUninit<u8>]>;
    type Counting = Self;
    const NAME: &'static str = "multitude, Arc";
    const MOST: usize = MOST;

    fn start() -> Self {
        Self(Arena::new())
    }

    #[inline]
    fn alloc(&mut self, size: usize) -> Self::Buffer {
        self.0.alloc_uninit_slice_arc(size)
    }

    #[inline]
    fn bytes(buffer: &mut Self::Buffer) -> NonNull<u8> {
        let slice = Arc::get_mut(buffer).expect("asked for before it is cloned");
        NonNull::from(slice).cast()
    }
}
