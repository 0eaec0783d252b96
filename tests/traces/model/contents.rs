//! The bytes of a page, which are zero until somebody writes.

use std::ops::Range;

/// What the bytes of the largest page are at first.
static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

#[derive(Debug)]
pub(super) struct Contents {
    size: usize,
    /// All bytes; none as long as nobody wrote.
    bytes: Vec<u8>,
}

impl Contents {
    pub(super) fn zero(size: usize) -> Self {
        let bytes = Vec::new();
        Self { size, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.size
    }

    pub(super) fn read(&self, which: Range<usize>) -> &[u8] {
        if self.bytes.is_empty() {
            &ZEROS[which]
        } else {
            &self.bytes[which]
        }
    }

    pub(super) fn write(&mut self, which: Range<usize>) -> &mut [u8] {
        self.bytes.resize(self.size, 0);
        &mut self.bytes[which]
    }

    pub(super) fn wipe(&mut self, which: Range<usize>) {
        if !self.bytes.is_empty() {
            self.bytes[which].fill(0);
        }
    }
}
