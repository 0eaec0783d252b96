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

#[cfg(all(test, not(loom)))]
mod tests {
    use bytes::{Buf, BufMut, Bytes};

    use crate::{Error, PageFragCache, PagePool};

    fn cache() -> PageFragCache {
        PageFragCache::new(&PagePool::new(32 * 1024).unwrap())
    }

    #[test]
    fn what_bufmut_writes_is_what_buf_reads() {
        let mut cache = cache();
        let mut room = cache.prepare(64).unwrap();
        assert_eq!(room.remaining_mut(), room.len());
        room.put_u16(0xCAFE);
        room.put_slice(b"payload");
        let mut frag = room.commit_filled().unwrap().freeze();
        assert_eq!(frag.remaining(), 9);
        assert_eq!(frag.get_u16(), 0xCAFE);
        assert_eq!(frag.chunk(), b"payload");
        frag.advance(7);
        assert!(!frag.has_remaining());
    }

    #[test]
    fn an_encoder_that_wrote_nothing_takes_nothing() {
        let mut cache = cache();
        let room = cache.prepare(64).unwrap();
        assert_eq!(room.commit_filled().unwrap_err(), Error::ZeroSize);
        assert_eq!(cache.alloc(1).unwrap().offset(), 0);
    }

    #[test]
    #[should_panic(expected = "advance")]
    fn more_than_the_room_is_not_written() {
        let mut cache = cache();
        let mut room = cache.prepare(1).unwrap();
        let all = room.remaining_mut();
        room.put_bytes(7, all + 1);
    }

    #[test]
    fn bytes_see_the_fragments_own_memory_and_free_it() {
        let mut cache = cache();
        let mut frag = cache.alloc(1500).unwrap();
        frag.fill(9);
        let address = frag.as_ptr();
        let bytes = Bytes::from(frag);
        assert_eq!(bytes.as_ptr(), address, "no copy");
        let shared = cache.alloc(10).unwrap().freeze();
        assert_eq!(Bytes::from(shared.clone()).as_ptr(), shared.as_ptr());
        drop(shared);
        let slice = bytes.slice(1000..);
        drop(bytes);
        let pool = cache.pool().clone();
        assert_eq!(pool.stats().live_bytes, 1536);
        assert_eq!(slice, [9; 500][..]);
        // The last holder may be on another thread, after the cache.
        drop(cache);
        std::thread::spawn(move || drop(slice)).join().unwrap();
        assert_eq!(pool.audit().unwrap().live_bytes, 0);
    }
}
