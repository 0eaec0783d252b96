//! The `bytes` crate's words for fragments (feature `bytes`).

use bytes::{Buf, Bytes};

use crate::mem::frag::{Frag, FragMut};

impl Buf for Frag {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self
    }

    fn advance(&mut self, count: usize) {
        Frag::advance(self, count);
    }
}

/// Without a copy. Costs one heap allocation ([`Bytes::from_owner`]), and the
/// result never reports that it is unique: convert a page's worth once and
/// slice it, rather than each packet.
impl From<Frag> for Bytes {
    fn from(frag: Frag) -> Bytes {
        Bytes::from_owner(frag)
    }
}

/// As from [`Frag`].
impl From<FragMut> for Bytes {
    fn from(frag: FragMut) -> Bytes {
        Bytes::from_owner(frag.freeze())
    }
}
