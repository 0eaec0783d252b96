//! How large an skb head is and where its data starts: the kernel's rules.
//!
//! A head is one fragment. In front of the data lies headroom for headers that
//! are pushed later; behind it the kernel keeps the shared info, the table of
//! up to 17 further fragments. Ours lives outside the fragment (nothing is ever
//! written into a user's bytes), but its room is asked for and charged all the
//! same, so that sizes, offsets and `truesize` are the kernel's own.
//!
//! ```text
//!   head fragment: skb_head_align(NET_SKB_PAD + NET_IP_ALIGN + len) bytes
//!   +----------+------------------------------+-------------+
//!   | headroom | data ->           tailroom   | shared info |
//!   +----------+------------------------------+-------------+
//!   0          pad                            end           end + 320
//! ```
//!
//! The kernel takes heads of up to 320 bytes and heads above one OS page from a
//! slab instead. There is no slab here: every head is a fragment, so every head
//! can be stolen by [`SkBuff::coalesce`](crate::net::SkBuff::coalesce).

use crate::error::Error;
use crate::geometry::LINE;

/// Bytes of headroom that every received skb starts with: `max(32, L1 line)`
/// (`NET_SKB_PAD`, `include/linux/skbuff.h`).
pub const NET_SKB_PAD: usize = 64;

/// Bytes by which a receive buffer is shifted so that the IP header behind a
/// 14-byte Ethernet header is aligned (`NET_IP_ALIGN`, `include/linux/skbuff.h`).
///
/// 2, and 0 where unaligned access is cheap: x86, arm64 and 64-bit PowerPC
/// (their `asm/processor.h`).
pub const NET_IP_ALIGN: usize = if cfg!(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "powerpc64"
)) {
    0
} else {
    2
};

/// Bytes behind the data that the shared info takes:
/// `SKB_DATA_ALIGN(sizeof(struct skb_shared_info))` with 17 fragments.
pub const SKB_SHARED_INFO: usize = 320;

/// Bytes that an skb is charged for its struct:
/// `SKB_DATA_ALIGN(sizeof(struct sk_buff))`.
pub const SK_BUFF: usize = 256;

/// Fragments that an skb can hold besides its head
/// (`MAX_SKB_FRAGS`, `include/linux/skbuff.h`).
pub const MAX_SKB_FRAGS: usize = 17;

const _: () = assert!(NET_SKB_PAD.is_multiple_of(LINE));
const _: () = assert!(SKB_SHARED_INFO.is_multiple_of(LINE) && SK_BUFF.is_multiple_of(LINE));

/// `bytes` rounded up to a cache line (`SKB_DATA_ALIGN`). Saturates.
///
/// # Examples
/// ```
/// assert_eq!(pagefrag::net::skb_data_align(1500), 1536);
/// ```
#[inline]
pub const fn skb_data_align(bytes: usize) -> usize {
    bytes.saturating_add(LINE - 1) & !(LINE - 1)
}

/// What a buffer of `bytes` bytes leaves for headroom and data
/// (`SKB_WITH_OVERHEAD`); 0 when the shared info alone does not fit.
///
/// # Examples
/// ```
/// assert_eq!(pagefrag::net::skb_with_overhead(4096), 3776);
/// ```
#[inline]
pub const fn skb_with_overhead(bytes: usize) -> usize {
    bytes.saturating_sub(SKB_SHARED_INFO)
}

/// The buffer that headroom and data of `bytes` bytes need
/// (`SKB_HEAD_ALIGN`). Saturates.
///
/// # Examples
/// ```
/// use pagefrag::net::{NET_SKB_PAD, skb_head_align};
/// assert_eq!(skb_head_align(NET_SKB_PAD + 1500), 1920);
/// ```
#[inline]
pub const fn skb_head_align(bytes: usize) -> usize {
    skb_data_align(bytes).saturating_add(SKB_SHARED_INFO)
}

/// What an skb with headroom and data of `bytes` bytes is charged
/// (`SKB_TRUESIZE`). Saturates.
///
/// # Examples
/// ```
/// assert_eq!(pagefrag::net::skb_truesize(1600), 2176);
/// ```
#[inline]
pub const fn skb_truesize(bytes: usize) -> usize {
    bytes.saturating_add(SK_BUFF + SKB_SHARED_INFO)
}

/// The head fragment for `len` bytes of data behind `headroom` bytes.
///
/// `len` 0 is refused as any other empty request is (the kernel hands out a
/// head that can hold nothing); a sum that overflows saturates, and is then
/// above every page.
pub(super) const fn head_bytes(headroom: usize, len: usize) -> Result<usize, Error> {
    if len == 0 {
        return Err(Error::ZeroSize);
    }
    Ok(skb_head_align(len.saturating_add(headroom)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_sizes_are_the_kernels_golden_numbers() {
        // len asked, fragment, truesize, heads per 32 KiB (6.18, x86-64).
        for (len, fragment, truesize, heads) in [
            (321, 768, 1024, 42),
            (640, 1024, 1280, 32),
            (1000, 1408, 1664, 23),
            (1500, 1920, 2176, 17),
            (2048, 2432, 2688, 13),
            (3000, 3392, 3648, 9),
            (3712, 4096, 4352, 8),
        ] {
            assert_eq!(head_bytes(NET_SKB_PAD, len), Ok(fragment));
            assert_eq!(skb_truesize(skb_with_overhead(fragment)), truesize);
            assert_eq!(32 * 1024 / fragment, heads);
        }
    }

    #[test]
    fn overhead_matches_the_kernels_macro() {
        assert_eq!(skb_with_overhead(4096), 3776);
        assert_eq!(skb_with_overhead(1024), 704);
        assert_eq!(skb_with_overhead(704), 384);
        assert_eq!(skb_with_overhead(319), 0);
    }

    #[test]
    fn absurd_lengths_saturate_instead_of_wrapping() {
        for len in [usize::MAX, usize::MAX - 64, usize::MAX / 2] {
            assert!(head_bytes(NET_SKB_PAD, len).unwrap() > 1 << 40);
            assert!(skb_truesize(len) >= len);
        }
        assert_eq!(head_bytes(NET_SKB_PAD, 0), Err(Error::ZeroSize));
    }
}
